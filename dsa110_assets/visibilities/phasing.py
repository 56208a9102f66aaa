"""Rephasing from one phase centre per integration to a common one."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.constants import speed_of_light

from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities.types import Visibilities

_RESTART = 64
"""Number of channels after which the phase recurrence is restarted; its error stays below 1e-14 turns of a radian."""


def to_common_centre(vis: Visibilities, centre_rad: ArrayLike | None = None) -> Visibilities:
    """Phase all integrations to one ICRS direction (ra, dec) [rad] and recompute uvw.

    None means the middle of the meridian track: the meridian direction at the observation's mid time. The data are
    multiplied by exp[-2 pi i nu/c (w_new - w_old)]; flags and weights are shared with the input, not copied.
    """
    if centre_rad is None:
        centre = astrometry.meridian_icrs_rad(vis.mid_mjd, vis.pointing_dec_rad)[0]
    else:
        centre = np.asarray(centre_rad, dtype=np.float64)
    antenna_uvw = astrometry.icrs_uvw_m(vis.antennas.relative_m, centre, vis.times_mjd)
    uvw_m = antenna_uvw[:, vis.ant2] - antenna_uvw[:, vis.ant1]
    delay_s = (uvw_m[..., 2] - vis.uvw_m[..., 2]) / speed_of_light
    return replace(
        vis,
        data=rotate(vis.data, -delay_s, vis.frequencies_hz),
        uvw_m=uvw_m,
        phase_centres_rad=np.repeat(centre[None, :], vis.times_mjd.size, axis=0),
    )


def rotate(data: NDArray[np.complex64], delay_s: NDArray[np.float64], frequencies_hz: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Return data (time, baseline, channel, pol) x exp(2 pi i nu delay), delay (time, baseline) [s]. Channels must be
    evenly spaced; otherwise ValueError."""
    steps = np.diff(frequencies_hz)
    if steps.size and np.ptp(steps) > 1e-6 * abs(steps[0]):
        raise ValueError("the frequency axis is not evenly spaced")
    out = np.empty_like(data)
    _rotate(data, delay_s, frequencies_hz, out)
    return out


@numba.njit(cache=True, parallel=True)
def _rotate(data, delay_s, frequencies_hz, out):  # type: ignore[no-untyped-def]
    n_times, n_baselines, n_channels, n_pols = data.shape
    step_hz = frequencies_hz[1] - frequencies_hz[0] if n_channels > 1 else 0.0
    for row in numba.prange(n_times * n_baselines):
        t, b = row // n_baselines, row % n_baselines
        delay = 2 * np.pi * delay_s[t, b]
        step = np.complex128(complex(np.cos(delay * step_hz), np.sin(delay * step_hz)))
        phasor = np.complex128(1.0)
        for k in range(n_channels):
            if k % _RESTART == 0:
                angle = delay * frequencies_hz[k]
                phasor = np.complex128(complex(np.cos(angle), np.sin(angle)))
            for p in range(n_pols):
                out[t, b, k, p] = np.complex64(data[t, b, k, p] * phasor)
            phasor *= step
