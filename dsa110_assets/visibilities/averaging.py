"""Weighted averaging over channels and integrations."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np

from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities.types import Visibilities

WIDEST_HZ = 1e6
"""With channels of this width, a source 1.6 degrees from the centre loses 0.3 % in an image of all baselines, and 9 %
on the longest alone."""


def channels_up_to(widest_hz: float, n_channels: int, width_hz: float) -> int:
    """The most channels that divide `n_channels` and together are no wider than `widest_hz`; at least 1."""
    return max(n for n in range(1, n_channels + 1) if n_channels % n == 0 and (n == 1 or n * width_hz <= widest_hz))


def average(vis: Visibilities, channels: int, times: int = 1) -> Visibilities:
    """Return the weighted average of every `channels` channels and `times` integrations, leaving out flagged samples.

    A bin without an unflagged sample is 0, flagged, of weight 0; others have the sum of the weights. Times and
    frequencies are bin centres, for which uvw are computed; a last, shorter time bin is kept. Raises ValueError if
    `channels` does not divide the axis, or for times > 1 without a common phase centre.
    """
    n_channels, n_times = vis.frequencies_hz.size, vis.times_mjd.size
    if channels < 1 or n_channels % channels:
        raise ValueError(f"averaging {channels} channels: must divide {n_channels}")
    if times < 1 or (times > 1 and not vis.common_phase_centre):
        raise ValueError(f"averaging {times} integrations needs a common phase centre: use to_common_centre first")
    starts = np.arange(0, n_times, times)
    data, flags, weights = _average(vis.data, vis.flags, vis.weights, channels, times)
    averaged = replace(
        vis,
        data=data,
        flags=flags,
        weights=weights,
        frequencies_hz=vis.frequencies_hz.reshape(-1, channels).mean(axis=1),
        channel_width_hz=vis.channel_width_hz * channels,
    )
    if times == 1:
        return averaged
    mjd = np.array([vis.times_mjd[start : start + times].mean() for start in starts])
    centres = np.repeat(vis.phase_centres_rad[:1], mjd.size, axis=0)
    antenna_uvw = astrometry.icrs_uvw_m(vis.antennas.relative_m, centres[0], mjd)
    return replace(
        averaged,
        times_mjd=mjd,
        interval_s=vis.interval_s * min(times, n_times),
        phase_centres_rad=centres,
        uvw_m=antenna_uvw[:, vis.ant2] - antenna_uvw[:, vis.ant1],
    )


@numba.njit(cache=True, parallel=True)
def _average(data, flags, weights, channels, times):  # type: ignore[no-untyped-def]
    n_times, n_baselines, n_channels, n_pols = data.shape
    n_out_times, n_out = (n_times + times - 1) // times, n_channels // channels
    shape = (n_out_times, n_baselines, n_out, n_pols)
    out = np.zeros(shape, np.complex64)
    out_flags = np.ones(shape, np.bool_)
    out_weights = np.zeros(shape, np.float32)
    for row in numba.prange(n_out_times * n_baselines):
        i, b = row // n_baselines, row % n_baselines
        for j in range(n_out):
            for p in range(n_pols):
                total, weight = 0j, 0.0
                for t in range(i * times, min((i + 1) * times, n_times)):
                    for k in range(j * channels, (j + 1) * channels):
                        if not flags[t, b, k, p]:
                            total += weights[t, b, k, p] * data[t, b, k, p]
                            weight += weights[t, b, k, p]
                if weight > 0:
                    out[i, b, j, p] = total / weight
                    out_flags[i, b, j, p] = False
                    out_weights[i, b, j, p] = weight
    return out, out_flags, out_weights
