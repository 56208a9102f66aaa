"""`dsa110 calibration import|scan|solve|retire|extend|restore|compare`, on the tiny night and copies of its own tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import casacore.tables as ct
import numpy as np
import pytest

from dsa110_assets.archive import caltable_registry as registry
from dsa110_assets.archive.store import Archive
from dsa110_assets.calibration import apply, caltables
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.engines import casa_calibration
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings
from dsa110_assets.sky import model
from dsa110_assets.telescope import timegrid
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.predict import predict
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.cli.test_standing import environment
from dsa110_assets_tests.tiny import OBSERVATIONS

NIGHT, TRANSIT = "2026-01-25", OBSERVATIONS[1]


@pytest.fixture
def archive(processed: Settings) -> Iterator[Archive]:
    with Archive(processed.archive) as opened:
        yield opened


@pytest.fixture
def dsa110(processed: Settings, bare: Run) -> Run:
    """`dsa110` on a copy of the processed night."""
    return lambda *arguments: bare(*arguments, **environment(processed))


@pytest.fixture
def colleague(archive: Archive, tmp_path: Path) -> Path:
    """Copies of the night's own tables in a folder, as if from elsewhere. The name of the gain table sorts first."""
    (one,) = registry.sets(archive)
    place = tmp_path / "from elsewhere"
    for path, name in zip(one.paths, ("z.bcal", "a.gcal"), strict=True):
        shutil.copytree(path, place / name)
    return place


def spoil(table: Path, turned: bool) -> None:
    """Rotate the phases of a bandpass table randomly if `turned`, else flag five of its eight antennas."""
    with ct.table(str(table), readonly=False, ack=False) as opened:
        if turned:
            values = opened.getcol("CPARAM")
            angles = np.random.default_rng(1).random((values.shape[0], 1, 2))
            opened.putcol("CPARAM", (values * np.exp(2j * np.pi * angles)).astype(np.complex64))
        else:
            flags, antenna = opened.getcol("FLAG"), opened.getcol("ANTENNA1")
            flags[np.isin(antenna, np.unique(antenna[~flags.all(axis=(1, 2))])[:5])] = True
            opened.putcol("FLAG", flags)


def nearer(archive: Archive, key: str, one: registry.RegisteredSet, other: registry.RegisteredSet) -> bool:
    product = archive.current("measurement_set", key)
    assert product is not None
    middle = (product.metadata["mjd_start"] + product.metadata["mjd_end"]) / 2
    return abs(one.mid_mjd - middle) < abs(other.mid_mjd - middle)


def data(archive: Archive) -> np.ndarray:
    product = archive.current("calibrated_ms", OBSERVATIONS[0])
    assert product is not None
    return measurement_set.read(product.path / "calibrated.ms").data


def test_imported_tables_calibrate_as_the_ones_they_are_copies_of(
    processed: Settings, archive: Archive, dsa110: Run, colleague: Path
) -> None:
    """All properties are read from the tables, their author is recorded, and the platform uses them once its own are rejected."""
    (original,) = registry.sets(archive)
    done = dsa110("calibration", "import", colleague, "--by", "A. Colleague", "--json")
    assert done.status == 0, done.err
    made = registry.get(archive, done.json["set_id"])
    assert [path.name for path in made.paths] == ["z.bcal", "a.gcal"]
    assert (made.calibrator, made.anchor, made.antennas) == ("3C454.3", original.anchor, original.antennas)
    assert made.dec_deg == pytest.approx(original.dec_deg, abs=0.01)
    assert made.valid_end_mjd - made.mid_mjd == made.mid_mjd - made.valid_start_mjd == 0.5
    assert made.mid_mjd == pytest.approx(original.mid_mjd, abs=1 / 1440)
    assert (made.figures["by"], made.figures["imported_from"]) == ("A. Colleague", str(colleague))
    assert "A. Colleague" in dsa110("calibration", "show", made.set_id).out
    before = data(archive)
    assert dsa110("calibration", "reject", original.set_id).status == 0
    assert process(processed, through="calibrated_ms").failed == ()
    product = archive.current("calibrated_ms", OBSERVATIONS[0])
    assert product is not None
    assert (product.version, product.metadata["caltable_set"]) == (2, made.set_id)
    np.testing.assert_array_equal(data(archive), before)
    assert f"└── {made.product_id}" in str(archive.lineage(product.id)).replace("├", "└")
    assert dsa110("calibration", "restore", original.set_id).status == 0
    done = dsa110("process", "--improve", "--through", "calibrated_ms", "--json")
    assert done.status == 0, done.err
    improved = [key for key in OBSERVATIONS if nearer(archive, key, original, made)]
    assert improved == list(OBSERVATIONS[:1])  # the time of the copy, the middle of its gains, is 4 s later
    assert [one["partition"] for one in done.json["made"] if one["asset"] == "calibrated_ms"] == improved
    assert {one["asset"] for one in done.json["made"]} == {"calibrated_ms"}
    assert dsa110("process", "--improve", "--json").json["made"] == []
    again = dsa110("calibration", "import", colleague, "--json")  # the same name makes a new version of the same set
    assert again.json["set_id"] == made.set_id.replace("-v1/", "-v2/")


