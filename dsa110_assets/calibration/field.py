"""The field around a calibrator, and the calibrator itself, corrected by what their own transit shows of them.

A catalogue's fluxes are years old. A source of the field that has flared since pulls the gains: antennas cannot
tell it from the calibrator, and 2 Jy too much beside 8.5 Jy move amplitudes by several per cent. So the transit is
solved in rounds: solve with the model there is, fit the field's fluxes, and new sources' places and spectra, to the corrected
data by linear least squares, look for sources the model lacks, and solve again with the corrected model. An error shrinks to
a fifth per round.

The field's sources together are a second standard: where all of them are wrong by one factor, or displaced alike, the
calibrator is, and not they. A standard's flux stays; a listed or catalogued calibrator is given the field's. What antennas
cannot absorb of the calibrator tells whether it is resolved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration import field_fit, structure
from dsa110_assets.calibration.apply import apply
from dsa110_assets.calibration.field_fit import LEAST_CHANGE, SIGNIFICANT_SIGMA, Equations
from dsa110_assets.calibration.field_model import Field, Parts, of_catalogue
from dsa110_assets.calibration.field_scale import unknown_sky
from dsa110_assets.calibration.group import Group
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.solve import solve
from dsa110_assets.calibration.structure import Shape
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, beam
from dsa110_assets.visibilities import ms_columns
from dsa110_assets.visibilities.predict import predict
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]
Search = Callable[[Visibilities, float], SkyModel]
"""Finds sources above a flux [Jy] in residual visibilities: brightest first, at their apparent (dimmed) fluxes."""

MOST_SAMPLES = 1_500_000
"""Samples that fits are made on; more would know the fluxes no better than the gains need them."""
LEAST_NEW = 4e-3
"""Sources the model lacks are looked for down to this part of the calibrator's apparent flux."""
SAME_SOURCE_DEG = 60 / 3600
LEAST_LOSS = 1e-2
"""A calibrator is resolved if that takes as much of it on the longest baseline: less moves no gain by a hundredth."""
LEAST_FACTOR, WORST_KNOWN = 1e-2, 0.02
"""A calibrator's flux is the field's from such a difference on, where the field's is known to so much."""
LEAST_SHIFT_RAD = float(np.deg2rad(0.5 / 3600))
_SETTLED_SHIFT_RAD = LEAST_SHIFT_RAD / 20


@dataclass(frozen=True)
class Look:
    """What a transit, corrected by the gains of a model, shows of that model: the field's sources against the calibrator,
    the calibrator's structure, and chi-squared per real part against the radiometer equation (NaN without
    autocorrelations).

    unknown_part: root mean square of the sky that the model lacks, over the model's, 0 if none is significant, NaN before the last
    look; gain_error: what of it gains may have taken up, see `absorbed_part`.
    """

    group: Group
    shape: Shape
    radiometer_chi2: float
    unknown_part: float = math.nan
    gain_error: float = math.nan


@dataclass(frozen=True)
class Refined:
    """The field found, the rounds it took, and the last look at it. `settled`: it said that nothing is to be changed."""

    field: Field
    rounds: int
    look: Look
    settled: bool


def refine(vis: Visibilities, sky: SkyModel, known: SkyModel, options: SolveOptions, search: Search | None) -> Refined:
    """The field of uncalibrated `vis`, starting from `sky` with the calibrator first.

    `known` are the catalogue's sources: one that `search` finds in the residual is taken from there, if there. At
    most `options.field_rounds` rounds, fewer once nothing changes. Raises what `solve` raises.
    """
    thin, field = thinned(vis), of_catalogue(sky)
    steady = replace(options, gain_solint_s=np.inf)  # gains hardly turn within a transit, and the rounds need no more
    parts, number = Parts(thin, field), 0
    while True:
        corrected = apply(thin, solve(thin, parts.model(field), steady).tables)
        found = field_fit.equations(corrected, field, parts, options)
        look = _look(found, field, corrected)
        if number == options.field_rounds:
            return Refined(field, number, _last_look(look, corrected, parts.model(field)), settled=False)
        number += 1
        if (resized := _resized(field, look.shape)) is not None:
            field = resized  # first of all: what a point leaves of it would be taken for new sources
            continue
        seen = field if search is None else _searched(corrected, field, parts, search, known)
        added = len(seen.sky) > len(field.sky)
        changed = None if added else _calibrator_changed(corrected, field, found, look, parts, options)
        if changed is not None:
            field = changed
            continue
        if added:
            field, found = seen, field_fit.equations(corrected, seen, parts, options)
        # a source just found is fitted first: until it is in the gains, the catalogue's fluxes seem to be wrong
        field, differs = field_fit.fit_fluxes(found, field, look.group, doubt_catalogue=not added)
        if not (differs or added):
            return Refined(field, number, _last_look(look, corrected, parts.model(field)), settled=True)


