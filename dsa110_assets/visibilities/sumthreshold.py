"""Interference in one baseline's dynamic spectrum: SumThreshold and the scale-invariant rank operator.

SumThreshold (Offringa et al. 2010, MNRAS 405, 155): a window of M samples is flagged when their mean exceeds chi_M =
chi_1 / 1.5^(log2 M), for windows of 1, 2, 4 ... samples along frequency and along time. Samples already flagged are
left out of longer windows, and a window with gaps must be as significant as one without. The operator (Offringa, van de
Gronde & Roerdink 2012, A&A 539, A95) extends flags to every interval of which a fraction of at least 1 - eta is
flagged.

Both work on excesses: amplitudes minus a background, divided by the scatter around it. Background and scatter are
computed from blocks of channels over all integrations of that baseline, so gains, bandpasses and steady sources have no
effect. The mean of XX and YY is searched, as most interference is in both; single samples are also searched in each
polarisation.
"""

from __future__ import annotations

import numba
import numpy as np

RATIO = np.float32(1.5)
STEP = 16
"""Excesses are passed on in sixteenths, as int8: sums over baselines are then exact in any order."""
ABSENT = -128
"""Value of an excess whose sample was flagged before."""
_FEWEST, SPAN = 8, 8
"""Samples that a background needs; integrations that it is computed from, so that it follows a drifting source."""
_SCATTER_FLOOR = np.float32(0.3)
"""Scatter is at least this fraction of the background: in data without noise the beat of two sources is not interference."""
_QUARTILE_TO_SIGMA = np.float32(1 / 0.655)
"""Median minus lower quartile of noise amplitudes is 0.640 (Rayleigh) to 0.674 (Gaussian) of their standard deviation."""
_CLIP = np.float32(3.5)
_BOTH = np.float32(0.70710678)
_REORDERED = {"reassoc", "nsz", "nnan", "contract"}
"""The parts of fast mathematics that allow vectorised sums. Data are finite; the order is the same on every run."""


@numba.njit(cache=True, parallel=True)
def flag_blocks(data, flags, skip, width, first, single, windows, eta, excess):  # type: ignore[no-untyped-def]
    """Flag (time, baseline, channel, pol) in place, every baseline separately; `excess` (baseline, time, channel) int8
    is filled.

    skip (baseline,): baselines left unchanged, with all of their excess ABSENT. width: channels of a background block.
    first: chi_1 [sigma]; single: the same for one sample of one polarisation (0: none). windows: the longest along
    frequency.
    """
    n_times, n_baselines, n_channels, _ = data.shape
    for b in numba.prange(n_baselines):
        if skip[b]:
            excess[b] = ABSENT
            continue
        both = np.zeros((n_times, n_channels), np.float32)
        count = np.zeros((n_times, n_channels), np.float32)
        hit = np.zeros((n_times, n_channels), np.uint8)
        one_pol = np.empty((n_times, n_channels), np.float32)
        for p in range(2):
            _excess(data, flags, b, p, width, one_pol)
            _join(one_pol, flags, b, p, single, both, count, hit)
        _hand_on(both, count, excess[b])
        sum_threshold(both, count, hit, first, windows, True)
        if hit.any():
            extend(hit, eta)
            for t in range(n_times):
                for k in range(n_channels):
                    if hit[t, k]:
                        flags[t, b, k, 0] = True
                        flags[t, b, k, 1] = True


@numba.njit(cache=True)
def _join(one_pol, flags, b, p, single, both, count, hit):  # type: ignore[no-untyped-def]
    """Add the excess of one polarisation, `one_pol`, to the sum of both, and mark its outliers."""
    n_times, n_channels = one_pol.shape
    limit = single if single > 0 else np.float32(np.inf)
    for t in range(n_times):
        for k in range(n_channels):
            unflagged = not flags[t, b, k, p]
            value = one_pol[t, k] if unflagged else np.float32(0)
            both[t, k] += value
            count[t, k] += np.float32(1) if unflagged else np.float32(0)
            hit[t, k] |= np.uint8(value > limit)


