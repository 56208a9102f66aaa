"""One pass over the visibilities to the sums that antenna gains depend on.

For gains constant over a solution interval, sum w |V - g_i conj(g_j) M|^2 depends on the data only through
R = sum w V conj(M), D = sum w |M|^2 and E = sum w |V|^2, per interval, polarisation, channel and baseline.
Everything after this pass works on these sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities.predict import Prediction
from dsa110_assets.visibilities.types import Visibilities

_PARTS = 8
"""Fixed number of baseline ranges summed apart, so that results do not depend on the number of threads."""
_BLOCK = 8


@dataclass(frozen=True)
class Sums:
    """Sums per solution interval. Cross-correlations only.

    r      (interval, pol, channel, baseline) complex64; d same shape, float32.
    energy (interval, pol, channel) float64: sum w |V|^2; count same shape, int64: samples used.
    ant1, ant2 (baseline,) int32; times_mjd (interval,) centres;
    first_index (interval + 1,) integration bounds.
    """

    r: NDArray[np.complex64]
    d: NDArray[np.float32]
    energy: NDArray[np.float64]
    count: NDArray[np.int64]
    ant1: NDArray[np.int32]
    ant2: NDArray[np.int32]
    times_mjd: NDArray[np.float64]
    first_index: NDArray[np.int64]


def intervals(times_mjd: NDArray[np.float64], interval_s: float, solint_s: float) -> NDArray[np.int64]:
    """Bounds of equal runs of integrations about `solint_s` long, (n + 1,) int64; inf gives one run.

    Runs have equal lengths to within one integration, so no short last interval is left over, and never
    span a gap of more than 1.5 integrations, unless `solint_s` is inf.
    """
    if np.isinf(solint_s):
        return np.array([0, times_mjd.size])
    per_run = max(1, round(solint_s / interval_s))
    gaps = np.flatnonzero(np.diff(times_mjd) * 86400 > 1.5 * interval_s) + 1
    bounds = [0]
    for piece in np.split(np.arange(times_mjd.size), gaps):
        for run in np.array_split(piece, -(-piece.size // per_run)):
            bounds.append(int(run[-1]) + 1)
    return np.array(bounds)


def reduce(
    vis: Visibilities,
    model: NDArray[np.complex64] | Prediction,
    solint_s: float,
    uv_range_wavelengths: tuple[float, float] = (0.0, np.inf),
) -> Sums:
    """Collapse `vis` against `model` (time, baseline, channel) over solution intervals.

    Flagged samples, autocorrelations and samples outside the uv range do not count. Any baseline order and
    orientation. Raises BadDataError if model and data differ in shape.
    """
    if model.shape != vis.data.shape[:3]:
        raise BadDataError(
            f"model has shape {model.shape}, the data {vis.data.shape[:3]}; predict it for these data"
        )
    cross = np.flatnonzero(~vis.is_auto)
    bounds = intervals(vis.times_mjd, vis.interval_s, solint_s)
    uv_s = np.hypot(vis.uvw_m[..., 0], vis.uvw_m[..., 1]) / speed_of_light
    n_pol, n_chan = vis.data.shape[3], vis.data.shape[2]
    shape = (bounds.size - 1, n_pol, n_chan)
    r = np.zeros((*shape, cross.size), dtype=np.complex64)
    d = np.zeros((*shape, cross.size), dtype=np.float32)
    energy = np.zeros((_PARTS, *shape))
    count = np.zeros((_PARTS, *shape), dtype=np.int64)
    for s, (a, b) in enumerate(pairwise(bounds)):
        _collapse(
            vis.data[a:b], vis.flags[a:b], vis.weights[a:b], model[a:b], cross, uv_s[a:b], vis.frequencies_hz,
            np.array(uv_range_wavelengths), r[s], d[s], energy[:, s], count[:, s],
        )  # fmt: skip
    centres = np.array([vis.times_mjd[a:b].mean() for a, b in pairwise(bounds)])
    return Sums(r, d, energy.sum(0), count.sum(0), vis.ant1[cross], vis.ant2[cross], centres, bounds)


@njit(cache=True, parallel=True)
def _collapse(  # type: ignore[no-untyped-def]
    data, flags, weights, model, cross, uv_s, frequencies_hz, uv_range, r, d, energy, count
):
    """One interval's integrations into r, d (pol, channel, baseline), energy and count (part, pol, channel)."""
    for part in prange(_PARTS):
        first = part * cross.size // _PARTS
        last = (part + 1) * cross.size // _PARTS
        _collapse_part(
            data, flags, weights, model, cross[first:last], uv_s, frequencies_hz, uv_range,
            r[..., first:last], d[..., first:last], energy[part], count[part],
        )  # fmt: skip


@njit(cache=True)
def _collapse_part(  # type: ignore[no-untyped-def]
    data, flags, weights, model, cross, uv_s, frequencies_hz, uv_range, r, d, energy, count
):
    n_chan, n_pol = data.shape[2], data.shape[3]
    r_block = np.zeros((n_pol, n_chan, _BLOCK), dtype=np.complex128)
    d_block = np.zeros((n_pol, n_chan, _BLOCK))
    for start in range(0, cross.size, _BLOCK):
        stop = min(start + _BLOCK, cross.size)
        r_block[:] = 0
        d_block[:] = 0
        for t in range(data.shape[0]):
            for k in range(start, stop):
                b = cross[k]
                for c in range(n_chan):
                    uv = uv_s[t, b] * frequencies_hz[c]
                    if uv < uv_range[0] or uv > uv_range[1]:
                        continue
                    m = np.complex128(model[t, b, c])
                    power = m.real * m.real + m.imag * m.imag
                    for p in range(n_pol):
                        w = np.float64(weights[t, b, c, p])
                        if flags[t, b, c, p] or w <= 0:
                            continue
                        v = np.complex128(data[t, b, c, p])
                        r_block[p, c, k - start] += w * v * np.conj(m)
                        d_block[p, c, k - start] += w * power
                        energy[p, c] += w * (v.real * v.real + v.imag * v.imag)
                        count[p, c] += 1
        for p in range(n_pol):
            for c in range(n_chan):
                for k in range(start, stop):
                    r[p, c, k] = r_block[p, c, k - start]
                    d[p, c, k] = d_block[p, c, k - start]
