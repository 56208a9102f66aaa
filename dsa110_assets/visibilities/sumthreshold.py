"""Interference in one baseline's dynamic spectrum: SumThreshold and the scale-invariant rank operator.

SumThreshold (Offringa et al. 2010, MNRAS 405, 155): a window of M samples is flagged when their mean exceeds
chi_M = chi_1 / 1.5^(log2 M), for windows of 1, 2, 4 ... samples along frequency and along time; flagged samples take
no part in longer windows, and a window with gaps must be as significant as one without. The operator (Offringa, van
de Gronde & Roerdink 2012, A&A 539, A95) extends flags to every interval of which a part of at least 1 - eta is flagged.

They work on excesses: amplitudes minus a background, over the scatter around it, both of blocks of channels over
all integrations of that baseline, so that neither gains, bandpasses nor a steady source count. The mean of XX and
YY is looked at, as most interference is in both, and each alone for single samples.
"""

from __future__ import annotations

import numba
import numpy as np

RATIO = np.float32(1.5)
STEP = 16
"""Excesses are handed on in sixteenths, as int8: sums over baselines are then exact in any order."""
ABSENT = -128
"""In those, a sample that was flagged before."""
_FEWEST, _SPAN = 8, 8
"""Samples that a background needs; integrations that it is taken of, so that it follows a drifting source."""
_SCATTER_FLOOR = np.float32(0.3)
"""Scatter is at least this part of the background: without noise the beat of two sources is not interference."""
_QUARTILE_TO_SIGMA = np.float32(1 / 0.655)
"""Median minus lower quartile of noise amplitudes is 0.640 (Rayleigh) to 0.674 (Gaussian) of their standard deviation."""
_CLIP = np.float32(3.5)


@numba.njit(cache=True, parallel=True)
def flag_blocks(data, flags, skip, width, first, single, windows, eta, excess):  # type: ignore[no-untyped-def]
    """Flag (time, baseline, channel, pol) in place, every baseline by itself; `excess` (baseline, channel, time) int8.

    skip (baseline,): left alone, all of its excess ABSENT. width: channels of a background block. first: chi_1
    [sigma]; single: the same for one sample of one polarisation (0: none). windows: the longest along frequency.
    """
    n_times, n_baselines, n_channels, _ = data.shape
    for b in numba.prange(n_baselines):
        if skip[b]:
            excess[b] = ABSENT
            continue
        both = np.zeros((n_channels, n_times), np.float32)
        count = np.zeros((n_channels, n_times), np.uint8)
        hit = np.zeros((n_channels, n_times), np.uint8)
        one = np.empty((n_channels, n_times), np.float32)
        for p in range(2):
            _excess(data, flags, b, p, width, one)
            for k in range(n_channels):
                for t in range(n_times):
                    if not flags[t, b, k, p]:
                        both[k, t] += one[k, t]
                        count[k, t] += 1
                        if single > 0 and one[k, t] > single:
                            hit[k, t] = 1
        for k in range(n_channels):
            for t in range(n_times):
                if count[k, t] == 0:
                    excess[b, k, t] = ABSENT
                else:
                    if count[k, t] == 2:
                        both[k, t] *= np.float32(0.70710678)
                    excess[b, k, t] = np.int8(min(max(round(both[k, t] * STEP), -127), 127))
        sum_threshold(both, count, hit, first, windows, True)
        if hit.any():
            extend(hit, eta)
            for t in range(n_times):
                for k in range(n_channels):
                    if hit[k, t]:
                        flags[t, b, k, 0] = True
                        flags[t, b, k, 1] = True


