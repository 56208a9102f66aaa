"""Interference too weak for one baseline, found in the excesses of all baselines of an antenna together.

A transmitter seen by an antenna is in all its baselines to other antennas that see it; on the long ones it is washed
out to less than the noise. The mean excess of an antenna's baselines detects it. A baseline is then flagged where both
its antennas see interference, and every baseline where nearly all antennas do. The sky has no such sharp edges: what an
antenna sees is compared with its median over time (for bursts) and over neighbouring channels (for carriers).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.visibilities import sumthreshold

EVERYWHERE = 0.8
"""Above this fraction of the live antennas, a (channel, time) is flagged on all baselines."""
_NEIGHBOURS, _MOMENTS = 4, 2
"""Channels and integrations on either side that define the usual level."""
_MEDIAN_LOSS = 1.2533
"""Standard deviation of a median over that of a mean, for many Gaussian samples."""
_MAD_TO_SIGMA = 1.4826
_LONGEST_CARRIER = 4
"""Channels: a wider excess that stays on is taken for bandpass, not for a carrier."""


class Stack:
    """Sums of excesses (see sumthreshold.flag_blocks) over the baselines of each antenna, exact in any order."""

    def __init__(self, n_antennas: int, n_channels: int, n_times: int) -> None:
        self._sums = np.zeros((n_antennas, n_times, n_channels), np.int32)
        self._numbers = np.zeros(self._sums.shape, np.int32)

    def add(self, excess: NDArray[np.int8], ant1: NDArray[np.int32], ant2: NDArray[np.int32]) -> None:
        """Add baselines (baseline, time, channel)."""
        _add(excess, ant1, ant2, self._sums, self._numbers)

    def hits(self, first: float, windows: int, eta: float) -> NDArray[np.uint8]:
        """(antenna, time, channel) 1 where an antenna sees interference; `first`, `windows`, `eta` as for baselines."""
        hits = np.zeros(self._sums.shape, np.uint8)
        _search(self._sums, self._numbers, np.float32(first), windows, np.float32(eta), hits)
        live = (self._numbers > 0).any(axis=(1, 2))
        everywhere = hits[live].sum(axis=0) > EVERYWHERE * max(int(live.sum()), 1)
        hits[:, everywhere] = 1
        return hits

    def excess(self) -> NDArray[np.float64]:
        """(time, channel) mean excess of all baselines [sigma of the mean of independent ones]; NaN without any."""
        numbers = 2.0 * self._numbers.sum(axis=0, dtype=np.float64)  # every baseline is in two antennas' sums
        total = self._sums.sum(axis=0, dtype=np.float64) / sumthreshold.STEP
        return np.asarray(np.where(numbers > 0, total / np.sqrt(np.maximum(numbers, 1)), np.nan))


@numba.njit(cache=True, parallel=True)
def _add(excess, ant1, ant2, sums, numbers):  # type: ignore[no-untyped-def]
    """Add baselines, integrations in parallel: every thread adds all baselines to its own cells."""
    for t in numba.prange(excess.shape[1]):
        for b in range(excess.shape[0]):
            i, j = ant1[b], ant2[b]
            for k in range(excess.shape[2]):
                value = np.int32(excess[b, t, k])
                present = np.int32(value != sumthreshold.ABSENT)
                value *= present
                sums[i, t, k] += value
                sums[j, t, k] += value
                numbers[i, t, k] += present
                numbers[j, t, k] += present


@numba.njit(cache=True, parallel=True)
def _search(sums, numbers, first, windows, eta, hits):  # type: ignore[no-untyped-def]
    n_antennas, n_times, n_channels = sums.shape
    for a in numba.prange(n_antennas):
        if not numbers[a].any():
            continue
        mean = np.zeros((n_channels, n_times), np.float32)
        present = np.zeros((n_channels, n_times), np.uint8)
        sharp = np.zeros((n_channels, n_times), np.float32)
        level = np.zeros((n_channels, 1), np.float32)
        has_level = np.zeros((n_channels, 1), np.uint8)
        for k in range(n_channels):
            for t in range(n_times):
                if numbers[a, t, k]:
                    mean[k, t] = sums[a, t, k] / (sumthreshold.STEP * np.sqrt(np.float32(numbers[a, t, k])))
                    present[k, t] = 1
            if present[k].any():
                level[k, 0] = np.median(mean[k][present[k] > 0])
                has_level[k, 0] = 1
            for t in range(n_times):
                if present[k, t]:
                    low = min(max(t - _MOMENTS, 0), max(n_times - 2 * _MOMENTS - 1, 0))
                    high = min(low + 2 * _MOMENTS + 1, n_times)
                    sharp[k, t] = mean[k, t] - _median(mean[k, low:high], present[k, low:high])
        hit = np.zeros((n_channels, n_times), np.uint8)
        _windows(sharp, present, first, windows, np.float32(1), hit)
        carrier = np.zeros((n_channels, 1), np.uint8)
        narrow = np.zeros((n_channels, 1), np.float32)
        for k in range(n_channels):
            if has_level[k, 0]:
                low, high = max(k - _NEIGHBOURS, 0), min(k + _NEIGHBOURS + 1, n_channels)
                narrow[k, 0] = level[k, 0] - np.median(level[low:high, 0][has_level[low:high, 0] > 0])
        _windows(narrow, has_level, first, _LONGEST_CARRIER, np.float32(_MEDIAN_LOSS / np.sqrt(n_times)), carrier)
        for k in range(n_channels):
            for t in range(n_times):
                hits[a, t, k] = hit[k, t] | carrier[k, 0]
        sumthreshold.extend(hits[a], eta)


@numba.njit(cache=True)
def _median(values, present):  # type: ignore[no-untyped-def]
    """Median of the few values that are present; there must be at least one."""
    order, n = np.empty(values.size, np.float32), 0
    for i in range(values.size):
        if present[i]:
            place = n
            while place > 0 and order[place - 1] > values[i]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = values[i]
            n += 1
    return (order[(n - 1) // 2] + order[n // 2]) / np.float32(2)


@numba.njit(cache=True)
def _windows(values, present, first, windows, noise, hit):  # type: ignore[no-untyped-def]
    """Mark windows of 1 to `windows` channels whose mean is `first` sigma above 0; `values` (channel, time) is
    overwritten.

    Sigma is the robust scatter of the windows' own means, because changes of the sky are correlated over many channels,
    but at least that of independent samples of scatter `noise`.
    """
    n_channels, n_times = values.shape
    scores = np.empty((n_channels, n_times), np.float32)
    sizes = np.empty(n_channels * n_times, np.float32)
    width = 1
    while width <= min(windows, n_channels):
        n = 0
        for t in range(n_times):
            total, count = np.float32(0), 0
            for k in range(n_channels):
                total += values[k, t]
                count += present[k, t]
                if k >= width:
                    total -= values[k - width, t]
                    count -= present[k - width, t]
                scores[k, t] = 0
                if k >= width - 1 and 2 * count >= width:
                    scores[k, t] = total / (noise * np.sqrt(np.float32(count)))
                    sizes[n] = abs(scores[k, t])
                    n += 1
        if n:
            limit = first * max(np.float32(_MAD_TO_SIGMA) * np.float32(np.median(sizes[:n])), np.float32(1))
            for k in range(width - 1, n_channels):
                for t in range(n_times):
                    if scores[k, t] > limit:
                        for inside in range(k - width + 1, k + 1):
                            hit[inside, t] = 1
            for k in range(n_channels):
                for t in range(n_times):
                    if hit[k, t]:
                        values[k, t], present[k, t] = 0, 0
        width *= 2


@numba.njit(cache=True, parallel=True)
def flag(flags, ant1, ant2, hits):  # type: ignore[no-untyped-def]
    """Flag (time, baseline, channel, pol) in place where both antennas have hits (antenna, time, channel)."""
    n_times, n_baselines, n_channels, n_pols = flags.shape
    for b in numba.prange(n_baselines):
        hits1, hits2 = hits[ant1[b]], hits[ant2[b]]
        for t in range(n_times):
            for k in range(n_channels):
                if hits1[t, k] and hits2[t, k]:
                    for p in range(n_pols):
                        flags[t, b, k, p] = True
