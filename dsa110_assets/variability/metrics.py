"""Variability metrics: one definition of each, over ragged or dense light curves, in numba.

With weights w = 1/sigma^2 over the N finite points of a source:
  eta = N/(N-1) (<w F^2> - <w F>^2/<w>) = sum(w (F - Fbar_w)^2)/(N-1)           reduced chi^2 about the weighted mean
  V   = s / <F>, s the sample standard deviation (ddof 1), <F> the plain mean   modulation index
  Vs  = (a - b)/sqrt(sigma_a^2 + sigma_b^2),  m = 2 (a - b)/(a + b)             of a pair of epochs
vs_max is the largest |Vs| of all N(N-1)/2 pairs and m_max the |m| of that same pair (the largest |m| of all pairs would be
a faint source's noise). The deviation is leave-one-out: the distance of a point from the weighted mean of the others, in
standard errors of that difference; the familiar max|x - mean|/std cannot exceed (N-1)/sqrt(N).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Metrics(NamedTuple):
    """One value per source; NaN where there are too few finite points (1 for the means, 2 for the rest)."""

    n: IntArray
    mean: FloatArray
    weighted_mean: FloatArray
    weighted_mean_err: FloatArray
    eta: FloatArray
    v: FloatArray
    vs_max: FloatArray
    m_max: FloatArray
    deviation: FloatArray
    """Signed leave-one-out deviation of the most deviant point [sigma]."""
    deviation_row: IntArray
    """Row (index into the flat arrays) of that point; -1 if there is none."""


@njit(cache=True)
def _moments(flux: FloatArray, error: FloatArray) -> tuple[float, float, float, float, float]:
    """Plain mean, weighted mean, its error, eta, V of finite points (two passes, to avoid cancellation)."""
    n = flux.size
    weight = 1 / error**2
    total = weight.sum()
    mean, weighted = flux.mean(), float((weight * flux).sum() / total)
    if n < 2:
        return mean, weighted, total**-0.5, np.nan, np.nan
    eta = float((weight * (flux - weighted) ** 2).sum()) / (n - 1)
    spread = np.sqrt(((flux - mean) ** 2).sum() / (n - 1))
    return mean, weighted, total**-0.5, eta, spread / mean if mean != 0 else np.nan


@njit(cache=True)
def _largest_pair(flux: FloatArray, error: FloatArray) -> tuple[float, float]:
    """Largest |Vs| of all pairs and the |m| of that pair, without visiting pairs that cannot be the largest.

    The pair of the extreme fluxes gives a first maximum. A point can be the upper one of a better pair only if it would exceed that
    maximum when paired with the lowest flux and the smallest error of all, and correspondingly for the lower one; few points can.
    With those sorted by flux, both loops stop early. Exact for any errors.
    """
    least_error = float(error.min())
    top, bottom = np.argmax(flux), np.argmin(flux)
    difference = flux[top] - flux[bottom]
    best = difference / np.sqrt(error[top] ** 2 + error[bottom] ** 2)
    total = flux[top] + flux[bottom]
    modulation = abs(2 * difference / total) if total != 0 else np.inf
    high, low = _contenders(flux, error, flux[bottom], least_error, best), _contenders(-flux, error, -flux[top], least_error, best)
    for i in high:
        bound = np.sqrt(error[i] ** 2 + least_error**2)
        for j in low:
            difference = flux[i] - flux[j]
            if difference / bound <= best:
                break
            value = difference / np.sqrt(error[i] ** 2 + error[j] ** 2)
            if value > best:
                best = value
                total = flux[i] + flux[j]
                modulation = abs(2 * difference / total) if total != 0 else np.inf
    return best, modulation


@njit(cache=True)
def _contenders(flux: FloatArray, error: FloatArray, lowest: float, least: float, mark: float) -> IntArray:
    """Points that may be the upper one of a pair whose Vs exceeds `mark`, highest flux first."""
    chosen = np.empty(flux.size, np.int64)
    n = 0
    for k in range(flux.size):
        if flux[k] - lowest > mark * np.sqrt(error[k] ** 2 + least**2):
            chosen[n] = k
            n += 1
    return chosen[:n][np.argsort(-flux[chosen[:n]])]


@njit(cache=True)
def _deviation(flux: FloatArray, error: FloatArray) -> tuple[float, int]:
    """Largest leave-one-out deviation [sigma, signed] and the index of its point."""
    weight = 1 / error**2
    total, product = weight.sum(), float((weight * flux).sum())
    best, where = 0.0, 0
    for k in range(flux.size):
        others = total - weight[k]
        value = (flux[k] - (product - weight[k] * flux[k]) / others) / np.sqrt(error[k] ** 2 + 1 / others)
        if abs(value) > abs(best):
            best, where = value, k
    return best, where


@njit(cache=True, parallel=True)
def _all_sources(flux: FloatArray, error: FloatArray, starts: IntArray) -> tuple[IntArray, FloatArray, IntArray]:
    n_sources = starts.size - 1
    count, where = np.zeros(n_sources, np.int64), np.full(n_sources, -1)
    out = np.full((8, n_sources), np.nan)
    for k in prange(n_sources):
        count[k], where[k] = _one_source(flux, error, starts[k], starts[k + 1], out[:, k])
    return count, out, where


@njit(inline="always")
def _usable(flux: float, error: float) -> bool:
    return bool(np.isfinite(flux) and np.isfinite(error) and error > 0)


@njit(cache=True)
def _one_source(flux: FloatArray, error: FloatArray, low: int, high: int, out: FloatArray) -> tuple[int, int]:
    """Write the metrics of rows low:high into `out`; return the number of usable points, and the row of the most deviant one (-1 if
    there is none)."""
    good = np.empty(high - low, np.int64)
    n = 0
    for row in range(low, high):
        if _usable(flux[row], error[row]):
            good[n] = row
            n += 1
    if n == 0:
        return 0, -1
    # copy the usable points together only if some are missing
    f, e = (flux[low:high], error[low:high]) if n == high - low else (flux[good[:n]], error[good[:n]])
    out[0], out[1], out[2], out[3], out[4] = _moments(f, e)
    if n < 2:
        return 1, -1
    out[5], out[6] = _largest_pair(f, e)
    out[7], best = _deviation(f, e)
    return n, good[best]


@njit(cache=True)
def ends(flux: FloatArray, error: FloatArray, starts: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """For each source, the first and the last row with a usable point (0 without one) and the highest flux (NaN without one)."""
    first, last = np.zeros(starts.size - 1, np.int64), np.zeros(starts.size - 1, np.int64)
    peak = np.full(starts.size - 1, np.nan)
    for k in range(starts.size - 1):
        for row in range(starts[k], starts[k + 1]):
            if _usable(flux[row], error[row]):
                if not peak[k] >= flux[row]:
                    first[k] = first[k] if peak[k] == peak[k] else row
                    peak[k] = flux[row]
                last[k] = row
    return first, last, peak


def ragged_metrics(flux_jy: FloatArray, flux_err_jy: FloatArray, starts: IntArray) -> Metrics:
    """Metrics of light curves laid end to end: source k has rows starts[k]:starts[k + 1] (starts has one entry more than sources).

    Points with a NaN flux, or an error that is NaN or not positive, are left out.
    """
    flux, error = (np.ascontiguousarray(a, np.float64) for a in (flux_jy, flux_err_jy))
    count, out, where = _all_sources(flux, error, np.ascontiguousarray(starts, np.int64))
    return Metrics(count, out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7], where)


def curve_metrics(flux_jy: FloatArray, flux_err_jy: FloatArray) -> Metrics:
    """`ragged_metrics` of one light curve, computed in the calling thread, because a server has several."""
    flux, error = (np.ascontiguousarray(a, np.float64) for a in (flux_jy, flux_err_jy))
    out = np.full((8, 1), np.nan)
    count, where = _one_source(flux, error, 0, flux.size, out[:, 0])
    return Metrics(np.array([count]), out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7], np.array([where]))


def dense_metrics(flux_jy: FloatArray, flux_err_jy: FloatArray) -> Metrics:
    """Metrics of light curves in a matrix (n_sources, n_epochs), NaN where there is no flux; deviation_row is the flattened index."""
    n_sources, n_epochs = flux_jy.shape
    starts = np.arange(n_sources + 1) * n_epochs
    return ragged_metrics(np.ravel(flux_jy), np.ravel(flux_err_jy), starts)
