"""Compare every antenna of an observation with the known sky, and correct, flag and reweight its data.

Tables are as old as their calibrator's transit. So the calibrated observation is compared with its field's predicted
visibilities, antenna by antenna. Gains that changed and delays that jumped are corrected (`epoch`), and receptors that see no
sky are flagged. Weights are set from the scatter of the residual visibilities (`scatter`). The flux scale is corrected to
that of the field's reference sources where they agree on a change (`field_scale`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.calibration import delays, field_scale
from dsa110_assets.calibration.comparison import Comparison, compare
from dsa110_assets.calibration.epoch import EpochGains, solve_epoch
from dsa110_assets.calibration.epoch_options import EpochOptions
from dsa110_assets.calibration.field import Search, at_times, beam_on, new_sources
from dsa110_assets.calibration.field_scale import Fitted, Scale
from dsa110_assets.calibration.scatter import noise_factors
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities.predict import predict
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]
N_FITTED = 24
_ROUNDS = 12
_SIGNIFICANT, _LEAST_CHANGE = 5.0, 0.05
"""A source's flux in the model is replaced where the flux fitted in the field differs from it by so many sigma and so large a part."""
_SETTLED = 0.01
_DOMINANT = 0.5
_LEAST_MOVE = 2e-3
"""Part of the brightest source's flux: if fluxes of new sources change by less, gains change by less."""
_FAINTEST = 16.0
"""New sources are searched for down to the unknown sky's root mean square over this: 256 equal sources of that flux would cause it."""
_LEAST_PART, _LEAST_REST = 0.02, 0.005
"""Sources missing from the model are searched for if they have the first part of the model's root mean square; once one is found,
down to the second, because unmodelled sky causes spurious gains."""


@dataclass(frozen=True)
class Observed:
    """The result of comparing an observation with the sky.

    epoch: the antennas' gains; noise (antenna, block, pol): see `scatter.noise_factors`. scale: fluxes over the reference sources';
    scale_applied: the factor by which fluxes are divided (1: not corrected). sky: the field's model as fitted. changed_sources,
    new_sources: the numbers of sources whose flux differs from the catalogue's, and that the catalogue lacks. references_needed: reference
    sources needed to correct the scale. sums: the sums all this was fitted to, which have the block and interval bounds.
    """

    epoch: EpochGains
    noise: Float
    scale: Scale
    scale_applied: float
    scale_reason: str
    sky: SkyModel
    changed_sources: int
    new_sources: int
    references_needed: int
    sums: Comparison


def field_model(vis: Visibilities, sky: SkyModel, n_sources: int) -> SkyModel:
    """Return the `n_sources` of `sky` that are brightest through the primary beam during `vis`, brightest first."""
    if not len(sky):
        return sky
    middle = vis.times_mjd.size // 2
    response = beam_on(at_times(vis, [0, middle, -1]), np.rad2deg(sky.ra_rad), np.rad2deg(sky.dec_rad)).mean(axis=0)
    apparent_jy = sky.flux_at(vis.frequencies_hz.mean())[:, 0] * response
    order = np.argsort(-apparent_jy, kind="stable")[:n_sources]
    return sky.select(order[apparent_jy[order] > 0])


def observe(vis: Visibilities, sky: SkyModel, options: EpochOptions, search: Search | None = None) -> Observed:
    """Compare calibrated `vis` [Jy] with `sky`; `search` finds sources that `sky` lacks.

    The model is corrected in rounds, because a source that is missing or whose flux is inconsistent with the others' would
    change the gains of healthy antennas. There are at most twelve rounds; most observations need one. If the model still lacks
    much of the sky after them, antennas are not judged. With too few reference sources for the flux scale, the position of the sky
    is not determined either, and no gains that shift it are applied.
    """
    field = field_model(vis, sky, options.model_sources)
    listed_jy = field.flux_jy  # new sources come first: they are fitted, but are no reference sources
    unknown_part, n_new, references = 0.0, 0, len(field)
    for _ in range(_ROUNDS):
        sums = compare(vis, field)
        epoch = solve_epoch(sums, options)
        if references < options.least_references:
            epoch = epoch.without_shift(vis.antennas.relative_m)
        thinned = corrected(field_scale.thinned(vis), sums, epoch, 1.0)
        n_fitted = min(N_FITTED + n_new, len(field))
        fitted = field_scale.fitted_fluxes(thinned, field, n_fitted, n_new)
        over_listed = field.flux_jy[n_new:n_fitted] / listed_jy[: n_fitted - n_new]
        scale = field_scale.field_scale(fitted.factors[n_new:] * over_listed, fitted.errors[n_new:] * over_listed)
        improved, unknown_part = _improved(thinned, field, listed_jy, fitted, scale, options, search)
        references = scale.count
        if improved is None:
            break
        field, n_new = improved, len(improved) - listed_jy.size
    if unknown_part > _LEAST_PART:
        epoch = epoch.unjudged()
    applied, reason = (
        _applied(scale, options) if epoch.judged else (1.0, "the field is too faint or its model too poor: the tables' scale stands")
    )
    noise = noise_factors(sums, epoch)
    if not epoch.judged:
        noise = np.where(np.isfinite(noise), 1.0, np.nan)  # residuals of a wrong model are not noise
    return Observed(
        epoch, noise, scale, applied, reason, field, int(np.sum(field.flux_jy[n_new:] != listed_jy)), n_new,
        options.least_references, sums,
    )  # fmt: skip


