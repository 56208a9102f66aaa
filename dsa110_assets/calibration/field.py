"""Correct the model of a calibrator and the field around it with the data of its own transit.

A catalogue's fluxes are years old. A source of the field that has flared since biases the gains: antenna gains cannot
distinguish it from the calibrator, and 2 Jy too much beside 8.5 Jy changes amplitudes by several per cent. So the transit is
solved in rounds. Each round solves with the current model, fits the field's fluxes and new sources' positions and spectra to the
corrected data by linear least squares, searches for sources the model lacks, and solves again with the corrected model. An error
shrinks to a fifth per round.

The field's sources together are a second standard: if all of them are wrong by one factor, or displaced by the same shift, then the
calibrator is wrong, not they. A standard's flux is kept; a listed or catalogued calibrator gets the flux that fits the field.
The part of the calibrator's structure that antenna gains cannot absorb shows whether it is resolved.
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
"""Finds sources above a flux [Jy] in residual visibilities: brightest first, with apparent fluxes (attenuated by the beam)."""

MOST_SAMPLES = 1_500_000
"""Most samples a fit uses: with more, fluxes would be better than the gains need."""
LEAST_NEW = 4e-3
"""Sources the model lacks are searched for down to this part of the calibrator's apparent flux."""
SAME_SOURCE_DEG = 60 / 3600
LEAST_LOSS = 1e-2
"""A calibrator counts as resolved if it loses this part of its flux on the longest baseline: less changes no gain by 1 %."""
LEAST_FACTOR, WORST_KNOWN = 1e-2, 0.02
"""A calibrator's flux is corrected to fit the field if it differs by the first, and the field's factor is known to the second."""
LEAST_SHIFT_RAD = float(np.deg2rad(0.5 / 3600))
_SETTLED_SHIFT_RAD = LEAST_SHIFT_RAD / 20


@dataclass(frozen=True)
class ModelCheck:
    """Comparison of a model with the transit that was corrected by that model's gains: the field's sources relative to the calibrator,
    the calibrator's structure, and chi-squared per real part relative to the radiometer equation (NaN without
    autocorrelations).

    unknown_part: root mean square of the sky that the model lacks, over the model's; 0 if not significant, NaN before the last
    look. gain_error: the part of it that gains may have absorbed, see `absorbed_part`.
    """

    group: Group
    shape: Shape
    radiometer_chi2: float
    unknown_part: float = math.nan
    gain_error: float = math.nan


@dataclass(frozen=True)
class Refined:
    """The corrected field, the number of rounds, and the last look at it. `settled`: the last look required no change."""

    field: Field
    rounds: int
    look: ModelCheck
    settled: bool


def refine(vis: Visibilities, sky: SkyModel, known: SkyModel, options: SolveOptions, search: Search | None) -> Refined:
    """Return the corrected field of uncalibrated `vis`, starting from `sky`, which has the calibrator first.

    `known` are the catalogue's sources: a source that `search` finds in the residual is taken from there if listed. There are at
    most `options.field_rounds` rounds, fewer if nothing changes any more. Raises what `solve` raises.
    """
    thin_vis, field = thinned(vis), of_catalogue(sky)
    steady = replace(options, gain_solint_s=np.inf)  # gains hardly change within a transit, and the rounds need no better
    parts, number = Parts(thin_vis, field), 0
    while True:
        corrected = apply(thin_vis, solve(thin_vis, parts.model(field), steady).tables)
        fit_sums = field_fit.equations(corrected, field, parts, options)
        look = _look(fit_sums, field, corrected)
        if number == options.field_rounds:
            return Refined(field, number, _last_look(look, corrected, parts.model(field)), settled=False)
        number += 1
        if (resized := _resized(field, look.shape)) is not None:
            field = resized  # resize first: residuals of a resolved calibrator modelled as a point would be taken for new sources
            continue
        searched = field if search is None else _searched(corrected, field, parts, search, known)
        added = len(searched.sky) > len(field.sky)
        changed = None if added else _calibrator_changed(corrected, field, fit_sums, look, parts, options)
        if changed is not None:
            field = changed
            continue
        if added:
            field, fit_sums = searched, field_fit.equations(corrected, searched, parts, options)
        # fit a new source first: until the gains were solved with it, the catalogue's fluxes seem wrong
        field, differs = field_fit.fit_fluxes(fit_sums, field, look.group, doubt_catalogue=not added)
        if not (differs or added):
            return Refined(field, number, _last_look(look, corrected, parts.model(field)), settled=True)


