"""One calibrator transit from measurement set to judged, registered tables; and the tables back onto data."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets.errors import BadDataError
from dsa110_assets.orchestration import calibrators, spec

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.calibration.calibrated import Calibrated
    from dsa110_assets.calibration.gains import Gains
    from dsa110_assets.calibration.select import CaltableSet, Choice
    from dsa110_assets.calibration.transits import Transit
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.model import SkyModel
    from dsa110_assets.thresholds import Thresholds


@dataclass(frozen=True)
class Solved:
    """A transit that was solved: its set's name, tables and figures, and what its rules found wrong.

    `amplitudes`: every receptor's median gain amplitude, by antenna name.
    """

    name: str
    product: "Product"
    transit: "Transit"
    paths: tuple[Path, ...]
    figures: Mapping[str, Any]
    problems: tuple[str, ...]
    amplitudes: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def solve_transit(
    product: "Product",
    transit: "Transit",
    ms_path: Path,
    sky: "SkyModel",
    settings: "Settings",
    thresholds: "Thresholds",
    directory: Path,
) -> Solved:
    """Solve one transit and write its tables below `directory`, unless its rules find it wrong: then none are kept."""
    from dsa110_assets.calibration import caltables, night, quality, receptors
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.visibilities import measurement_set

    fingerprint = f"{spec.assets()['caltables'].code_version}|{settings.solve_engine}|{json.dumps(asdict(settings.solve), sort_keys=True)}"
    name = calibrators.set_name(transit, product, fingerprint)
    read = measurement_set.mapped if settings.solve_engine == "own" else measurement_set.read
    try:
        solution = night.calibrate_transit(
            read(ms_path), sky, transit, settings.solve, search=bright_sources, **_engine(settings, directory)
        )
    except BadDataError as error:
        return Solved(name, product, transit, (), {}, (str(error),))
    system_jy, figures = solution.report["system_jy"], {k: v for k, v in solution.report.items() if k != "system_jy"}
    problems = (*quality.problems(figures, thresholds), *quality.calibrator_problems(transit.calibrator.name, figures, thresholds))
    paths: list[Path] = []
    if not problems:
        (directory / name).mkdir()
        for gains in solution.tables:
            path = directory / name / f"{gains.kind}.cal"
            caltables.write(gains, path, ms_path)
            paths.append(path)
        receptors.write(directory / name, system_jy)
    return Solved(name, product, transit, tuple(paths), figures, problems, receptors.amplitudes(solution.bandpass))


def _engine(settings: "Settings", directory: Path) -> dict[str, Any]:
    if settings.solve_engine == "own":
        return {}
    from dsa110_assets.engines import casa_calibration

    return {"engine": partial(casa_calibration.solve, work_dir=directory.parent)}


def register(draft: "Draft", solved: Solved, validity_days: float, others: Sequence[Solved] = ()) -> None:
    """Register a solved set with its validity [d] among the night's `others`; it becomes visible with the product."""
    from dsa110_assets.archive import caltable_registry

    start, end = validity(solved, others, validity_days)
    caltable_registry.register(
        draft,
        solved.name,
        solved.paths,
        mid_mjd=float(solved.figures["mid_mjd"]),
        valid_start_mjd=start,
        valid_end_mjd=end,
        dec_deg=float(solved.product.metadata["pointing_dec_deg"]),
        antennas=solved.product.metadata["antennas"],
        calibrator=solved.transit.calibrator.name,
        anchor=solved.figures["anchor"],
        figures=_numbers(solved.figures) | {"measurement_set": solved.product.id, "refant": solved.figures["refant"]},
    )


def validity(solved: Solved, others: Sequence[Solved], validity_days: float) -> tuple[float, float]:
    """When a set is valid [MJD]: so long either way, but a standard of the strip goes before any other calibrator.

    What is left of the others' validity is the part about their own transit that no standard covers, if only that moment:
    outside it they still serve if nothing else does, as when the standard's set is rejected.
    """
    middle = float(solved.figures["mid_mjd"])
    start, end = middle - validity_days, middle + validity_days
    if solved.transit.calibrator.standard:
        return start, end
    dec_deg = float(solved.product.metadata["pointing_dec_deg"])
    for other in others:
        same_strip = abs(float(other.product.metadata["pointing_dec_deg"]) - dec_deg) <= calibrators.SAME_STRIP_DEG
        if other.transit.calibrator.standard and same_strip:
            theirs = float(other.figures["mid_mjd"])
            if theirs <= middle:
                start = min(max(start, theirs + validity_days), middle)
            if theirs >= middle:
                end = max(min(end, theirs - validity_days), middle)
            if abs(theirs - middle) <= validity_days:
                start = end = middle
    return start, end


