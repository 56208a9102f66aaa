"""The flux scale of an observation, from the sources of its field: each fitted for itself, all of them asked together.

Sources that no catalogue has are fitted in place and spectrum as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration.field_fit import FLUX, INDEX, LEAST_KNOWN, ROUNDING, STEP_INDEX, inverted, products, stepped, stepped_by
from dsa110_assets.calibration.group import robust_mean
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities.predict import predict_each
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]
_MOST_SAMPLES = 600_000
_LEAST_SNR = 10.0
_SIGNIFICANT = 5.0
_LEAST_SCATTER = 0.01
"""No catalogue knows a single source at another epoch better than this: without it the brightest source alone would decide."""


@dataclass(frozen=True)
class Scale:
    """`factor`: fluxes measured over those of the reference sources; `error` its standard error, from their own scatter;
    `count` sources that it rests on. NaN where there are none."""

    factor: float
    error: float
    count: int


def thinned(vis: Visibilities) -> Visibilities:
    """Every so many-th channel, each of its own width, that no more than 600,000 samples of either polarisation are left."""
    samples = vis.times_mjd.size * vis.ant1.size * vis.frequencies_hz.size
    step = max(1, -(-samples // _MOST_SAMPLES))
    pick = slice(step // 2, None, step)
    return replace(
        vis,
        data=np.ascontiguousarray(vis.data[:, :, pick]),
        flags=np.ascontiguousarray(vis.flags[:, :, pick]),
        weights=np.ascontiguousarray(vis.weights[:, :, pick]),
        frequencies_hz=vis.frequencies_hz[pick].copy(),
    )


@dataclass(frozen=True)
class Fitted:
    """Of the sources that were fitted: `factors` of their fluxes over the model's, with `errors`, NaN for one that adds nothing to
    the data. `new`: the first of them as fitted in flux, place and index; `moved` (new,): by how much of
    the brightest source the flux of each changed, 0 where that is not significant."""

    factors: Float
    errors: Float
    new: SkyModel
    moved: Float


def fitted_fluxes(vis: Visibilities, sky: SkyModel, n_fitted: int, n_new: int = 0) -> Fitted:
    """The first `n_fitted` sources of `sky`, of them the first `n_new` in place and index as well: linear least squares.

    All are fitted together, with the others of `sky` as one; so sidelobes of one are not taken for flux of another.
    An index that cannot be told to 0.2 is left as it is.
    """
    n = min(n_fitted, len(sky))
    steps = [(k, what, there) for k in range(n_new) for what, there in stepped(sky.select([k]), True, True).items()]
    sources = np.array([*range(n), *(k for k, _, _ in steps)], np.int64)
    what = np.array([FLUX] * n + [which for _, which, _ in steps], np.int64)
    columns = sky_model.concat(sky.select(np.arange(n)), *(there for _, _, there in steps), sky.select(np.arange(n, len(sky))))
    sums = _sums(vis, columns, what.size, sources[n:])
    size = np.sqrt(np.diag(sums[0]))
    _, sigma = _solved(*sums, np.flatnonzero(size > 0))
    unclear = np.flatnonzero((what == INDEX) & ~(sigma[: what.size] * STEP_INDEX < LEAST_KNOWN))
    x, sigma = (part[: what.size] for part in _solved(*sums, np.setdiff1d(np.flatnonzero(size > 0), unclear)))
    own = np.isfinite(x) & (sources < n_new)
    new = stepped_by(sky.select(np.arange(n_new)), sources[own], what[own], x[own])
    change = np.abs(x[:n_new] - 1)
    moved = np.where(change > sigma[:n_new], change, 0.0) * size[:n_new] / size.max()
    return Fitted(x[:n], sigma[:n], new, moved)


def _sums(vis: Visibilities, sky: SkyModel, n_alone: int, of: NDArray[np.int64]) -> tuple[Float, Float, float, int]:
    """Normal matrix and right side of the first `n_alone` sources and all others as one, energy and count of the samples.

    The last of the first are others' a step away, whose `of` (step,) they are: their columns are differences.
    """
    size = n_alone + (len(sky) > n_alone)
    normal, target, energy, count = np.zeros((size, size)), np.zeros(size), 0.0, 0
    for columns, data, root in _columns(vis, sky, n_alone):
        columns[n_alone - of.size : n_alone] -= columns[of]
        own, theirs = products(columns.view(np.float32), data.view(np.float32)[None])
        normal += own
        target += theirs[:, 0]
        energy += float(np.sum(data.real**2 + data.imag**2, dtype=np.float64))
        count += int(np.count_nonzero(root))
    return normal, target, energy, count


def _solved(normal: Float, target: Float, energy: float, count: int, free: NDArray[np.intp]) -> tuple[Float, Float]:
    """Solution and errors of the columns `free`; NaN elsewhere."""
    x, sigma = np.full(target.size, np.nan), np.full(target.size, np.nan)
    inverse = inverted(normal[np.ix_(free, free)])
    x[free] = inverse @ target[free]
    chi2 = max(energy - float(x[free] @ target[free]), ROUNDING * energy)
    sigma[free] = np.sqrt(chi2 / max(2 * count - free.size, 1) * np.maximum(np.diag(inverse), 0))
    return x, sigma


_Complex = NDArray[np.complex64]


def _columns(vis: Visibilities, sky: SkyModel, n: int) -> Iterator[tuple[_Complex, _Complex, NDArray[np.float32]]]:
    """Of each integration: models (source, sample) and Stokes I (sample,), both times the root of the weight, and that."""
    cross = np.flatnonzero(~vis.is_auto)
    for t, each in enumerate(predict_each(vis, sky, n)):
        weights = np.where(vis.flags[t, cross], np.float32(0), vis.weights[t, cross])
        total = weights.sum(axis=-1)
        data = np.where(weights > 0, vis.data[t, cross], 0)
        mean = np.divide((weights * data).sum(axis=-1), total, out=np.zeros(total.shape, np.complex64), where=total > 0)
        root = np.sqrt(total).ravel()
        yield np.ascontiguousarray(each[:, cross].reshape(each.shape[0], -1) * root), np.ascontiguousarray(mean.ravel() * root), root


def field_scale(factors: Float, errors: Float) -> Scale:
    """What the sources of a field say together, robustly (see group.robust_mean).

    A source counts by its error and the scatter of all beyond their errors, at least 1 %: one that flared, or the calibrator
    itself, is one voice. Sources below 10 sigma have none.
    """
    use = np.isfinite(factors) & (errors > 0)
    use[use] = np.abs(factors[use]) > _LEAST_SNR * errors[use]
    if not use.any():
        return Scale(float("nan"), float("nan"), 0)
    return Scale(*robust_mean(factors[use], np.hypot(errors[use], _LEAST_SCATTER)), int(use.sum()))


def unknown_sky(residual: Visibilities, model: NDArray[np.complex64]) -> tuple[float, float]:
    """Root mean square [Jy] of the sky that `model` (time, baseline, channel) [Jy] lacks, from what is left without it, 0 if not
    significant; and as part of the model's."""
    power, error = unknown_power(residual)
    unknown_jy = float(np.sqrt(power)) if power > _SIGNIFICANT * error else 0.0
    return unknown_jy, unknown_jy / float(np.sqrt(np.mean(model.real**2 + model.imag**2)))


def unknown_power(residual: Visibilities) -> tuple[float, float]:
    """Mean |V|^2 [Jy^2] that XX and YY have in common in `residual`, and its error: a sky the model lacks.

    Their noise is independent, so that the mean of Re(V_XX conj(V_YY)) is free of it.
    """
    cross = np.flatnonzero(~residual.is_auto)
    total, square, weight = 0.0, 0.0, 0.0
    for t in range(residual.times_mjd.size):
        both = ~residual.flags[t, cross].any(axis=-1)
        w = np.where(both, residual.weights[t, cross].astype(np.float64).prod(axis=-1), 0)
        data = residual.data[t, cross].astype(np.complex128)
        product = np.where(both, (data[..., 0] * np.conj(data[..., 1])).real, 0)
        total += float(np.sum(w * product))
        square += float(np.sum((w * product) ** 2))
        weight += float(np.sum(w))
    return (total / weight, float(np.sqrt(square)) / weight) if weight > 0 else (float("nan"), float("nan"))
