"""Foreign catalogues: unstated frequencies, sources listed twice, unusual formats, and names that differ only slightly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsa110_assets import open_archive
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.photometry.ensemble import LIGHT_CURVE_COLUMNS
from dsa110_assets.sky import catalogues, model
from dsa110_assets.sky.names import look_up
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.sky import survey_files as files

SCALE, TWICE, FORMS, NAMES = 27, 28, 29, 30
"""Rows of ops/RELIABILITY.md."""
DAMAGES = 12
SOURCES = 200
LOBES = (("n", 20.0), ("s", -20.0))
"""The two lobes of a double source: suffix of the name, and offset north of the centroid [arcsec]."""
READINGS = {"one catalogue": ["both.csv"], "coarse first": ["nvss.csv", "first.csv"], "fine first": ["first.csv", "nvss.csv"]}


@pytest.mark.row(SCALE)
def test_no_flux_scale_is_guessed(tmp_path: Path) -> None:
    """Each survey's table is scaled to 1.4 GHz with its spectral index. A table that states no frequency is refused."""
    wrong = 0
    for name, content, mhz, _ in files.TEXTS.values():
        frame = catalogues.read_catalogue(files.text(tmp_path, name, content))
        right = files.JY * (1400 / mhz) ** frame["spectral_index"].iloc[0]
        wrong += abs(model.from_frame(frame).flux_at(1.4e9)[0, 0] / right - 1) > 1e-6
    with pytest.raises(ConfigurationError, match="at which frequency"):
        catalogues.read_catalogue(files.text(tmp_path, "list.csv", "ra,dec,flux_mjy\n80.1,-16.2,120\n"))
    record_figure(SCALE, "surveys' tables", len(files.TEXTS))
    record_figure(SCALE, "brought to 1.4 GHz wrongly", int(wrong))
    assert wrong == 0


@pytest.mark.row(TWICE)
def test_sources_listed_twice_are_in_the_model_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    places = {"ra_deg": rng.uniform(100, 110, SOURCES), "dec_deg": rng.uniform(15, 17, SOURCES)}
    single = pd.DataFrame({"name": [f"S{i}" for i in range(SOURCES)], **places, "flux_jy": rng.uniform(0.05, 1, SOURCES)})
    duplicate = single.assign(name=single["name"] + "b", dec_deg=single["dec_deg"] + 0.5 / 3600)
    lobes = [
        single.assign(name=single["name"] + suffix, dec_deg=single["dec_deg"] + offset / 3600, flux_jy=0.5 * single["flux_jy"])
        for suffix, offset in LOBES
    ]
    files_of = {"both.csv": [single, duplicate], "nvss.csv": [single], "first.csv": lobes}
    for name, parts in files_of.items():
        pd.concat(parts).to_csv(tmp_path / name, index=False)
    read = {name: catalogues.read_catalogue(tmp_path / name) for name in files_of}
    for what, names in READINGS.items():
        frames = [read[name] for name in names]
        sky = model.from_frame(catalogues.merge(frames, [frame["catalogue"].iloc[0] for frame in frames], 15.0))
        extra = float(sky.flux_jy.sum() / single["flux_jy"].sum() - 1)
        record_figure(TWICE, f"flux too much, {what} [%]", round(100 * extra, 3))
        assert extra == pytest.approx(0, abs=0.01)


@pytest.mark.row(FORMS)
def test_damaged_catalogues_are_read_correctly_or_refused_in_a_sentence(tmp_path: Path) -> None:
    """Files are truncated, or bytes are changed, removed or inserted: no other exception occurs, and no name is half read."""
    rng = np.random.default_rng(1)
    damaged = refused = 0
    for name, content, *_ in (*files.TEXTS.values(), *files.REFUSED.values()):
        for _ in range(DAMAGES if content else 0):
            (tmp_path / name).write_bytes(_damaged(content.encode("utf-8"), rng))
            damaged += 1
            refusal, frame = _read(tmp_path / name)
            refused += refusal is not None
            assert "\n" not in (refusal or "")
            if frame is not None:
                assert frame["flux_jy"].gt(0).any()
                assert not frame["name"].isin(["", "--", "nan", "None"]).any()
    record_figure(FORMS, "forms", len(files.TEXTS) + len(files.REFUSED))
    record_figure(FORMS, "damaged files", damaged)
    record_figure(FORMS, "refused in one sentence", refused)
    record_figure(FORMS, "other exceptions", 0)


def _read(path: Path) -> tuple[str | None, pd.DataFrame | None]:
    """(message of the refusal, None) or (None, catalogue)."""
    try:
        return None, catalogues.read_catalogue(path)
    except ConfigurationError as error:
        return str(error), None


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    out, place = bytearray(content), int(rng.integers(len(content)))
    match int(rng.integers(4)):
        case 0:
            del out[place:]
        case 1:
            del out[place : place + int(rng.integers(1, 40))]
        case 2:
            out[place] = int(rng.integers(256))
        case _:
            out[place:place] = bytes(rng.integers(32, 127, size=5).astype(np.uint8))
    return bytes(out)


@pytest.mark.row(NAMES)
def test_a_light_curve_of_another_source_is_never_returned() -> None:
    names = ["PSR J0024-7204A", "PSR J0024-7204a", "S 11", "S1 1", "s1 1", "A_1", "A 1", "a1", "J1331+305", "1331+305"]
    labels = ([(name, name) for name in names],)
    others = sum(look_up(name, labels, "source") != name for name in names)
    ambiguous = 0
    for name in ("psr j0024-7204a", "S11", "A1", "j1331 +305"):
        with pytest.raises(NotFoundError, match="may be any of"):
            look_up(name, labels, "source")
        ambiguous += 1
    record_figure(NAMES, "names", len(names))
    record_figure(NAMES, "another's curve", others)
    record_figure(NAMES, "ambiguous names refused", f"{ambiguous} of 4")
    assert others == 0


@pytest.mark.row(NAMES)
def test_curves_of_a_table_without_a_model_are_found_by_their_names(tmp_path: Path) -> None:
    """A file of light curves without the keys, the error model and the frequency that a night's product has."""
    names = ["PSR J0024-7204A", "PSR J0024-7204a", "S 11", "S1 1"]
    row = dict.fromkeys(LIGHT_CURVE_COLUMNS, 1.0) | {"epoch": "2026-01-25T22:05", "mosaic_id": "m", "detected": True, "quality": 0}
    rows = [row | {"source_id": name, "flux_jy": 0.1 * (i + 1)} for i, name in enumerate(names)]
    with Archive.create(tmp_path) as archive:
        for night in ("2026-01-24", "2026-01-25"):
            with archive.publish("light_curves", night, [], settings={}, code_version="1", run_id="x") as draft:
                pd.DataFrame(rows).to_parquet(draft.path / "light_curves.parquet", index=False)
                draft.metadata["frequency_hz"] = float("nan")
    reader = open_archive(tmp_path)
    for i, name in enumerate(names):
        curve = reader.light_curve(name)
        assert len(curve) == 1
        assert curve["flux"][0].to_value("Jy") == pytest.approx(0.1 * (i + 1))
        assert curve["error"][0].to_value("Jy") == 1.0
        assert np.isnan(curve.meta["frequency"].to_value("Hz"))
    with pytest.raises(NotFoundError, match="may be any of"):
        reader.light_curve("S11")
    assert sorted(reader.sources()["source_id"]) == sorted(names)