def test_options_take_precedence_over_values_read_from_tables(archive: Archive, dsa110: Run, colleague: Path) -> None:
    options = ["--name", "best", "--calibrator", "3C286", "--dec", "16.28", "--from", "2026-01-25", "--until", "2026-01-26T12:00"]
    done = dsa110("calibration", "import", colleague, *options, "--order", "a.gcal, z.bcal", "--json")
    assert done.status == 0, done.err
    made = registry.get(archive, done.json["set_id"])
    assert made.set_id.endswith("/best")
    assert (made.calibrator, made.anchor, made.dec_deg) == ("3C286", "PB17:3C286", 16.28)
    assert [path.name for path in made.paths] == ["a.gcal", "z.bcal"]
    assert (made.valid_start_mjd, made.valid_end_mjd) == (61065.0, 61066.5)


def test_a_scan_registers_sound_sets_and_gives_reasons_for_the_rest(archive: Archive, dsa110: Run, colleague: Path, tmp_path: Path) -> None:
    for name in ("good", "half", "turned"):
        shutil.copytree(colleague, tmp_path / "all" / "deep" / name)
    for name in ("half", "turned"):
        spoil(tmp_path / "all" / "deep" / name / "z.bcal", name == "turned")
    done = dsa110("calibration", "scan", tmp_path / "all", "--json")
    assert done.status == 1
    rows = {Path(row["folder"]).name: row for row in done.json}
    assert rows["good"]["set_id"] is not None
    assert "they have solutions for 3 of its 8 antennas" in rows["half"]["reason"]
    assert "gain_drift: drift_phase_deg is" in rows["turned"]["reason"]
    assert len(archive.products(registry.BY_HAND)) == 1
    again = {Path(row["folder"]).name: row["reason"] for row in dsa110("calibration", "scan", tmp_path / "all", "--json").json}
    assert again["good"] == "registered before"