def _improved(
    thinned: Visibilities, field: SkyModel, listed_jy: Float, fitted: Fitted, scale: Scale, options: EpochOptions, search: Search | None
) -> tuple[SkyModel | None, float]:
    """Return the field corrected by one round's fit, new sources first; None if it does not change. Also return the root mean square
    of the sky missing from the model, as part of the model's; 0 if the residual has no sources."""
    n_new = len(fitted.new)
    residual, unknown_jy, unknown_part = _residual(thinned, _as_fitted(field, fitted))
    listed, new = field.select(np.arange(n_new, len(field))), _in_scale(fitted, scale, options)
    if search is not None and unknown_part > (_LEAST_REST if n_new else _LEAST_PART):
        found_sources = new_sources(residual, unknown_jy / _FAINTEST, sky_model.concat(new, listed), search)
        if len(found_sources):
            # fit new sources first: until the gains were solved with them, the catalogue's fluxes seem wrong
            return sky_model.concat(found_sources, new, listed), unknown_part
    with_fluxes = _with_fluxes(listed, listed_jy, fitted.factors[n_new:], fitted.errors[n_new:], scale)
    if with_fluxes is listed and not np.any(fitted.moved > _LEAST_MOVE):
        return None, 0.0
    return sky_model.concat(new, with_fluxes), unknown_part


def _with_fluxes(field: SkyModel, listed_jy: Float, factors: Float, errors: Float, scale: Scale) -> SkyModel:
    """Return the field with corrected fluxes of the sources that clearly disagree with the others; `field` itself if there are none.

    Only sources that change by at least half as much as the most changed one are corrected. One wrong flux changes antenna gains,
    which causes small spurious changes all over the field; they vanish once that flux is right. A flux that was already replaced
    is updated until it hardly changes.
    """
    common = _common(scale)
    ratio = factors / common
    replaced = field.flux_jy[: ratio.size] != listed_jy[: ratio.size]
    least = np.where(replaced, _SETTLED, _LEAST_CHANGE if scale.count >= 2 else np.inf)
    with np.errstate(invalid="ignore"):
        sigma = np.hypot(errors / common, np.nan_to_num(scale.error))
        differs = (np.abs(ratio - 1) > np.maximum(np.where(replaced, 1.0, _SIGNIFICANT) * sigma, least)) & np.isfinite(ratio)
        moved = np.where(differs, np.abs(ratio - 1) / errors, 0)  # in sigma: a sigma is about the same flux for all sources
    differs &= replaced | (moved >= _DOMINANT * moved.max(initial=0.0))
    if not differs.any():
        return field
    index = np.flatnonzero(differs)
    return _with_factors(field, index, ratio[index])


def _residual(thinned: Visibilities, field: SkyModel) -> tuple[Visibilities, float, float]:
    """Return the residual visibilities, the root mean square [Jy] of the sky in them, 0 if that is not significant, and that as part
    of the model's."""
    model = predict(thinned, field)
    residual = replace(thinned, data=thinned.data - model[..., None])
    return residual, *field_scale.unknown_sky(residual, model)


def _as_fitted(field: SkyModel, fitted: Fitted) -> SkyModel:
    """Return the field with all fitted values, significant or not, so that its residual contains only other sources."""
    n_new, n_fitted = len(fitted.new), fitted.factors.size
    factors = np.nan_to_num(fitted.factors[n_new:], nan=1.0)
    listed = _with_factors(field, np.arange(n_new, n_fitted), factors)
    return sky_model.concat(fitted.new, listed.select(np.arange(n_new, len(field))))


def _with_factors(field: SkyModel, index: NDArray[np.intp], factors: Float) -> SkyModel:
    """Return the field with fluxes of some of its sources multiplied."""
    flux, log, factors = field.flux_jy.copy(), field.log_coefficients.copy(), np.maximum(factors, 1e-3)
    flux[index] *= factors
    standard = np.any(log[index] != 0, axis=1)
    log[index[standard], 0] += np.log10(factors[standard])
    return replace(field, flux_jy=flux, log_coefficients=log)


def _in_scale(fitted: Fitted, scale: Scale, options: EpochOptions) -> SkyModel:
    """Return the new sources above the noise as fitted, in the flux scale of the known sources where that clearly differs from the
    tables'."""
    significant = fitted.factors[: len(fitted.new)] > _SIGNIFICANT * fitted.errors[: len(fitted.new)]
    new = fitted.new.select(significant)
    common = _common(scale)
    return replace(new, flux_jy=new.flux_jy / common) if abs(common - 1) > options.scale_sigma * scale.error else new