def _searched(corrected: Visibilities, field: Field, parts: Parts, search: Search, known: SkyModel) -> Field:
    """The field and the brightest sources found in what it leaves of corrected data."""
    residual = replace(corrected, data=corrected.data - parts.model(field)[..., None])
    anchor_jy = float((field.sky.flux_jy * _mean_beam(corrected, field.sky))[0])
    return _with_new(field, new_sources(residual, LEAST_NEW * anchor_jy, field.sky, search), known)


def _resized(field: Field, shape: Shape) -> Field | None:
    """The field with the calibrator's size as it was seen; None if it is as modelled."""
    if not (shape.significance > SIGNIFICANT_SIGMA and shape.loss > LEAST_LOSS):
        return None
    size = field.size.plus(shape.more)
    return replace(field, size=size) if size != field.size else None


def _look(found: Equations, field: Field, corrected: Visibilities) -> Look:
    chi2 = math.nan
    if corrected.is_auto.any() and found.count:
        left = found.energy - 2 * float(found.whole @ found.target) + float(found.whole @ found.normal @ found.whole)
        chi2 = left / found.count / 2
    return Look(field_fit.group_of(found, field), structure.shape(found.baselines), chi2)


def _last_look(look: Look, corrected: Visibilities, model: NDArray[np.complex64]) -> Look:
    """The look with what is left of a sky that the model lacks."""
    part = unknown_sky(replace(corrected, data=corrected.data - model[..., None]), model)[1]
    return replace(look, unknown_part=part, gain_error=part * absorbed_part(corrected))


def absorbed_part(vis: Visibilities) -> float:
    """What the gains of the antennas in `vis` may have taken up of a sky that the model they were fitted to lacks, as part of its
    root mean square.

    Those of n antennas are 2 n - 1 of the n (n - 1) numbers of a sample of all baselines, so that they take up 2 / (n - 1) of the power.
    """
    seen = ~vis.is_auto & ~vis.flags.all(axis=(0, 2, 3))
    antennas = np.unique([vis.ant1[seen], vis.ant2[seen]]).size
    return math.sqrt(2 / max(antennas - 1, 2))


def _calibrator_changed(vis: Visibilities, field: Field, found: Equations, look: Look, parts: Parts, options: SolveOptions) -> Field | None:
    """The field with the calibrator's place or flux corrected, in this order; None if it is as modelled."""
    group = look.group
    if not group.known:
        return None
    away_rad = math.hypot(group.east_rad, group.north_rad)
    moved = field.moved_rad != (0.0, 0.0)
    if away_rad > 0.5 * LEAST_SHIFT_RAD or abs(group.ratio - 1) > WORST_KNOWN:
        variance = found.solve(np.arange(1))[2] * 2
        east, north = field_fit.coarse_shift(vis, field, parts, options, variance)
        if math.hypot(east, north) > 4 * LEAST_SHIFT_RAD:
            return field.displaced(-east, -north)
    if away_rad > (_SETTLED_SHIFT_RAD if moved else LEAST_SHIFT_RAD) and away_rad > (
        (1.0 if moved else SIGNIFICANT_SIGMA) * group.shift_error_rad
    ):
        return field.displaced(-group.east_rad, -group.north_rad)
    if field.is_standard or group.ratio <= 0 or group.ratio_error > WORST_KNOWN * group.ratio**2:
        return None
    factor, error = 1 / group.ratio, group.ratio_error / group.ratio**2
    if field.rescaled:
        return field.scaled(factor) if abs(factor - 1) > LEAST_CHANGE else None
    if abs(factor - 1) <= max(LEAST_FACTOR, SIGNIFICANT_SIGMA * error):
        return None
    # a source that has changed by more than that bends the gains, and with them all the others
    return field.scaled(factor) if abs(factor - 1) > field_fit.departures(found, group)[1] else None