def test_failed_imports_are_reported_in_one_sentence(archive: Archive, dsa110: Run, colleague: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, arguments in (
        ("holds no caltable", ["import", tmp_path / "empty"]),
        ("holds no caltable", ["scan", tmp_path / "empty"]),
        ("no such directory", ["scan", tmp_path / "nowhere"]),
        ("name all", ["import", colleague, "--order", "z.bcal"]),
        ("outside the validity", ["import", colleague, "--until", "2026-01-24"]),
        ("not a measurement set", ["import", colleague, "--check", tmp_path / "empty"]),
        ("no measurement set at 33 deg to check", ["import", colleague, "--dec", "33"]),
        ("holds the transit of 1331+305 at 13:0", ["solve", "--calibrator", "3C286"]),
        ("no measurement set of 2026-01-26", ["solve", "--calibrator", "3C454.3", "--night", "2026-01-26"]),
    ):
        done = dsa110("calibration", *arguments)
        assert (done.status, done.err.count("\n")) == (1, 1), done.err
        assert words in done.err
    assert archive.products(registry.BY_HAND) == []


def test_a_calibrator_solved_by_name_gives_the_platforms_own_tables(archive: Archive, dsa110: Run) -> None:
    """Transit, data and code are the same, so that receptors differ only by the single precision (1e-7) of the stored solutions."""
    (original,) = registry.sets(archive)
    done = dsa110("calibration", "solve", "--calibrator", "3C454.3", "--night", NIGHT, "--json")
    assert done.status == 0, done.err
    found = dsa110("calibration", "compare", done.json["set_id"], original.set_id, "--json").json
    solved = [one for one in found["differences"] if one["ratio"] is not None]
    assert len(solved) == 16
    assert found["reference"] == original.figures["refant"]
    assert max(abs(one["ratio"] - 1) for one in solved) < 1e-6
    assert max(abs(one["phase_deg"]) for one in solved) < 1e-4
    assert "16 of " in dsa110("calibration", "compare", done.json["set_id"], original.set_id).out


def test_retired_extended_and_restored(archive: Archive, dsa110: Run) -> None:
    """`retire` lists the products made with the set in that time. `show` gives the actions on the set and the phase reference antenna."""
    (original,) = registry.sets(archive)
    middle = timegrid.mjd_to_datetime(original.mid_mjd)
    done = dsa110("calibration", "retire", original.set_id, "--from", middle.isoformat(), "--reason", "antenna 5 moved")
    assert done.status == 0
    assert "calibrated_ms-20260125T2230-v1" in done.out
    assert "calibrated_ms-20260125T2220-v1" not in done.out
    assert dsa110("calibration", "active", "--at", f"{OBSERVATIONS[2]}:30").status == 1
    assert dsa110("calibration", "active", "--at", f"{OBSERVATIONS[0]}:30").status == 0
    assert dsa110("calibration", "extend", original.set_id, "--until", "2026-01-28").status == 0
    shown = dsa110("calibration", "show", original.set_id).out
    assert "antenna 5 moved" in shown
    assert "2026-01-28 00:00:00 UTC" in shown
    assert f"{original.figures['refant']}, the first of the chain" in shown
    assert dsa110("calibration", "restore", original.set_id).status == 0
    assert dsa110("calibration", "active", "--at", f"{OBSERVATIONS[2]}:30").status == 0
    assert dsa110("calibration", "retire", original.set_id).status == dsa110("calibration", "extend", original.set_id).status == 2
    assert dsa110("calibration", "extend", original.set_id, "--until", "2026-01-20").status == 1


@pytest.mark.slow
@pytest.mark.casa
def test_casas_tables_calibrate_as_casas_applycal(archive: Archive, dsa110: Run, tmp_path: Path) -> None:
    """Bandpass and gains by stock CASA, imported and applied by us, agree with stock applycal on the originals to 1e-5 of the data's
    level. Rounding stays well below: 1.2e-7 in single precision, in each of about ten operations on raw sums 1e2 times larger."""
    product, sky = archive.current("measurement_set", TRANSIT), archive.current("sky_model")
    assert product is not None
    assert sky is not None
    vis = measurement_set.read(product.path / "measurement_set.ms")
    ms = tmp_path / "check.ms"
    measurement_set.write(vis, ms, model=predict(vis, model.read(sky.path / "sky_model.parquet")))
    options = SolveOptions()
    paths = casa_calibration.solve_tables(ms, tmp_path / "casa", options, refant="103")
    for path in tmp_path.glob("casa/*"):
        if path not in paths and path.is_dir():
            shutil.rmtree(path)
    done = dsa110("calibration", "import", tmp_path / "casa", "--check", ms, "--json")
    assert done.status == 0, done.err
    made = registry.get(archive, done.json["set_id"])
    ours = apply.apply(vis, [caltables.read(path) for path in made.paths])
    theirs = casa_calibration.in_order_of(vis, casa_calibration.apply_tables(ms, paths, tmp_path / "corrected.ms"))
    good = ~ours.flags & ~theirs.flags & ~vis.is_auto[:, None, None]
    assert good.sum() > 0.9 * (~theirs.flags & ~vis.is_auto[:, None, None]).sum()
    level = np.abs(theirs.data[good]).max()
    np.testing.assert_allclose(ours.data[good], theirs.data[good], rtol=0, atol=1e-5 * level)
