"""Reduce the visibilities in one pass to the sums that determine antenna gains.

For gains constant over a solution interval, sum w |V - g_i conj(g_j) M|^2 depends on the data only through
R = sum w V conj(M), D = sum w |M|^2 and E = sum w |V|^2, per interval, polarisation, channel and baseline.
Everything after this pass works on these sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities import ms_columns
from dsa110_assets.visibilities.predict import Prediction
from dsa110_assets.visibilities.types import Visibilities

_PARTS = 8
"""Fixed number of baseline ranges summed separately, so that results do not depend on the number of threads."""
_BASELINES = 256
"""Number of baselines whose model is predicted and summed at a time, so that it is still in the processor's cache."""
_CHANNELS = 256
_ROWS = tuple(np.uint64(row * _CHANNELS) for row in range(10))


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
    """Return the bounds of equal runs of integrations about `solint_s` long, (n + 1,) int64; inf gives one run.

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
    """Sum `vis` against `model` (time, baseline, channel) over solution intervals.

    Flagged samples, autocorrelations and samples outside the uv range do not count. Baselines may have any order and
    orientation. Raises BadDataError if model and data differ in shape.
    """
    if model.shape != vis.data.shape[:3]:
        raise BadDataError(f"model has shape {model.shape}, the data {vis.data.shape[:3]}; predict it for these data")
    cross = np.flatnonzero(~vis.is_auto)
    bounds = intervals(vis.times_mjd, vis.interval_s, solint_s)
    uv_s = np.hypot(vis.uvw_m[..., 0], vis.uvw_m[..., 1]) / speed_of_light
    n_pol, n_chan = vis.data.shape[3], vis.data.shape[2]
    shape = (bounds.size - 1, n_pol, n_chan)
    r = np.zeros((*shape, cross.size), dtype=np.complex64)
    d = np.zeros((*shape, cross.size), dtype=np.float32)
    energy = np.zeros((_PARTS, *shape))
    count = np.zeros((_PARTS, *shape), dtype=np.int64)
    weights = repeated(vis.weights)
    for s, (a, b) in enumerate(pairwise(bounds)):
        model_of = model.during(a, b) if isinstance(model, Prediction) else partial(_of, model[a:b])
        data, flags = vis.data[a:b].view(np.float32), vis.flags[a:b].view(np.uint8)
        for first in range(0, cross.size, _BASELINES):
            baselines = cross[first : first + _BASELINES]
            _collapse(
                data, flags, weights if weights.shape[0] == 1 else weights[a:b], model_of(baselines).view(np.float32), baselines, uv_s[a:b],
                vis.frequencies_hz, np.array(uv_range_wavelengths), r[s, ..., first : first + baselines.size],
                d[s, ..., first : first + baselines.size], energy[:, s], count[:, s],
            )  # fmt: skip
        ms_columns.release_pages(vis.data[a:b])
    centres = np.array([vis.times_mjd[a:b].mean() for a, b in pairwise(bounds)])
    return Sums(r, d, energy.sum(0), count.sum(0), vis.ant1[cross], vis.ant2[cross], centres, bounds)


def repeated(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `weights`, or if all of them are one broadcast row in memory, that row: (1, 1, channel, pol)."""
    return np.ascontiguousarray(weights[:1, :1]) if weights.strides[:2] == (0, 0) else weights


def _of(model: NDArray[np.complex64], baselines: NDArray[np.intp]) -> NDArray[np.complex64]:
    return np.ascontiguousarray(model[:, baselines])


@njit(cache=True, parallel=True)
def _collapse(  # type: ignore[no-untyped-def]
    data, flags, weights, model, cross, uv_s, frequencies_hz, uv_range, r, d, energy, count
):
    """Sum one interval's integrations of the baselines `cross` into r, d (pol, channel, baseline), energy and count (part, pol,
    channel). data (time, all baselines, channel, pol x part) and model (time, baseline, channel x part) are real numbers."""
    for part in prange(_PARTS):
        sums = np.empty(10 * _CHANNELS, np.float32)
        for k in range(part * cross.size // _PARTS, (part + 1) * cross.size // _PARTS):
            b = cross[k]
            for c in range(0, frequencies_hz.size, _CHANNELS):
                n = min(_CHANNELS, frequencies_hz.size - c)
                sums[:] = 0
                for t in range(data.shape[0]):
                    low, high = _inside(uv_s[t, b], frequencies_hz, uv_range, c, n)
                    _add(data, flags, weights, model, t, b, k, c, low, high, sums)
                for p in range(2):
                    for q in range(n):
                        real, imaginary = sums[(5 * p) * _CHANNELS + q], sums[(5 * p + 1) * _CHANNELS + q]
                        r[p, c + q, k] = complex(real, imaginary)
                        d[p, c + q, k] = sums[(5 * p + 2) * _CHANNELS + q]
                        energy[part, p, c + q] += sums[(5 * p + 3) * _CHANNELS + q]
                        count[part, p, c + q] += np.int64(sums[(5 * p + 4) * _CHANNELS + q])


@njit(cache=True)
def _inside(uv_s, frequencies_hz, uv_range, first, n):  # type: ignore[no-untyped-def]
    """Return the range (low, high) of the `n` ascending channels from `first` on that is within the uv range."""
    low, high = 0, n
    while low < n and uv_s * frequencies_hz[first + low] < uv_range[0]:
        low += 1
    while high > low and uv_s * frequencies_hz[first + high - 1] > uv_range[1]:
        high -= 1
    return low, high


@njit(cache=True)
def _add(data, flags, weights, model, t, b, k, first, low, high, sums):  # type: ignore[no-untyped-def]
    """Add one row's channels, from first + low on, to `sums` [pol, (w V conj(M), w |M|^2, w |V|^2, number), channel].

    Samples that do not count, flagged or without a weight, are replaced and not multiplied by 0, because they may be NaN. Single
    precision is enough for sums of some ten samples. Indices are unsigned, so that compilers know that none counts from the end.
    """
    t_w, b_w = t * int(weights.shape[0] > 1), b * int(weights.shape[1] > 1)
    begin, two, none = np.uint64(first), np.uint64(2), np.float32(0)
    for q in range(np.uint64(low), np.uint64(high)):
        c = begin + q
        x, y = model[t, k, two * c], model[t, k, two * c + np.uint64(1)]
        power = x * x + y * y
        counts = not flags[t, b, c, 0] and weights[t_w, b_w, c, 0] > 0
        w = weights[t_w, b_w, c, 0] if counts else none
        u, v = data[t, b, c, 0] if counts else none, data[t, b, c, 1] if counts else none
        sums[q] += w * (u * x + v * y)
        sums[_ROWS[1] + q] += w * (v * x - u * y)
        sums[_ROWS[2] + q] += w * power
        sums[_ROWS[3] + q] += w * (u * u + v * v)
        sums[_ROWS[4] + q] += np.float32(counts)
        counts = not flags[t, b, c, 1] and weights[t_w, b_w, c, 1] > 0
        w = weights[t_w, b_w, c, 1] if counts else none
        u, v = data[t, b, c, 2] if counts else none, data[t, b, c, 3] if counts else none
        sums[_ROWS[5] + q] += w * (u * x + v * y)
        sums[_ROWS[6] + q] += w * (v * x - u * y)
        sums[_ROWS[7] + q] += w * power
        sums[_ROWS[8] + q] += w * (u * u + v * v)
        sums[_ROWS[9] + q] += np.float32(counts)
