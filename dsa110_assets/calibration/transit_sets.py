"""A night's calibrator transits as sets of tables: solve and judge each, and summarise them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsa110_assets.calibration import caltables, night, quality, receptors
from dsa110_assets.calibration.field import SAME_SOURCE_DEG, Search
from dsa110_assets.calibration.night import Engine
from dsa110_assets.calibration.options import SAME_STRIP_DEG, SolveOptions
from dsa110_assets.calibration.transits import Transit
from dsa110_assets.errors import BadDataError
from dsa110_assets.plain_json import jsonable
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities import measurement_set


@dataclass(frozen=True)
class TransitObservation:
    """The measurement set that holds a transit: its path, its name, its pointing, and the antennas that have data."""

    path: Path
    name: str
    dec_deg: float
    antennas: tuple[str, ...]


@dataclass(frozen=True)
class TransitSet:
    """A solved transit: its set's name, tables and figures, and the `problems` found by comparison with the limits (a set with problems
    has no tables).

    `amplitudes`: every receptor's median gain amplitude, by antenna name.
    """

    name: str
    observed: TransitObservation
    transit: Transit
    paths: tuple[Path, ...]
    figures: Mapping[str, Any]
    problems: tuple[str, ...]
    amplitudes: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def solve_set(
    name: str,
    observed: TransitObservation,
    transit: Transit,
    sky: SkyModel,
    options: SolveOptions,
    limits: quality.Thresholds,
    directory: Path,
    search: Search | None = None,
    engine: Engine | None = None,
) -> TransitSet:
    """Solve one transit and write its tables into `directory`/`name`. If its figures are beyond the limits, no tables are kept.

    `search` and `engine` as in `night.calibrate_transit`, whose BadDataError becomes the set's problem.
    """
    read = measurement_set.read if engine else measurement_set.mapped  # other engines need all of it in memory
    try:
        solution = night.calibrate_transit(read(observed.path), sky, transit, options, engine=engine, search=search)
    except BadDataError as error:
        return TransitSet(name, observed, transit, (), {}, (str(error),))
    system_jy, figures = solution.report["system_jy"], {k: v for k, v in solution.report.items() if k != "system_jy"}
    problems = (*quality.problems(figures, limits), *quality.calibrator_problems(transit.calibrator.name, figures, limits))
    paths: list[Path] = []
    if not problems:
        (directory / name).mkdir()
        for gains in solution.tables:
            path = directory / name / f"{gains.kind}.cal"
            caltables.write(gains, path, observed.path)
            paths.append(path)
        receptors.write(directory / name, system_jy)
    amplitudes = receptors.amplitudes(solution.bandpass)
    return TransitSet(name, observed, transit, tuple(paths), figures, problems, amplitudes)


def validity(solved: TransitSet, others: Sequence[TransitSet], validity_days: float) -> tuple[float, float]:
    """Return when a set is valid [MJD]: `validity_days` before and after its transit, but a standard of the strip has precedence.

    Other calibrators' validity is cut to the part around their transit that no standard covers, which may be only that moment.
    Outside it they are still used if no other set is valid, as when the standard's set is rejected.
    """
    middle = float(solved.figures["mid_mjd"])
    start, end = middle - validity_days, middle + validity_days
    if solved.transit.calibrator.standard:
        return start, end
    for other in others:
        same_strip = abs(other.observed.dec_deg - solved.observed.dec_deg) <= SAME_STRIP_DEG
        if other.transit.calibrator.standard and same_strip:
            standard_mjd = float(other.figures["mid_mjd"])
            if standard_mjd <= middle:
                start = min(max(start, standard_mjd + validity_days), middle)
            if standard_mjd >= middle:
                end = max(min(end, standard_mjd - validity_days), middle)
            if abs(standard_mjd - middle) <= validity_days:
                start = end = middle
    return start, end


_WORST: dict[str, Callable[[list[float]], float]] = {
    "bandpass_snr": min, "gain_snr": min, "bandpass_flag_fraction": max, "gain_flag_fraction": max,
    "gain_amplitude_min": min, "gain_amplitude_max": max, "closure_phase_deg": max, "closure_amplitude": max,
    "gain_phase_scatter_deg": max, "dead_receptors": max, "reduced_chi2": max, "field_changed": max, "field_new": max,
    "closure_amplitude_excess": max, "closure_phase_excess_deg": max, "closure_reduced_chi2": max, "radiometer_chi2": max,
    "unknown_part": max, "unknown_gain_error": max,
    "field_group_count": min, "field_offset_arcsec": max, "calibrator_major_arcsec": max,
    "field_flux_ratio": lambda values: max(values, key=lambda ratio: abs(ratio - 1)),
    "calibrator_flux_factor": lambda values: max(values, key=lambda factor: abs(factor - 1)),
}  # fmt: skip
"""How the worst value is chosen among several sets, for the night's figures."""


