"""Stokes Q = (XX - YY) / 2 of a tile's brightest sources, by a direct Fourier sum of the visibilities.

A Q image would cost a whole gridding. The sum at ten positions costs one pass over the samples. It gives the polarisation of
the sources and, from what they have in common, the difference between the flux scales of the two receptors.
"""

from __future__ import annotations

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities import ms_columns
from dsa110_assets.visibilities.types import Visibilities

_MOST = 10
_LEAST_SNR = 50.0
"""For fainter sources the error of Q exceeds 2 % of I, which is the polarisation that most of them have."""


def stokes_q(vis: Visibilities, lmn: NDArray[np.float64], variance_scale: float) -> tuple[NDArray[np.float64], float]:
    """Return the apparent Stokes Q [Jy] (source,) at direction cosines (3, source), about vis's one phase centre, and its error
    [Jy].

    Q is the mean of Re[(XX - YY) / 2 exp(-i phase)] over the cross-correlations that have both, weighted by 4 / (1/w_xx +
    1/w_yy). That is the value of a dirty image: it includes other sources' Q through the sidelobes of natural weights.
    `variance_scale` as in `StokesI`. NaN without such samples.
    """
    cross = np.flatnonzero(~vis.is_auto)
    step = float(vis.frequencies_hz[1] - vis.frequencies_hz[0]) if vis.frequencies_hz.size > 1 else 0.0
    sums, weights = _sums(
        vis.data, vis.flags, vis.weights, vis.uvw_m[:, cross], cross,
        float(vis.frequencies_hz[0]) / speed_of_light, step / speed_of_light, lmn[0], lmn[1], lmn[2] - 1,
    )  # fmt: skip
    ms_columns.release_pages(vis.data)
    total = float(weights.sum())
    if not total > 0:
        return np.full(lmn.shape[1], np.nan), float("nan")
    return np.asarray(sums.sum(axis=0) / total), float(np.sqrt(variance_scale / total))


@njit(cache=True, parallel=True)
def _sums(data, flags, weights, uvw_m, cross, first, step, l, m, n1):  # type: ignore[no-untyped-def]
    """Return weighted sums (baseline, source), and the weights (baseline,). Phases are advanced along evenly spaced channels."""
    n_times, _, n_channels, _ = data.shape
    out, totals = np.zeros((cross.size, l.size)), np.zeros(cross.size)
    for index in prange(cross.size):
        baseline = cross[index]
        real, imag = np.zeros(n_channels), np.zeros(n_channels)
        for time in range(n_times):
            for channel in range(n_channels):
                real[channel], imag[channel] = 0.0, 0.0
                x, y = weights[time, baseline, channel, 0], weights[time, baseline, channel, 1]
                if not (flags[time, baseline, channel, 0] or flags[time, baseline, channel, 1]) and x > 0 and y > 0:
                    weight = 4 * x * (y / (x + y))
                    half = (data[time, baseline, channel, 0] - data[time, baseline, channel, 1]) / 2
                    real[channel], imag[channel] = weight * half.real, weight * half.imag
                    totals[index] += weight
            for s in range(l.size):
                path = uvw_m[time, index, 0] * l[s] + uvw_m[time, index, 1] * m[s] + uvw_m[time, index, 2] * n1[s]
                angle, turn = 2 * np.pi * path * first, 2 * np.pi * path * step
                a, b, c, d = np.cos(angle), np.sin(angle), np.cos(turn), np.sin(turn)
                total = 0.0
                for channel in range(n_channels):
                    total += real[channel] * a + imag[channel] * b
                    a, b = a * c - b * d, a * d + b * c
                out[index, s] += total
    return out, totals


def polarisation_figures(
    vis: Visibilities, image: NDArray[np.float32], header: Header, rms_jy: float, variance_scale: float
) -> dict[str, float]:
    """Return figures of Q of the up to ten brightest sources above 50 rms.

    q_sources (their number), q_peak_jy (the largest |Q|, with its sign), q_error_jy (thermal), q_over_i_median (what they have
    in common: half the relative difference of the receptors' scales) and q_over_i_worst (the largest |Q / I|, with its sign).
    NaN without such a source or without both polarisations.
    """
    peaks = find_peaks(image, _LEAST_SNR * rms_jy)
    figures = dict.fromkeys(("q_peak_jy", "q_error_jy", "q_over_i_median", "q_over_i_worst"), float("nan"))
    x, y, flux = peaks.x[:_MOST], peaks.y[:_MOST], peaks.value[:_MOST]
    if flux.size:
        ra_deg, dec_deg = WCS(header).celestial.wcs_pix2world(x, y, 0)
        lmn = np.stack(astrometry.lmn(np.deg2rad(ra_deg), np.deg2rad(dec_deg), vis.phase_centres_rad[0]))
        q, error = stokes_q(vis, lmn, variance_scale)
        share = q / flux
        figures = {
            "q_peak_jy": float(q[np.argmax(np.abs(q))]),
            "q_error_jy": error,
            "q_over_i_median": float(np.median(share)),
            "q_over_i_worst": float(share[np.argmax(np.abs(share))]),
        }
    return {"q_sources": float(flux.size), **figures}
