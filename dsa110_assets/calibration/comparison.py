"""Calibrated visibilities against the field's model, summed as antenna gains need them.

For every slot of integrations, polarisation, block of channels and baseline: R = sum w V conj(M), D = sum w |M|^2,
E = sum w |V|^2 and the number of samples. A slot is the even or the odd integrations of an interval, so that a fit to
one half can be tested on the other. All results about an observation's antennas are derived from these sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities.predict import integrations
from dsa110_assets.visibilities.types import Visibilities

N_BLOCKS, N_INTERVALS = 16, 4
"""Blocks are subbands of the telescope, 11.7 MHz: a delay of 4 ns changes the phase by 17 degrees in one. Intervals are 77 s of 309."""
_PARTS = 8


@dataclass(frozen=True)
class Comparison:
    """Sums over cross-correlations: r (interval, half, pol, block, baseline) complex128; d, energy and count (samples) same shape, float64.

    ant1, ant2 (baseline,) int32; n_antennas; block_hz (block,) mean frequencies; first_channel (block + 1,) and
    first_time (interval + 1,) int64: where blocks and intervals begin.
    """

    r: NDArray[np.complex128]
    d: NDArray[np.float64]
    energy: NDArray[np.float64]
    count: NDArray[np.float64]
    ant1: NDArray[np.int32]
    ant2: NDArray[np.int32]
    n_antennas: int
    block_hz: NDArray[np.float64]
    first_channel: NDArray[np.int64]
    first_time: NDArray[np.int64]


def compare(vis: Visibilities, sky: SkyModel) -> Comparison:
    """Return the sums of calibrated `vis` [Jy] against predicted visibilities of `sky`, seen through the primary beam.

    Flagged samples, samples without a weight and autocorrelations do not count; samples without a weight may be NaN. Short
    observations have fewer intervals, and data with few channels fewer blocks. The model of an averaged channel allows for its width.
    """
    cross = np.flatnonzero(~vis.is_auto)
    n_times, n_channels = vis.times_mjd.size, vis.frequencies_hz.size
    first_channel = _bounds(n_channels, min(N_BLOCKS, n_channels))
    first_time = _bounds(n_times, max(1, min(N_INTERVALS, n_times // 2)))
    n_intervals, n_blocks = first_time.size - 1, first_channel.size - 1
    shape = n_intervals, 2, 2, n_blocks, cross.size
    r, d, energy, count = np.zeros(shape, np.complex128), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    model = np.zeros((1, vis.ant1.size, n_channels), np.complex64)
    block = np.repeat(np.arange(n_blocks), np.diff(first_channel))
    interval = np.repeat(np.arange(n_intervals), np.diff(first_time))
    for t, predicted in enumerate(integrations(vis, sky)):
        predicted.fringes().into(model)
        i, half = interval[t], t % 2
        _add(vis.data[t], vis.flags[t], vis.weights[t], model[0], cross, block, r[i, half], d[i, half], energy[i, half], count[i, half])
    of_blocks = np.array([vis.frequencies_hz[a:b].mean() for a, b in pairwise(first_channel)])
    return Comparison(r, d, energy, count, vis.ant1[cross], vis.ant2[cross], len(vis.antennas.names), of_blocks, first_channel, first_time)


def _bounds(n: int, parts: int) -> NDArray[np.int64]:
    return np.arange(parts + 1) * n // parts


@njit(cache=True, parallel=True)
def _add(data, flags, weights, model, cross, block, r, d, energy, count):  # type: ignore[no-untyped-def]
    """One integration: data (baseline, channel, pol), model (baseline, channel) into sums (pol, block, cross-correlation)."""
    for part in prange(_PARTS):
        for k in range(part * cross.size // _PARTS, (part + 1) * cross.size // _PARTS):
            b = cross[k]
            for p in range(2):
                for c in range(block.size):
                    w = weights[b, c, p]
                    if flags[b, c, p] or not w > 0:
                        continue
                    v, m, at = data[b, c, p], model[b, c], block[c]
                    r[p, at, k] += w * v * np.conj(m)
                    d[p, at, k] += w * (m.real * m.real + m.imag * m.imag)
                    energy[p, at, k] += w * (v.real * v.real + v.imag * v.imag)
                    count[p, at, k] += 1