_WORST: dict[str, Callable[[list[float]], float]] = {
    "bandpass_snr": min, "gain_snr": min, "bandpass_flag_fraction": max, "gain_flag_fraction": max,
    "gain_amplitude_min": min, "gain_amplitude_max": max, "closure_phase_deg": max, "closure_amplitude": max,
    "gain_phase_scatter_deg": max, "dead_receptors": max, "reduced_chi2": max, "field_changed": max, "field_new": max,
    "closure_amplitude_excess": max, "closure_phase_excess_deg": max, "closure_reduced_chi2": max, "radiometer_chi2": max,
    "field_group_count": min, "field_offset_arcsec": max, "calibrator_major_arcsec": max,
    "field_flux_ratio": lambda values: max(values, key=lambda ratio: abs(ratio - 1)),
    "calibrator_flux_factor": lambda values: max(values, key=lambda factor: abs(factor - 1)),
}  # fmt: skip
"""Of several sets the night shows the worst."""


def write_transits(directory: Path, outcomes: Sequence[Solved]) -> None:
    """transits.json: what every transit of the night gave, the refused ones with their reasons."""
    from dsa110_assets.archive.files import write_json
    from dsa110_assets.plain_json import jsonable

    told = [
        {
            "name": one.name,
            "measurement_set": one.product.id,
            "calibrator": one.transit.calibrator.name,
            "transit_mjd": one.transit.mjd,
            "problems": list(one.problems),
            "figures": dict(one.figures),
        }
        for one in outcomes
    ]
    write_json(directory / "transits.json", jsonable({"transits": told}))


def night_figures(solved: Sequence[Solved], refused: Sequence[Solved]) -> dict[str, Any]:
    """The night's figures: how many sets, the worst of each of their numbers, what they rest on, what was refused, which
    calibrators were not as listed or could not be judged by their field, and whether all give one flux scale."""
    figures: dict[str, Any] = {
        "n_transits": len(solved) + len(refused),
        "n_sets": len(solved),
        "sets": [one.name for one in solved],
        "calibrators": sorted({one.transit.calibrator.name for one in solved}),
        "anchor": ", ".join(sorted({one.figures["anchor"] for one in solved})),
        "anchor_provisional": all(one.figures["anchor_provisional"] for one in solved),
        "refused": [f"{one.name}: {'; '.join(one.problems)}" for one in refused],
        "calibrators_corrected": [f"{one.name}: {told}" for one in solved if (told := _corrected(one.figures))],
        "calibrators_unjudged": [
            f"{one.name}: {one.figures['field_group_count']} clear catalogue sources in the field"
            for one in solved
            if not math.isfinite(one.figures["field_flux_ratio"])
        ],
        **_scale_figures(solved),
    }
    for name, worst in _WORST.items():
        values = [float(one.figures[name]) for one in solved if name in one.figures]
        if values := [value for value in values if math.isfinite(value)]:
            figures[name] = worst(values)
    return figures


def _corrected(figures: Mapping[str, Any]) -> str:
    """What of a calibrator is not as listed, '' if nothing."""
    told = []
    if figures["calibrator_flux_set"]:
        told.append(f"{figures['calibrator_flux_factor']:.3f} of its listed flux")
    away_arcsec = math.hypot(figures["calibrator_offset_ra_arcsec"], figures["calibrator_offset_dec_arcsec"])
    if away_arcsec > 0:
        told.append(f"{away_arcsec:.1f} arcsec from its listed place")
    if figures["calibrator_major_arcsec"] > 0:
        told.append(f"resolved, {figures['calibrator_major_arcsec']:.1f} by {figures['calibrator_minor_arcsec']:.1f} arcsec")
    return ", ".join(told)


def _scale_figures(solved: Sequence[Solved]) -> dict[str, Any]:
    """How far the sets' flux scales are apart by their gains, and how far each is from the standards', or from the middle."""
    import numpy as np

    from dsa110_assets.calibration import receptors

    if len(solved) < 2:
        return {"scale_spread": float("nan"), "scales": []}
    scales = receptors.scales([one.amplitudes for one in solved])
    standards = np.array([one.transit.calibrator.standard is not None for one in solved])
    off = scales / np.median(scales[standards] if standards.any() else scales) - 1
    named = [f"{one.name}: {value:+.1%}" for one, value in zip(solved, off, strict=True)]
    return {"scale_spread": float(scales.max() / scales.min() - 1), "scales": named}


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def tables_for(choice: "Choice", ms_path: Path) -> "tuple[list[Gains], dict[str, Any]]":
    """The tables that the measurement set at `ms_path` is corrected by, in order, and figures of what they are: those of the
    chosen set, or one that is interpolated between two sets."""
    from dsa110_assets.calibration import caltables, interpolation
    from dsa110_assets.visibilities import measurement_set

    told = {
        "caltable_set": choice.nearest.set_id,
        "caltable_age_h": choice.age_h,
        "caltable_fallback": choice.fallback,
        "caltable_reason": choice.reason,
        "calibrator": _joined(one.calibrator for one in choice.sets),
        "anchor": _joined(one.anchor for one in choice.sets),
        "n_receptors_interpolated": 0,
        "receptors_not_interpolated": [],
        "receptors_of_one_set": [],
    }
    ordered = choice.in_time_order
    read = [[caltables.read(path) for path in one.paths] for one, _ in ordered]
    if len(read) == 1:
        return read[0], told
    mids_mjd = ordered[0][0].mid_mjd, ordered[1][0].mid_mjd
    with measurement_set.opened(ms_path) as stored:
        made = interpolation.interpolate(stored.frame, read[0], read[1], mids_mjd)
    return [made.gains], told | {
        "caltable_sets": [one.set_id for one, _ in ordered],
        "caltable_weights": [weight for _, weight in ordered],
        "caltable_ages_h": [(1 - weight) * (mids_mjd[1] - mids_mjd[0]) * 24 for _, weight in ordered],
        "n_receptors_interpolated": int((~made.gains.flags).any(axis=(0, 2)).sum()) - len(made.nearest) - len(made.one_sided),
        "receptors_not_interpolated": list(made.nearest),
        "receptors_of_one_set": list(made.one_sided),
    }


