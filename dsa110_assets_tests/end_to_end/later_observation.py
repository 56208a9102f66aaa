"""An observation with planted faults, taken from its files to an image and compared with its truth. This module has no tests.

A calibrator's transit is solved once; the observation after it is simulated with each fault, calibrated with those tables,
compared with the sky, and imaged. All of this uses the platform's own functions and rules, without Dagster.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS

from dsa110_assets.calibration import calibrated, night, verdicts
from dsa110_assets.calibration.epoch_options import EpochOptions
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.quality import calibrator_problems
from dsa110_assets.calibration.solve import Solution
from dsa110_assets.calibration.transit_sets import sky_with_measured_calibrators
from dsa110_assets.calibration.transits import transits
from dsa110_assets.imaging import tile
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.reference import reference_figures
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.plain_json import jsonable
from dsa110_assets.simulator.options import SimulationOptions, parse_fault
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import calibrators, model
from dsa110_assets.sky.catalogues import read_catalogue
from dsa110_assets.thresholds import Thresholds
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.ingest import ingest

SMALL: dict[str, Any] = {"antennas": 24, "channels": 8}
FULL: dict[str, Any] = {"antennas": 96, "channels": 48}
_BASE: dict[str, Any] = {
    "dec_deg": 16.27, "seed": 110, "variables": False, "restart_every": 0, "rfi_bursts": 0.0,
    "groups": 1, "calibrator": "none",
}  # fmt: skip
TRANSIT, LATER = "2026-01-26T04:51:00", "2026-01-26T04:57:00"
"""3C138 transits at 04:53:48. It is by far the brightest source of the later observation."""
STATION = "20"


@dataclass(frozen=True)
class Seen:
    """The results of one observation.

    The median and the worst of flux over truth of its bright isolated sources, its noise over the radiometer's, its figures,
    the failed checks with their reasons, and whether a HARD rule excluded it.
    """

    ratio: float
    worst: float
    noise: float
    figures: dict[str, Any]
    failed: dict[str, str]
    excluded: bool


def simulated(
    folder: Path, start: str, faults: tuple[str, ...], scale: dict[str, Any]
) -> tuple[dict[int, Path], dict[str, Any]]:  # fmt: skip
    """Return the files by subband, and the truth. `scale` is SMALL or FULL, and may contain other simulation options as well."""
    truth = simulate(folder, SimulationOptions(**{**_BASE, "start": start, "faults": tuple(map(parse_fault, faults)), **scale}))
    return {int(path.stem[-2:]): path for path in folder.glob("*.hdf5")}, truth


def observation(
    place: Path, start: str, faults: tuple[str, ...], scale: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Return the path of a flagged measurement set, and the truth."""
    files, truth = simulated(place / "in", start, faults, scale)
    ingest(files, place / "raw.ms")
    return place / "raw.ms", truth


def solved(
    place: Path, faults: tuple[str, ...] = (), scale: dict[str, Any] = SMALL, known: model.SkyModel | None = None
) -> tuple[Solution, model.SkyModel]:  # fmt: skip
    """Return the solution of 3C138's transit, and the sky it was solved with: `known`, or the simulation's catalogue."""
    path, _ = observation(place, TRANSIT, faults, scale)
    sky = known or model.from_frame(read_catalogue(place / "in" / "catalogue.csv"))
    vis = measurement_set.mapped(path)
    (transit,) = [t for t in transits(calibrators.load(), vis.times_mjd[0], vis.times_mjd[-1], 16.27) if t.calibrator.alias == "3C138"]
    return night.calibrate_transit(vis, sky, transit, SolveOptions(), search=bright_sources), sky


def seen(
    place: Path, tables: tuple[tuple[Gains, ...], model.SkyModel], faults: tuple[str, ...], scale: dict[str, Any] = SMALL
) -> Seen:  # fmt: skip
    """Calibrate, compare with the sky and image the later observation with these faults."""
    path, truth = observation(place, LATER, faults, scale)
    against = calibrated.SkyComparison(tables[1], EpochOptions(), bright_sources)
    made = calibrated.calibrate_set(path, tables[0], place / "calibrated.ms", against=against)
    assert made.observed is not None
    figures = verdicts.figures(made.observed, verdicts.table(made.observed, made.frame, made.system_jy, {}))
    fixed = {"caltable_age_h": 0.1, "caltable_dec_offset_deg": 0.0, "n_antennas_without_tables": 0, "calibrator": "3C138"}
    fixed |= {"n_receptors_interpolated": 0, "receptors_not_interpolated": [], "receptors_of_one_set": []}
    verdicts_found = rules.judge("calibrated_ms", figures | fixed, Thresholds())
    image = tile.make_tile(measurement_set.mapped(place / "calibrated.ms"), ImagingOptions(field_deg=3.0), tables[1])
    ratios = fluxes(image, truth)
    return Seen(
        float(np.median(ratios)), float(ratios[np.argmax(np.abs(ratios - 1))]), image.figures["rms_over_radiometer"], figures,
        {v.check: v.reason for v in verdicts_found if not v.passed}, any(v.hard and not v.passed for v in verdicts_found),
    )  # fmt: skip


