"""Wide interference: power that antennas have in common and that does not come from where they look.

A transmitter tens of MHz wide that lasts for minutes looks like background in one baseline's spectrum. What tells it
from the sky is where it is: delays of the field grow with the angle from the pointing, a few degrees, those of a
transmitter in a far sidelobe are of the order of the baseline itself. So every baseline's spectrum is differenced twice
at a lag of about half a turn of such a delay: a source within the field is left with the fourth power of its own turns
(below 1e-3 of its power), a transmitter with all of its power.

The mean power of the differences over its value for noise alone is the statistic. What noise alone gives is known,
without a background in time or frequency: the product of the two antennas' autocorrelations, which hold the same
bandpasses and gains (radiometer equation; Thompson, Moran & Swenson 2017, eq. 6.50), up to a factor of the correlator.
So interference that is there all the time is found like any other. Antennas are looked at one by one, then all together,
then means over time (`standing`); what is then found, in cells, ends where one-sided differences say (`edges`).
"""

from __future__ import annotations

import warnings

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.constants import speed_of_light

from dsa110_assets.visibilities import edges
from dsa110_assets.visibilities.standing import LEAST as LEAST_STANDING
from dsa110_assets.visibilities.standing import Standing, flagged

LEAST = 0.005
"""Excess, in parts of the noise's power, below which interference is left: it cannot be told from the sky's remains."""
SKY = 1e-3
"""The same in parts of the visibilities' own power: what a source is left with 3 degrees from the pointing, or with a per
cent of ripple in the bandpass. It is the larger of the two where sources of more than some 10 Jy are in the field."""
_TURNS, _LONGEST_M = 2.0, 500.0
"""On longer baselines a transmitter's delay turns more often within a channel, or its phase within an integration: they
hardly see it."""
_LONG, _WIDE = (1, 2, 4, 8), (2, 4, 8, 16)
"""Windows [integrations, cells]; what is narrower is for the search baseline by baseline."""
_FEWEST = 32
"""Samples in a window, for its mean to be nearly Gaussian."""
_SHARE = 0.3
"""Integrations and cells of a window count in which the mean excess is at least this part of the window's."""
_EDGE = 3.0
"""Beside what was found this many sigma are enough: interference has weaker edges."""
_CERTAIN = 0.5
"""Excess, in parts of the noise's power, from which cells full of narrow interference hold wide as well: its flanks have less."""
_PASSES = 2
_TRUSTED = 0.25, 4.0
"""Power usual over the radiometer equation's. What lies outside has other autocorrelations than the noise's, no noise, or
more of something else: such an antenna is not judged."""
_SIGMA_BELOW = 0.16
Float32 = NDArray[np.float32]