@numba.njit(cache=True)
def _excess(data, flags, b, p, width, out):  # type: ignore[no-untyped-def]
    """Amplitudes of one baseline and polarisation as excess over background in sigma: out (channel, time)."""
    n_times, n_channels = data.shape[0], data.shape[2]
    n_blocks, n_spans = (n_channels + width - 1) // width, max(n_times // _SPAN, 1)
    middle, scatter = np.zeros((n_spans, n_blocks), np.float32), np.zeros((n_spans, n_blocks), np.float32)
    values = np.empty(width * n_times, np.float32)
    for t in range(n_times):
        for k in range(n_channels):
            value = data[t, b, k, p]
            out[k, t] = np.sqrt(value.real * value.real + value.imag * value.imag)
    for span in range(n_spans):
        last = -1
        for block in range(n_blocks):
            n = 0
            for k in range(block * width, min((block + 1) * width, n_channels)):
                for t in range(span * n_times // n_spans, (span + 1) * n_times // n_spans):
                    if not flags[t, b, k, p]:
                        values[n] = out[k, t]
                        n += 1
            if n >= _FEWEST:
                middle[span, block], scatter[span, block] = _centre(values[:n])
                if last < 0:
                    middle[span, :block], scatter[span, :block] = middle[span, block], scatter[span, block]
                last = block
            elif last >= 0:
                middle[span, block], scatter[span, block] = middle[span, last], scatter[span, last]
    for k in range(n_channels):
        block, after, share = _between((k + 0.5) / width - 0.5, n_blocks)
        spread = np.float32(0)
        for span in range(n_spans):
            spread += (scatter[span, block] + share * (scatter[span, after] - scatter[span, block])) / n_spans
        for t in range(n_times):
            span, later, part = _between((t + 0.5) * n_spans / n_times - 0.5, n_spans)
            level = middle[span, block] + share * (middle[span, after] - middle[span, block])
            next_level = middle[later, block] + share * (middle[later, after] - middle[later, block])
            level += part * (next_level - level)
            scale = max(spread, _SCATTER_FLOOR * level)
            out[k, t] = (out[k, t] - level) / scale if scale > 0 else np.float32(0)


@numba.njit(cache=True, inline="always")
def _between(place, n):  # type: ignore[no-untyped-def]
    """(i, j, share) to interpolate between values i and j of n at `place`, linearly; the outermost are carried on."""
    i = min(max(int(np.floor(place)), 0), n - 1)
    j = min(i + 1, n - 1)
    return i, j, np.float32(min(max(place - i, 0.0), 1.0))


@numba.njit(cache=True)
def _centre(values):  # type: ignore[no-untyped-def]
    """(mean, standard deviation) of what lies within 3.5 robust sigma of the median. Reorders `values`."""
    n = values.size
    half, quarter = n // 2, n // 4
    median = _select(values, half, 0, n - 1)
    spread = (median - _select(values, quarter, 0, half)) * _QUARTILE_TO_SIGMA
    low, high = median - _CLIP * spread, median + _CLIP * spread
    total, square, count = np.float32(0), np.float32(0), 0
    for value in values:
        if low <= value <= high:
            off = value - median
            total += off
            square += off * off
            count += 1
    mean = total / count
    return median + mean, np.sqrt(max(square / count - mean * mean, np.float32(0)))


@numba.njit(cache=True)
def _select(values, k, low, high):  # type: ignore[no-untyped-def]
    """The k-th smallest of values[low:high + 1], which is left partitioned around it (Hoare's selection)."""
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@numba.njit(cache=True)
def sum_threshold(excess, count, hit, first, windows, along_time):  # type: ignore[no-untyped-def]
    """Mark in `hit` (channel, time) uint8 the windows of `excess` (float32, unit scatter) that are too high.

    count: 0 where there is no sample. first: chi_1. Windows of 1 to `windows` channels; `along_time` also of 2 to 8
    integrations, and of all.
    """
    n_channels, n_times = excess.shape
    size = n_channels * n_times
    flat, seen, mark = excess.reshape(size), count.reshape(size), hit.reshape(size)
    total, number = np.empty(size, np.float32), np.empty(size, np.float32)
    for i in range(size):
        if seen[i] and flat[i] > first:
            mark[i] = 1
    _unflagged(flat, seen, mark, total, number)
    if along_time:
        _along_time(total, number, mark, n_channels, n_times, first)
        _unflagged(flat, seen, mark, total, number)
    level, width = np.float32(first), 1
    start = np.empty(size, np.uint8)
    while 2 * width <= min(windows, n_channels):
        _double(total, number, width * n_times)
        level, width = level / RATIO, 2 * width
        valid = size - (width - 1) * n_times
        found = np.uint8(0)
        for i in range(valid):
            start[i] = np.uint8((total[i] > level * np.sqrt(number[i] * width)) & (number[i] > 0))
            found |= start[i]
        if found:
            start[valid:] = 0
            _spread(start, width, n_times)
            for i in range(size):
                mark[i] |= start[i] & np.uint8(seen[i] > 0)
            _unflagged(flat, seen, mark, total, number)
            reach = 1
            while reach < width:
                _double(total, number, reach * n_times)
                reach *= 2


@numba.njit(cache=True)
def _unflagged(flat, seen, mark, total, number):  # type: ignore[no-untyped-def]
    """Windows of one sample: the samples that are there and not marked, and how many that is."""
    for i in range(flat.size):
        use = (seen[i] > 0) & (mark[i] == 0)
        number[i] = np.float32(1) if use else np.float32(0)
        total[i] = flat[i] if use else np.float32(0)


@numba.njit(cache=True)
def _double(total, number, shift):  # type: ignore[no-untyped-def]
    """Windows of twice as many samples, in place; those that reach beyond the end are left incomplete."""
    for i in range(total.size - shift):
        total[i] += total[i + shift]
        number[i] += number[i + shift]


@numba.njit(cache=True)
def _spread(start, width, n_times):  # type: ignore[no-untyped-def]
    """From the first channels of windows to all their channels, in place; width is a power of 2."""
    reach = 1
    while reach < width:
        shift = reach * n_times
        for i in range(start.size - 1, shift - 1, -1):
            start[i] |= start[i - shift]
        reach *= 2


@numba.njit(cache=True)
def _along_time(total, number, mark, n_channels, n_times, first):  # type: ignore[no-untyped-def]
    """SumThreshold over 2, 4, 8 integrations and over all of a channel; total and number are of single samples."""
    lasting = first / np.sqrt(np.float32(n_times))
    for k in range(n_channels):
        at = k * n_times
        width, level = 2, first
        while width <= min(8, n_times):
            level /= RATIO
            for t in range(n_times - width + 1):
                window, count = np.float32(0), np.float32(0)
                for inside in range(at + t, at + t + width):
                    window += total[inside]
                    count += number[inside]
                if window > level * np.sqrt(count * width) and count > 0:
                    for inside in range(at + t, at + t + width):
                        mark[inside] = 1
            for i in range(at, at + n_times):
                if mark[i]:
                    total[i], number[i] = 0, 0
            width *= 2
        window, count = np.float32(0), np.float32(0)
        for i in range(at, at + n_times):
            window += total[i]
            count += number[i]
        if window > lasting * np.sqrt(count * n_times) and count > 0:
            for i in range(at, at + n_times):
                mark[i] = 1


@numba.njit(cache=True)
def extend(hit, eta):  # type: ignore[no-untyped-def]
    """Scale-invariant rank operator on `hit` (channel, time) uint8 in place, along frequency, then along time."""
    n_channels, n_times = hit.shape
    line = np.empty(max(n_channels, n_times), np.uint8)
    for t in range(n_times):
        for k in range(n_channels):
            line[k] = hit[k, t]
        _extend_line(line[:n_channels], eta)
        for k in range(n_channels):
            hit[k, t] = line[k]
    for k in range(n_channels):
        _extend_line(hit[k], eta)


@numba.njit(cache=True)
def _extend_line(line, eta):  # type: ignore[no-untyped-def]
    """A sample is flagged if some interval that holds it has sum(eta - 1 + flag) >= 0.

    With running sums W the condition at x is max over y > x of W(y) >= min over y <= x of W(y).
    """
    n = line.size
    if not line.any():
        return
    sums = np.empty(n + 1, np.float32)
    sums[0] = 0
    for i in range(n):
        sums[i + 1] = sums[i] + np.float32(eta) - np.float32(1) + np.float32(line[i])
    highest = np.empty(n, np.float32)
    highest[n - 1] = sums[n]
    for i in range(n - 2, -1, -1):
        highest[i] = max(highest[i + 1], sums[i + 1])
    lowest = sums[0]
    for i in range(n):
        lowest = min(lowest, sums[i])
        # the running sums of 768 terms are good to 1e-4; an interval at the very limit counts
        line[i] = np.uint8(highest[i] - lowest >= np.float32(-1e-3))
