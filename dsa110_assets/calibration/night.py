"""Calibrate on one calibrator transit: from flagged visibilities and a sky model to solutions and their figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dsa110_assets.calibration import field, quality, receptors
from dsa110_assets.calibration import solve as own_engine
from dsa110_assets.calibration.field import SAME_SOURCE_DEG, Refined, Search, at_times, beam_on
from dsa110_assets.calibration.field_model import predicted, prediction
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.solve import Solution
from dsa110_assets.calibration.transits import Transit
from dsa110_assets.errors import BadDataError
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.calibrators import Calibrator
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities.types import Visibilities

Engine = Callable[..., Solution]
_ARCSEC = math.degrees(1) * 3600


def calibrate_transit(
    vis: Visibilities,
    sky: SkyModel,
    transit: Transit,
    options: SolveOptions,
    engine: Engine | None = None,
    search: Search | None = None,
) -> Solution:
    """Solve the calibrator transit in flagged visibilities `vis`, with the sources of `sky` in its field.

    Integrations with less than `options.min_primary_beam` on the calibrator are left out. The field's fluxes, and the
    calibrator's size, position and, unless it is a standard, flux are first corrected with the transit itself (`field.refine`;
    `search` finds sources that `sky` lacks). The model is predicted per integration in the frame of `vis`, at full
    resolution. Added to the report are the flux anchor, whether it is provisional (a variable source whose flux was not set to fit
    the field), the integrations used, the fitted field and calibrator (`calibrator_figures`),
    `system_jy` (`receptors.system_jy`), and all figures of `quality.assess`. `engine(vis, model, options, field_name=...)` solves
    instead of our own engine, if given.
    Raises BadDataError if no integration qualifies, and ConfigurationError for a calibrator without a flux.
    """
    calibrator = transit.calibrator
    response = beam_on(vis, np.array([calibrator.ra_deg]), np.array([calibrator.dec_deg]))[:, 0]
    inside = np.flatnonzero(response >= options.min_primary_beam)
    if not inside.size:
        raise BadDataError(
            f"{calibrator.name} is never within {options.min_primary_beam:.0%} of the beam in these data "
            f"(transit at MJD {transit.mjd:.4f}, data {vis.times_mjd[0]:.4f} to {vis.times_mjd[-1]:.4f})"
        )
    # a source drifts through the beam once, so the integrations inside are contiguous
    used = at_times(vis, slice(int(inside[0]), int(inside[-1]) + 1))
    refined = field.refine(used, field_of(used, calibrator, sky, options.model_sources), sky, options, search)
    fitted_field = refined.field
    sums = own_engine.sums_for(used, prediction(used, fitted_field), options)
    name = calibrator.alias or calibrator.name
    if engine is None:
        solution = own_engine.solve_sums(used, sums, options, field_name=name)
    else:
        solution = engine(used, predicted(used, fitted_field), options, field_name=name)
    figures = quality.assess(solution, used, sums)
    report = {
        **solution.report,
        **figures,
        "calibrator": calibrator.name,
        "calibrator_ra_deg": calibrator.ra_deg,
        "calibrator_dec_deg": calibrator.dec_deg,
        "anchor": anchor_of(calibrator, refined),
        "anchor_provisional": calibrator.variable and not fitted_field.rescaled,
        "transit_mjd": transit.mjd,
        "mid_mjd": used.mid_mjd,
        "integrations_used": int(used.times_mjd.size),
        "field_rounds": refined.rounds,
        "field_settled": refined.settled,
        "field_changed": len(fitted_field.changes),
        "field_new": int(fitted_field.moves.sum()),
        "field_changes": fitted_field.changes,
        **calibrator_figures(refined),
        "system_jy": receptors.system_jy(used, solution.tables),
        "antennas": [vis.antennas.names[a] for a in vis.active_antennas],
    }
    return replace(solution, report=report)


def anchor_of(calibrator: Calibrator, refined: Refined) -> str:
    """Return what the flux scale rests on: the calibrator, or the field's sources if its flux was set to fit them."""
    if not refined.field.rescaled:
        return calibrator.anchor
    measured = f"{calibrator.anchor} measured {refined.field.factor:.3f} of its listed flux"
    return f"field of {refined.look.group.count} catalogue sources; {measured}"


