"""What was wrong with the instrument, from its files to an image: fluxes come out right, or the observation says why not.

A calibrator's observation is solved once; the observation after it is simulated again with each fault, calibrated with
those tables, compared with the sky, and imaged. All of it with the platform's own functions and rules, without Dagster.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsa110_assets.archive.product import jsonable
from dsa110_assets.calibration import calibrated, night, verdicts
from dsa110_assets.calibration.epoch_options import EpochOptions
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.quality import calibrator_problems
from dsa110_assets.calibration.solve import Solution
from dsa110_assets.calibration.transits import transits
from dsa110_assets.imaging import tile
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.orchestration import rules, solving
from dsa110_assets.simulator.options import SimulationOptions, parse_fault
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import calibrators, model
from dsa110_assets.sky.catalogues import read_catalogue
from dsa110_assets.thresholds import Thresholds
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.ingest import ingest

pytestmark = pytest.mark.slow
BASE: dict[str, Any] = {
    "dec_deg": 16.27, "antennas": 24, "channels": 8, "seed": 110, "variables": False, "restart_every": 0, "rfi_bursts": 0.0,
    "groups": 1, "calibrator": "none",
}  # fmt: skip
TRANSIT, LATER = "2026-01-26T04:51:00", "2026-01-26T04:57:00"
"""3C138 transits at 04:53:48. Of the later observation it is the brightest source by far."""
STATION = "20"
MOST_OFF, MOST_NOISE = 0.02, 1.35
"""What fluxes may be off by, and the noise over the radiometer's: 1.16 on the healthy instrument, beside a source of 7 Jy."""


@dataclass(frozen=True)
class Seen:
    """What became of an observation: medians over bright isolated sources of flux over the truth, noise, and what rules say."""

    ratio: float
    worst: float
    noise: float
    figures: dict[str, Any]
    failed: dict[str, str]
    excluded: bool


def observation(place: Path, start: str, faults: tuple[str, ...] = ()) -> tuple[Path, dict[str, Any]]:
    """A flagged measurement set, and the truth."""
    truth = simulate(place / "in", SimulationOptions(start=start, faults=tuple(map(parse_fault, faults)), **BASE))
    files = {int(path.stem[-2:]): path for path in (place / "in").glob("*.hdf5")}
    ingest(files, place / "raw.ms")
    return place / "raw.ms", truth


def solved(place: Path, faults: tuple[str, ...] = ()) -> tuple[Solution, model.SkyModel]:
    """3C138's transit solved, and the catalogue."""
    path, _ = observation(place, TRANSIT, faults)
    sky = model.from_frame(read_catalogue(place / "in" / "catalogue.csv"))
    vis = measurement_set.mapped(path)
    (transit,) = [t for t in transits(calibrators.load(), vis.times_mjd[0], vis.times_mjd[-1], 16.27) if t.calibrator.alias == "3C138"]
    return night.calibrate_transit(vis, sky, transit, SolveOptions(), search=bright_sources), sky


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Gains, ...], model.SkyModel]:
    """The tables of a healthy transit, and the catalogue."""
    solution, sky = solved(tmp_path_factory.mktemp("transit"))
    return solution.tables, sky


def seen(place: Path, tables: tuple[tuple[Gains, ...], model.SkyModel], faults: tuple[str, ...]) -> Seen:
    """The later observation with these faults, through calibration, comparison with the sky, and image."""
    path, truth = observation(place, LATER, faults)
    against = calibrated.Against(tables[1], EpochOptions(), bright_sources)
    made = calibrated.calibrate_set(path, tables[0], place / "calibrated.ms", against=against)
    assert made.observed is not None
    figures = verdicts.figures(made.observed, verdicts.table(made.observed, made.frame, made.system_jy, {}))
    fixed = {"caltable_age_h": 0.1, "caltable_dec_offset_deg": 0.0, "n_antennas_without_tables": 0, "calibrator": "3C138"}
    told = rules.judge("calibrated_ms", figures | fixed, Thresholds())
    image = tile.make_tile(measurement_set.mapped(place / "calibrated.ms"), ImagingOptions(field_deg=3.0), tables[1])
    ratios = fluxes(image, truth)
    return Seen(
        float(np.median(ratios)), float(ratios[np.argmax(np.abs(ratios - 1))]), image.figures["rms_over_radiometer"], figures,
        {v.check: v.reason for v in told if not v.passed}, any(v.hard and not v.passed for v in told),
    )  # fmt: skip


def fluxes(image: tile.TileImage, truth: dict[str, Any]) -> np.ndarray:
    """Peaks over true fluxes of the isolated sources above 50 sigma within half the beam's power."""
    from dsa110_assets.imaging.reference import reference_figures

    sources = truth["sources"]
    found = []
    for source in sources:
        one = model.SkyModel(
            (source["name"],), np.deg2rad([source["ra_deg"]]), np.deg2rad([source["dec_deg"]]), np.array([source["flux_jy"]]),
            np.array([source["spectral_index"]]), log_coefficients=np.array([source.get("log_coefficients", [0.0] * 6)]),
        )  # fmt: skip
        if crowded(source, sources) or source.get("major_arcsec", 0) > 0 or source["name"].endswith((" A", " B")):
            continue  # no point: its peak is not its flux
        figures = reference_figures(image.image, image.primary_beam, image.header, 5 * image.rms_jy, one)
        if figures["reference_count"]:
            found.append(figures["flux_ratio"])
    return np.array(found)


