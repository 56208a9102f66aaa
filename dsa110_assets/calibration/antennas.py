"""Every antenna of an observation against the sky it must have seen: what is corrected, flagged, weighed anew, and told.

Tables are as old as their calibrator's transit. So the calibrated observation is compared with its field's predicted
visibilities, antenna by antenna: gains that changed and delays that jumped are corrected (`epoch`), receptors that see no
sky are flagged, weights are what the data scatter by once the model is taken out (`scatter`), and the flux scale is that of
the field's reference sources where they say so together (`field_scale`).
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
"""A source's flux in the model is replaced where it differs from what the field says by so many sigma and so large a part."""
_SETTLED = 0.01
_DOMINANT = 0.5
_LEAST_MOVE = 2e-3
"""Of the brightest source: by what new sources' fluxes move below this part of it, gains move by less."""
_FAINTEST = 16.0
"""New sources are looked for down to this part of the root mean square of what is left: that of 256 alike."""
_LEAST_PART, _LEAST_REST = 0.02, 0.005
"""Sources the model lacks are looked for where they have so much of the model's root mean square; once there is one, down to
the second: what is left of a sky that is hardly known feigns gains."""


@dataclass(frozen=True)
class Observed:
    """What an observation's antennas were found to be.

    epoch: their gains; noise (antenna, block, pol): see `scatter.noise_factors`; scale: fluxes over the reference sources', and
    scale_applied, by which they are divided (1: left); sky: the field's model as it was found; changed_sources, new_sources:
    numbers of those that are not as the catalogue says. references_needed: to move the scale. sums: what it rests on, for block and
    interval bounds.
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
    """The `n_sources` of `sky` that are brightest through the primary beam during `vis`, brightest first."""
    if not len(sky):
        return sky
    middle = vis.times_mjd.size // 2
    response = beam_on(at_times(vis, [0, middle, -1]), np.rad2deg(sky.ra_rad), np.rad2deg(sky.dec_rad)).mean(axis=0)
    apparent_jy = sky.flux_at(vis.frequencies_hz.mean())[:, 0] * response
    order = np.argsort(-apparent_jy, kind="stable")[:n_sources]
    return sky.select(order[apparent_jy[order] > 0])


def observe(vis: Visibilities, sky: SkyModel, options: EpochOptions, search: Search | None = None) -> Observed:
    """Compare calibrated `vis` [Jy] with `sky`; `search` finds what `sky` lacks.

    The model is put right in rounds: a source whose flux is not what the others say it should be, or that the model lacks,
    would turn antennas that are well. At most twelve rounds; most observations need one. If the model still lacks much of the
    sky then, nothing is said of antennas; and without references, as for the flux scale, nothing of where the sky is.
    """
    field = field_model(vis, sky, options.model_sources)
    listed_jy = field.flux_jy  # new sources come first: they are fitted, but no reference
    part, n_new, references = 0.0, 0, len(field)
    for _ in range(_ROUNDS):
        sums = compare(vis, field)
        epoch = solve_epoch(sums, options)
        if references < options.least_references:
            epoch = epoch.without_shift(vis.antennas.relative_m)
        thin = corrected(field_scale.thinned(vis), sums, epoch, 1.0)
        n_fitted = min(N_FITTED + n_new, len(field))
        fitted = field_scale.fitted_fluxes(thin, field, n_fitted, n_new)
        over_listed = field.flux_jy[n_new:n_fitted] / listed_jy[: n_fitted - n_new]
        scale = field_scale.field_scale(fitted.factors[n_new:] * over_listed, fitted.errors[n_new:] * over_listed)
        better, part = _improved(thin, field, listed_jy, fitted, scale, options, search)
        references = scale.count
        if better is None:
            break
        field, n_new = better, len(better) - listed_jy.size
    if part > _LEAST_PART:
        epoch = epoch.unjudged()
    applied, reason = _applied(scale, options) if epoch.judged else (1.0, "the field says nothing: the tables' scale stands")
    noise = noise_factors(sums, epoch)
    if not epoch.judged:
        noise = np.where(np.isfinite(noise), 1.0, np.nan)  # what a wrong model leaves is no noise
    return Observed(
        epoch, noise, scale, applied, reason, field, int(np.sum(field.flux_jy[n_new:] != listed_jy)), n_new,
        options.least_references, sums,
    )  # fmt: skip


def _improved(
    thin: Visibilities, field: SkyModel, listed_jy: Float, fitted: Fitted, scale: Scale, options: EpochOptions, search: Search | None
) -> tuple[SkyModel | None, float]:
    """The field, new sources first, put right by one round's fit; None if it stays as it is. And the part of the model's root mean
    square that a sky beyond it has, 0 if what is left is of no sources."""
    n_new = len(fitted.new)
    residual, unknown_jy, part = _residual(thin, _as_fitted(field, fitted))
    listed, new = field.select(np.arange(n_new, len(field))), _in_scale(fitted, scale, options)
    if search is not None and part > (_LEAST_REST if n_new else _LEAST_PART):
        found = new_sources(residual, unknown_jy / _FAINTEST, sky_model.concat(new, listed), search)
        if len(found):
            # it is fitted first: until it is in the gains, the catalogue's fluxes seem to be wrong
            return sky_model.concat(found, new, listed), part
    better = _with_fluxes(listed, listed_jy, fitted.factors[n_new:], fitted.errors[n_new:], scale)
    if better is listed and not np.any(fitted.moved > _LEAST_MOVE):
        return None, 0.0
    return sky_model.concat(new, better), part


def _with_fluxes(field: SkyModel, listed_jy: Float, factors: Float, errors: Float, scale: Scale) -> SkyModel:
    """The field with fluxes of sources that clearly are not what all say together; itself if there are none.

    Of these only the ones that change by half as much as the most changed one does: one wrong flux turns antennas, which
    feigns small changes all over the field; they are gone when it is right. What is not the catalogue's any more is
    followed until it hardly changes.
    """
    common = _common(scale)
    ratio = factors / common
    free = field.flux_jy[: ratio.size] != listed_jy[: ratio.size]
    least = np.where(free, _SETTLED, _LEAST_CHANGE if scale.count >= 2 else np.inf)
    with np.errstate(invalid="ignore"):
        sigma = np.hypot(errors / common, np.nan_to_num(scale.error))
        off = (np.abs(ratio - 1) > np.maximum(np.where(free, 1.0, _SIGNIFICANT) * sigma, least)) & np.isfinite(ratio)
        moved = np.where(off, np.abs(ratio - 1) / errors, 0)  # in sigma, which are about the same flux for all
    off &= free | (moved >= _DOMINANT * moved.max(initial=0.0))
    if not off.any():
        return field
    index = np.flatnonzero(off)
    return _with_factors(field, index, ratio[index])


def _residual(thin: Visibilities, field: SkyModel) -> tuple[Visibilities, float, float]:
    """What is left without the model, the root mean square [Jy] of the sky in it, 0 if that is not significant, and that as part of
    the model's."""
    model = predict(thin, field)
    residual = replace(thin, data=thin.data - model[..., None])
    return residual, *field_scale.unknown_sky(residual, model)


