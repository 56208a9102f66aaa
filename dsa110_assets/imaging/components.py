"""Visibilities of a few points, summed directly: exact, and quicker than gridding up to hundreds of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray


def _series(function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> tuple[np.float32, ...]:
    """Return the polynomial in q = x^2, |x| <= 1/4, that interpolates `function` of x at Chebyshev's nodes."""
    fitted = np.polynomial.Chebyshev.interpolate(lambda q: function(np.sqrt(q)), 4, domain=[0, 1 / 16])
    return tuple(np.float32(c) for c in fitted.convert(kind=np.polynomial.Polynomial).coef)


# series of sin(2 pi x) / x and cos(2 pi x): errors are at most 4e-8, and 3e-7 with the rounding of the sums in single precision
_S0, _S1, _S2, _S3, _S4 = _series(lambda x: np.sin(2 * np.pi * x) / x)
_C0, _C1, _C2, _C3, _C4 = _series(lambda x: np.cos(2 * np.pi * x))

_NOTHING = np.empty(0, np.float32), np.empty(0, np.float32)
_CHUNKS = 64
_BLOCK, _FEW = 1024, 16384
"""Samples that are summed in single precision, and samples processed together, few enough to stay in a cache."""


def lmn_of_pixels(
    rows: NDArray[np.floating] | NDArray[np.intp],
    columns: NDArray[np.floating] | NDArray[np.intp],
    n_pixels: int,
    pixel_rad: float,
) -> NDArray[np.float64]:
    """Return l, m, n - 1 (3, point) of 0-based pixel coordinates in an image of n_pixels a side, in the image's projection."""
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
    spectra: Spectra | None = None,
) -> NDArray[np.complex64]:
    """Return the visibilities (sample,) complex64 of points, at uvw (sample, 3) [wavelengths] and lmn (3, point).

    In sample k a point has `flux_jy` times 1 + the sum of patterns[term, k] * ratios[term, point] over the terms. With
    `spectra` this is multiplied by exp(y) to second order, y being the point's index times the sample's log frequency. Single
    precision except for the phases.
    """
    flux = flux_jy.astype(np.float32)
    out = np.empty(uvw.shape[0], dtype=np.complex64)
    x, index = _NOTHING if spectra is None or not np.any(spectra.index) else (spectra.log_frequency, spectra.index.astype(np.float32))
    _sum(uvw, np.ascontiguousarray(lmn), flux, patterns, ratios.astype(np.float32) * flux, x, index, out)
    return out


@dataclass(frozen=True)
class Spectra:
    """`log_frequency` (sample,) float32, ln(nu / nu_0); `index` (point,), the spectral indices minus the one included in the patterns."""

    log_frequency: NDArray[np.float32]
    index: NDArray[np.floating]