def calibrator_figures(refined: Refined) -> dict[str, float]:
    """Return the fitted properties of the calibrator, NaN where the data cannot determine them.

    field_group_count: number of the field's sources that are compared; field_flux_ratio +- _error: their flux, calibrated with the
    tables, over the catalogue's; calibrator_flux_factor: the calibrator's flux over its listed flux, according to them.
    calibrator_offset_*_arcsec: its modelled position minus the listed one; field_offset_arcsec: the remaining common shift of the
    field. calibrator_components: number of components of its known structure, 1 for a point. calibrator_major_arcsec, _minor_arcsec,
    _pa_deg: FWHM by which it, or each component, is modelled broader than that, 0 for none. closure_amplitude_excess,
    closure_phase_excess_deg, closure_reduced_chi2: see `structure.Shape`; radiometer_chi2, unknown_part and
    unknown_gain_error: see `field.ModelCheck`.
    """
    fitted_field, group, shape = refined.field, refined.look.group, refined.look.shape
    major, minor, position_deg = fitted_field.size.axes_arcsec
    ratio = group.ratio if group.ratio > 0 else math.nan
    return {
        "field_group_count": group.count,
        "field_flux_ratio": group.ratio,
        "field_flux_ratio_error": group.ratio_error,
        "field_offset_arcsec": math.hypot(group.east_rad, group.north_rad) * _ARCSEC,
        "field_offset_error_arcsec": group.shift_error_rad * _ARCSEC,
        "calibrator_flux_factor": fitted_field.factor / ratio,
        "calibrator_flux_factor_error": fitted_field.factor * group.ratio_error / ratio**2,
        "calibrator_flux_set": fitted_field.rescaled,
        "calibrator_offset_ra_arcsec": fitted_field.moved_rad[0] * _ARCSEC if group.known else math.nan,
        "calibrator_offset_dec_arcsec": fitted_field.moved_rad[1] * _ARCSEC if group.known else math.nan,
        "calibrator_components": fitted_field.components,
        "calibrator_major_arcsec": major,
        "calibrator_minor_arcsec": minor,
        "calibrator_pa_deg": position_deg,
        "closure_amplitude_excess": shape.amplitude_excess,
        "closure_phase_excess_deg": math.degrees(shape.phase_excess_rad),
        "closure_reduced_chi2": shape.reduced_chi2,
        "radiometer_chi2": refined.look.radiometer_chi2,
        "unknown_part": refined.look.unknown_part,
        "unknown_gain_error": refined.look.gain_error,
    }


def field_of(vis: Visibilities, calibrator: Calibrator, sky: SkyModel, n_sources: int) -> SkyModel:
    """Return the calibrator with its listed flux, and the `n_sources` of `sky` that are brightest through the beam.

    Catalogue sources within an arcmin of the calibrator are the calibrator itself, and its listed flux replaces theirs.
    """
    calibrator_model = sky_model.from_calibrator(calibrator)
    if not len(sky) or not n_sources:
        return calibrator_model
    away_deg = astrometry.separation_deg(calibrator_model.ra_rad, calibrator_model.dec_rad, sky.ra_rad, sky.dec_rad)
    middle = vis.times_mjd.size // 2
    response = beam_on(at_times(vis, [0, middle, -1]), np.rad2deg(sky.ra_rad), np.rad2deg(sky.dec_rad))
    apparent_jy = sky.flux_at(vis.frequencies_hz.mean())[:, 0] * response.mean(axis=0)
    apparent_jy[away_deg < SAME_SOURCE_DEG] = 0
    brightest = np.argsort(-apparent_jy, kind="stable")[:n_sources]
    return sky_model.concat(calibrator_model, sky.select(brightest[apparent_jy[brightest] > 0]))