def records(sets: Sequence[TransitSet]) -> list[dict[str, Any]]:
    """Return the result of every transit of the night, as JSON: name, measurement_set, calibrator, transit_mjd, problems, figures."""
    entries: list[dict[str, Any]] = jsonable(
        [
            {
                "name": transit_set.name,
                "measurement_set": transit_set.observed.name,
                "calibrator": transit_set.transit.calibrator.name,
                "transit_mjd": transit_set.transit.mjd,
                "problems": list(transit_set.problems),
                "figures": dict(transit_set.figures),
            }
            for transit_set in sets
        ]
    )
    return entries


def night_figures(solved: Sequence[TransitSet], refused: Sequence[TransitSet]) -> dict[str, Any]:
    """Return the night's figures: the number of sets, the worst of each of their numbers, their anchors, refused transits,
    calibrators that differ from their list entry or could not be judged by their field, and whether all give one flux scale."""
    figures: dict[str, Any] = {
        "n_transits": len(solved) + len(refused),
        "n_sets": len(solved),
        "sets": [transit_set.name for transit_set in solved],
        "calibrators": sorted({transit_set.transit.calibrator.name for transit_set in solved}),
        "anchor": ", ".join(sorted({transit_set.figures["anchor"] for transit_set in solved})),
        "anchor_provisional": all(transit_set.figures["anchor_provisional"] for transit_set in solved),
        "refused": [f"{transit_set.name}: {'; '.join(transit_set.problems)}" for transit_set in refused],
        "calibrators_corrected": [
            f"{transit_set.name}: {difference}" for transit_set in solved if (difference := _unlike_listed(transit_set.figures))
        ],
        "calibrators_unjudged": [
            f"{transit_set.name}: {transit_set.figures['field_group_count']} clear catalogue sources in the field"
            for transit_set in solved
            if not math.isfinite(transit_set.figures["field_flux_ratio"])
        ],
        **_scale_figures(solved),
    }
    for name, worst in _WORST.items():
        values = [float(transit_set.figures[name]) for transit_set in solved if name in transit_set.figures]
        if values := [value for value in values if math.isfinite(value)]:
            figures[name] = worst(values)
    return figures


def _unlike_listed(figures: Mapping[str, Any]) -> str:
    """Return the differences of a calibrator from its list entry, '' if there are none."""
    differences = []
    if figures["calibrator_flux_set"]:
        differences.append(f"{figures['calibrator_flux_factor']:.3f} of its listed flux")
    offset_arcsec = math.hypot(figures["calibrator_offset_ra_arcsec"], figures["calibrator_offset_dec_arcsec"])
    if offset_arcsec > 0:
        differences.append(f"{offset_arcsec:.1f} arcsec from its listed place")
    if figures["calibrator_major_arcsec"] > 0:
        differences.append(f"resolved, {figures['calibrator_major_arcsec']:.1f} by {figures['calibrator_minor_arcsec']:.1f} arcsec")
    return ", ".join(differences)


def _scale_figures(solved: Sequence[TransitSet]) -> dict[str, Any]:
    """Return the spread of the sets' flux scales according to their gains, and each scale's departure from the median of the standards,
    or without standards of all sets."""
    if len(solved) < 2:
        return {"scale_spread": float("nan"), "scales": []}
    scales = receptors.scales([transit_set.amplitudes for transit_set in solved])
    standards = np.array([transit_set.transit.calibrator.standard is not None for transit_set in solved])
    off = scales / np.median(scales[standards] if standards.any() else scales) - 1
    named = [f"{transit_set.name}: {value:+.1%}" for transit_set, value in zip(solved, off, strict=True)]
    return {"scale_spread": float(scales.max() / scales.min() - 1), "scales": named}


def sky_with_measured_calibrators(sky: SkyModel, transits: Sequence[Mapping[str, Any]]) -> SkyModel:
    """Return the sky with the calibrators' fluxes and positions as measured by a night's transits (`records`), not as listed."""
    flux, log, ra, dec = sky.flux_jy.copy(), sky.log_coefficients.copy(), sky.ra_rad.copy(), sky.dec_rad.copy()
    for record in transits:
        figures = record["figures"]
        if record["problems"]:
            continue
        factor = float(figures["calibrator_flux_factor"]) if figures["calibrator_flux_set"] else 1.0
        east, north = (float(figures[f"calibrator_offset_{axis}_arcsec"] or 0.0) for axis in ("ra", "dec"))  # null: unknown
        place = np.deg2rad([figures["calibrator_ra_deg"], figures["calibrator_dec_deg"]])
        distance_deg = astrometry.separation_deg(place[0], place[1], sky.ra_rad, sky.dec_rad)
        k = int(np.argmin(distance_deg))
        if distance_deg[k] < SAME_SOURCE_DEG:
            flux[k] *= factor
            log[k, 0] += np.log10(factor) * bool(log[k].any())
            ra[k] += np.deg2rad(east / 3600) / np.cos(dec[k])
            dec[k] += np.deg2rad(north / 3600)
    return replace(sky, flux_jy=flux, log_coefficients=log, ra_rad=ra, dec_rad=dec)
