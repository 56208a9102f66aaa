"""The flux scale of an observation, from the fluxes fitted to the individual sources of its field.

Sources that no catalogue has are fitted in position and spectrum as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration.field_fit import (
    FLUX,
    INDEX,
    LEAST_KNOWN,
    ROUNDING,
    STEP_INDEX,
    inverted,
    products,
    stepped,
    with_fitted_steps,
)
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
"""No catalogue flux of a single source holds at another epoch to better than this: without it the brightest source alone would decide."""


@dataclass(frozen=True)
class Scale:
    """The flux scale. `factor`: measured fluxes over the reference sources' listed ones; `error`: its standard error, from their
    scatter; `count`: the number of sources it rests on. NaN without sources."""

    factor: float
    error: float
    count: int


def thinned(vis: Visibilities) -> Visibilities:
    """Return every nth channel, at its own width, so that at most 600,000 samples of either polarisation are left."""
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
    """Fitted sources. `factors`: their fluxes over the model's, with `errors`; NaN for a source without signal in the
    data. `new`: the new sources, which come first, with their fitted flux, position and index; `moved` (new,): the change of each
    one's flux as part of the brightest source's, 0 where that is not significant."""

    factors: Float
    errors: Float
    new: SkyModel
    moved: Float


def fitted_fluxes(vis: Visibilities, sky: SkyModel, n_fitted: int, n_new: int = 0) -> Fitted:
    """Fit the first `n_fitted` sources of `sky` by linear least squares, and the positions and indices of the first `n_new` of them.

    All are fitted together, with the others of `sky` as one, so that sidelobes of one are not taken for flux of another.
    An index that cannot be determined to 0.2 is left as it is.
    """
    n = min(n_fitted, len(sky))
    steps = [(k, what, shifted) for k in range(n_new) for what, shifted in stepped(sky.select([k]), True, True).items()]
    sources = np.array([*range(n), *(k for k, _, _ in steps)], np.int64)
    what = np.array([FLUX] * n + [which for _, which, _ in steps], np.int64)
    columns = sky_model.concat(sky.select(np.arange(n)), *(shifted for _, _, shifted in steps), sky.select(np.arange(n, len(sky))))
    sums = _sums(vis, columns, what.size, sources[n:])
    size = np.sqrt(np.diag(sums[0]))
    _, sigma = _solved(*sums, np.flatnonzero(size > 0))
    unclear = np.flatnonzero((what == INDEX) & ~(sigma[: what.size] * STEP_INDEX < LEAST_KNOWN))
    x, sigma = (part[: what.size] for part in _solved(*sums, np.setdiff1d(np.flatnonzero(size > 0), unclear)))
    is_new = np.isfinite(x) & (sources < n_new)
    new = with_fitted_steps(sky.select(np.arange(n_new)), sources[is_new], what[is_new], x[is_new])
    change = np.abs(x[:n_new] - 1)
    moved = np.where(change > sigma[:n_new], change, 0.0) * size[:n_new] / size.max()
    return Fitted(x[:n], sigma[:n], new, moved)


def _sums(vis: Visibilities, sky: SkyModel, n_separate: int, stepped_from: NDArray[np.int64]) -> tuple[Float, Float, float, int]:
    """Return normal matrix and right side of the first `n_separate` sources and all others as one, energy and count of the samples.

    The last of these first sources are copies a step away of the sources `stepped_from` (step,): their columns are differences.
    """
    size = n_separate + (len(sky) > n_separate)
    normal, target, energy, count = np.zeros((size, size)), np.zeros(size), 0.0, 0
    for columns, data, root in _columns(vis, sky, n_separate):
        columns[n_separate - stepped_from.size : n_separate] -= columns[stepped_from]
        normal_part, target_part = products(columns.view(np.float32), data.view(np.float32)[None])
        normal += normal_part
        target += target_part[:, 0]
        energy += float(np.sum(data.real**2 + data.imag**2, dtype=np.float64))
        count += int(np.count_nonzero(root))
    return normal, target, energy, count


def _solved(normal: Float, target: Float, energy: float, count: int, free: NDArray[np.intp]) -> tuple[Float, Float]:
    """Return solution and errors of the columns `free`; NaN elsewhere."""
    x, sigma = np.full(target.size, np.nan), np.full(target.size, np.nan)
    inverse = inverted(normal[np.ix_(free, free)])
    x[free] = inverse @ target[free]
    chi2 = max(energy - float(x[free] @ target[free]), ROUNDING * energy)
    sigma[free] = np.sqrt(chi2 / max(2 * count - free.size, 1) * np.maximum(np.diag(inverse), 0))
    return x, sigma


_Complex = NDArray[np.complex64]


def _columns(vis: Visibilities, sky: SkyModel, n: int) -> Iterator[tuple[_Complex, _Complex, NDArray[np.float32]]]:
    """Yield for each integration: models (source, sample) and Stokes I (sample,), both times the root of the weight, and that root."""
    cross = np.flatnonzero(~vis.is_auto)
    for t, models in enumerate(predict_each(vis, sky, n)):
        weights = np.where(vis.flags[t, cross], np.float32(0), vis.weights[t, cross])
        total = weights.sum(axis=-1)
        data = np.where(weights > 0, vis.data[t, cross], 0)
        mean = np.divide((weights * data).sum(axis=-1), total, out=np.zeros(total.shape, np.complex64), where=total > 0)
        root = np.sqrt(total).ravel()
        yield np.ascontiguousarray(models[:, cross].reshape(models.shape[0], -1) * root), np.ascontiguousarray(mean.ravel() * root), root


def field_scale(factors: Float, errors: Float) -> Scale:
    """Return the robust mean flux factor of a field's sources (see group.robust_mean).

    A source is weighted by its error and the scatter of all beyond their errors, at least 1 %, so that one that flared, or the
    calibrator itself, does not dominate. Sources below 10 sigma do not count.
    """
    use = np.isfinite(factors) & (errors > 0)
    use[use] = np.abs(factors[use]) > _LEAST_SNR * errors[use]
    if not use.any():
        return Scale(float("nan"), float("nan"), 0)
    return Scale(*robust_mean(factors[use], np.hypot(errors[use], _LEAST_SCATTER)), int(use.sum()))


def unknown_sky(residual: Visibilities, model: NDArray[np.complex64]) -> tuple[float, float]:
    """Return the root mean square [Jy] of the sky that `model` (time, baseline, channel) [Jy] lacks, from the residual visibilities, 0
    if not significant; and the same as part of the model's."""
    power, error = unknown_power(residual)
    unknown_jy = float(np.sqrt(power)) if power > _SIGNIFICANT * error else 0.0
    return unknown_jy, unknown_jy / float(np.sqrt(np.mean(model.real**2 + model.imag**2)))


def unknown_power(residual: Visibilities) -> tuple[float, float]:
    """Return the mean |V|^2 [Jy^2] that XX and YY have in common in `residual`, which is sky missing from the model, and its error.

    The noise of XX and YY is independent, so the mean of Re(V_XX conj(V_YY)) has no noise bias.
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