class Coherence:
    """Powers of second differences of every baseline, in cells of one integration and `width` channels.

    ant1, ant2 (baseline,) number the antennas that are there; lengths_m (baseline,); shape (time, baseline, channel, pol).
    judged: after `hits`, the part of the antennas whose noise is what their autocorrelations say; others find nothing.
    """

    def __init__(
        self, ant1: NDArray[np.int32], ant2: NDArray[np.int32], lengths_m: NDArray[np.float64],
        rates: NDArray[np.float64], shape: tuple[int, ...], width: int, channel_width_hz: float, interval_s: float,
    ) -> None:  # fmt: skip
        n_times, _, n_channels, n_pols = shape
        self._ant1, self._ant2, self._width = ant1, ant2, width
        self.judged = 0.0
        self._expected = np.float32(6 / (channel_width_hz * interval_s))
        cells, n_antennas = -(-n_channels // width), int(max(ant1.max(), ant2.max())) + 1
        turns = lengths_m * channel_width_hz / speed_of_light
        self._lags = np.clip(np.rint(0.5 / np.maximum(turns, 1e-9)), 1, width).astype(np.int32)
        self._lags[(ant1 == ant2) | (turns > _TURNS) | (lengths_m > _LONGEST_M) | (2 * self._lags >= n_channels)] = 0
        self._powers = np.zeros((ant1.size, n_times, cells, n_pols), np.float32)
        self._counts = np.zeros(self._powers.shape, np.uint16)
        self._sky = np.zeros((ant1.size, n_times, cells), np.float32)
        self._standing = Standing(self._lags, rates, n_channels)
        self._edges = edges.Edges(n_antennas, n_times, n_channels, width)
        self._autos = np.zeros((n_antennas, n_times, n_channels, n_pols), np.float32)

    def add(self, baselines: NDArray[np.int64], data: NDArray[np.complex64], flags: NDArray[np.bool_]) -> None:
        """Take (time, len(baselines), channel, pol) samples, of which flagged ones do not count; autocorrelations too."""
        auto = np.flatnonzero(self._ant1[baselines] == self._ant2[baselines])
        self._autos[self._ant1[baselines[auto]]] = data[:, auto].real.swapaxes(0, 1)
        n_times, n = data.shape[:2]
        parts, marks = data.reshape(n_times, n, -1).view(np.float32), flags.reshape(n_times, n, -1).view(np.uint8)
        self._standing.add(baselines, parts, marks)
        found = self._edges
        _powers(
            parts,
            marks,
            self._lags[baselines],
            baselines,
            self._width,
            self._powers,
            self._counts,
            self._sky,
            self._ant1,
            self._ant2,
            found.sums,
            found.missing,
            found.lags,
            found.flagged,
            found.rows,
        )

    def hits(self, known: NDArray[np.uint8], amplitudes: NDArray[np.float64], first: float) -> NDArray[np.uint8]:
        """(antenna, time, channel) 1 where an antenna, or the array as a whole, sees interference at `first` sigma, or `known`.

        known: what was found otherwise. Baselines whose antennas both have it take no part, nor cells that hold narrow
        interference, and their neighbours: these are told by the array's differences that hold nothing known, or, where there
        are none, by the cells beside them. What is wide and in many antennas is in all of them. Of all that many see, known
        or not, clean channels at either edge and between edges are 0, and what nearly all antennas found somewhere is 1 if the
        rest has it too. amplitudes: see edges.
        """
        noise, number = self._noise(), np.add.reduceat(known, np.arange(0, known.shape[2], self._width), axis=2)
        marked = known > 0
        wide = 2 * number > self._width
        taken = (_widened((number > 0) & ~wide) | wide).view(np.uint8)
        sums, numbers = _gather(self._powers, self._counts, noise, self._ant1, self._ant2, taken)
        least = np.maximum(LEAST, SKY * _sky(self._sky, noise, self._ant1, self._ant2))
        hits, present = search(sums, numbers, first, least), ~np.isnan(noise).all(axis=(1, 2))
        self.judged = float(np.isfinite(_usual(sums, numbers))[present].mean()) if present.any() else 0.0
        live = known.any(axis=(1, 2)) | (numbers > 0).any(axis=(1, 2))
        shape = self._shape()
        out = (taken[live] > 0).sum(axis=0) > edges.MANY * live.sum()
        high, blind, strong = self._taken_out(marked, shape, out, first, float(least.mean()))
        hits[:, _through(_everywhere(hits[live], wide[live], strong), high, blind)] = True
        sums, numbers = _gather(self._powers, self._counts, noise, self._ant1, self._ant2, hits.view(np.uint8) | taken)
        hits |= search(sums.sum(axis=0, keepdims=True), numbers.sum(axis=0, keepdims=True) / 2, first, least.mean(keepdims=True))
        hits[:, _through(np.asarray(hits.all(axis=0)), high, blind)] = True
        at_times = np.asarray(hits.any(axis=1) & ~hits.all(axis=1))
        hits |= self._still(noise, at_times, marked, first)
        hits = np.repeat(hits, self._width, axis=2)[:, :, : self._autos.shape[2]]
        hits |= marked
        part = hits[live].sum(axis=0) / max(int(live.sum()), 1)
        clean, rest = self._edges.judge(part, marked, shape, amplitudes)
        return np.asarray((hits & ~clean | rest).view(np.uint8))

    def _taken_out(
        self, known: NDArray[np.bool_], shape: NDArray[np.float64], cells: NDArray[np.bool_], first: float, least: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:  # fmt: skip
        """Of the `cells` (time, cell) that narrow interference took out, by the differences that hold nothing `known`: those
        _EDGE sigma and `least` above usual, those without such differences, and those that certainly hold wide interference."""
        sums, numbers = self._edges.cells(known, shape, self._width)
        limit = 1 + np.maximum(_EDGE * np.sqrt(edges.CORRELATED / np.maximum(numbers[0], 1)), least)
        high, told = sums[0] / _usual(sums, numbers) > limit * numbers[0], numbers[0] >= _FEWEST
        return cells & told & high, cells & ~told, cells & search(sums, numbers, first, max(least, _CERTAIN))[0]

    def _still(
        self, noise: Float32, found: NDArray[np.bool_], known: NDArray[np.bool_], first: float
    ) -> NDArray[np.bool_]:  # fmt: skip
        """(cell,) True where the array sees what stands still; `found` (antenna, cell), and next to it, is left out, and
        differences that hold what both antennas have `known` (antenna, time, channel), or many of all most of the time."""
        ever, mostly = np.asarray(known.any(axis=1)), known.mean(axis=1) > 1 / 2
        both = ever[self._ant1] & ever[self._ant2] | (mostly.mean(axis=0) > edges.MANY)
        powers, counts = self._standing.powers(self._width, self._powers.shape[1], SKY, both)
        sums, numbers = _gather(powers, counts, noise, self._ant1, self._ant2, _widened(found[:, None]).view(np.uint8))
        hits = search(sums.sum(axis=0, keepdims=True), numbers.sum(axis=0, keepdims=True) / 2, first, LEAST_STANDING)
        return np.asarray(hits[0, 0])

    def _shape(self) -> NDArray[np.float64]:
        """(channel,) the noise's power over its mean, from the antennas' autocorrelations."""
        found = np.where(self._autos > 0, self._autos, np.nan).swapaxes(2, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN: 1
            lowest = np.nanmin(found, axis=1)
            shape = np.nanmedian(lowest / np.nanmedian(lowest, axis=2, keepdims=True), axis=(0, 1)) ** 2
        return np.asarray(np.where(np.isfinite(shape), shape, 1))

    def _noise(self) -> Float32:
        """(antenna, cell, pol) whose products are the noise's second differences: autocorrelations, medians of cells in the
        integration in which they are lowest, over sqrt(dnu dt / 6); NaN without any."""
        n_antennas, _, _, n_pols = self._autos.shape
        noise = np.full((n_antennas, self._powers.shape[2], n_pols), np.nan, np.float32)
        for cell in range(noise.shape[1]):
            part = self._autos[:, :, cell * self._width : (cell + 1) * self._width]
            found = (part > 0).sum(axis=2)
            order = np.sort(np.where(part > 0, part, np.inf), axis=2)
            middle = np.take_along_axis(order, (found // 2).clip(max=part.shape[2] - 1)[:, :, None], axis=2)[:, :, 0]
            lowest = middle.min(axis=1)
            noise[:, cell] = np.where(np.isfinite(lowest), lowest, np.nan)
        noise *= np.sqrt(self._expected)
        return noise


def _sky(powers: Float32, noise: Float32, ant1: NDArray[np.int32], ant2: NDArray[np.int32]) -> NDArray[np.float64]:
    """(antenna,) median over time and cells of its baselines' power (baseline, time, cell) over the noise's; 0 of nothing."""
    there = noise > 0
    usual = np.where(there, noise, 0).sum(axis=2) / np.maximum(there.sum(axis=2), 1)
    of_two = (usual[ant1] * usual[ant2])[:, None]
    told = (powers > 0) & (of_two > 0)
    parts = np.where(told, powers / np.where(told, of_two, 1), 0)
    found = np.zeros(len(noise))
    for antenna in range(len(noise)):
        own = (ant1 == antenna) | (ant2 == antenna)
        number = told[own].sum(axis=0)
        if number.any():
            found[antenna] = np.median(parts[own].sum(axis=0)[number > 0] / number[number > 0])
    return found


@numba.njit(cache=True, parallel=True)
def _powers(  # type: ignore[no-untyped-def]
    parts, flags, lags, places, width, powers, counts, sky, ant1, ant2, sums, missing, rows, flags_seen, seen
):
    """Sum |V(k - lag) - 2 V(k) + V(k + lag)|^2 in cells; parts (time, baseline, channel x pol x 2) float32, two pols.

    sky (baseline, time, cell): |V|^2 in the middle of cells, mean of the pols, 0 if flagged. The last five: see edges.
    """
    n_times, n_baselines, n = flags.shape
    n_channels, n_cells = n // 2, powers.shape[2]
    for t in numba.prange(n_times):
        squares, marks, bad = np.zeros(2 * n, np.float32), np.zeros(n, np.uint8), np.empty(n, np.int64)
        spare, means, weights = np.empty(n, np.int64), np.empty(n_cells, np.float32), np.empty(2, np.float32)
        for b in range(n_baselines):
            lag, place, x, flag = lags[b], places[b], parts[t, b], flags[t, b]
            number = _number(flag)
            if lag == 0 or number == n:
                continue
            _square(x, 4 * lag, squares)
            places_flagged = spare[: flagged(flag, spare) if number else 0]
            n_bad = _bad(places_flagged, 2 * lag, squares, marks, bad)
            power, count = powers[place, t], counts[place, t]
            for cell in range(n_cells):
                low, high = max(cell * width, lag), min((cell + 1) * width, n_channels - lag)
                if low >= high:
                    continue
                middle = (low + high) // 2
                if not (flag[2 * middle] | flag[2 * middle + 1]):
                    i = 4 * middle
                    sky[place, t, cell] = (x[i] * x[i] + x[i + 1] * x[i + 1] + x[i + 2] * x[i + 2] + x[i + 3] * x[i + 3]) / np.float32(2)
                power[cell, 0], power[cell, 1] = _sum(squares, 4 * low, 4 * high)
                count[cell, 0] = count[cell, 1] = high - low
            for i in bad[:n_bad]:
                count[i // 2 // width, i % 2] -= np.uint16(1)
            for p in range(2):
                weights[p] = _weight(power[:, p], count[:, p], means)
            edges.add(squares, bad[:n_bad], lag, weights, sums[lag, t], missing[lag, t], rows[t, lag])
            for antenna in (ant1[place], ant2[place]):
                seen[antenna, t] += np.uint16(1)
                for i in places_flagged:
                    flags_seen[antenna, t, i] += np.uint16(1)


@numba.njit(cache=True)
def _square(x, reach, squares):  # type: ignore[no-untyped-def]
    """Squares of second differences (channel x pol x 2), real and imaginary parts one by one."""
    n = x.size - 2 * reach
    before, middle, after, out = x[:n], x[reach : reach + n], x[2 * reach :], squares[reach : reach + n]
    for i in range(n):
        value = before[i] - np.float32(2) * middle[i] + after[i]
        out[i] = value * value


@numba.njit(cache=True)
def _bad(places_flagged, reach, squares, marks, bad):  # type: ignore[no-untyped-def]
    """Set differences (channel x pol) to 0 that have a flag; how many that are, the places in `bad`. `marks` is 0, and left so."""
    number = 0
    for i in places_flagged:
        for place in (i - reach, i, i + reach):
            if reach <= place < marks.size - reach and not marks[place]:
                squares[2 * place] = squares[2 * place + 1] = 0
                marks[place], bad[number], number = 1, place, number + 1
    for i in bad[:number]:
        marks[i] = 0
    return number


@numba.njit(cache=True)
def _sum(squares, low, high):  # type: ignore[no-untyped-def]
    """(XX, YY) from place low on to before high; four sums side by side, as the data lie."""
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for k in range(low, high, 4):
        a += squares[k]
        b += squares[k + 1]
        c += squares[k + 2]
        d += squares[k + 3]
    return a + b, c + d


@numba.njit(cache=True)
def _weight(power, count, means):  # type: ignore[no-untyped-def]
    """1 over the median of a row's mean powers, of cells that have any; 0 without."""
    n = 0
    for cell in range(power.size):
        if count[cell] and power[cell] > 0:
            means[n] = power[cell] / np.float32(count[cell])
            n += 1
    return np.float32(1) / np.float32(np.median(means[:n])) if n else np.float32(0)


@numba.njit(cache=True)
def _number(flag):  # type: ignore[no-untyped-def]
    number = np.uint32(0)
    for value in flag:
        number += np.uint32(value)
    return number


@numba.njit(cache=True, parallel=True)
def _gather(powers, counts, noise, ant1, ant2, hits):  # type: ignore[no-untyped-def]
    """(sums, numbers), each (antenna, time, cell): powers over the noise's, where not both antennas have hits."""
    n_baselines, n_times, n_cells, n_pols = powers.shape
    sums = np.zeros((len(noise), n_times, n_cells), np.float64)
    numbers = np.zeros((len(noise), n_times, n_cells), np.float64)
    for t in numba.prange(n_times):
        for b in range(n_baselines):
            i, j = ant1[b], ant2[b]
            for c in range(n_cells):
                if hits[i, t, c] and hits[j, t, c]:
                    continue
                for p in range(n_pols):
                    usual = noise[i, c, p] * noise[j, c, p]
                    if counts[b, t, c, p] and usual > 0:
                        value = powers[b, t, c, p] / usual
                        sums[i, t, c] += value
                        sums[j, t, c] += value
                        numbers[i, t, c] += counts[b, t, c, p]
                        numbers[j, t, c] += counts[b, t, c, p]
    return sums, numbers


def _everywhere(hits: NDArray[np.bool_], wide: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(time, cell) True where many antennas (antenna, time, cell) have hits, or `strong`, and on from there where many have one
    or `wide`; and single integrations and cells between two such."""
    many = edges.MANY * max(len(hits), 1)
    found = (hits.sum(axis=0) > many) | strong
    found = ndimage.binary_propagation(found, np.ones((3, 3)), found | ((hits | wide).sum(axis=0) > many))
    filled = np.pad(found, 1)
    filled[1:-1, 1:-1] |= (filled[:-2, 1:-1] & filled[2:, 1:-1]) | (filled[1:-1, :-2] & filled[1:-1, 2:])
    return filled[1:-1, 1:-1]


def _through(found: NDArray[np.bool_], high: NDArray[np.bool_], blind: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(time, cell) `found`, on from there through what is `high`, and along frequency through what is `blind` too."""
    found = ndimage.binary_propagation(found, mask=found | high)
    return np.asarray(ndimage.binary_propagation(found, edges.ALONG, found | high | blind))


def _widened(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells and their neighbours in frequency: second differences reach that far."""
    wide = np.pad(cells, ((0, 0), (0, 0), (1, 1)))
    return np.asarray(wide[:, :, :-2] | wide[:, :, 1:-1] | wide[:, :, 2:])


def search(
    sums: NDArray[np.float64], numbers: NDArray[np.float64], first: float, least: NDArray[np.float64] | float = LEAST
) -> NDArray[np.bool_]:
    """(antenna, time, cell) True in windows whose mean power is `first` sigma and `least` (antenna,) above what is usual.

    Windows of 2, 4, 8, 16 cells and of 1, 2, 4, 8 and all integrations, small ones first; what was found takes no part in
    larger ones. Sums are in units of what the radiometer equation says. Of a window, the integrations and the cells that
    have their share of its excess are True. Usual is the mean of an antenna's cells without outliers, once more without
    what was found; sigma is that of independent noise, or the scatter of the windows below their median where that is
    more. Cells without samples (numbers 0) are never True.
    """
    there = numbers > 0
    least = np.broadcast_to(least, len(sums))[:, None, None]
    hits = np.zeros(sums.shape, np.bool_)
    n_times, n_cells = sums.shape[1:]
    for _ in range(_PASSES):
        number = np.where(there & ~hits, numbers, 0)
        excess = np.where(number > 0, sums / _usual(sums, number)[:, None, None] - number, 0)
        if not number.any():
            break
        new = np.zeros(sums.shape, np.bool_)
        for long in [*(w for w in _LONG if w < n_times), n_times]:
            for wide in (w for w in _WIDE if w <= n_cells):
                new |= _found(excess, number, long, wide, first, least)
                excess[new], number[new] = 0, 0
        if not (new & there).any():
            break
        hits |= new
        for axis in (2, 1, 2, 1):
            hits |= _beside(sums, np.where(there, numbers, 0), hits, axis)
    return hits & there


def _beside(sums: NDArray[np.float64], numbers: NDArray[np.float64], hits: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """(antenna, time, cell) True next to hits along `axis`, where all of a line that is next to some is _EDGE sigma above usual."""
    wide = np.moveaxis(np.pad(hits, [(0, 0), *((1, 1) if axis == i else (0, 0) for i in (1, 2))]), axis, 0)
    near = np.moveaxis(wide[2:] | wide[:-2], 0, axis) & ~hits & (numbers > 0)
    number = np.where(near, numbers, 0).sum(axis=3 - axis, keepdims=True)
    usual = _usual(sums, np.where(hits, 0, numbers))[:, None, None]
    excess = (np.where(near, sums, 0) / usual).sum(axis=3 - axis, keepdims=True) - number
    return np.asarray(near & (excess > _EDGE * np.sqrt(edges.CORRELATED * number)))


def _usual(sums: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(antenna,) mean power of cells within 3 sigma of their median; inf where there are none, or it is not that of noise."""
    usual = np.full(len(sums), np.inf)
    for a in np.flatnonzero((numbers > 0).any(axis=(1, 2))):
        there = numbers[a] > 0
        mean = sums[a][there] / numbers[a][there]
        middle = np.median(mean)
        near = np.abs(mean - middle) <= 3 * middle * np.sqrt(edges.CORRELATED / np.minimum(numbers[a][there], np.median(numbers[a][there])))
        if near.any():
            usual[a] = sums[a][there][near].sum() / numbers[a][there][near].sum()
    return np.where((usual > _TRUSTED[0]) & (usual < _TRUSTED[1]), usual, np.inf)


def _found(
    excess: NDArray[np.float64], number: NDArray[np.float64], long: int, wide: int, first: float, least: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(antenna, time, cell) True in the windows of `long` integrations and `wide` cells that are too high, trimmed."""
    total, count = _boxes(excess, long, wide), _boxes(number, long, wide)
    enough = count >= _FEWEST
    score = np.where(enough, total / np.sqrt(edges.CORRELATED * np.maximum(count, 1)), np.nan)
    scatter = np.ones(len(score))
    for a in np.flatnonzero((np.nan_to_num(score) > first).any(axis=(1, 2))):
        scatter[a] = max(np.nanquantile(score[a], 0.5) - np.nanquantile(score[a], _SIGMA_BELOW), 1)
    high = enough & (total > least * count) & (np.nan_to_num(score) > first * scatter[:, None, None])
    rows, columns = np.zeros(excess.shape, np.bool_), np.zeros(excess.shape, np.bool_)
    if not high.any():
        return rows
    share = _SHARE * total / np.maximum(count, 1)
    n_times, n_cells = (int(size) for size in total.shape[1:])
    one, many = _boxes(excess, 1, wide), _boxes(number, 1, wide)
    for t in range(long):
        rows[:, t : t + n_times, :n_cells] |= high & (one[:, t : t + n_times] > share * many[:, t : t + n_times])
    one, many = _boxes(excess, long, 1), _boxes(number, long, 1)
    for c in range(wide):
        columns[:, :n_times, c : c + n_cells] |= high & (one[:, :, c : c + n_cells] > share * many[:, :, c : c + n_cells])
    return _after(rows, wide, 2) & _after(columns, long, 1)


def _boxes(values: NDArray[np.float64], long: int, wide: int) -> NDArray[np.float64]:
    """(antenna, time - long + 1, cell - wide + 1) sums over windows."""
    sums = np.pad(values, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    return np.asarray(sums[:, long:, wide:] - sums[:, :-long, wide:] - sums[:, long:, :-wide] + sums[:, :-long, :-wide])


def _after(marks: NDArray[np.bool_], size: int, axis: int) -> NDArray[np.bool_]:
    """True from each mark on for `size` places along an axis."""
    number = np.moveaxis(marks, axis, 0).cumsum(axis=0)
    number[size:] -= number[:-size].copy()
    return np.moveaxis(number > 0, 0, axis)