@numba.njit(cache=True)
def _hand_on(both, count, excess):  # type: ignore[no-untyped-def]
    """Scale the sums of two polarisations to unit scatter, and write them to `excess` in steps."""
    n_times, n_channels = both.shape
    for t in range(n_times):
        for k in range(n_channels):
            value = both[t, k] * (_BOTH if count[t, k] > 1 else np.float32(1))
            both[t, k] = value
            steps = np.int8(np.rint(min(max(value * np.float32(STEP), np.float32(-127)), np.float32(127))))
            excess[t, k] = steps if count[t, k] > 0 else np.int8(ABSENT)


@numba.njit(cache=True, error_model="numpy")
def _excess(data, flags, b, p, width, out):  # type: ignore[no-untyped-def]
    """Write the amplitudes of one baseline and polarisation to `out` (time, channel), as excess over the background in sigma."""
    n_times, n_channels = out.shape
    n_blocks, n_spans = (n_channels + width - 1) // width, max(n_times // SPAN, 1)
    middle, scatter = np.zeros((n_spans, n_blocks), np.float32), np.zeros((n_spans, n_blocks), np.float32)
    values = np.empty(width * n_times + 1, np.float32)
    for t in range(n_times):
        for k in range(n_channels):
            value = data[t, b, k, p]
            out[t, k] = np.sqrt(value.real * value.real + value.imag * value.imag)
    for span in range(n_spans):
        last = -1
        for block in range(n_blocks):
            n = 0
            for t in range(span * n_times // n_spans, (span + 1) * n_times // n_spans):
                for k in range(block * width, min((block + 1) * width, n_channels)):
                    values[n] = out[t, k]  # overwritten by the next value if this one is flagged
                    n += not flags[t, b, k, p]
            if n >= _FEWEST:
                middle[span, block], scatter[span, block] = _centre(values[:n])
                if last < 0:
                    middle[span, :block], scatter[span, :block] = middle[span, block], scatter[span, block]
                last = block
            elif last >= 0:
                middle[span, block], scatter[span, block] = middle[span, last], scatter[span, last]
    level, spread = np.empty((n_spans, n_channels), np.float32), np.zeros(n_channels, np.float32)
    for k in range(n_channels):
        block, after, share = _between((k + 0.5) / width - 0.5, n_blocks)
        for span in range(n_spans):
            spread[k] += (scatter[span, block] + share * (scatter[span, after] - scatter[span, block])) / n_spans
            level[span, k] = middle[span, block] + share * (middle[span, after] - middle[span, block])
    for t in range(n_times):
        span, later, part = _between((t + 0.5) * n_spans / n_times - 0.5, n_spans)
        _subtract_background(out[t], level[span], level[later], part, spread)


@numba.njit(cache=True, error_model="numpy")
def _subtract_background(values, level, later, part, spread):  # type: ignore[no-untyped-def]
    """Convert one integration's amplitudes, in place, to excesses over the background, which lies `part` of the way between two levels."""
    for k in range(values.size):
        background = level[k] + part * (later[k] - level[k])
        scale = max(spread[k], _SCATTER_FLOOR * background)
        above = (values[k] - background) / scale
        values[k] = above if scale > 0 else np.float32(0)


@numba.njit(cache=True, inline="always")
def _between(place, n):  # type: ignore[no-untyped-def]
    """Return (i, j, share) to interpolate linearly between values i and j of n at `place`; constant beyond the outermost."""
    i = min(max(int(np.floor(place)), 0), n - 1)
    j = min(i + 1, n - 1)
    return i, j, np.float32(min(max(place - i, 0.0), 1.0))


@numba.njit(cache=True, fastmath=_REORDERED, error_model="numpy")
def _centre(values):  # type: ignore[no-untyped-def]
    """(mean, standard deviation) of the values within 3.5 robust sigma of the median."""
    lowest, highest = values[0], values[0]
    for value in values:
        lowest, highest = min(lowest, value), max(highest, value)
    below = lowest - np.float32(0.01) * (highest - lowest)
    half, quarter = values.size // 2, values.size // 4
    median = _smallest(values, half, below, highest, np.float32(values.size))
    spread = (median - _smallest(values, quarter, below, median, np.float32(half + 1))) * _QUARTILE_TO_SIGMA
    low, high = median - _CLIP * spread, median + _CLIP * spread
    total, square, count = np.float32(0), np.float32(0), np.float32(0)
    for value in values:
        off = value - median if low <= value <= high else np.float32(0)
        total += off
        square += off * off
        count += np.float32(1) if low <= value <= high else np.float32(0)
    mean = total / count
    return median + mean, np.sqrt(max(square / count - mean * mean, np.float32(0)))


@numba.njit(cache=True, fastmath=_REORDERED, error_model="numpy")
def _smallest(values, k, low, high, n_high):  # type: ignore[no-untyped-def]
    """Return the value that k others precede in order; `low` is below all values, and n_high > k of them are not above
    `high`.

    The range is narrowed, alternately where the number of values suggests and in the middle, until one value is left at
    an end of it. Such passes have no branches, whereas a selection is full of them.
    """
    n_low, guess = np.float32(0), True
    while True:
        part = (np.float32(k) + np.float32(0.5) - n_low) / (n_high - n_low) if guess else np.float32(0.5)
        middle, guess = low + part * (high - low), not guess
        if not low < middle < high:
            middle = np.float32(0.5) * (low + high)
            if not low < middle < high:
                return high
        count = np.float32(0)
        for value in values:
            count += np.float32(1) if value <= middle else np.float32(0)
        if count == k:
            nearest = high
            for value in values:
                nearest = min(nearest, value if value > middle else high)
            return nearest
        if count < k:
            low, n_low = middle, count
        else:
            high, n_high = middle, count
            if count == k + 1:
                nearest = low
                for value in values:
                    nearest = max(nearest, value if value <= middle else low)
                return nearest


@numba.njit(cache=True)
def sum_threshold(excess, count, hit, first, windows, along_time):  # type: ignore[no-untyped-def]
    """Mark in `hit` (time, channel) uint8 the windows of `excess` (float32, unit scatter) that are too high.

    count (float32): 0 where there is no sample. first: chi_1. Windows have 1 to `windows` channels; with `along_time`
    also 2 to 8 integrations, and all of them.
    """
    n_times, n_channels = excess.shape
    total, number = np.empty(excess.shape, np.float32), np.empty(excess.shape, np.float32)
    start = np.empty(excess.shape, np.uint8)
    for t in range(n_times):
        for k in range(n_channels):
            hit[t, k] |= np.uint8((count[t, k] > 0) & (excess[t, k] > first))
    _unflagged(excess, count, hit, total, number)
    if along_time:
        level, width = np.float32(first), 1
        while 2 * width <= min(8, n_times):
            for t in range(n_times - width):
                _add(total[t], total[t + width], number[t], number[t + width])
            level, width = level / RATIO, 2 * width
            any_found = np.uint8(0)
            for t in range(n_times):
                if t + width <= n_times:
                    any_found |= _too_high(total[t], number[t], level, width, start[t])
                else:
                    start[t] = 0
            if any_found:
                _spread_times(start, width)
                _mark(start, count, hit)
                _unflagged(excess, count, hit, total, number)
                reach = 1
                while reach < width:
                    for t in range(n_times - reach):
                        _add(total[t], total[t + reach], number[t], number[t + reach])
                    reach *= 2
        _unflagged(excess, count, hit, total, number)
        for t in range(1, n_times):
            _add(total[0], total[t], number[0], number[t])
        if _too_high(total[0], number[0], np.float32(first / np.sqrt(np.float32(n_times))), n_times, start[0]):
            for t in range(1, n_times):
                start[t] = start[0]
            _mark(start, count, hit)
        _unflagged(excess, count, hit, total, number)
    level, width = np.float32(first), 1
    while 2 * width <= min(windows, n_channels):
        for t in range(n_times):
            _double(total[t], number[t], width)
        level, width = level / RATIO, 2 * width
        any_found = np.uint8(0)
        valid = n_channels - width + 1
        for t in range(n_times):
            any_found |= _too_high(total[t, :valid], number[t, :valid], level, width, start[t])
            start[t, valid:] = 0
        if any_found:
            for t in range(n_times):
                _spread(start[t], width)
            _mark(start, count, hit)
            _unflagged(excess, count, hit, total, number)
            reach = 1
            while reach < width:
                for t in range(n_times):
                    _double(total[t], number[t], reach)
                reach *= 2


@numba.njit(cache=True)
def _unflagged(excess, count, hit, total, number):  # type: ignore[no-untyped-def]
    """Initialise the windows of one sample: sums and numbers of the samples present and not marked."""
    for t in range(excess.shape[0]):
        for k in range(excess.shape[1]):
            use = (count[t, k] > 0) & (hit[t, k] == 0)
            number[t, k] = np.float32(1) if use else np.float32(0)
            total[t, k] = excess[t, k] if use else np.float32(0)


@numba.njit(cache=True)
def _add(total, other_total, number, other_number):  # type: ignore[no-untyped-def]
    """Extend the windows that begin in one integration, in place, by adding the shorter windows of a later one."""
    for k in range(total.size):
        total[k] += other_total[k]
        number[k] += other_number[k]


@numba.njit(cache=True)
def _double(total, number, shift):  # type: ignore[no-untyped-def]
    """Double the number of channels of the windows, in place; windows that reach beyond the end stay incomplete."""
    for k in range(total.size - shift):
        total[k] += total[k + shift]
        number[k] += number[k + shift]


@numba.njit(cache=True)
def _too_high(total, number, level, width, start):  # type: ignore[no-untyped-def]
    """Mark in `start` the windows of at most `width` samples that are as significant as a full one at `level`; return 1
    if there are any."""
    square, any_found = level * level * np.float32(width), np.uint8(0)
    for k in range(total.size):
        start[k] = np.uint8((total[k] > 0) & (total[k] * total[k] > square * number[k]))
        any_found |= start[k]
    return any_found


@numba.njit(cache=True)
def _mark(start, count, hit):  # type: ignore[no-untyped-def]
    for t in range(hit.shape[0]):
        for k in range(hit.shape[1]):
            hit[t, k] |= start[t, k] & np.uint8(count[t, k] > 0)


@numba.njit(cache=True)
def _spread(start, width):  # type: ignore[no-untyped-def]
    """Extend marks from the first channel of a window to all its channels, in place; width is a power of 2."""
    reach = 1
    while reach < width:
        for k in range(start.size - 1, reach - 1, -1):
            start[k] |= start[k - reach]
        reach *= 2


@numba.njit(cache=True)
def _spread_times(start, width):  # type: ignore[no-untyped-def]
    """Extend marks from the first integration of a window to all its integrations, in place; width is a power of 2."""
    reach = 1
    while reach < width:
        for t in range(start.shape[0] - 1, reach - 1, -1):
            for k in range(start.shape[1]):
                start[t, k] |= start[t - reach, k]
        reach *= 2


@numba.njit(cache=True)
def extend(hit, eta):  # type: ignore[no-untyped-def]
    """Apply the scale-invariant rank operator to `hit` (time, channel) uint8 in place, along frequency, then along time."""
    n_times, n_channels = hit.shape
    ever = np.zeros(n_channels, np.uint8)
    for t in range(n_times):
        _extend_line(hit[t], eta)
        for k in range(n_channels):
            ever[k] |= hit[t, k]
    line = np.empty(n_times, np.uint8)
    for k in range(n_channels):
        if ever[k]:
            for t in range(n_times):
                line[t] = hit[t, k]
            _extend_line(line, eta)
            for t in range(n_times):
                hit[t, k] = line[t]


@numba.njit(cache=True)
def _extend_line(line, eta):  # type: ignore[no-untyped-def]
    """Flag a sample if some interval that contains it has sum(eta - 1 + flag) >= 0.

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
        # the running sums of 768 terms are good to 1e-4; an interval exactly at the limit counts
        line[i] = np.uint8(highest[i] - lowest >= np.float32(-1e-3))
