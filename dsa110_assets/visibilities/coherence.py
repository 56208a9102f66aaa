"""Wide-band interference: power that is correlated between antennas and does not come from the field they point at.

A transmitter tens of MHz wide that lasts for minutes looks like background in the spectrum of a single baseline. It
differs from the sky in its position: delays of the field grow with the angle from the pointing, a few degrees, whereas
those of a transmitter in a far sidelobe are of the order of the baseline itself. So the spectrum of every baseline is
differenced twice at a lag of about half a turn of such a delay: a source within the field keeps the fourth power of its
own turns (below 1e-3 of its power), a transmitter keeps all of its power.

The statistic is the mean power of the differences over its value for noise alone. That value is known without a
background in time or frequency: it is the product of the two antennas' autocorrelations, which contain the same
bandpasses and gains (radiometer equation; Thompson, Moran & Swenson 2017, eq. 6.50), up to a factor of the correlator.
So interference that is always present is found like any other. First the antennas are searched one by one, then all of
them together, then means over time (`standing`). What is found, in cells, is then trimmed to the edges that one-sided
differences give (`edges`).
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
"""Excess, as a fraction of the noise power, below which interference is not flagged: it cannot be distinguished from
what the sky leaves in the differences."""
SKY = 1e-3
"""The same as a fraction of the power of the visibilities themselves: what is left of a source 3 degrees from the
pointing, or of one with a ripple of one per cent in the bandpass. It is the larger of the two limits if sources of more
than some 10 Jy are in the field."""
_TURNS, _LONGEST_M = 2.0, 500.0
"""Longer baselines hardly see a transmitter: its delay turns more often within a channel, or its phase within an integration."""
_LONG, _WIDE = (1, 2, 4, 8), (2, 4, 8, 16)
"""Window sizes [integrations, cells]. Narrower interference is left to the search baseline by baseline."""
_FEWEST = 32
"""Samples that a window needs for its mean to be nearly Gaussian."""
_SHARE = 0.3
"""Only those integrations and cells of a window count whose mean excess is at least this fraction of the window's."""
_EDGE = 3.0
"""Next to interference that was found, this many sigma suffice: interference is weaker at its edges."""
_CERTAIN = 0.5
"""Excess, as a fraction of the noise power, above which cells full of narrow interference hold wide interference as
well: the flanks of narrow interference have less."""
_PASSES = 2
_TRUSTED = 0.25, 4.0
"""Allowed range of the usual power over that of the radiometer equation. An antenna outside it is not judged: its
autocorrelations are not those of its noise, it has no noise, or it has more of something else."""
_SIGMA_BELOW = 0.16
Float32 = NDArray[np.float32]


