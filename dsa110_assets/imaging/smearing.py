"""Loss of a source's amplitude by averaging over channels and integrations, as a mean over an image's samples.

Averaging over a phase range of x turns leaves 1 - (pi x)^2 / 6, to second order. For a channel the range is the change of the
fringe's phase with frequency, for an integration that with time. The correlator averages about the direction it tracks, which
is the meridian's; later averaging is about the phase centre. The losses are squares of a source's offsets, so the mean over
samples is one quadratic form.
"""

from __future__ import annotations

import numpy as np
from astropy.io.fits import Header
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.imaging.stokes import StokesI
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities.types import Visibilities

_SECONDS_PER_DAY = 86400.0
_CHUNKS = 64


def smearing(vis: Visibilities, stokes: StokesI, weights: NDArray[np.float32], header: Header, n_pixels: int) -> NDArray[np.float32]:
    """Return the share of a point's amplitude that is left in the image, (ny, nx) float32: at most 1, at the centre; at least 0.5.

    `weights` (sample,) are the imaging weights. The correlator's averaging is that of `vis`, about the meridian; later
    averaging is that of the bounds of `stokes`, about the phase centre.
    """
    pointings = astrometry.meridian_icrs_rad(vis.times_mjd, vis.pointing_dec_rad)
    tracked = np.stack(astrometry.lmn(pointings[:, 0], pointings[:, 1], vis.phase_centres_rad[0])[:2], axis=-1)
    rates = np.zeros_like(vis.uvw_m[..., :2])
    if vis.times_mjd.size > 1:
        rates = np.gradient(vis.uvw_m[..., :2], vis.times_mjd * _SECONDS_PER_DAY, axis=0)
    sums = _moments(
        stokes.bounds, stokes.baselines, weights, np.ascontiguousarray(vis.uvw_m[..., :2]), rates, tracked,
        vis.frequencies_hz / speed_of_light, vis.channel_width_hz / speed_of_light, vis.interval_s,
    ).sum(axis=0)  # fmt: skip
    ll, lm, mm, l, m, one = np.pi**2 / 6 * sums[:6] / sums[6]
    offset = np.deg2rad(header["CDELT2"]) * (np.arange(n_pixels) - n_pixels // 2)
    east, north = -offset[None, :], offset[:, None]
    loss = ll * east**2 + 2 * lm * east * north + mm * north**2 - 2 * (l * east + m * north) + one
    return np.asarray(np.maximum(1 - loss, 0.5), dtype=np.float32)


@njit(cache=True, parallel=True)
def _moments(bounds, baselines, weights, uv_m, rates, tracked, per_metre, width, interval_s):  # type: ignore[no-untyped-def]
    """Return sums over samples, in chunks, of the coefficients of turns^2: l l, l m, m m, l, m, 1; and of the weights."""
    out = np.zeros((_CHUNKS, 7))
    for chunk in prange(_CHUNKS):
        total = np.zeros(7)
        for k in range(chunk * weights.size // _CHUNKS, (chunk + 1) * weights.size // _CHUNKS):
            t, c = (bounds[k, 0] + bounds[k, 1]) // 2, (bounds[k, 2] + bounds[k, 3]) // 2
            times, channels, b = bounds[k, 1] - bounds[k, 0], bounds[k, 3] - bounds[k, 2], baselines[k]
            t, c = min(t, tracked.shape[0] - 1), min(c, per_metre.size - 1)
            for axis in range(2):
                if axis == 0:
                    u, v, later_averaging = width * uv_m[t, b, 0], width * uv_m[t, b, 1], channels * channels - 1.0
                else:
                    scale = per_metre[c] * interval_s
                    u, v, later_averaging = scale * rates[t, b, 0], scale * rates[t, b, 1], times * times - 1.0
                at = u * tracked[t, 0] + v * tracked[t, 1]
                total[0] += weights[k] * u * u * (1 + later_averaging)
                total[1] += weights[k] * u * v * (1 + later_averaging)
                total[2] += weights[k] * v * v * (1 + later_averaging)
                total[3] += weights[k] * u * at
                total[4] += weights[k] * v * at
                total[5] += weights[k] * at * at
            total[6] += weights[k]
        out[chunk] = total
    return out
