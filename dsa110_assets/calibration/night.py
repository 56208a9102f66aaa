"""One calibrator transit, from flagged visibilities and a sky to solutions with their figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration import quality
from dsa110_assets.calibration import solve as own_engine
from dsa110_assets.calibration.apply import apply
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.solve import Solution
from dsa110_assets.calibration.transits import Transit
from dsa110_assets.errors import BadDataError
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.calibrators import Calibrator
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, beam
from dsa110_assets.visibilities.predict import predict
from dsa110_assets.visibilities.types import Visibilities

SAME_SOURCE_DEG = 60 / 3600
"""Catalogue sources this close to the calibrator are the calibrator: its own flux replaces theirs."""
FIELD_RADIUS_DEG = 4.0
"""Field sources are taken this far from the calibrator: out to beyond the beam's first null at 1.4 GHz."""
Engine = Callable[..., Solution]


def calibrate_transit(
    vis: Visibilities,
    sky: SkyModel,
    transit: Transit,
    options: SolveOptions,
    engine: Engine = own_engine.solve,
) -> Solution:
    """Solve the calibrator transit in flagged visibilities `vis`, with the sources of `sky` in its field.

    Integrations with less than `options.min_primary_beam` on the calibrator are left out. The model is
    predicted per integration in vis's own frame, at full resolution. The report gains the flux anchor, whether it
    is provisional (a variable source), the integrations used, and all figures of `quality.assess`.
    `engine(vis, model, options, field_name=...)` solves. Raises BadDataError if no integration qualifies, and
    ConfigurationError for a calibrator without a flux.
    """
    calibrator = transit.calibrator
    inside = integrations_in_beam(vis, calibrator, options.min_primary_beam)
    if not inside.any():
        raise BadDataError(
            f"{calibrator.name} is never within {options.min_primary_beam:.0%} of the primary beam in these data "
            f"(transit at MJD {transit.mjd:.4f}, data {vis.times_mjd[0]:.4f} to {vis.times_mjd[-1]:.4f})"
        )
    used = at_times(vis, inside)
    model = predict(used, field_of(calibrator, sky))
    solution = engine(used, model, options, field_name=calibrator.alias or calibrator.name)
    figures = quality.assess(solution, apply(used, solution.tables), model)
    report = {
        **solution.report,
        **figures,
        "calibrator": calibrator.name,
        "anchor": calibrator.anchor,
        "anchor_provisional": calibrator.variable,
        "transit_mjd": transit.mjd,
        "mid_mjd": used.mid_mjd,
        "integrations_used": int(inside.sum()),
        "antennas": [vis.antennas.names[a] for a in vis.active_antennas],
    }
    return replace(solution, report=report)


def integrations_in_beam(
    vis: Visibilities, calibrator: Calibrator, min_primary_beam: float
) -> NDArray[np.bool_]:
    """(time,) True where the primary beam on the calibrator, at the band centre, is at least the minimum."""
    ra, dec = astrometry.icrs_to_apparent_rad(
        np.deg2rad(calibrator.ra_deg), np.deg2rad(calibrator.dec_deg), vis.times_mjd
    )
    away_deg = astrometry.separation_deg(
        astrometry.apparent_lst_rad(vis.times_mjd), vis.pointing_dec_rad, ra, dec
    )
    return np.asarray(beam.power(away_deg, vis.frequencies_hz.mean()) >= min_primary_beam)


def field_of(calibrator: Calibrator, sky: SkyModel) -> SkyModel:
    """The calibrator at its own flux, and the sources of `sky` around it that are not it."""
    ra, dec = np.deg2rad(calibrator.ra_deg), np.deg2rad(calibrator.dec_deg)
    own = sky_model.from_calibrator(calibrator)
    if not len(sky):
        return own
    away_deg = astrometry.separation_deg(ra, dec, sky.ra_rad, sky.dec_rad)
    return sky_model.concat(own, sky.select((away_deg > SAME_SOURCE_DEG) & (away_deg < FIELD_RADIUS_DEG)))


def at_times(vis: Visibilities, keep: NDArray[np.bool_]) -> Visibilities:
    """The integrations of `vis` where `keep` (time,) holds; views where they are contiguous."""
    index: slice | NDArray[np.bool_] = keep
    where = np.flatnonzero(keep)
    if where.size and where[-1] - where[0] + 1 == where.size:
        index = slice(int(where[0]), int(where[-1]) + 1)
    return replace(
        vis,
        data=vis.data[index],
        flags=vis.flags[index],
        weights=vis.weights[index],
        times_mjd=vis.times_mjd[index],
        uvw_m=vis.uvw_m[index],
        phase_centres_rad=vis.phase_centres_rad[index],
    )