def crowded(source: dict[str, Any], sources: list[dict[str, Any]]) -> bool:
    """Whether others within 200 arcsec sum to more than 1 % of its flux."""
    scale = np.cos(np.deg2rad(source["dec_deg"]))
    near = [
        s["flux_jy"] for s in sources if s is not source
        and np.hypot((s["ra_deg"] - source["ra_deg"]) * scale, s["dec_deg"] - source["dec_deg"]) < 200 / 3600
    ]  # fmt: skip
    return bool(sum(near) > 0.01 * source["flux_jy"])


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


def assert_right(found: Seen) -> None:
    assert found.ratio == pytest.approx(1, abs=MOST_OFF), found
    assert found.worst == pytest.approx(1, abs=3 * MOST_OFF), found  # a single source has 2 % of noise at 50 sigma
    assert found.noise < MOST_NOISE, found
    assert not found.excluded


def test_healthy(tables, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = seen(tmp_path, tables, ())
    assert_right(found)
    assert found.failed == {}
    assert found.figures["receptors_lost"] == []


@pytest.mark.parametrize("faults", CORRECTED.values(), ids=list(CORRECTED))
def test_what_can_be_corrected_is(tables, tmp_path: Path, faults: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    found = seen(tmp_path, tables, faults)
    assert_right(found)
    assert found.figures["receptors_lost"] == []


@pytest.mark.parametrize("faults", FLAGGED.values(), ids=list(FLAGGED))
def test_what_sees_no_sky_is_flagged_and_named(tables, tmp_path: Path, faults: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    found = seen(tmp_path, tables, faults)
    assert_right(found)
    receptors = [f"{STATION}X"] if "receptor=x" in faults[0] else [f"{STATION}X", f"{STATION}Y"]
    assert found.figures["receptors_lost"] == receptors
    assert all(name in found.failed["antennas"] for name in receptors)


def test_most_of_the_array_deaf_is_no_observation(tables, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Twelve of 24 antennas: what is left is excluded, and they are named."""
    names = "12+2+48+87+29+20+73+68+31+76+35+8"
    found = seen(tmp_path, tables, (f"deaf_antenna:0:antenna={names}",))
    assert found.excluded
    assert found.figures["n_antennas_lost"] >= 11  # some are dead already
    assert "enough_antennas" in found.failed
    json.dumps(found.figures)


INTERFERENCE = {
    "satellite, 35 MHz for 200 s": ("satellite:0:power_jy=100,width_mhz=35,duration_s=200",),
    "wide and still, 35 MHz for 200 s": ("wide_rfi:0:power_jy=100,width_mhz=35,duration_s=200",),
}


@pytest.mark.parametrize("faults", INTERFERENCE.values(), ids=list(INTERFERENCE))
def test_wide_interference_is_flagged(tables, tmp_path: Path, faults: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    found = seen(tmp_path, tables, faults)
    assert_right(found)
    assert found.figures["receptors_lost"] == []


def test_polarised_sources_and_receptors_of_unequal_noise(tmp_path: Path) -> None:
    """Stokes I is (XX + YY) / 2; the calibrator's own 5 % are in the tables, and make XX and YY of all others unequal."""
    faults = ("polarised:*:fraction=0.05", "receptor_noise:0:ratio=1.5")
    (tmp_path / "transit").mkdir()
    (tmp_path / "later").mkdir()
    solution, sky = solved(tmp_path / "transit", faults)
    assert_right(seen(tmp_path / "later", (solution.tables, sky), faults))


WRONG_CALIBRATORS = {
    "15 % brighter": ("calibrator_flux:*:factor=1.15", "refused"),
    "8 arcsec off": ("calibrator_offset:*:arcsec=8", "right"),
    "resolved, 20 arcsec": ("calibrator_size:*:major_arcsec=20,minor_arcsec=20", "right"),
    "resolved, 8 arcsec": ("calibrator_size:*:major_arcsec=8,minor_arcsec=8", "right"),
    "double, 25 arcsec": ("calibrator_double:*:arcsec=25", "right or refused"),
}


@pytest.mark.parametrize(("fault", "expected"), WRONG_CALIBRATORS.values(), ids=list(WRONG_CALIBRATORS))
def test_a_calibrator_that_is_not_as_listed(tmp_path: Path, fault: str, expected: str) -> None:
    """It is refused by name, or the observation after it is right all the same."""
    (tmp_path / "transit").mkdir()
    (tmp_path / "later").mkdir()
    solution, sky = solved(tmp_path / "transit", (fault,))
    figures = {k: v for k, v in solution.report.items() if k != "system_jy"}
    problems = calibrator_problems("0521+166", figures, Thresholds())
    if "refused" in expected and problems:
        assert all("0521+166" in problem for problem in problems)
        return
    assert problems == []
    assert "right" in expected
    told = {"transits": [{"problems": [], "figures": jsonable(figures)}]}
    (tmp_path / "transits.json").write_text(json.dumps(told))
    as_seen = solving.as_seen(sky, SimpleNamespace(path=tmp_path))  # type: ignore[arg-type]
    found = seen(tmp_path / "later", (solution.tables, as_seen), (fault,))
    assert not found.excluded
    assert found.ratio == pytest.approx(1, abs=MOST_OFF)
    if "size" not in fault and "double" not in fault:
        assert_right(found)  # what CLEAN leaves of 7 Jy that are no point, in this very field, moves its faintest sources
