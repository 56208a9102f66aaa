"""Where wide interference begins and ends in frequency, to the channel.

A second difference reaches a lag to either side, so cells beside interference seem to hold it. One that reaches to one side
only, V(k) - 2 V(k - lag) + V(k - 2 lag), tells of a channel k next to clean ones: it is noise up to the first channel
with interference. Their powers are summed over all baselines, each in units of its own median, lag by lag. So differences that
hold known narrow interference can be left out afterwards, and the others still tell of the channels between. Sums are over
baselines in ascending order, so blocks do not change them.

Between two transmissions in one integration there are no clean ones to go on from. What lies there is told by the mean
excess of the channel's own amplitudes over their background, which reaches no further, if the background is one of clean
samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dsa110_assets.visibilities.sumthreshold import SPAN

CORRELATED = 70 / 36
"""Variance of a mean of powers of second differences over that of independent ones: 1 + 2 (4^2 + 1) / 6^2."""
_SIGMAS = 3.0
"""A channel is clean whose power is no more than this above usual."""
_TELLS = 60.0
"""Channels are told one by one if an area of interference has this many times the excess that one may have: the channel at the
end of a difference has a sixth of it (1 of 1 + 4 + 1), and it may be a flank with a tenth of the power."""
MANY = 0.3
"""What more than this part of the baselines, or of the antennas, see is in all of them, some too weak to tell."""
_FOUND, EVERYWHERE = 0.1, 0.8
"""What is flagged on this part of the baselines of that part of the antennas is in all of them."""
_STRONGEST = 0.9
"""The excess of an area is that which this part of its samples has at most."""
_FEWEST = 32
_SURE, _FLANK, _USUAL, _LOWEST = 6.0, 3.0, 1.0, -2.0
"""Excess [sigma] from which a channel certainly has interference, from which it has some beside such, up to which it is as
usual, and below which its background has interference."""
_OFTEN = 0.5
"""A background is a median: no more than this part of its samples may have interference."""
_MAD_TO_SIGMA = 1.4826
ALONG = [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
"""Neighbours along frequency."""
Float = NDArray[np.float64]


class Edges:
    """Sums (lag, time, channel x pol x 2) of powers of second differences about a channel, in units of the noise, of as many
    baselines as `lags` (time, lag, pol) says, but for those `missing` (lag, time, channel x pol).

    flagged (antenna, time, channel x pol): baselines of an antenna that are flagged there, of those of which not all is, `rows`
    (antenna, time).
    """

    def __init__(self, n_antennas: int, n_times: int, n_channels: int, longest: int) -> None:
        self.flagged = np.zeros((n_antennas, n_times, 2 * n_channels), np.uint16)
        self.rows = np.zeros((n_antennas, n_times), np.uint16)
        self.sums = np.zeros((longest + 1, n_times, 4 * n_channels), np.float32)
        self.missing = np.zeros((longest + 1, n_times, 2 * n_channels), np.int32)
        self.lags = np.zeros((n_times, longest + 1, 2), np.int32)

    def cells(self, known: NDArray[np.bool_], shape: Float, width: int) -> tuple[Float, Float]:
        """(1, time, cell) powers in cells of `width` channels and numbers of differences, of those that hold no channel that
        two antennas have `known` (antenna, time, channel). shape: see judge."""
        of_two = _of_two(known)
        sums, numbers = np.zeros(of_two.shape), np.zeros(of_two.shape)
        for lag, power, number in self._by_lag(shape):
            use = ~(of_two[:, : -2 * lag] | of_two[:, lag:-lag] | of_two[:, 2 * lag :])
            sums[:, lag:-lag] += np.where(use, power, 0)
            numbers[:, lag:-lag] += np.where(use, number, 0)
        starts = np.arange(0, of_two.shape[1], width)
        return np.add.reduceat(sums, starts, axis=1)[None], np.add.reduceat(numbers, starts, axis=1)[None]

    def _by_lag(self, shape: Float) -> Iterator[tuple[int, Float, Float]]:
        """Each lag that a baseline has, powers (time, channel - 2 lag) about the channels from `lag` on, and their numbers."""
        n_times, n_channels = self.sums.shape[1], shape.size
        for lag in np.flatnonzero(self.lags.any(axis=(0, 2))):
            power = self.sums[lag].reshape(n_times, n_channels, 4)[:, lag:-lag].sum(axis=2, dtype=np.float64)
            missing = self.missing[lag].reshape(n_times, n_channels, 2)[:, lag:-lag].sum(axis=2)
            noise = (shape[: -2 * lag] + 4 * shape[lag:-lag] + shape[2 * lag :]) / 6
            yield int(lag), power / noise, self.lags[:, lag].sum(axis=1)[:, None] - missing.astype(np.float64)

    def judge(self, part: Float, known: NDArray[np.bool_], shape: Float, amplitudes: Float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(time, channel) clean channels at an end of a range that many antennas see, or between two; what else all baselines have.

        The latter are samples that nearly every antenna had `known` (antenna, time, channel) or flagged on some baselines, and
        of which the others have more power than is usual to both sides; and the flanks, seen by no antenna alone, of what nearly
        every antenna sees. part (time, channel): of the antennas, those that see interference. shape (channel,): the
        noise's power over its mean over channels. amplitudes (time, channel): their mean excess over background
        [sigma], NaN without any.
        """
        wide, many = part > MANY, self._found_by_all(known)
        excess, weights = self._excess(wide | many, shape, np.zeros(wide.shape, np.bool_))
        limit = _SIGMAS * np.sqrt(CORRELATED / np.maximum(weights, 1))
        rest = many & ((weights > 0) & (excess > limit)).all(axis=0)
        strength = np.where(many, np.inf, excess.mean(axis=0))
        clean = np.zeros(wide.shape, np.bool_)
        of_two, longest = _of_two(known), self.lags.shape[1] - 1
        narrow = of_two & ~ndimage.binary_opening(of_two, np.ones((1, longest // 2 + 1)))
        beside, of_beside = self._excess(wide | many, shape, of_two)
        apart = of_beside > 0
        beside, of_beside = np.where(apart, beside, excess), np.where(apart, of_beside, weights)
        areas, n_areas = ndimage.label(wide)
        for area in range(1, n_areas + 1):
            inside = areas == area
            most = float(np.quantile(strength[inside], _STRONGEST, method="lower")) / _TELLS
            for side in range(2):
                one = slice(None, None, 1 if side == 0 else -1)
                clean[:, one] |= _outer(inside[:, one], narrow[:, one], beside[side][:, one], of_beside[side][:, one], most, 2 * longest)
        score = _score(amplitudes, ~(wide | many))
        clean |= self._between(wide & ~clean, score, beside, of_beside, apart, of_two)
        whole, flank = (part > EVERYWHERE) & ~clean | rest, (score > _FLANK) & (part == 0)
        rest |= flank & ndimage.binary_propagation(whole, ALONG, whole | flank)
        return clean & ~rest, np.asarray(rest)

    def _between(
        self, marks: NDArray[np.bool_], score: Float, excess: Float, weights: Float, apart: NDArray[np.bool_], known: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:  # fmt: skip
        """(time, channel) of `marks` what differences with certain interference, to one side or both, made look like it.

        Its amplitudes are as usual, and so is every side whose differences do not reach such a channel; if one does not, it is
        left to `_outer` what lies next to interference. Where there are differences `apart` (side, time, channel) from what is
        `known` (time, channel), these reach what is not known. Nothing is clean where a background may hold what it should
        tell of: it is above the samples about it that are not marked, or most of those that it is taken of are marked.
        """
        longest = self.lags.shape[1] - 1
        free, reached = marks & (score > _LOWEST) & (score < _USUAL), np.zeros((2, *marks.shape), np.bool_)
        for side in range(2):
            one = slice(None, None, 1 if side == 0 else -1)
            reached[side] = _after((score > _SURE)[:, one], 2 * longest)[:, one]
            unknown = _after(((score > _SURE) & ~known)[:, one], 2 * longest)[:, one]
            free &= np.where(apart[side], unknown, reached[side]) | _clean(excess[side], weights[side], np.inf)
        free &= reached.all(axis=0) | reached.any(axis=0) & ~ndimage.binary_dilation(marks & ~free, ALONG)
        others = np.where(marks, np.nan, score)
        free &= _mean(others, (SPAN, 2 * longest)) > _LOWEST
        return np.asarray(free & (_mean((marks & ~free).astype(np.float64), (SPAN, longest)) < _OFTEN))

    def _found_by_all(self, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(time, channel) True where nearly all antennas have found something, or many of them something that is always there."""
        there = self.rows.any(axis=1)
        n_times, n_channels = known.shape[1:]
        part = self.flagged.reshape(-1, n_times, n_channels, 2).max(axis=3) / np.maximum(self.rows, 1)[:, :, None]
        found, always = (known | (part > _FOUND))[there], known[there].all(axis=1)
        least = max(int(there.sum()), 1)
        return np.asarray((found.sum(axis=0) > EVERYWHERE * least) | (always.sum(axis=0) > MANY * least))

    def _excess(self, marks: NDArray[np.bool_], shape: Float, known: NDArray[np.bool_]) -> tuple[Float, Float]:
        """(side, time, channel) excess over what is usual without `marks`, in parts of it, and its weight: the number of
        samples, less where the scatter is more than theirs; 0 where there are none or nothing is usual. Of the differences
        that end in a channel those are left out of which another is `known` (time, channel)."""
        sums, number = np.zeros((2, *marks.shape)), np.zeros((2, *marks.shape))
        for lag, power, samples in self._by_lag(shape):
            low, middle, high = known[:, : -2 * lag], known[:, lag:-lag], known[:, 2 * lag :]
            for side, others, at in ((0, low | middle, np.s_[:, 2 * lag :]), (1, high | middle, np.s_[:, : -2 * lag])):
                sums[side][at] += np.where(others, 0, power)
                number[side][at] += np.where(others, 0, samples)
        number[number < _FEWEST] = 0
        mean, excess = sums / np.maximum(number, 1), np.zeros(sums.shape)
        for side in range(2):
            clean = ~marks & (number[side] > 0)
            for t in range(len(marks)):
                usual = np.median(mean[side, t, clean[t]]) if clean[t].any() else 0
                if usual > 0:
                    excess[side, t] = mean[side, t] / usual - 1
                else:
                    number[side, t] = 0
            if clean.any():
                score = np.abs(excess[side][clean]) * np.sqrt(number[side][clean] / CORRELATED)
                number[side] /= max(_MAD_TO_SIGMA * float(np.median(score)), 1.0) ** 2
        return excess, number


def _outer(
    inside: NDArray[np.bool_], narrow: NDArray[np.bool_], excess: Float, weights: Float, most: float, reach: int
) -> NDArray[np.bool_]:
    """(time, channel) clean channels from the first of every range `inside` up to before the first that is neither clean nor in
    `narrow` interference.

    Integrations that begin at the same channel one after another are looked at together, if less than `most` is then told;
    or if that can be told of one by itself, one by one first, and then those together of which a channel was clean. Integrations
    whose next `reach` channels are clean too are looked at apart from those that soon have interference, whose flank they
    do not share. Next to the first channel that is not clean, those stay that are a sigma above usual: interference has weaker flanks.
    """
    alone = inside & _clean(excess, weights, most)
    passed = narrow & ~alone
    found = _from_start(inside, alone | inside & passed)
    goes_on = found & ~_after(~found[:, ::-1], reach)[:, ::-1]
    if not (found & ~passed).any():
        start = inside & ~np.pad(inside, ((0, 0), (1, 0)))[:, :-1]
        start &= ndimage.binary_dilation(start, [[1], [0], [1]]) | (len(start) == 1)
        found, goes_on = inside & np.logical_or.accumulate(start, axis=1), np.zeros(inside.shape, np.bool_)
    told = _clean(*_together(found & ~passed, goes_on, excess, weights), most)
    found = _from_start(inside, found & (passed | told))
    mean, weight = _together(found & ~passed, goes_on, excess, weights)
    flank = found & (mean > np.sqrt(CORRELATED / np.maximum(weight, 1)))
    dirty = inside & ~found
    return np.asarray(found & told & ~ndimage.binary_propagation(dirty, ALONG, dirty | flank))


def _of_two(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(time, channel) what two antennas have `known` (antenna, time, channel), so that a baseline may have it."""
    return np.asarray(np.count_nonzero(known, axis=0) > 1)


def _clean(excess: Float, weights: Float, most: float) -> NDArray[np.bool_]:
    """True where the excess is within the noise, and that tells of `most`."""
    limit = _SIGMAS * np.sqrt(CORRELATED / np.maximum(weights, 1))
    return np.asarray((weights > 0) & (excess < limit) & (limit < most))


def _score(amplitudes: Float, usual: NDArray[np.bool_]) -> Float:
    """Excess (time, channel) over the median of an integration's `usual` channels, in units of their scatter, at least 1; NaN
    where there is none, or nothing usual."""
    score = np.full(amplitudes.shape, np.nan)
    known = usual & np.isfinite(amplitudes)
    for t in np.flatnonzero(known.any(axis=1)):
        score[t] = amplitudes[t] - np.median(amplitudes[t, known[t]])
    if known.any():
        score /= max(_MAD_TO_SIGMA * float(np.median(np.abs(score[known]))), 1.0)
    return score


def _after(marks: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """(time, channel) True where one of the `reach` channels before is marked."""
    number = np.pad(marks, ((0, 0), (reach + 1, 0))).cumsum(axis=1)
    return np.asarray(number[:, reach:-1] > number[:, : -reach - 1])


def _mean(values: Float, box: tuple[int, int]) -> Float:
    """Mean of what is not NaN in a box about every (time, channel); NaN where there is nothing."""
    number = ndimage.uniform_filter(np.isfinite(values).astype(np.float64), box, mode="nearest")
    total = ndimage.uniform_filter(np.nan_to_num(values), box, mode="nearest")
    return np.asarray(np.where(number > 0.5 / np.prod(box), total / np.maximum(number, 1e-9), np.nan))


def _together(marks: NDArray[np.bool_], apart: NDArray[np.bool_], excess: Float, weights: Float) -> tuple[Float, Float]:
    """Mean excess and sum of weights over every stretch of consecutive integrations with `marks`, channel by channel; of those
    that are `apart` and of the others."""
    mean, total = np.zeros(marks.shape), np.zeros(marks.shape)
    for part in (marks & apart, marks & ~apart):
        stretches, n = ndimage.label(part, [[0, 1, 0], [0, 1, 0], [0, 1, 0]])
        weight = np.bincount(stretches.ravel(), weights.ravel(), n + 1)
        of_all = np.bincount(stretches.ravel(), (excess * weights).ravel(), n + 1) / np.maximum(weight, 1e-9)
        mean[part], total[part] = of_all[stretches[part]], weight[stretches[part]]
    return mean, total


def _from_start(inside: NDArray[np.bool_], marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(time, channel) those of `marks` that go on without a gap from where a range `inside` begins."""
    found = np.zeros(inside.shape, np.bool_)
    before, within = np.ones(len(inside), np.bool_), np.zeros(len(inside), np.bool_)
    for channel in range(inside.shape[1]):
        first = inside[:, channel] & ~within
        before = (before & within | first) & marks[:, channel]
        found[:, channel], within = before, inside[:, channel]
    return found


@numba.njit(cache=True)
def add(squares, bad, lag, weights, sums, missing, rows):  # type: ignore[no-untyped-def]
    """Add one baseline and integration to sums (channel x pol x 2), missing (channel x pol) and rows (pol) of its lag.

    squares (channel x pol x 2) of its second differences about each channel, of which those at `bad` (channel x pol) are 0,
    times the weights (2,) of its pols, 0: none.
    """
    first, last, one, two = 4 * lag, squares.size - 4 * lag, weights[0], weights[1]
    x, out = squares[first:last], sums[first:last]
    for i in range(0, x.size, 4):
        out[i] += one * x[i]
        out[i + 1] += one * x[i + 1]
        out[i + 2] += two * x[i + 2]
        out[i + 3] += two * x[i + 3]
    for p in range(2):
        rows[p] += weights[p] > 0
    for i in bad:
        if weights[i % 2] > 0:
            missing[i] += 1