class Coherence:
    """Powers of second differences of every baseline, in cells of one integration and `width` channels.

    ant1, ant2 (baseline,): indices of the antennas present; lengths_m (baseline,); shape (time, baseline, channel,
    pol). judged: after `hits`, the fraction of the antennas whose noise agrees with their autocorrelations; in others
    nothing is found.
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
        """Accumulate (time, len(baselines), channel, pol) samples, autocorrelations included. Flagged samples do not count."""
        auto = np.flatnonzero(self._ant1[baselines] == self._ant2[baselines])
        self._autos[self._ant1[baselines[auto]]] = data[:, auto].real.swapaxes(0, 1)
        n_times, n = data.shape[:2]
        parts, marks = data.reshape(n_times, n, -1).view(np.float32), flags.reshape(n_times, n, -1).view(np.uint8)
        self._standing.add(baselines, parts, marks)
        edge_sums = self._edges
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
            edge_sums.sums,
            edge_sums.missing,
            edge_sums.lags,
            edge_sums.flagged,
            edge_sums.rows,
        )

    def hits(self, known: NDArray[np.uint8], amplitudes: NDArray[np.float64], first: float) -> NDArray[np.uint8]:
        """Return (antenna, time, channel) 1 where an antenna, or the array as a whole, sees interference at `first`
        sigma, or where it is `known`.

        known: interference found by other means. A baseline is left out of cells that hold it in both of its antennas,
        and of the neighbours of such cells if that interference is narrow. Cells left out are judged from the array's
        differences that contain no known interference or, where there are none, from the cells beside them. Wide
        interference in many antennas is set in all of them. Wherever many antennas see interference, known or not,
        clean channels at its edges and between them are set to 0, and what nearly all antennas found somewhere is 1 if
        the remaining baselines show it too. amplitudes: see `edges`.
        """
        noise, number = self._noise(), np.add.reduceat(known, np.arange(0, known.shape[2], self._width), axis=2)
        marked = known > 0
        wide = 2 * number > self._width
        excluded = (_widened((number > 0) & ~wide) | wide).view(np.uint8)
        sums, numbers = _gather(self._powers, self._counts, noise, self._ant1, self._ant2, excluded)
        least = np.maximum(LEAST, SKY * _sky(self._sky, noise, self._ant1, self._ant2))
        hits, present = search(sums, numbers, first, least), ~np.isnan(noise).all(axis=(1, 2))
        self.judged = float(np.isfinite(_usual_power(sums, numbers))[present].mean()) if present.any() else 0.0
        live = known.any(axis=(1, 2)) | (numbers > 0).any(axis=(1, 2))
        shape = self._shape()
        excluded_cells = (excluded[live] > 0).sum(axis=0) > edges.MANY * live.sum()
        high, blind, strong = self._judge_excluded(marked, shape, excluded_cells, first, float(least.mean()))
        hits[:, _through(_everywhere(hits[live], wide[live], strong), high, blind)] = True
        sums, numbers = _gather(self._powers, self._counts, noise, self._ant1, self._ant2, hits.view(np.uint8) | excluded)
        hits |= search(sums.sum(axis=0, keepdims=True), numbers.sum(axis=0, keepdims=True) / 2, first, least.mean(keepdims=True))
        hits[:, _through(np.asarray(hits.all(axis=0)), high, blind)] = True
        at_times = np.asarray(hits.any(axis=1) & ~hits.all(axis=1))
        hits |= self._standing_cells(noise, at_times, marked, first)
        hits = np.repeat(hits, self._width, axis=2)[:, :, : self._autos.shape[2]]
        hits |= marked
        part = hits[live].sum(axis=0) / max(int(live.sum()), 1)
        clean, rest = self._edges.judge(part, marked, shape, amplitudes)
        return np.asarray((hits & ~clean | rest).view(np.uint8))

    def _judge_excluded(
        self, known: NDArray[np.bool_], shape: NDArray[np.float64], cells: NDArray[np.bool_], first: float, least: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:  # fmt: skip
        """Judge the `cells` (time, cell) that narrow interference excluded, by the differences without `known`
        interference.

        Returns those that are _EDGE sigma and `least` above usual, those without such differences, and those that
        certainly hold wide interference.
        """
        sums, numbers = self._edges.cells(known, shape, self._width)
        limit = 1 + np.maximum(_EDGE * np.sqrt(edges.CORRELATED / np.maximum(numbers[0], 1)), least)
        high, measured = sums[0] / _usual_power(sums, numbers) > limit * numbers[0], numbers[0] >= _FEWEST
        return cells & measured & high, cells & ~measured, cells & search(sums, numbers, first, max(least, _CERTAIN))[0]

    def _standing_cells(
        self, noise: Float32, excluded: NDArray[np.bool_], known: NDArray[np.bool_], first: float
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Return (cell,) True where the array sees interference that stands still.

        The cells `excluded` (antenna, cell) and their neighbours are left out. So are differences with a channel that both
        antennas have `known` (antenna, time, channel), or that many of all antennas have known most of the time.
        """
        ever, mostly = np.asarray(known.any(axis=1)), known.mean(axis=1) > 1 / 2
        both = ever[self._ant1] & ever[self._ant2] | (mostly.mean(axis=0) > edges.MANY)
        powers, counts = self._standing.powers(self._width, self._powers.shape[1], SKY, both)
        sums, numbers = _gather(powers, counts, noise, self._ant1, self._ant2, _widened(excluded[:, None]).view(np.uint8))
        hits = search(sums.sum(axis=0, keepdims=True), numbers.sum(axis=0, keepdims=True) / 2, first, LEAST_STANDING)
        return np.asarray(hits[0, 0])

    def _shape(self) -> NDArray[np.float64]:
        """Return (channel,) the noise power relative to its median over channels, from the antennas' autocorrelations."""
        autos = np.where(self._autos > 0, self._autos, np.nan).swapaxes(2, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN channels become 1
            lowest = np.nanmin(autos, axis=1)
            shape = np.nanmedian(lowest / np.nanmedian(lowest, axis=2, keepdims=True), axis=(0, 1)) ** 2
        return np.asarray(np.where(np.isfinite(shape), shape, 1))

    def _noise(self) -> Float32:
        """Return factors (antenna, cell, pol): the product of two antennas' factors is the noise power of their second
        differences.

        A factor is the median autocorrelation of a cell, in the integration where it is lowest, over sqrt(dnu dt / 6);
        NaN without any.
        """
        n_antennas, _, _, n_pols = self._autos.shape
        noise = np.full((n_antennas, self._powers.shape[2], n_pols), np.nan, np.float32)
        for cell in range(noise.shape[1]):
            part = self._autos[:, :, cell * self._width : (cell + 1) * self._width]
            valid = (part > 0).sum(axis=2)
            order = np.sort(np.where(part > 0, part, np.inf), axis=2)
            middle = np.take_along_axis(order, (valid // 2).clip(max=part.shape[2] - 1)[:, :, None], axis=2)[:, :, 0]
            lowest = middle.min(axis=1)
            noise[:, cell] = np.where(np.isfinite(lowest), lowest, np.nan)
        noise *= np.sqrt(self._expected)
        return noise


def _sky(powers: Float32, noise: Float32, ant1: NDArray[np.int32], ant2: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return (antenna,) the median over time and cells of its baselines' power (baseline, time, cell) over that of the
    noise; 0 without data."""
    positive = noise > 0
    mean_noise = np.where(positive, noise, 0).sum(axis=2) / np.maximum(positive.sum(axis=2), 1)
    of_baseline = (mean_noise[ant1] * mean_noise[ant2])[:, None]
    valid = (powers > 0) & (of_baseline > 0)
    parts = np.where(valid, powers / np.where(valid, of_baseline, 1), 0)
    medians = np.zeros(len(noise))
    for antenna in range(len(noise)):
        own = (ant1 == antenna) | (ant2 == antenna)
        number = valid[own].sum(axis=0)
        if number.any():
            medians[antenna] = np.median(parts[own].sum(axis=0)[number > 0] / number[number > 0])
    return medians


@numba.njit(cache=True, parallel=True)
def _powers(  # type: ignore[no-untyped-def]
    parts, flags, lags, places, width, powers, counts, sky, ant1, ant2, sums, missing, rows, flag_counts, row_counts
):
    """Sum |V(k - lag) - 2 V(k) + V(k + lag)|^2 in cells; parts (time, baseline, channel x pol x 2) float32, two pols.

    sky (baseline, time, cell): |V|^2 in the middle of a cell, mean of the pols, 0 if flagged. The last five: see
    `edges`.
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
                row_counts[antenna, t] += np.uint16(1)
                for i in places_flagged:
                    flag_counts[antenna, t, i] += np.uint16(1)


@numba.njit(cache=True)
def _square(x, reach, squares):  # type: ignore[no-untyped-def]
    """Squares of second differences (channel x pol x 2), real and imaginary parts separately."""
    n = x.size - 2 * reach
    before, middle, after, out = x[:n], x[reach : reach + n], x[2 * reach :], squares[reach : reach + n]
    for i in range(n):
        value = before[i] - np.float32(2) * middle[i] + after[i]
        out[i] = value * value


@numba.njit(cache=True)
def _bad(places_flagged, reach, squares, marks, bad):  # type: ignore[no-untyped-def]
    """Set differences (channel x pol) that contain a flag to 0; return their number, with their places in `bad`.
    `marks` is 0 before and after."""
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
    """(XX, YY) sums from place `low` to before `high`: four sums side by side, in the order of the data."""
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for k in range(low, high, 4):
        a += squares[k]
        b += squares[k + 1]
        c += squares[k + 2]
        d += squares[k + 3]
    return a + b, c + d


@numba.njit(cache=True)
def _weight(power, count, means):  # type: ignore[no-untyped-def]
    """1 over the median of the mean powers of a row's cells; 0 if no cell has any."""
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
    """Return (sums, numbers), each (antenna, time, cell): powers over those of the noise, except where both antennas have hits."""
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
                    noise_power = noise[i, c, p] * noise[j, c, p]
                    if counts[b, t, c, p] and noise_power > 0:
                        value = powers[b, t, c, p] / noise_power
                        sums[i, t, c] += value
                        sums[j, t, c] += value
                        numbers[i, t, c] += counts[b, t, c, p]
                        numbers[j, t, c] += counts[b, t, c, p]
    return sums, numbers


def _everywhere(hits: NDArray[np.bool_], wide: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (time, cell) True where many antennas have `hits` (antenna, time, cell) or where `strong` is set.

    From there it extends through cells where many antennas have a hit or `wide`, and fills single integrations and
    cells between two such.
    """
    many = edges.MANY * max(len(hits), 1)
    found = (hits.sum(axis=0) > many) | strong
    found = ndimage.binary_propagation(found, np.ones((3, 3)), found | ((hits | wide).sum(axis=0) > many))
    filled = np.pad(found, 1)
    filled[1:-1, 1:-1] |= (filled[:-2, 1:-1] & filled[2:, 1:-1]) | (filled[1:-1, :-2] & filled[1:-1, 2:])
    return filled[1:-1, 1:-1]


def _through(found: NDArray[np.bool_], high: NDArray[np.bool_], blind: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(time, cell) `found`, extended through cells that are `high`, and along frequency through `blind` cells too."""
    found = ndimage.binary_propagation(found, mask=found | high)
    return np.asarray(ndimage.binary_propagation(found, edges.ALONG, found | high | blind))


def _widened(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells and their neighbours in frequency, as far as second differences reach."""
    wide = np.pad(cells, ((0, 0), (0, 0), (1, 1)))
    return np.asarray(wide[:, :, :-2] | wide[:, :, 1:-1] | wide[:, :, 2:])


def search(
    sums: NDArray[np.float64], numbers: NDArray[np.float64], first: float, least: NDArray[np.float64] | float = LEAST
) -> NDArray[np.bool_]:
    """Return (antenna, time, cell) True in windows whose mean power is `first` sigma and `least` (antenna,) above
    usual.

    Windows are 2, 4, 8, 16 cells by 1, 2, 4, 8 and all integrations, small ones first; what was found is left out of
    larger ones. Sums are in units of the radiometer equation's power. Within a window, those integrations and cells are
    True that have their share of its excess. The usual power is the mean of an antenna's cells without outliers,
    computed once more without what was found. Sigma is that of independent noise, or the scatter of the windows below
    their median if that is larger. Cells without samples (numbers 0) are never True.
    """
    present = numbers > 0
    least = np.broadcast_to(least, len(sums))[:, None, None]
    hits = np.zeros(sums.shape, np.bool_)
    n_times, n_cells = sums.shape[1:]
    for _ in range(_PASSES):
        number = np.where(present & ~hits, numbers, 0)
        excess = np.where(number > 0, sums / _usual_power(sums, number)[:, None, None] - number, 0)
        if not number.any():
            break
        new = np.zeros(sums.shape, np.bool_)
        for long in [*(w for w in _LONG if w < n_times), n_times]:
            for wide in (w for w in _WIDE if w <= n_cells):
                new |= _high_windows(excess, number, long, wide, first, least)
                excess[new], number[new] = 0, 0
        if not (new & present).any():
            break
        hits |= new
        for axis in (2, 1, 2, 1):
            hits |= _beside(sums, np.where(present, numbers, 0), hits, axis)
    return hits & present


def _beside(sums: NDArray[np.float64], numbers: NDArray[np.float64], hits: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Return (antenna, time, cell) True next to hits along `axis` where all such neighbours on a line together are
    _EDGE sigma above usual."""
    wide = np.moveaxis(np.pad(hits, [(0, 0), *((1, 1) if axis == i else (0, 0) for i in (1, 2))]), axis, 0)
    near = np.moveaxis(wide[2:] | wide[:-2], 0, axis) & ~hits & (numbers > 0)
    number = np.where(near, numbers, 0).sum(axis=3 - axis, keepdims=True)
    usual_power = _usual_power(sums, np.where(hits, 0, numbers))[:, None, None]
    excess = (np.where(near, sums, 0) / usual_power).sum(axis=3 - axis, keepdims=True) - number
    return np.asarray(near & (excess > _EDGE * np.sqrt(edges.CORRELATED * number)))


def _usual_power(sums: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (antenna,) the mean power of cells within 3 sigma of their median; inf if there are none or if it is not that of noise."""
    power = np.full(len(sums), np.inf)
    for a in np.flatnonzero((numbers > 0).any(axis=(1, 2))):
        present = numbers[a] > 0
        mean = sums[a][present] / numbers[a][present]
        middle = np.median(mean)
        near = np.abs(mean - middle) <= 3 * middle * np.sqrt(
            edges.CORRELATED / np.minimum(numbers[a][present], np.median(numbers[a][present]))
        )
        if near.any():
            power[a] = sums[a][present][near].sum() / numbers[a][present][near].sum()
    return np.where((power > _TRUSTED[0]) & (power < _TRUSTED[1]), power, np.inf)


def _high_windows(
    excess: NDArray[np.float64], number: NDArray[np.float64], long: int, wide: int, first: float, least: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return (antenna, time, cell) True in the windows of `long` integrations and `wide` cells that are too high, trimmed."""
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
    line_sums, line_numbers = _boxes(excess, 1, wide), _boxes(number, 1, wide)
    for t in range(long):
        rows[:, t : t + n_times, :n_cells] |= high & (line_sums[:, t : t + n_times] > share * line_numbers[:, t : t + n_times])
    line_sums, line_numbers = _boxes(excess, long, 1), _boxes(number, long, 1)
    for c in range(wide):
        columns[:, :n_times, c : c + n_cells] |= high & (line_sums[:, :, c : c + n_cells] > share * line_numbers[:, :, c : c + n_cells])
    return _after(rows, wide, 2) & _after(columns, long, 1)


def _boxes(values: NDArray[np.float64], long: int, wide: int) -> NDArray[np.float64]:
    """Return (antenna, time - long + 1, cell - wide + 1) sums over windows."""
    sums = np.pad(values, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    return np.asarray(sums[:, long:, wide:] - sums[:, :-long, wide:] - sums[:, long:, :-wide] + sums[:, :-long, :-wide])


def _after(marks: NDArray[np.bool_], size: int, axis: int) -> NDArray[np.bool_]:
    """Return True from each mark on for `size` places along an axis."""
    number = np.moveaxis(marks, axis, 0).cumsum(axis=0)
    number[size:] -= number[:-size].copy()
    return np.moveaxis(number > 0, 0, axis)