def _as_fitted(field: SkyModel, fitted: Fitted) -> SkyModel:
    """The field with all that was fitted put in, be it believed or not: what is left then is of other sources."""
    n_new, n_fitted = len(fitted.new), fitted.factors.size
    factors = np.nan_to_num(fitted.factors[n_new:], nan=1.0)
    listed = _with_factors(field, np.arange(n_new, n_fitted), factors)
    return sky_model.concat(fitted.new, listed.select(np.arange(n_new, len(field))))


def _with_factors(field: SkyModel, index: NDArray[np.intp], factors: Float) -> SkyModel:
    """The field with fluxes of some of its sources multiplied."""
    flux, log, factors = field.flux_jy.copy(), field.log_coefficients.copy(), np.maximum(factors, 1e-3)
    flux[index] *= factors
    standard = np.any(log[index] != 0, axis=1)
    log[index[standard], 0] += np.log10(factors[standard])
    return replace(field, flux_jy=flux, log_coefficients=log)


def _in_scale(fitted: Fitted, scale: Scale, options: EpochOptions) -> SkyModel:
    """New sources that are more than noise, as fitted, in the scale of the known ones where that clearly is not the tables'."""
    clear = fitted.factors[: len(fitted.new)] > _SIGNIFICANT * fitted.errors[: len(fitted.new)]
    new = fitted.new.select(clear)
    common = _common(scale)
    return replace(new, flux_jy=new.flux_jy / common) if abs(common - 1) > options.scale_sigma * scale.error else new


