"""The chance of a metric's value for a constant source with that many epochs, and the treatment of many sources at once.

The meaning of a fixed threshold depends on N: the chance that a constant source's largest pair reaches 4.3
sigma is 0.07 % with 10 epochs and 32 % with 365.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_NODES = 400
_NEGLIGIBLE = 1e-18
"""A term this small relative to the sum, and all following terms, are below the rounding error of the sum."""
_TAIL = 9.0
"""Beyond 9 sigma a normal density contributes less than 1e-18."""


def p_eta(eta: ArrayLike, n: ArrayLike) -> FloatArray:
    """Chance that a constant source of n points reaches eta: (n - 1) eta is chi^2 with n - 1 degrees of freedom. NaN below two points."""
    value, freedom = np.asarray(eta, np.float64), np.asarray(n, np.float64) - 1
    with np.errstate(invalid="ignore"):
        return np.where(freedom > 0, chdtrc(np.maximum(freedom, 1), value * freedom), np.nan)


@njit(cache=True)
def _range_tail(span: float, n: int) -> float:
    """P(range of n standard normals >= span) = n Int phi(x) {Q(x)^(n-1) - [Q(x) - Q(x + span)]^(n-1)} dx.

    Q is the upper tail and x the lowest point. Writing the complement inside the integral keeps the relative
    precision of tiny probabilities. The integrand is negligible outside [-span - 9, 9]; the trapezoidal rule
    converges faster than any power of its step for such a smooth function. As a marginal of the extremes' joint
    density over a convex set it is log-concave (Prekopa 1973): the sum runs from about its middle in both directions until the terms
    fall and become negligible.
    """
    low, high = -span - _TAIL, _TAIL
    steps = int(_NODES * max(1.0, (high - low) / 40))
    width = (high - low) / steps
    middle = int((-span / 2 - low) / width)
    middle_term = _range_term(low + middle * width, span, n)
    total = previous = middle_term
    for k in range(middle - 1, -1, -1):
        term = _range_term(low + k * width, span, n)
        total += term
        if term < previous and term < _NEGLIGIBLE * total:
            break
        previous = term
    previous = middle_term
    for k in range(middle + 1, steps + 1):
        term = _range_term(low + k * width, span, n)
        total += term
        if term < previous and term < _NEGLIGIBLE * total:
            break
        previous = term
    return float(min(n * total * width / math.sqrt(2 * math.pi), 1.0))


@njit(cache=True)
def _range_term(x: float, span: float, n: int) -> float:
    upper = 0.5 * math.erfc(x / math.sqrt(2.0))
    if upper <= 0.0:
        return 0.0
    ratio = min(0.5 * math.erfc((x + span) / math.sqrt(2.0)) / upper, 1.0)
    rest = -math.expm1((n - 1) * math.log1p(-ratio)) if ratio < 1.0 else 1.0
    return math.exp(-0.5 * x * x + (n - 1) * math.log(upper)) * rest


@njit(cache=True, parallel=True)
def _pair_tails(vs: FloatArray, n: IntArray) -> FloatArray:
    out = np.full(vs.size, np.nan)
    for k in prange(vs.size):
        if n[k] >= 2 and np.isfinite(vs[k]):
            out[k] = _range_tail(max(vs[k], 0.0) * math.sqrt(2.0), n[k])
    return out


def p_pair(vs_max: ArrayLike, n: ArrayLike) -> FloatArray:
    """Chance that the largest |Vs| among the n(n-1)/2 pairs of a constant source reaches vs_max.

    Exact for equal errors (the range of n normals is sqrt(2) vs_max); for unequal errors an upper bound (the
    Tukey-Kramer inequality, Hayter 1984, Ann. Statist. 12, 61). NaN below two points.
    """
    value, count = np.broadcast_arrays(np.asarray(vs_max, np.float64), np.asarray(n, np.int64))
    return np.asarray(_pair_tails(value.ravel().copy(), count.ravel().copy())).reshape(value.shape)


def p_deviation(deviation: ArrayLike, n: ArrayLike) -> FloatArray:
    """Upper bound of the chance that the most deviant of n points of a constant source lies that far from the others.

    Each leave-one-out deviation is a standard normal; 1 - (1 - p)^n bounds the largest of n correlated ones
    (Sidak's inequality). With two points both deviations are the same number, so it counts once. NaN below two points.
    """
    value, count = np.broadcast_arrays(np.asarray(deviation, np.float64), np.asarray(n, np.float64))
    single = np.vectorize(math.erfc, otypes=[float])(np.abs(value) / math.sqrt(2.0)) if value.size else np.zeros(value.shape)
    tries = np.where(count == 2, 1.0, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count >= 2, -np.expm1(tries * np.log1p(-single)), np.nan)


def combine(*p_values: ArrayLike) -> FloatArray:
    """One p-value from several on the same data, however correlated: the smallest times their number (Bonferroni)."""
    table = np.stack([np.asarray(p, np.float64) for p in p_values])
    finite = np.isfinite(table)
    smallest = np.where(finite, table, 1.0).min(axis=0)
    return np.where(finite.any(axis=0), np.minimum(smallest * finite.sum(axis=0), 1.0), np.nan)


def q_values(p: ArrayLike) -> FloatArray:
    """Benjamini-Hochberg adjusted p-values: taking q <= a keeps the expected share of false ones at most a.

    NaN p-values stay NaN and are not counted as tests.
    """
    p_values = np.asarray(p, np.float64)
    out = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    ranked = p_values[order] * tested.size / np.arange(1, tested.size + 1)
    out[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return out
