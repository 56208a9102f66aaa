"""Edges of wide interference in frequency, to the channel.

A second difference reaches a lag to either side, so cells next to interference seem to contain it. A one-sided
difference, V(k) - 2 V(k - lag) + V(k - 2 lag), tests a channel k next to clean ones: it is noise up to the first
channel with interference. The powers of these differences are summed over all baselines, each in units of its own
median, lag by lag. So differences that contain known narrow interference can be left out afterwards, and the others
still test the channels in between. Sums are over baselines in ascending order, so blocks do not change them.

Between two transmissions in one integration there are no clean channels to start from. Channels there are judged by the
mean excess of their own amplitudes over the background, which reaches no further, provided the background is one of
clean samples.
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
"""A channel is clean if its power is no more than this above usual."""
_TELLS = 60.0
"""Channels are judged one by one if an area of interference has this many times the excess that one channel may have:
the channel at the end of a difference has a sixth of it (1 of 1 + 4 + 1), and it may be a flank with a tenth of the
power."""
MANY = 0.3
"""Interference seen by more than this fraction of the baselines, or of the antennas, is in all of them, in some too weak to measure."""
_FOUND, EVERYWHERE = 0.1, 0.8
"""A sample flagged on more than the first fraction of the baselines, in more than the second fraction of the antennas,
is interference in all antennas."""
_STRONGEST = 0.9
"""The excess of an area is this quantile of the excesses of its samples."""
_FEWEST = 32
_SURE, _FLANK, _USUAL, _LOWEST = 6.0, 3.0, 1.0, -2.0
"""Limits of the excess [sigma]: above the first a channel certainly has interference, above the second it has some if
it is next to such a channel, up to the third it is usual, and below the fourth its background contains interference."""
_OFTEN = 0.5
"""A background is a median: less than this fraction of its samples may have interference."""
_MAD_TO_SIGMA = 1.4826
ALONG = [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
"""Neighbours along frequency."""
Float = NDArray[np.float64]


class Edges:
    """Sums (lag, time, channel x pol x 2) of powers of second differences about a channel, in units of the noise.

    `lags` (time, lag, pol) is the number of baselines summed, `missing` (lag, time, channel x pol) the number of those
    without a difference at that channel. `flagged` (antenna, time, channel x pol) is the number of an antenna's
    baselines that are flagged there, out of the `rows` (antenna, time) that are not flagged entirely.
    """

    def __init__(self, n_antennas: int, n_times: int, n_channels: int, longest: int) -> None:
        self.flagged = np.zeros((n_antennas, n_times, 2 * n_channels), np.uint16)
        self.rows = np.zeros((n_antennas, n_times), np.uint16)
        self.sums = np.zeros((longest + 1, n_times, 4 * n_channels), np.float32)
        self.missing = np.zeros((longest + 1, n_times, 2 * n_channels), np.int32)
        self.lags = np.zeros((n_times, longest + 1, 2), np.int32)

    def cells(self, known: NDArray[np.bool_], shape: Float, width: int) -> tuple[Float, Float]:
        """Return (1, time, cell) powers in cells of `width` channels, and the numbers of differences.

        Only differences without a channel that two antennas have `known` (antenna, time, channel) count. shape: see
        `judge`.
        """
        in_two = _in_two_antennas(known)
        sums, numbers = np.zeros(in_two.shape), np.zeros(in_two.shape)
        for lag, power, number in self._by_lag(shape):
            use = ~(in_two[:, : -2 * lag] | in_two[:, lag:-lag] | in_two[:, 2 * lag :])
            sums[:, lag:-lag] += np.where(use, power, 0)
            numbers[:, lag:-lag] += np.where(use, number, 0)
        starts = np.arange(0, in_two.shape[1], width)
        return np.add.reduceat(sums, starts, axis=1)[None], np.add.reduceat(numbers, starts, axis=1)[None]

    def _by_lag(self, shape: Float) -> Iterator[tuple[int, Float, Float]]:
        """Yield each lag in use, powers (time, channel - 2 lag) about the channels from `lag` on, and their numbers."""
        n_times, n_channels = self.sums.shape[1], shape.size
        for lag in np.flatnonzero(self.lags.any(axis=(0, 2))):
            power = self.sums[lag].reshape(n_times, n_channels, 4)[:, lag:-lag].sum(axis=2, dtype=np.float64)
            missing = self.missing[lag].reshape(n_times, n_channels, 2)[:, lag:-lag].sum(axis=2)
            noise = (shape[: -2 * lag] + 4 * shape[lag:-lag] + shape[2 * lag :]) / 6
            yield int(lag), power / noise, self.lags[:, lag].sum(axis=1)[:, None] - missing.astype(np.float64)

    def judge(self, part: Float, known: NDArray[np.bool_], shape: Float, amplitudes: Float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return two masks (time, channel): clean channels at an end of a range that many antennas see, or between two
        such ranges; and further interference in all baselines.

        The second mask contains samples that nearly every antenna had `known` (antenna, time, channel) or flagged on
        some baselines, where the other baselines have more power than usual on both sides. It also contains the flanks,
        seen by no single antenna, of interference that nearly every antenna sees. part (time, channel): fraction of the
        antennas that see interference. shape (channel,): noise power relative to its median over channels. amplitudes
        (time, channel): mean excess over background of all baselines [sigma], NaN without any.
        """
        wide, many = part > MANY, self._found_by_all(known)
        excess, weights = self._excess(wide | many, shape, np.zeros(wide.shape, np.bool_))
        limit = _SIGMAS * np.sqrt(CORRELATED / np.maximum(weights, 1))
        rest = many & ((weights > 0) & (excess > limit)).all(axis=0)
        strength = np.where(many, np.inf, excess.mean(axis=0))
        clean = np.zeros(wide.shape, np.bool_)
        in_two, longest = _in_two_antennas(known), self.lags.shape[1] - 1
        narrow = in_two & ~ndimage.binary_opening(in_two, np.ones((1, longest // 2 + 1)))
        beside, beside_weights = self._excess(wide | many, shape, in_two)
        unaffected = beside_weights > 0
        beside, beside_weights = np.where(unaffected, beside, excess), np.where(unaffected, beside_weights, weights)
        areas, n_areas = ndimage.label(wide)
        for area in range(1, n_areas + 1):
            inside = areas == area
            most = float(np.quantile(strength[inside], _STRONGEST, method="lower")) / _TELLS
            for side in range(2):
                direction = slice(None, None, 1 if side == 0 else -1)
                clean[:, direction] |= _outer(
                    inside[:, direction],
                    narrow[:, direction],
                    beside[side][:, direction],
                    beside_weights[side][:, direction],
                    most,
                    2 * longest,
                )
        score = _score(amplitudes, ~(wide | many))
        clean |= self._between(wide & ~clean, score, beside, beside_weights, unaffected, in_two)
        whole, flank = (part > EVERYWHERE) & ~clean | rest, (score > _FLANK) & (part == 0)
        rest |= flank & ndimage.binary_propagation(whole, ALONG, whole | flank)
        return clean & ~rest, np.asarray(rest)

    def _between(
        self, marks: NDArray[np.bool_], score: Float, excess: Float, weights: Float, unaffected: NDArray[np.bool_], known: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Return (time, channel) the `marks` that only look like interference because differences, to one side or both,
        contain certain interference.

        The amplitudes of such a channel are usual. On each side, its differences either reach certain interference or
        are usual as well; if they reach it on one side only, channels next to interference are left to `_outer`. Where
        there are differences `unaffected` (side, time, channel) by `known` (time, channel) interference, only
        interference that is not known counts as reached. No channel is clean whose background may contain the
        interference: where the background is above the unmarked samples around it, or most of the samples it is
        computed from are marked.
        """
        longest = self.lags.shape[1] - 1
        free, reached = marks & (score > _LOWEST) & (score < _USUAL), np.zeros((2, *marks.shape), np.bool_)
        for side in range(2):
            direction = slice(None, None, 1 if side == 0 else -1)
            reached[side] = _after((score > _SURE)[:, direction], 2 * longest)[:, direction]
            unknown = _after(((score > _SURE) & ~known)[:, direction], 2 * longest)[:, direction]
            free &= np.where(unaffected[side], unknown, reached[side]) | _clean(excess[side], weights[side], np.inf)
        free &= reached.all(axis=0) | reached.any(axis=0) & ~ndimage.binary_dilation(marks & ~free, ALONG)
        others = np.where(marks, np.nan, score)
        free &= _mean(others, (SPAN, 2 * longest)) > _LOWEST
        return np.asarray(free & (_mean((marks & ~free).astype(np.float64), (SPAN, longest)) < _OFTEN))

    def _found_by_all(self, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return (time, channel) True where nearly all antennas detected interference, or many of them interference
        that is always there."""
        present = self.rows.any(axis=1)
        n_times, n_channels = known.shape[1:]
        part = self.flagged.reshape(-1, n_times, n_channels, 2).max(axis=3) / np.maximum(self.rows, 1)[:, :, None]
        detected, always = (known | (part > _FOUND))[present], known[present].all(axis=1)
        least = max(int(present.sum()), 1)
        return np.asarray((detected.sum(axis=0) > EVERYWHERE * least) | (always.sum(axis=0) > MANY * least))

    def _excess(self, marks: NDArray[np.bool_], shape: Float, known: NDArray[np.bool_]) -> tuple[Float, Float]:
        """Return (side, time, channel) the excess over the usual power outside `marks`, as a fraction of it, and its
        weight.

        The weight is the number of samples, reduced where their scatter is larger than expected; 0 where there are no
        samples or no usual power. Differences that end in a channel are left out if another of their channels is
        `known` (time, channel).
        """
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
                usual_power = np.median(mean[side, t, clean[t]]) if clean[t].any() else 0
                if usual_power > 0:
                    excess[side, t] = mean[side, t] / usual_power - 1
                else:
                    number[side, t] = 0
            if clean.any():
                score = np.abs(excess[side][clean]) * np.sqrt(number[side][clean] / CORRELATED)
                number[side] /= max(_MAD_TO_SIGMA * float(np.median(score)), 1.0) ** 2
        return excess, number


def _outer(
    inside: NDArray[np.bool_], narrow: NDArray[np.bool_], excess: Float, weights: Float, most: float, reach: int
) -> NDArray[np.bool_]:
    """Return (time, channel) the clean channels from the start of every range `inside` to before the first channel that
    is neither clean nor in `narrow` interference.

    Consecutive integrations whose ranges begin at the same channel are judged together, if an excess below `most` is
    then measurable. If it is measurable in a single integration, they are judged one by one first, and then together
    where a channel was clean. Integrations whose next `reach` channels are clean too are judged separately from those
    that soon have interference, whose flank they do not share. Next to the first channel that is not clean, channels a
    sigma above usual do not count as clean: interference has weaker flanks.
    """
    single = inside & _clean(excess, weights, most)
    passed = narrow & ~single
    found = _from_start(inside, single | inside & passed)
    continues = found & ~_after(~found[:, ::-1], reach)[:, ::-1]
    if not (found & ~passed).any():
        start = inside & ~np.pad(inside, ((0, 0), (1, 0)))[:, :-1]
        start &= ndimage.binary_dilation(start, [[1], [0], [1]]) | (len(start) == 1)
        found, continues = inside & np.logical_or.accumulate(start, axis=1), np.zeros(inside.shape, np.bool_)
    clean = _clean(*_together(found & ~passed, continues, excess, weights), most)
    found = _from_start(inside, found & (passed | clean))
    mean, weight = _together(found & ~passed, continues, excess, weights)
    flank = found & (mean > np.sqrt(CORRELATED / np.maximum(weight, 1)))
    dirty = inside & ~found
    return np.asarray(found & clean & ~ndimage.binary_propagation(dirty, ALONG, dirty | flank))


def _in_two_antennas(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (time, channel) True where two antennas have `known` (antenna, time, channel) interference, so a baseline may have it."""
    return np.asarray(np.count_nonzero(known, axis=0) > 1)


def _clean(excess: Float, weights: Float, most: float) -> NDArray[np.bool_]:
    """True where the excess is within the noise, and the noise is low enough to measure an excess of `most`."""
    limit = _SIGMAS * np.sqrt(CORRELATED / np.maximum(weights, 1))
    return np.asarray((weights > 0) & (excess < limit) & (limit < most))


def _score(amplitudes: Float, usual_channels: NDArray[np.bool_]) -> Float:
    """Excess (time, channel) over the median of an integration's `usual_channels`, in units of their scatter, which is
    at least 1; NaN where there is no amplitude or no usual channel."""
    score = np.full(amplitudes.shape, np.nan)
    valid = usual_channels & np.isfinite(amplitudes)
    for t in np.flatnonzero(valid.any(axis=1)):
        score[t] = amplitudes[t] - np.median(amplitudes[t, valid[t]])
    if valid.any():
        score /= max(_MAD_TO_SIGMA * float(np.median(np.abs(score[valid]))), 1.0)
    return score


def _after(marks: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return (time, channel) True where one of the preceding `reach` channels is marked."""
    number = np.pad(marks, ((0, 0), (reach + 1, 0))).cumsum(axis=1)
    return np.asarray(number[:, reach:-1] > number[:, : -reach - 1])


def _mean(values: Float, box: tuple[int, int]) -> Float:
    """Mean of the values that are not NaN in a box around every (time, channel); NaN where there are none."""
    number = ndimage.uniform_filter(np.isfinite(values).astype(np.float64), box, mode="nearest")
    total = ndimage.uniform_filter(np.nan_to_num(values), box, mode="nearest")
    return np.asarray(np.where(number > 0.5 / np.prod(box), total / np.maximum(number, 1e-9), np.nan))


def _together(marks: NDArray[np.bool_], separate: NDArray[np.bool_], excess: Float, weights: Float) -> tuple[Float, Float]:
    """Return the mean excess and the sum of weights over every run of consecutive integrations with `marks`, channel by
    channel, for the `separate` ones and the others separately."""
    mean, total = np.zeros(marks.shape), np.zeros(marks.shape)
    for part in (marks & separate, marks & ~separate):
        stretches, n = ndimage.label(part, [[0, 1, 0], [0, 1, 0], [0, 1, 0]])
        weight = np.bincount(stretches.ravel(), weights.ravel(), n + 1)
        means = np.bincount(stretches.ravel(), (excess * weights).ravel(), n + 1) / np.maximum(weight, 1e-9)
        mean[part], total[part] = means[stretches[part]], weight[stretches[part]]
    return mean, total


def _from_start(inside: NDArray[np.bool_], marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (time, channel) the `marks` that are connected without a gap to the start of a range `inside`."""
    connected = np.zeros(inside.shape, np.bool_)
    before, within = np.ones(len(inside), np.bool_), np.zeros(len(inside), np.bool_)
    for channel in range(inside.shape[1]):
        first = inside[:, channel] & ~within
        before = (before & within | first) & marks[:, channel]
        connected[:, channel], within = before, inside[:, channel]
    return connected


@numba.njit(cache=True)
def add(squares, bad, lag, weights, sums, missing, rows):  # type: ignore[no-untyped-def]
    """Add one baseline and integration to sums (channel x pol x 2), missing (channel x pol) and rows (pol) of its lag.

    squares (channel x pol x 2): its second differences about each channel, 0 at the places `bad` (channel x pol); they
    are multiplied by the weights (2,) of its pols. A weight of 0 means no data.
    """
    first, last, weight_xx, weight_yy = 4 * lag, squares.size - 4 * lag, weights[0], weights[1]
    x, out = squares[first:last], sums[first:last]
    for i in range(0, x.size, 4):
        out[i] += weight_xx * x[i]
        out[i + 1] += weight_xx * x[i + 1]
        out[i + 2] += weight_yy * x[i + 2]
        out[i + 3] += weight_yy * x[i + 3]
    for p in range(2):
        rows[p] += weights[p] > 0
    for i in bad:
        if weights[i % 2] > 0:
            missing[i] += 1
