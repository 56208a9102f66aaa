"""Conversion of (XX, YY) visibilities to the gridded samples of Stokes I.

I is (XX + YY) / 2 whatever the noise of the two receptors: their weighted mean would be I + Q (w_x - w_y) / (w_x + w_y). Its
variance is (1/w_x + 1/w_y) / 4, so its weight is 4 / (1/w_x + 1/w_y). Where one of the two is flagged, the other is used alone
with its own weight, as I + Q or I - Q: a source's Q of a few per cent then changes its flux by that share in those samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.errors import BadDataError, SilentWrongnessError
from dsa110_assets.imaging.cells import cells_per_baseline
from dsa110_assets.visibilities import ms_columns
from dsa110_assets.visibilities.types import Visibilities

_NOISE_SAMPLES = 200_000
"""The median of this many differences is accurate to 0.3 %."""


@dataclass(frozen=True)
class StokesI:
    """Cross-correlation samples of Stokes I, each the weighted mean of a cell of one baseline's integrations and channels; cells
    without any weight are omitted.

    A visibility's weight is 4 / (1/w_xx + 1/w_yy), or that of the single polarisation present.

    data (sample,) complex64 [Jy]; weights (sample,) float32, 1/sigma^2 up to a common factor; uvw (sample, 3) float64
    [wavelengths], the weighted mean over the cell; bounds (sample, 4) int16: first integration and one past the last, then the
    same for channels; baselines (sample,) int32: index into the visibilities' baselines; by_time_channel (time, channel)
    float64: sums of those weights over baselines; n_visibilities: the number of unflagged (time, baseline, channel) that went
    in; typical_weight: their median weight before averaging; variance_scale: sigma^2 of a real part [Jy^2] = variance_scale /
    weight (NaN if no sample has both polarisations); sensitivity_loss: natural noise over that of the weighted mean of XX and
    YY, minus 1.
    """

    data: NDArray[np.complex64]
    weights: NDArray[np.float32]
    uvw: NDArray[np.float64]
    bounds: NDArray[np.int16]
    baselines: NDArray[np.int32]
    by_time_channel: NDArray[np.float64]
    n_visibilities: int
    typical_weight: float
    variance_scale: float
    sensitivity_loss: float

    def cell_means(self, *of_time_channel: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (array, sample) float32: the mean over each cell of (time, channel) arrays, weighted by the sum of weights over
        baselines."""
        out = np.empty((len(of_time_channel), self.weights.size), np.float32)
        for values, means in zip(of_time_channel, out, strict=True):
            _cell_means(self.bounds, self.by_time_channel, values.astype(np.float64), means)
        return out

    def spread(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (time, channel) float64: sums of per-sample weights, distributed over their cells."""
        return np.asarray(_spread(self.bounds, self.by_time_channel, weights))


def stokes_i(vis: Visibilities, reach_rad: float = 0.0, loss: float = 0.0) -> StokesI:
    """Return Stokes I of all cross-correlations, (XX + YY) / 2; autocorrelations are omitted.

    Where one polarisation is flagged, the other is used alone with its own weight: I + Q or I - Q. Samples are averaged as far
    as a source `reach_rad` from the phase centre loses no more than `loss` of its amplitude. Raises SilentWrongnessError unless
    the data share one phase centre, BadDataError if no data are usable.
    """
    if not vis.common_phase_centre:
        raise SilentWrongnessError("imaging needs one common phase centre for all integrations; phasing.to_common_centre makes one")
    cross = np.flatnonzero(~vis.is_auto)
    cells_t, cells_c = cells_per_baseline(vis, cross, reach_rad, loss)
    first = np.concatenate([[0], np.cumsum(cells_t * cells_c)])
    data, weights = np.empty(first[-1], dtype=np.complex64), np.empty(first[-1], dtype=np.float32)
    uvw, bounds = np.empty((first[-1], 3)), np.empty((first[-1], 4), dtype=np.int16)
    per_metre = vis.frequencies_hz / speed_of_light
    counts = np.empty(first[-1], dtype=np.int32)
    _combine(
        vis.data, vis.flags, vis.weights, vis.uvw_m, per_metre, cross, cells_t, cells_c, first,
        data, weights, uvw, bounds, counts,
    )  # fmt: skip
    baselines = np.repeat(cross.astype(np.int32), np.diff(first))
    n_used = _to_the_front(data, weights, uvw, bounds, baselines, counts)
    if not n_used:
        raise BadDataError("no unflagged cross-correlation has a positive weight: there is nothing to image")
    used = slice(n_used)
    by_time_channel, sum_of_both = _sum_over_baselines(vis.flags, vis.weights, cross)
    stokes = StokesI(
        data=data[used],
        weights=weights[used],
        uvw=uvw[used],
        bounds=bounds[used],
        baselines=baselines[used],
        by_time_channel=by_time_channel,
        n_visibilities=int(counts[used].sum()),
        typical_weight=float(np.median(weights[used] / counts[used])),
        variance_scale=_variance_scale(vis, cross),
        sensitivity_loss=float(np.sqrt(sum_of_both / by_time_channel.sum()) - 1),
    )
    ms_columns.release_pages(vis.data)
    return stokes


@njit(inline="always")
def _weight_of_i(flags, weights):  # type: ignore[no-untyped-def]
    """Return the weight of Stokes I of one visibility, and the shares of XX and YY, which sum to it; 0 if neither is present."""
    x = weights[0] if not flags[0] and weights[0] > 0 else np.float32(0)
    y = weights[1] if not flags[1] and weights[1] > 0 else np.float32(0)
    if x > 0 and y > 0:
        half = 2 * x * (y / (x + y))
        return 2 * half, half, half
    return x + y, x, y


@njit(cache=True, parallel=True)
def _combine(  # type: ignore[no-untyped-def]
    data, flags, weights, uvw_m, per_metre, cross, cells_t, cells_c, first, out, out_weights, uvw, bounds, counts
):
    n_times, _, n_channels, _ = data.shape
    for index in prange(cross.size):
        baseline = cross[index]
        for cell in range(cells_t[index] * cells_c[index]):
            i, j = cell // cells_c[index], cell % cells_c[index]
            t0, t1 = i * n_times // cells_t[index], (i + 1) * n_times // cells_t[index]
            c0, c1 = j * n_channels // cells_c[index], (j + 1) * n_channels // cells_c[index]
            real, imag, total, u, v, w, count = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
            for time in range(t0, t1):
                scale = 0.0
                for channel in range(c0, c1):
                    weight, weight_xx, weight_yy = _weight_of_i(flags[time, baseline, channel], weights[time, baseline, channel])
                    if weight > 0:
                        xx, yy = data[time, baseline, channel, 0], data[time, baseline, channel, 1]
                        real += (weight_xx * xx.real if weight_xx > 0 else 0.0) + (weight_yy * yy.real if weight_yy > 0 else 0.0)
                        imag += (weight_xx * xx.imag if weight_xx > 0 else 0.0) + (weight_yy * yy.imag if weight_yy > 0 else 0.0)
                        count += 1
                        total += weight
                        scale += weight * per_metre[channel]
                u += scale * uvw_m[time, baseline, 0]
                v += scale * uvw_m[time, baseline, 1]
                w += scale * uvw_m[time, baseline, 2]
            k = first[index] + cell
            bounds[k, 0], bounds[k, 1], bounds[k, 2], bounds[k, 3] = t0, t1, c0, c1
            out_weights[k], counts[k] = total, count
            if total > 0:
                out[k] = complex(real / total, imag / total)
                uvw[k, 0], uvw[k, 1], uvw[k, 2] = u / total, v / total, w / total


@njit(cache=True)
def _to_the_front(data, weights, uvw, bounds, baselines, counts):  # type: ignore[no-untyped-def]
    """Move the samples with a weight to the front, in place; return their number."""
    n = 0
    for k in range(weights.size):
        if weights[k] > 0:
            data[n], weights[n], baselines[n], counts[n] = data[k], weights[k], baselines[k], counts[k]
            uvw[n, 0], uvw[n, 1], uvw[n, 2] = uvw[k, 0], uvw[k, 1], uvw[k, 2]
            for edge in range(4):
                bounds[n, edge] = bounds[k, edge]
            n += 1
    return n


def averaged(vis: Visibilities, stokes: StokesI, models: Iterable[NDArray[np.complex64]]) -> NDArray[np.complex64]:
    """Return the predictions of `models` averaged like the samples of `stokes`: (model, sample) complex64.

    `models` yields one array (model, baseline, channel) per integration of `vis`, in order.
    """
    firsts = np.searchsorted(stokes.baselines, np.arange(vis.ant1.size + 1))
    out = np.zeros((0, stokes.weights.size), np.complex64)
    for t, predictions in enumerate(models):
        if t == 0:
            out = np.zeros((predictions.shape[0], stokes.weights.size), np.complex64)
        _add_integration(predictions, vis.flags[t], vis.weights[t], t, firsts, stokes.bounds, stokes.weights, out)
    return out


@njit(cache=True, parallel=True)
def _add_integration(models, flags, weights, time, firsts, bounds, totals, out):  # type: ignore[no-untyped-def]
    """Add one integration's share of each cell's mean; `totals` are the weights of the cells."""
    n_models, n_baselines, n_channels = models.shape
    for baseline in prange(n_baselines):
        low, end = firsts[baseline], firsts[baseline + 1]
        high = end
        while low < high:  # find the first cell that ends after this integration: cells are in time order
            middle = (low + high) // 2
            if bounds[middle, 1] > time:
                high = middle
            else:
                low = middle + 1
        share = np.zeros(n_channels, np.float32)
        if low < end:
            for channel in range(n_channels):
                share[channel] = _weight_of_i(flags[baseline, channel], weights[baseline, channel])[0]
        k = low
        while k < end and bounds[k, 0] <= time:
            k += 1
        for model in range(n_models):
            for cell in range(low, k):
                real, imag = np.float32(0), np.float32(0)
                for channel in range(bounds[cell, 2], bounds[cell, 3]):
                    real += share[channel] * models[model, baseline, channel].real
                    imag += share[channel] * models[model, baseline, channel].imag
                out[model, cell] += complex(real / totals[cell], imag / totals[cell])


@njit(cache=True, parallel=True)
def _sum_over_baselines(flags, weights, cross):  # type: ignore[no-untyped-def]
    """Return the weights of Stokes I (time, channel), and the sum of all weights of XX and YY."""
    n_times, _, n_channels, _ = flags.shape
    total, sum_of_both = np.zeros((n_times, n_channels)), np.zeros(n_times)
    for time in prange(n_times):
        for baseline in cross:
            for channel in range(n_channels):
                total[time, channel] += _weight_of_i(flags[time, baseline, channel], weights[time, baseline, channel])[0]
                for pol in range(2):
                    if not flags[time, baseline, channel, pol]:
                        sum_of_both[time] += weights[time, baseline, channel, pol]
    return total, sum_of_both.sum()


@njit(cache=True, parallel=True)
def _cell_means(bounds, weights, values, out):  # type: ignore[no-untyped-def]
    for k in prange(bounds.shape[0]):
        total, weight = 0.0, 0.0
        for time in range(bounds[k, 0], bounds[k, 1]):
            for channel in range(bounds[k, 2], bounds[k, 3]):
                total += weights[time, channel] * values[time, channel]
                weight += weights[time, channel]
        out[k] = total / weight


@njit(cache=True)
def _spread(bounds, shares, weights):  # type: ignore[no-untyped-def]
    out = np.zeros(shares.shape)
    for k in range(bounds.shape[0]):
        total = 0.0
        for time in range(bounds[k, 0], bounds[k, 1]):
            for channel in range(bounds[k, 2], bounds[k, 3]):
                total += shares[time, channel]
        for time in range(bounds[k, 0], bounds[k, 1]):
            for channel in range(bounds[k, 2], bounds[k, 3]):
                out[time, channel] += weights[k] * shares[time, channel] / total
    return out


def _variance_scale(vis: Visibilities, cross: NDArray[np.intp]) -> float:
    """Return the noise variance per unit inverse weight, from the change of XX - YY between adjacent channels.

    An unpolarised sky cancels in XX - YY. Polarised emission, and leakage by receptors of unequal gain, change so little from
    channel to channel that they cancel in the difference. |difference|^2 is exponential with mean 2 k times the sum of the four
    1/w; its median, ln 2 of that, is insensitive to interference. With only one channel, XX - YY itself is used.
    """
    n_times, _, n_channels, _ = vis.data.shape
    pairs = max(n_channels - 1, 1)
    count = n_times * cross.size * pairs
    # A stride coprime to the axes would alias with none of them; a fixed-seed draw is simpler and equally
    # repeatable.
    chosen = np.random.default_rng(110).integers(0, count, size=min(count, _NOISE_SAMPLES))
    time, baseline, channel = np.unravel_index(chosen, (n_times, cross.size, pairs))
    change, inverse, usable = np.zeros(chosen.size, np.complex128), np.zeros(chosen.size), np.ones(chosen.size, np.bool_)
    for step, sign in ((0, 1), (1, -1)) if n_channels > 1 else ((0, 1),):
        at = (time, cross[baseline], channel + step)
        weight = vis.weights[at].astype(np.float64)
        usable &= ~vis.flags[at].any(axis=-1) & (weight > 0).all(axis=-1)
        xx, yy = vis.data[at].T
        change += sign * (xx.astype(np.complex128) - yy)
        inverse += np.sum(1 / np.where(weight > 0, weight, 1.0), axis=-1)
    if not usable.any():
        return float("nan")
    return float(np.median(np.abs(change[usable]) ** 2 / inverse[usable]) / (2 * np.log(2)))
