"""Weak interference from sources fixed to the ground: it remains when the samples of every baseline are averaged over
time.

In the meridian frame delays are fixed to the ground, so a fixed transmitter has the same phase in every integration. In
the average the power of the noise goes down by the number of integrations, and that of the sky by the turns of its
fringes. Second differences of the means, over channels as in `coherence`, then detect less than a twentieth of the
power that those of single samples do.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

LEAST = 0.02
"""Excess, as a fraction of the noise power, below which interference cannot be distinguished from what sources leave."""
_TURNS = 0.7
"""Where the sky's phase turns more often in an integration, a transmitter is averaged away, because the correlator follows the sky."""
_STEP = 64


class Standing:
    """Sums over time of samples (baseline, channel x pol) and the numbers of missing ones, for the baselines that have
    a lag.

    rates (baseline,): turns of the sky's phase in an integration. lags (baseline,): lags of the second differences, 0:
    none.
    """

    def __init__(self, lags: NDArray[np.int32], rates: NDArray[np.float64], n_channels: int) -> None:
        self._lags = np.where(np.abs(rates) > _TURNS, 0, lags).astype(np.int32)
        self._sums = np.zeros((lags.size, 4 * n_channels), np.float32)
        self._missing = np.zeros((lags.size, 2 * n_channels), np.uint16)

    def add(self, places: NDArray[np.int64], parts: NDArray[np.float32], flags: NDArray[np.uint8]) -> None:
        """Add parts (time, baseline, channel x pol x 2) of data, with flags (time, baseline, channel x pol)."""
        _add_up(parts, flags, places, self._lags[places], self._sums, self._missing)

    def powers(
        self, width: int, n_times: int, sky: float, known: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:  # fmt: skip
        """Return powers of second differences, in units of one integration's, in cells (baseline, 1, cell, pol), and
        their numbers.

        A sample needs half of its `n_times` integrations, and must not be `known` (baseline, channel). A baseline is
        left out if the fraction `sky` of the power of its means is more than LEAST of its noise.
        """
        n_channels = self._missing.shape[1] // 2
        powers = np.zeros((self._lags.size, 1, -(-n_channels // width), 2), np.float32)
        counts = np.zeros(powers.shape, np.uint16)
        _differences(self._sums, self._missing, self._lags, known, width, n_times, sky / LEAST, powers[:, 0], counts[:, 0])
        return powers, counts


@numba.njit(cache=True, parallel=True)
def _add_up(parts, flags, places, lags, sums, missing):  # type: ignore[no-untyped-def]
    for b in numba.prange(places.size):
        if lags[b] == 0:
            continue
        out, row, places_flagged = sums[places[b]], np.empty(sums.shape[1], np.float32), np.empty(flags.shape[2], np.int64)
        for t in range(parts.shape[0]):
            for i in range(row.size):
                row[i] = parts[t, b, i]
            for i in places_flagged[: flagged(flags[t, b], places_flagged)]:
                row[2 * i] = row[2 * i + 1] = 0
                missing[places[b], i] += np.uint16(1)
            for i in range(row.size):
                out[i] += row[i]


@numba.njit(cache=True)
def flagged(flag, places):  # type: ignore[no-untyped-def]
    """Write the places where a row is flagged into `places` and return their number. Works in steps, because most have no flag."""
    number = 0
    for low in range(0, flag.size, _STEP):
        part = flag[low : low + _STEP]
        any_flag = np.uint8(0)
        for value in part:
            any_flag |= value
        if any_flag:
            for i in range(part.size):
                places[number] = low + i
                number += part[i]
    return number


@numba.njit(cache=True, parallel=True)
def _differences(sums, missing, lags, known, width, n_times, most, powers, counts):  # type: ignore[no-untyped-def]
    """Fill the cells of every baseline, except where `most` times the power of its means exceeds that of their differences."""
    n_channels = missing.shape[1] // 2
    for b in numba.prange(lags.size):
        lag, number = lags[b], n_times - missing[b].astype(np.int64)
        if lag == 0:
            continue
        square, noise = np.float64(0), np.float64(0)
        for k in range(lag, n_channels - lag):
            usable = not (known[b, k - lag] | known[b, k] | known[b, k + lag])
            for p in range(2):
                before, i, after = 2 * (k - lag) + p, 2 * k + p, 2 * (k + lag) + p
                if 2 * min(number[before], number[i], number[after]) < n_times:
                    continue
                u, v, w = np.float32(1) / number[before], np.float32(1) / number[i], np.float32(1) / number[after]
                x, y = sums[b, 2 * i] * v, sums[b, 2 * i + 1] * v
                real = sums[b, 2 * before] * u - 2 * x + sums[b, 2 * after] * w
                imaginary = sums[b, 2 * before + 1] * u - 2 * y + sums[b, 2 * after + 1] * w
                power = (real * real + imaginary * imaginary) * 6 / (u + 4 * v + w)
                powers[b, k // width, p] += power if usable else np.float32(0)
                counts[b, k // width, p] += np.uint16(usable)
                square += (x * x + y * y) / v
                noise += power
        if square * most > noise:
            counts[b] = 0