def _common(scale: Scale) -> float:
    """Return the common factor of fluxes over the catalogue's; 1 with fewer than two sources, which cannot determine it."""
    return scale.factor if scale.count >= 2 else 1.0


def _applied(scale: Scale, options: EpochOptions) -> tuple[float, str]:
    """Return the factor by which fluxes are divided, and the reason."""
    if scale.count < options.least_references:
        return 1.0, f"{scale.count} reference sources, {options.least_references} are needed: the tables' scale stands"
    departure = scale.factor - 1
    measured = f"{scale.count} reference sources give {scale.factor:.4f} +- {scale.error:.4f}"
    if abs(departure) < options.scale_sigma * scale.error:
        return 1.0, f"{measured}: the tables' scale stands"
    if abs(departure) > options.max_scale_change:
        return 1.0, f"{measured}: more than {options.max_scale_change:g} off, not corrected"
    return scale.factor, f"{measured}: corrected"


def corrected(vis: Visibilities, sums: Comparison, epoch: EpochGains, scale: float, noise: Float | None = None) -> Visibilities:
    """Return `vis` divided by the epoch's gains, its fluxes by `scale`, and its weights by `noise` if given. Lost receptors are flagged.

    Weights are those of the corrected data: without `noise` they are only scaled by the gains. The arrays are new. `vis` may have
    the channels that were compared, or some of them.
    """
    data, flags, weights = vis.data.copy(), vis.flags.copy(), vis.weights.copy()
    correct(replace(vis, data=data, flags=flags, weights=weights), sums, epoch, scale, noise)
    return replace(vis, data=data, flags=flags, weights=weights)


def correct(vis: Visibilities, sums: Comparison, epoch: EpochGains, scale: float, noise: Float | None = None) -> None:
    """Do the same as `corrected`, in place."""
    gains = channel_gains(vis.frequencies_hz, sums, epoch) * np.sqrt(scale)
    power = np.abs(gains) ** 2
    if noise is not None:
        factor = np.stack([_of_channels(np.nan_to_num(noise, nan=1.0)[:, :, p], vis.frequencies_hz, sums) for p in range(2)], axis=-1)
        power = scale / np.broadcast_to(factor, gains.shape)
    power = np.where(epoch.lost[None, :, None], 0, power)
    interval = np.searchsorted(sums.first_time, np.arange(vis.times_mjd.size), side="right") - 1
    _correct(vis.data, vis.flags, vis.weights, vis.ant1, vis.ant2, interval, (1 / gains).astype(np.complex64), power.astype(np.float32))


def channel_gains(frequencies_hz: Float, sums: Comparison, epoch: EpochGains) -> NDArray[np.complex128]:
    """Return the applied gains including delays at frequencies (channel,): (interval, antenna, channel, pol)."""
    logs = np.log(epoch.gains)
    steps = np.diff(logs.imag, axis=2, prepend=logs.imag[:, :, :1])
    logs = logs.real + 1j * np.cumsum((steps + np.pi) % (2 * np.pi) - np.pi, axis=2) + 1j * logs.imag[:, :, :1]
    smooth = np.stack(
        [np.stack([_of_channels(logs[i, :, :, p], frequencies_hz, sums) for p in range(2)], axis=-1) for i in range(logs.shape[0])]
    )
    slope = delays.phasor(epoch.delay_ns, frequencies_hz, float(sums.block_hz.mean())).transpose(0, 2, 1)
    return np.asarray(np.exp(smooth) * slope[None])


def _of_channels(values: NDArray[Any], frequencies_hz: Float, sums: Comparison) -> NDArray[Any]:
    """Interpolate values (antenna, block) linearly between the blocks' centres: (antenna, channel)."""
    x = sums.block_hz
    if x.size == 1:
        return np.repeat(values, frequencies_hz.size, axis=1)
    k = np.clip(np.searchsorted(x, frequencies_hz) - 1, 0, x.size - 2)
    share = np.clip((frequencies_hz - x[k]) / (x[k + 1] - x[k]), 0, 1)
    return np.asarray(values[:, k] * (1 - share) + values[:, k + 1] * share)


@njit(cache=True, parallel=True)
def _correct(data, flags, weights, ant1, ant2, interval, inverse, power):  # type: ignore[no-untyped-def]
    n_times, n_baselines, n_channels, n_pols = data.shape
    for row in prange(n_times * n_baselines):
        t, b = row // n_baselines, row % n_baselines
        i, j, s = ant1[b], ant2[b], interval[t]
        for c in range(n_channels):
            for p in range(n_pols):
                scale = power[s, i, c, p] * power[s, j, c, p]
                if scale > 0:
                    data[t, b, c, p] *= inverse[s, i, c, p] * np.conj(inverse[s, j, c, p])
                    weights[t, b, c, p] *= scale
                else:
                    data[t, b, c, p] = 0
                    weights[t, b, c, p] = 0
                    flags[t, b, c, p] = True