def beam_moments(patterns: NDArray[np.float32], log_frequency: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (3, term + 1, term + 1): sums over samples of weight times two patterns, the first being 1, times x^j, x `log_frequency`."""
    terms = patterns.shape[0] + 1
    sums = np.zeros((3, terms, terms))
    for start in range(0, weights.size, _FEW):
        chunk = slice(start, start + _FEW)
        responses = np.concatenate([np.ones((1, weights[chunk].size), np.float32), patterns[:, chunk]])
        weighted = responses * weights[chunk]
        for moment in sums:
            moment += weighted @ responses.T
            weighted *= log_frequency[chunk]
    return sums


def steeper(
    uvw: NDArray[np.float64],
    lmn: NDArray[np.float64],
    flux_jy: NDArray[np.floating],
    patterns: NDArray[np.float32],
    ratios: NDArray[np.floating],
    log_frequency: NDArray[np.float32],
    weighted: NDArray[np.complex64],
    moments: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the change (point,) of each point's spectral index that best fits the residual samples [Jy], given as `weighted`.

    Weighted least squares for a change of flux and of index, each point by itself: residual = A (dS + S dalpha x), A its beam,
    x `log_frequency`; `moments` are those of `beam_moments`. This is equation 4 of Sault & Wieringa (1994), which they give for
    an image. NaN where the samples do not constrain the index.
    """
    sums = np.zeros((_CHUNKS, flux_jy.size, 2))
    _projected_sums(uvw, np.ascontiguousarray(lmn), patterns, ratios.astype(np.float32), log_frequency, weighted, sums)
    flat, sloped = sums.sum(axis=0).T
    beam = np.concatenate([np.ones((1, flux_jy.size)), ratios])
    a, b, c = np.einsum("sp,jst,tp->jp", beam, moments, beam)
    determinant = a * c - b * b
    usable = determinant > 1e-9 * a * c
    return np.asarray((a * sloped - b * flat) / np.where(usable, determinant * flux_jy, np.nan))


@njit(cache=True, parallel=True, fastmath=True)
def _sum(uvw, lmn, flux, patterns, ratios, log_frequency, index, out):  # type: ignore[no-untyped-def]
    n_points = flux.size
    l, m, n = lmn[0], lmn[1], lmn[2]
    for chunk in prange(_CHUNKS):
        apparent = np.empty_like(flux)
        for k in range(chunk * out.size // _CHUNKS, (chunk + 1) * out.size // _CHUNKS):
            u, v, w = uvw[k, 0], uvw[k, 1], uvw[k, 2]
            for p in range(n_points):
                apparent[p] = flux[p]
            for term in range(patterns.shape[0]):
                pattern, ratio = patterns[term, k], ratios[term]
                for p in range(n_points):
                    apparent[p] += pattern * ratio[p]
            if index.size:
                x = log_frequency[k]
                for p in range(n_points):
                    y = index[p] * x
                    apparent[p] *= 1 + y * (1 + y / 2)
            real, imag = np.float32(0), np.float32(0)
            for p in range(n_points):
                cosine, sine = _fringe(u * l[p] + v * m[p] + w * n[p])
                real += apparent[p] * cosine
                imag += apparent[p] * sine
            out[k] = complex(real, imag)


@njit(inline="always", fastmath=True)
def _fringe(turns):  # type: ignore[no-untyped-def]
    """Return cos and sin of 2 pi turns."""
    x = np.float32(turns - np.floor(turns + 0.5))
    folded = np.float32(0.25) - abs(x)
    q = folded * folded
    # cos(2 pi x) = sin(2 pi folded), |sin(2 pi x)| = cos(2 pi folded)
    cosine = folded * (_S0 + q * (_S1 + q * (_S2 + q * (_S3 + q * _S4))))
    sine = _C0 + q * (_C1 + q * (_C2 + q * (_C3 + q * _C4)))
    return cosine, (sine if x >= 0 else -sine)


@njit(cache=True, parallel=True, fastmath=True)
def _projected_sums(uvw, lmn, patterns, ratios, log_frequency, weighted, out):  # type: ignore[no-untyped-def]
    """Sum A Re(weighted exp[-i phase]) times 1 and x, per chunk of samples and point: a block of samples at a time in single precision."""
    n_points = lmn.shape[1]
    l, m, n = lmn[0], lmn[1], lmn[2]
    for chunk in prange(out.shape[0]):
        # three arrays, because the compiler cannot exclude that rows of one overlap, and then does not vectorise (4 times as slow)
        response, flat, sloped = np.empty(n_points, np.float32), np.empty(n_points, np.float32), np.empty(n_points, np.float32)
        last = (chunk + 1) * weighted.size // out.shape[0]
        for start in range(chunk * weighted.size // out.shape[0], last, _BLOCK):
            flat[:], sloped[:] = np.float32(0), np.float32(0)
            for k in range(start, min(start + _BLOCK, last)):
                u, v, w = uvw[k, 0], uvw[k, 1], uvw[k, 2]
                real, imag, x = weighted[k].real, weighted[k].imag, log_frequency[k]
                response[:] = np.float32(1)
                for term in range(patterns.shape[0]):
                    pattern, ratio = patterns[term, k], ratios[term]
                    for p in range(n_points):
                        response[p] += pattern * ratio[p]
                for p in range(n_points):
                    cosine, sine = _fringe(u * l[p] + v * m[p] + w * n[p])
                    projection = response[p] * (real * cosine + imag * sine)
                    flat[p] += projection
                    sloped[p] += projection * x
            for p in range(n_points):
                out[chunk, p, 0] += flat[p]
                out[chunk, p, 1] += sloped[p]