def _searched(corrected: Visibilities, field: Field, parts: Parts, search: Search, known: SkyModel) -> Field:
    """Return the field with the brightest sources found in its residual of the corrected data."""
    residual = replace(corrected, data=corrected.data - parts.model(field)[..., None])
    anchor_jy = float((field.sky.flux_jy * _mean_beam(corrected, field.sky))[0])
    return _with_new(field, new_sources(residual, LEAST_NEW * anchor_jy, field.sky, search), known)


def _resized(field: Field, shape: Shape) -> Field | None:
    """Return the field with the calibrator's measured size; None if that agrees with the model."""
    if not (shape.significance > SIGNIFICANT_SIGMA and shape.loss > LEAST_LOSS):
        return None
    size = field.size.plus(shape.more)
    return replace(field, size=size) if size != field.size else None


def _look(fit_sums: Equations, field: Field, corrected: Visibilities) -> ModelCheck:
    chi2 = math.nan
    if corrected.is_auto.any() and fit_sums.count:
        residual_energy = (
            fit_sums.energy - 2 * float(fit_sums.whole @ fit_sums.target) + float(fit_sums.whole @ fit_sums.normal @ fit_sums.whole)
        )
        chi2 = residual_energy / fit_sums.count / 2
    return ModelCheck(field_fit.group_of(fit_sums, field), structure.shape(fit_sums.baselines), chi2)


def _last_look(look: ModelCheck, corrected: Visibilities, model: NDArray[np.complex64]) -> ModelCheck:
    """Return the look with the part of the sky that the model lacks."""
    part = unknown_sky(replace(corrected, data=corrected.data - model[..., None]), model)[1]
    return replace(look, unknown_part=part, gain_error=part * absorbed_part(corrected))


def absorbed_part(vis: Visibilities) -> float:
    """Return the part that the gains of the antennas in `vis` may have absorbed of the sky missing from their model, relative to
    that sky's root mean square.

    Gains of n antennas are 2 n - 1 parameters for the n (n - 1) numbers of a sample of all baselines, so they absorb 2 / (n - 1) of
    the power.
    """
    has_data = ~vis.is_auto & ~vis.flags.all(axis=(0, 2, 3))
    antennas = np.unique([vis.ant1[has_data], vis.ant2[has_data]]).size
    return math.sqrt(2 / max(antennas - 1, 2))


def _calibrator_changed(
    vis: Visibilities, field: Field, fit_sums: Equations, look: ModelCheck, parts: Parts, options: SolveOptions
) -> Field | None:
    """Return the field with the calibrator's position corrected, or else its flux; None if both agree with the model."""
    group = look.group
    if not group.known:
        return None
    shift_rad = math.hypot(group.east_rad, group.north_rad)
    already_moved = field.moved_rad != (0.0, 0.0)
    if shift_rad > 0.5 * LEAST_SHIFT_RAD or abs(group.ratio - 1) > WORST_KNOWN:
        variance = fit_sums.solve(np.arange(1))[2] * 2
        east, north = field_fit.coarse_shift(vis, field, parts, options, variance)
        if math.hypot(east, north) > 4 * LEAST_SHIFT_RAD:
            return field.displaced(-east, -north)
    if shift_rad > (_SETTLED_SHIFT_RAD if already_moved else LEAST_SHIFT_RAD) and shift_rad > (
        (1.0 if already_moved else SIGNIFICANT_SIGMA) * group.shift_error_rad
    ):
        return field.displaced(-group.east_rad, -group.north_rad)
    if field.is_standard or group.ratio <= 0 or group.ratio_error > WORST_KNOWN * group.ratio**2:
        return None
    factor, error = 1 / group.ratio, group.ratio_error / group.ratio**2
    if field.rescaled:
        return field.scaled(factor) if abs(factor - 1) > LEAST_CHANGE else None
    if abs(factor - 1) <= max(LEAST_FACTOR, SIGNIFICANT_SIGMA * error):
        return None
    # a source that changed by more than the calibrator biases the gains, and with them all other sources
    return field.scaled(factor) if abs(factor - 1) > field_fit.departures(fit_sums, group)[1] else None


