"""`dsa110 export`: values read back from every format equal those of the analysts' interface."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import votable
from astropy.table import QTable
from mocpy import MOC

import dsa110_assets as dsa
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.cli.test_standing import environment
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.small_archive import FAINT, NIGHTS, SOURCES, SmallArchive

SUFFIXES = (".vot", ".fits", ".ecsv", ".parquet", ".csv")


def read(path: Path) -> dict[str, Any]:
    """Check the units of a file and return its columns by name, without the unit that CSV and Parquet have in the name."""
    if path.suffix in (".csv", ".parquet"):
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        assert {"ra_deg", "dec_deg"} <= set(frame.columns)
        return {str(name).removesuffix("_deg").removesuffix("_jy"): frame[name].to_numpy() for name in frame}
    table = QTable.read(path, format={".vot": "votable", ".ecsv": "ascii.ecsv"}.get(path.suffix, "fits"))
    assert {str(table[name].unit) for name in ("ra", "dec")} == {"deg"}
    return {name: np.asarray(getattr(table[name], "value", table[name])) for name in table.colnames}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sources_and_light_curves_are_the_same_in_every_format(dsa110: Run, small: SmallArchive, tmp_path: Path, suffix: str) -> None:
    out, archive = tmp_path / f"out{suffix}", dsa.open_archive(small.root)
    done = dsa110("export", "sources", out)
    assert done.status == 0, done.err
    found, expected = read(out), archive.sources()
    assert list(found["source_id"].astype(str)) == list(expected["source_id"])
    np.testing.assert_array_equal(found["flux"], expected["flux"].value)
    assert dsa110("export", "light-curves", out).status == 0  # replaces the older file
    found = read(out)
    for name in SOURCES:
        is_source, curve = found["source_id"].astype(str) == name, archive.light_curve(name)
        for column in ("flux", "error", "limit"):
            np.testing.assert_array_equal(found[column][is_source].astype(float), curve[column].value)
        assert list(found["product_id"][is_source].astype(str)) == list(curve["product_id"])
    if suffix == ".vot":
        assert votable.validate(str(out), output=None)
        (table,) = votable.parse(out, verify="exception").iter_tables()
        assert all(field.ucd and field.description for field in table.fields)


def test_light_curves_are_exported_by_source_flux_and_time(dsa110: Run, tmp_path: Path) -> None:
    """Selected by source and by time; each night has two points of each source."""
    out = tmp_path / "part.csv"
    assert dsa110("export", "light-curves", out, "--source", FAINT, "--until", NIGHTS[0]).status == 0
    assert list(pd.read_csv(out)["epoch"]) == [NIGHTS[0] + suffix for suffix in made.OBSERVATIONS]
    assert dsa110("export", "light-curves", out, "--max-flux-jy", 0.2, "--since", NIGHTS[1]).status == 0
    assert set(pd.read_csv(out)["source_id"]) == {FAINT}
    assert len(pd.read_csv(out)) == 2


def test_a_list_of_images_is_exported(dsa110: Run, tmp_path: Path) -> None:
    assert dsa110("export", "images", tmp_path / "i.parquet", "--since", NIGHTS[1]).status == 0
    frame = pd.read_parquet(tmp_path / "i.parquet")
    assert list(frame["partition"]) == [NIGHTS[1] + suffix for suffix in made.OBSERVATIONS]
    assert set(frame["ra_deg"]) == {made.RA_DEG}
    assert set(frame["rms_jy"]) == {made.RMS_JY}
    assert all(Path(path).is_file() for path in frame["path"])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sources out.doc", "its suffix names no format; use .ecsv"),
        ("sources nowhere/out.csv", "cannot be written"),
        ("sources out.csv --min-flux-jy 5", "nothing matches the request"),
        ("light-curves out.csv --source nobody", "nobody"),
        ("images out.csv --asset caltables", "choose from tile_image, hour_mosaic, requested_mosaic, night_mosaic"),
        ("images out.csv --asset night_mosaic", "there is no night_mosaic"),
        ("moc out.fits --night 2026-01-25", "no night_mosaic for 2026-01-25"),
    ],
)
def test_failed_exports_are_reported_in_one_sentence(
    dsa110: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = dsa110("export", *command.split())
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert words in done.err
    assert list(tmp_path.glob("out*")) == []


def test_coverage_and_hips_of_a_night_are_exported(finished_run: tuple[Any, Any], bare: Run, tmp_path: Path) -> None:
    settings, night = finished_run[0], made.NIGHTS[0]
    (mosaic,) = dsa.open_archive(settings.archive).store.products("night_mosaic")
    expected = MOC.from_fits(str(mosaic.path / "coverage.moc.fits"))
    for name in ("moc.fits", "moc.json"):
        assert bare("export", "moc", tmp_path / name, "--night", night, **environment(settings)).status == 0
    assert MOC.from_fits(str(tmp_path / "moc.fits")) == expected
    assert MOC.from_json(json.loads((tmp_path / "moc.json").read_text())) == expected
    assert bare("export", "hips", tmp_path / "hips", "--night", night, **environment(settings)).status == 0
    names = [path.relative_to(mosaic.path / "hips") for path in (mosaic.path / "hips").rglob("*") if path.is_file()]
    assert filecmp.cmpfiles(mosaic.path / "hips", tmp_path / "hips", [str(name) for name in names], shallow=False)[1:] == ([], [])
    again = bare("export", "hips", tmp_path / "hips", "--night", night, **environment(settings))
    assert (again.status, "name a new directory" in again.err) == (1, True)