def fluxes(image: tile.TileImage, truth: dict[str, Any]) -> np.ndarray:
    """Return peak over true flux for the isolated sources above 50 sigma within half the beam's power."""
    sources = truth["sources"]
    wcs = WCS(image.header).celestial
    ratios = []
    for source in sources:
        as_model = model.SkyModel(
            (source["name"],), np.deg2rad([source["ra_deg"]]), np.deg2rad([source["dec_deg"]]), np.array([source["flux_jy"]]),
            np.array([source["spectral_index"]]), log_coefficients=np.array([source.get("log_coefficients", [0.0] * 6)]),
        )  # fmt: skip
        if too_faint(image, wcs, as_model) or crowded(source, sources) or source.get("major_arcsec", 0) > 0:
            continue
        if source["name"].endswith((" A", " B")):
            continue  # component of a double, which is not a point: its peak is not its flux
        figures = reference_figures(image.image, image.primary_beam, image.header, 5 * image.rms_jy, as_model)
        if figures["reference_count"]:
            ratios.append(figures["flux_ratio"])
    return np.array(ratios)


def too_faint(image: tile.TileImage, wcs: WCS, one: model.SkyModel) -> bool:
    """Whether `reference_figures` would ignore a source: outside the image or below 45 sigma."""
    x, y = wcs.wcs_world2pix(np.rad2deg(one.ra_rad), np.rad2deg(one.dec_rad), 0)
    column, row = round(float(x[0])), round(float(y[0]))
    if not (0 <= row < image.primary_beam.shape[0] and 0 <= column < image.primary_beam.shape[1]):
        return True
    apparent_jy = float(one.flux_at(np.array([image.header["RESTFRQ"]]))[0, 0]) * image.primary_beam[row, column]
    return not apparent_jy > 45 * image.rms_jy


def crowded(source: dict[str, Any], sources: list[dict[str, Any]]) -> bool:
    """Whether the other sources within 200 arcsec sum to more than 1 % of this source's flux."""
    scale = np.cos(np.deg2rad(source["dec_deg"]))
    near = [
        s["flux_jy"] for s in sources if s is not source
        and np.hypot((s["ra_deg"] - source["ra_deg"]) * scale, s["dec_deg"] - source["dec_deg"]) < 200 / 3600
    ]  # fmt: skip
    return bool(sum(near) > 0.01 * source["flux_jy"])


def judged(place: Path, fault: str, scale: dict[str, Any] = SMALL) -> tuple[list[str], Seen | None]:
    """Simulate a calibrator that differs from its listing. Return why its solution is refused and None, or, if it is accepted,
    no reasons and the results of the later observation."""
    (place / "transit").mkdir()
    (place / "later").mkdir()
    solution, sky = solved(place / "transit", (fault,), scale)
    figures = {k: v for k, v in solution.report.items() if k != "system_jy"}
    problems = calibrator_problems("0521+166", figures, Thresholds())
    if problems:
        return problems, None
    as_seen = sky_with_measured_calibrators(sky, [{"problems": [], "figures": jsonable(figures)}])
    return [], seen(place / "later", (solution.tables, as_seen), (fault,), scale)


CORRECTED = {
    "half the sky and noise of one": (f"power_loss:0:antenna={STATION},db=6",),
    "four jump by 2 to 4 ns": ("delay_jump:0:antenna=20+48+82+31,ns=2+-3+4+-4",),
    "one jumps by 2 ns": (f"delay_jump:0:antenna={STATION},ns=2",),
    "two hours of drift": ("gain_drift:0:amplitude=0.1,phase_deg=30",),
    "one antenna's gains exchanged": (f"swapped_feeds:0:antenna={STATION},how=gains",),
    "all power down": ("power_down:0:factor=0.85",),
    "drift and less power": ("gain_drift:0:amplitude=0.1,phase_deg=30", "power_down:0:factor=0.9"),
}
FLAGGED = {
    "deaf": (f"deaf_antenna:0:antenna={STATION}",),
    "one receptor deaf": (f"deaf_antenna:0:antenna={STATION},receptor=x",),
    "quieter by 3 dB": (f"quiet_antenna:0:antenna={STATION},db=3",),
    "quieter by 10 dB": (f"quiet_antenna:0:antenna={STATION},db=10",),
    "cables exchanged": (f"swapped_feeds:0:antenna={STATION}",),
    "products exchanged": (f"swapped_feeds:0:antenna={STATION},how=labels",),
    "deaf, and another jumps": (f"deaf_antenna:0:antenna={STATION}", "delay_jump:0:antenna=48,ns=4"),
}


INTERFERENCE = {
    "satellite, 35 MHz for 200 s": ("satellite:0:power_jy=100,width_mhz=35,duration_s=200",),
    "wide and still, 35 MHz for 200 s": ("wide_rfi:0:power_jy=100,width_mhz=35,duration_s=200",),
}


WRONG_CALIBRATORS = {
    "15 % brighter": ("calibrator_flux:*:factor=1.15", "refused"),
    "8 arcsec off": ("calibrator_offset:*:arcsec=8", "right"),
    "resolved, 20 arcsec": ("calibrator_size:*:major_arcsec=20,minor_arcsec=20", "right"),
    "resolved, 8 arcsec": ("calibrator_size:*:major_arcsec=8,minor_arcsec=8", "right"),
    "double, 25 arcsec": ("calibrator_double:*:arcsec=25", "right or refused"),
}