def _joined(names: Iterable[str]) -> str:
    """Different names as one, a standard's (PB17:...) last: who sees what a mixed scale begins with takes it for no standard's."""
    return " + ".join(sorted(set(names), reverse=True))


def calibrate(ms_path: Path, tables: "Sequence[Gains]", settings: "Settings", sky: "SkyModel", path: Path, note: str) -> "Calibrated":
    """Write the measurement set at `ms_path`, corrected by `tables` and against `sky`, averaged as set, to `path`."""
    from dsa110_assets.calibration import calibrated
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.visibilities import averaging, measurement_set

    with measurement_set.opened(ms_path) as stored:
        n_channels, width_hz = stored.frame.frequencies_hz.size, stored.frame.channel_width_hz
    channels = settings.average_channels or averaging.channels_up_to(averaging.WIDEST_HZ, n_channels, width_hz)
    how: dict[str, Any] = {
        "channels": channels, "times": settings.average_times, "observer_note": note,
        "against": calibrated.Against(sky, settings.epoch, bright_sources),
    }  # fmt: skip
    if settings.solve_engine == "own":
        return calibrated.calibrate_set(ms_path, tables, path, **how)
    from dsa110_assets.engines import casa_calibration

    vis = casa_calibration.apply(measurement_set.read(ms_path), tables, work_dir=path.parent.parent)
    return calibrated.write_averaged(vis, path, **how)


def write_verdicts(made: "Calibrated", chosen: "CaltableSet", directory: Path, ms_path: Path) -> dict[str, Any]:
    """What the antennas were found to be: antennas.parquet, a picture, and what was applied as a CASA table; the figures."""
    from dsa110_assets.calibration import caltables, receptors, verdicts

    if made.observed is None:
        return dict(verdicts.UNJUDGED)
    then_jy = receptors.read_receptors(chosen.paths[0].parent)
    table = verdicts.table(made.observed, made.frame, made.system_jy, then_jy)
    table.to_parquet(directory / "antennas.parquet")
    verdicts.draw(table, directory / "preview.png")
    caltables.write(verdicts.gains(made.observed, made.frame), directory / "epoch.cal", ms_path)
    return verdicts.figures(made.observed, table)


def as_seen(sky: "SkyModel", tables: "Product") -> "SkyModel":
    """The sky with the calibrators of a night's transits as bright and where the transits found them, not as listed."""
    import numpy as np

    from dsa110_assets.archive.files import read_json
    from dsa110_assets.calibration.field import SAME_SOURCE_DEG
    from dsa110_assets.telescope import astrometry

    told = read_json(tables.path / "transits.json") or {"transits": []}
    flux, log, ra, dec = sky.flux_jy.copy(), sky.log_coefficients.copy(), sky.ra_rad.copy(), sky.dec_rad.copy()
    for one in told["transits"]:
        figures = one["figures"]
        if one["problems"]:
            continue
        factor = float(figures["calibrator_flux_factor"]) if figures["calibrator_flux_set"] else 1.0
        east, north = (float(figures[f"calibrator_offset_{axis}_arcsec"] or 0.0) for axis in ("ra", "dec"))  # null: unknown
        place = np.deg2rad([figures["calibrator_ra_deg"], figures["calibrator_dec_deg"]])
        away_deg = astrometry.separation_deg(place[0], place[1], sky.ra_rad, sky.dec_rad)
        k = int(np.argmin(away_deg))
        if away_deg[k] < SAME_SOURCE_DEG:
            flux[k] *= factor
            log[k, 0] += np.log10(factor) * bool(log[k].any())
            ra[k] += np.deg2rad(east / 3600) / np.cos(dec[k])
            dec[k] += np.deg2rad(north / 3600)
    return replace(sky, flux_jy=flux, log_coefficients=log, ra_rad=ra, dec_rad=dec)