def new_sources(residual: Visibilities, least_jy: float, sky: SkyModel, search: Search) -> SkyModel:
    """Sources in a residual that `sky` lacks, brightest first, down to an apparent flux: of `search`'s indices, at their own fluxes.

    Each is taken out before the next is looked for, so that its sidelobes are not taken for sources. What cannot be taken out is
    what the gains made of it (`absorbed_part`). By Cauchy and Schwarz no peak of that is higher than this part of the highest
    source, where the search ends; and at a source of `sky`, which is for the fit to put right first.
    """
    found = sky.select(np.empty(0, np.intp))
    while len(peaks := search(residual, least_jy)):
        one = peaks.select([0])
        if _nearest(one, sky_model.concat(sky, found))[1] < SAME_SOURCE_DEG:
            break
        least_jy = max(least_jy, float(one.flux_jy[0]) * (0 if len(found) else absorbed_part(residual)))
        one = replace(one, flux_jy=one.flux_jy / _mean_beam(residual, one))
        found = sky_model.concat(found, one)
        residual = replace(residual, data=residual.data - predict(residual, one)[..., None])
    return found


def _with_new(field: Field, found: SkyModel, known: SkyModel) -> Field:
    """The field and sources found in its residual: from the catalogue where that has them, else as new."""
    for k in range(len(found)):
        one = found.select([k])
        index, away_deg = _nearest(one, known)
        listed = away_deg < SAME_SOURCE_DEG / 2
        added = known.select([index]) if listed else one
        before = float(added.flux_jy[0]) if listed else 0.0
        added = replace(added, flux_jy=one.flux_jy, log_coefficients=0 * added.log_coefficients)
        field = Field(
            sky_model.concat(field.sky, added),
            np.append(field.fitted, True),
            np.append(field.moves, not listed),
            np.append(field.before_jy, before),
            np.append(field.sigma_jy, 0.0),
        )
    return field


def _nearest(one: SkyModel, others: SkyModel) -> tuple[int, float]:
    """Index and distance [deg] of the nearest of `others`; infinitely far if there are none."""
    if not len(others):
        return 0, float("inf")
    away = astrometry.separation_deg(one.ra_rad[0], one.dec_rad[0], others.ra_rad, others.dec_rad)
    return int(np.argmin(away)), float(np.min(away))


def _mean_beam(vis: Visibilities, sky: SkyModel) -> Float:
    """Primary beam on each source, the mean over the integrations, (n,)."""
    response: Float = beam_on(vis, np.rad2deg(sky.ra_rad), np.rad2deg(sky.dec_rad)).mean(axis=0)
    return response


def beam_on(vis: Visibilities, ra_deg: Float, dec_deg: Float) -> Float:
    """Primary beam at the band centre on ICRS directions [deg] (n,) during each integration, (time, n)."""
    ra, dec = astrometry.icrs_to_apparent_rad(np.deg2rad(ra_deg), np.deg2rad(dec_deg), vis.times_mjd[:, None])
    zenith_ra = astrometry.apparent_lst_rad(vis.times_mjd)[:, None]
    away_deg = astrometry.separation_deg(zenith_ra, vis.pointing_dec_rad, ra, dec)
    return beam.power(away_deg, vis.frequencies_hz.mean())


def thinned(vis: Visibilities) -> Visibilities:
    """Every so many-th channel, that no more than MOST_SAMPLES are left; the channels keep their own width."""
    step = -(-vis.data.size // MOST_SAMPLES)
    if step <= 1:
        return vis
    data = np.empty((*vis.data.shape[:2], -(-vis.data.shape[2] // step), vis.data.shape[3]), np.complex64)
    for t, seen in enumerate(vis.data):
        data[t] = seen[:, ::step]
        ms_columns.forget(seen)
    return replace(
        vis,
        data=data,
        flags=np.ascontiguousarray(vis.flags[:, :, ::step]),
        weights=np.ascontiguousarray(vis.weights[:, :, ::step]),
        frequencies_hz=vis.frequencies_hz[::step].copy(),
    )


def at_times(vis: Visibilities, keep: slice | NDArray[np.bool_] | list[int]) -> Visibilities:
    """The integrations of `vis` that `keep` (time,) picks; views for a slice."""
    return replace(
        vis,
        data=vis.data[keep],
        flags=vis.flags[keep],
        weights=vis.weights[keep],
        times_mjd=vis.times_mjd[keep],
        uvw_m=vis.uvw_m[keep],
        phase_centres_rad=vis.phase_centres_rad[keep],
    )
