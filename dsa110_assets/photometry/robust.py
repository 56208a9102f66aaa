"""Clipped medians of reference ratios by epoch, with errors that hold for as few as three references (numba)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MEDIAN_ERROR = 1.2533141373155001
"""sqrt(pi/2): the standard error of a median of Gaussian values, in units of that of their mean."""


@njit(cache=True)
def _mad_factor(n: int) -> float:
    """Return the factor that makes 1.4826 MAD unbiased for n Gaussian values (Croux & Rousseeuw 1992)."""
    if n < 2:
        return 1.0
    if n <= 9:
        return float(np.array([1.196, 1.495, 1.363, 1.206, 1.200, 1.140, 1.129, 1.107])[n - 2])
    return n / (n - 0.8)


@njit(cache=True)
def clipped_median(ratio: FloatArray, error: FloatArray, clip: float) -> tuple[float, float, int]:
    """Return the median of ratios after clipping, its standard error and the number kept.

    The scatter is at least that expected from the ratios' own errors, because three values can agree by chance.
    """
    n = ratio.size
    middle = float(np.median(ratio))
    deviation = np.abs(ratio - middle)
    floor = float(np.median(error))
    scatter = max(1.482602 * float(np.median(deviation)) * _mad_factor(n), floor)
    kept = deviation <= clip * np.maximum(scatter, error)
    count = int(kept.sum())
    middle = float(np.median(ratio[kept]))
    spread = 1.482602 * float(np.median(np.abs(ratio[kept] - middle))) * _mad_factor(count)
    return middle, MEDIAN_ERROR * max(spread, floor) / np.sqrt(count), count


@njit(cache=True)
def baselines(flux: FloatArray, source: IntArray, starts: IntArray, correction: FloatArray, first: int) -> FloatArray:
    """Return the mean of flux / correction over each source's first epochs, without the highest and the lowest quarter of them;
    rows sorted by source and time.

    The median is not used: of three epochs one would be its source's baseline itself, with a ratio of 1 whatever the epoch's
    scale, and the median of ratios a third of which are 1 would be 1.
    """
    out = np.empty(starts.size - 1)
    for k in range(starts.size - 1):
        low, high = starts[k], min(starts[k + 1], starts[k] + first)
        values = np.sort(flux[low:high] / correction[low:high])
        trimmed = values.size // 4
        out[k] = np.mean(values[trimmed : values.size - trimmed])
    return out


@njit(cache=True)
def epoch_corrections(
    ratio: FloatArray, error: FloatArray, order: IntArray, starts: IntArray, clip: float
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return correction, its error and reference count per group; the rows of group g are order[starts[g]:starts[g+1]]."""
    n = starts.size - 1
    value, sigma, count = np.ones(n), np.zeros(n), np.zeros(n, np.int64)
    for g in range(n):
        rows = order[starts[g] : starts[g + 1]]
        value[g], sigma[g], count[g] = clipped_median(ratio[rows], error[rows], clip)
    return value, sigma, count


@njit(cache=True)
def left_out(
    ratio: FloatArray, error: FloatArray, order: IntArray, starts: IntArray, clip: float
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the same as `epoch_corrections` for each row, from the other rows of its group; count 0 where the group has no others."""
    value, sigma, count = np.ones(ratio.size), np.zeros(ratio.size), np.zeros(ratio.size, np.int64)
    for g in range(starts.size - 1):
        rows = order[starts[g] : starts[g + 1]]
        if rows.size < 2:
            continue
        for n in range(rows.size):
            others = np.concatenate((rows[:n], rows[n + 1 :]))
            value[rows[n]], sigma[rows[n]], count[rows[n]] = clipped_median(ratio[others], error[others], clip)
    return value, sigma, count
