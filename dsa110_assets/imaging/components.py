"""Visibilities of a few points of the sky, summed directly: exact, and quicker than gridding up to hundreds of them."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

# minimax is not needed: Taylor series of sin and cos of 2 pi x, |x| <= 1/4, cut off below 1e-7
_SIN = [(-1.0) ** k * (2 * np.pi) ** (2 * k + 1) / float(np.prod(np.arange(1.0, 2 * k + 2))) for k in range(7)]
_COS = [(-1.0) ** k * (2 * np.pi) ** (2 * k) / float(np.prod(np.arange(1.0, 2 * k + 1))) for k in range(7)]
_S0, _S1, _S2, _S3, _S4, _S5, _S6 = (np.float32(c) for c in _SIN)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(c) for c in _COS)


def lmn_of_pixels(
    rows: NDArray[np.floating] | NDArray[np.intp],
    columns: NDArray[np.floating] | NDArray[np.intp],
    n_pixels: int,
    pixel_rad: float,
) -> NDArray[np.float64]:
    """(3, point): l, m, n - 1 of 0-based pixel coordinates of an image of n_pixels a side, in the image's projection."""
    middle = n_pixels // 2
    l, m = (middle - columns) * pixel_rad, (rows - middle) * pixel_rad
    squared = l * l + m * m
    return np.stack([l, m, -squared / (1 + np.sqrt(1 - squared))])


def predict(
    uvw: NDArray[np.float64],
    lmn: NDArray[np.float64],
    flux_jy: NDArray[np.floating],
    patterns: NDArray[np.float32],
    ratios: NDArray[np.floating],
) -> NDArray[np.complex64]:
    """Visibilities (sample,) complex64 of points, at uvw (sample, 3) [wavelengths] and lmn (3, point).

    Sample k sees a point of `flux_jy` times 1 + the sum of patterns[term, k] * ratios[term, point] over the terms. Single
    precision but for the phases.
    """
    flux = flux_jy.astype(np.float32)
    out = np.empty(uvw.shape[0], dtype=np.complex64)
    _sum(uvw, np.ascontiguousarray(lmn), flux, patterns, ratios.astype(np.float32) * flux, out)
    return out


@njit(cache=True, parallel=True, fastmath=True)
def _sum(uvw, lmn, flux, patterns, ratios, out):  # type: ignore[no-untyped-def]
    n_points = flux.size
    l, m, n = lmn[0], lmn[1], lmn[2]
    for k in prange(uvw.shape[0]):
        u, v, w = uvw[k, 0], uvw[k, 1], uvw[k, 2]
        seen = flux.copy()
        for term in range(patterns.shape[0]):
            pattern, ratio = patterns[term, k], ratios[term]
            for p in range(n_points):
                seen[p] += pattern * ratio[p]
        real, imag = np.float32(0), np.float32(0)
        for p in range(n_points):
            turns = u * l[p] + v * m[p] + w * n[p]
            x = np.float32(turns - np.floor(turns + 0.5))
            folded = np.float32(0.25) - abs(x)
            q = folded * folded
            # cos(2 pi x) = sin(2 pi folded), |sin(2 pi x)| = cos(2 pi folded)
            cosine = folded * (_S0 + q * (_S1 + q * (_S2 + q * (_S3 + q * (_S4 + q * (_S5 + q * _S6))))))
            sine = _C0 + q * (_C1 + q * (_C2 + q * (_C3 + q * (_C4 + q * (_C5 + q * _C6)))))
            real += seen[p] * cosine
            imag += seen[p] * (sine if x >= 0 else -sine)
        out[k] = complex(real, imag)