def new_sources(residual: Visibilities, least_jy: float, sky: SkyModel, search: Search) -> SkyModel:
    """Return sources in a residual that `sky` lacks, brightest first, down to the apparent flux `least_jy`. Their spectral indices are
    those that `search` gives; their fluxes are corrected for the primary beam.

    Each source is subtracted before the next is searched for, so that its sidelobes are not taken for sources. The part of it that
    the gains absorbed (`absorbed_part`) cannot be subtracted. By the Cauchy-Schwarz inequality, no peak of that is higher than this
    part of the brightest source, so the search ends there. It also ends at a source of `sky`, whose flux the fit must correct first.
    """
    new = sky.select(np.empty(0, np.intp))
    while len(peaks := search(residual, least_jy)):
        peak = peaks.select([0])
        if _nearest(peak, sky_model.concat(sky, new))[1] < SAME_SOURCE_DEG:
            break
        least_jy = max(least_jy, float(peak.flux_jy[0]) * (0 if len(new) else absorbed_part(residual)))
        peak = replace(peak, flux_jy=peak.flux_jy / _mean_beam(residual, peak))
        new = sky_model.concat(new, peak)
        residual = replace(residual, data=residual.data - predict(residual, peak)[..., None])
    return new


def _with_new(field: Field, found: SkyModel, known: SkyModel) -> Field:
    """Return the field with the sources found in its residual: from the catalogue where that has them, else as new sources."""
    for k in range(len(found)):
        source = found.select([k])
        index, distance_deg = _nearest(source, known)
        listed = distance_deg < SAME_SOURCE_DEG / 2
        added = known.select([index]) if listed else source
        catalogue_jy = float(added.flux_jy[0]) if listed else 0.0
        added = replace(added, flux_jy=source.flux_jy, log_coefficients=0 * added.log_coefficients)
        field = Field(
            sky_model.concat(field.sky, added),
            np.append(field.fitted, True),
            np.append(field.moves, not listed),
            np.append(field.before_jy, catalogue_jy),
            np.append(field.sigma_jy, 0.0),
        )
    return field


def _nearest(source: SkyModel, others: SkyModel) -> tuple[int, float]:
    """Return index and distance [deg] of the nearest of `others`; 0 and infinity if there are none."""
    if not len(others):
        return 0, float("inf")
    distance_deg = astrometry.separation_deg(source.ra_rad[0], source.dec_rad[0], others.ra_rad, others.dec_rad)
    return int(np.argmin(distance_deg)), float(np.min(distance_deg))


def _mean_beam(vis: Visibilities, sky: SkyModel) -> Float:
    """Return the primary beam on each source, averaged over the integrations, (n,)."""
    response: Float = beam_on(vis, np.rad2deg(sky.ra_rad), np.rad2deg(sky.dec_rad)).mean(axis=0)
    return response


def beam_on(vis: Visibilities, ra_deg: Float, dec_deg: Float) -> Float:
    """Return the primary beam at the band centre on ICRS directions [deg] (n,) during each integration, (time, n)."""
    ra, dec = astrometry.icrs_to_apparent_rad(np.deg2rad(ra_deg), np.deg2rad(dec_deg), vis.times_mjd[:, None])
    zenith_ra = astrometry.apparent_lst_rad(vis.times_mjd)[:, None]
    away_deg = astrometry.separation_deg(zenith_ra, vis.pointing_dec_rad, ra, dec)
    return beam.power(away_deg, vis.frequencies_hz.mean())


def thinned(vis: Visibilities) -> Visibilities:
    """Return every nth channel, so that at most MOST_SAMPLES are left; the channels keep their width."""
    step = -(-vis.data.size // MOST_SAMPLES)
    if step <= 1:
        return vis
    data = np.empty((*vis.data.shape[:2], -(-vis.data.shape[2] // step), vis.data.shape[3]), np.complex64)
    for t, integration in enumerate(vis.data):
        data[t] = integration[:, ::step]
        ms_columns.release_pages(integration)
    return replace(
        vis,
        data=data,
        flags=np.ascontiguousarray(vis.flags[:, :, ::step]),
        weights=np.ascontiguousarray(vis.weights[:, :, ::step]),
        frequencies_hz=vis.frequencies_hz[::step].copy(),
    )


def at_times(vis: Visibilities, keep: slice | NDArray[np.bool_] | list[int]) -> Visibilities:
    """Return the integrations of `vis` that `keep` (time,) selects; views for a slice."""
    return replace(
        vis,
        data=vis.data[keep],
        flags=vis.flags[keep],
        weights=vis.weights[keep],
        times_mjd=vis.times_mjd[keep],
        uvw_m=vis.uvw_m[keep],
        phase_centres_rad=vis.phase_centres_rad[keep],
    )