def _common(scale: Scale) -> float:
    """What fluxes differ by from the catalogue's in common; one source alone says nothing of it."""
    return scale.factor if scale.count >= 2 else 1.0


def _applied(scale: Scale, options: EpochOptions) -> tuple[float, str]:
    """By what fluxes are divided, and why."""
    if scale.count < options.least_references:
        return 1.0, f"{scale.count} reference sources, {options.least_references} are needed: the tables' scale stands"
    off = scale.factor - 1
    told = f"{scale.count} reference sources say {scale.factor:.4f} +- {scale.error:.4f}"
    if abs(off) < options.scale_sigma * scale.error:
        return 1.0, f"{told}: the tables' scale stands"
    if abs(off) > options.max_scale_change:
        return 1.0, f"{told}: more than {options.max_scale_change:g} off, not corrected"
    return scale.factor, f"{told}: corrected"


def corrected(vis: Visibilities, sums: Comparison, epoch: EpochGains, scale: float, noise: Float | None = None) -> Visibilities:
    """`vis` divided by the epoch's gains, its fluxes by `scale`; weights by `noise`, if given. Lost receptors are flagged.

    Weights are of the corrected data: without `noise` they are what gains make of them. New arrays, of the same channels
    or some of those that were compared.
    """
    data, flags, weights = vis.data.copy(), vis.flags.copy(), vis.weights.copy()
    correct(replace(vis, data=data, flags=flags, weights=weights), sums, epoch, scale, noise)
    return replace(vis, data=data, flags=flags, weights=weights)


def correct(vis: Visibilities, sums: Comparison, epoch: EpochGains, scale: float, noise: Float | None = None) -> None:
    """`corrected`, in place."""
    gains = channel_gains(vis.frequencies_hz, sums, epoch) * np.sqrt(scale)
    power = np.abs(gains) ** 2
    if noise is not None:
        factor = np.stack([_of_channels(np.nan_to_num(noise, nan=1.0)[:, :, p], vis.frequencies_hz, sums) for p in range(2)], axis=-1)
        power = scale / np.broadcast_to(factor, gains.shape)
    power = np.where(epoch.lost[None, :, None], 0, power)
    interval = np.searchsorted(sums.first_time, np.arange(vis.times_mjd.size), side="right") - 1
    _correct(vis.data, vis.flags, vis.weights, vis.ant1, vis.ant2, interval, (1 / gains).astype(np.complex64), power.astype(np.float32))


def channel_gains(frequencies_hz: Float, sums: Comparison, epoch: EpochGains) -> NDArray[np.complex128]:
    """What is applied, delays and all, at frequencies (channel,): (interval, antenna, channel, pol)."""
    logs = np.log(epoch.gains)
    steps = np.diff(logs.imag, axis=2, prepend=logs.imag[:, :, :1])
    logs = logs.real + 1j * np.cumsum((steps + np.pi) % (2 * np.pi) - np.pi, axis=2) + 1j * logs.imag[:, :, :1]
    smooth = np.stack(
        [np.stack([_of_channels(logs[i, :, :, p], frequencies_hz, sums) for p in range(2)], axis=-1) for i in range(logs.shape[0])]
    )
    slope = delays.phasor(epoch.delay_ns, frequencies_hz, float(sums.block_hz.mean())).transpose(0, 2, 1)
    return np.asarray(np.exp(smooth) * slope[None])


def _of_channels(values: NDArray[Any], frequencies_hz: Float, sums: Comparison) -> NDArray[Any]:
    """(antenna, block) at channels, linearly between the blocks' middles: (antenna, channel)."""
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
