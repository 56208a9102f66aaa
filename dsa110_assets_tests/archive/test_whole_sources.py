"""Rows of whole sources, put together from the files of many nights, are those of one table of all nights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsa110_assets.archive import whole_sources
from dsa110_assets.archive.light_curves import Nights
from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.photometry import nightrows
from dsa110_assets_tests.photometry.nightly import stored

COLUMNS = ("ra_deg", "flux_jy", "mjd", "flux_err_jy", "quality")
NOISY = pd.DataFrame({"scale": [3.0, np.nan], "fraction": [0.2, 0.1], "rows": [9.0, 9.0]}, index=pd.Index(["n3", "n5"], name="epoch"))


def rows_of_nights() -> pd.DataFrame:
    """300 sources in 7 nights: each night lacks some, has some twice, and begins before the end of the night before; fluxes may be NaN."""
    rng = np.random.default_rng(2)
    nights = []
    for night in range(7):
        source = np.sort(np.concatenate([rng.choice(300, 200, replace=False), rng.choice(300, 5)]))
        mjd = 61000 + night + rng.uniform(-0.8, 0.8, source.size)
        flux = np.where(rng.uniform(size=source.size) < 0.1, np.nan, rng.uniform(1, 2, source.size))
        columns = {"mjd": mjd, "ra_deg": rng.uniform(0, 360, source.size), "flux_jy": flux, "quality": rng.integers(0, 32, source.size)}
        nights.append(pd.DataFrame({"epoch": f"n{night}", "source_id": [f"s{k:03d}" for k in source], "flux_err_jy": 0.1, **columns}))
    return pd.concat(nights, ignore_index=True)


def on_disk(rows: pd.DataFrame, folder: Path) -> Nights:
    folders = []
    for epoch, tonight in rows.groupby("epoch"):
        folders.append(folder / str(epoch))
        folders[-1].mkdir()
        stored(tonight, folders[-1], NOISY)
    return Nights.of(folders)


@pytest.mark.parametrize("read_rows", [1, 90, 10_000], ids=["a source at a time", "some sources at a time", "all at once"])
@pytest.mark.parametrize("group_rows", [7, 1000], ids=["many row groups", "one row group"])
def test_rows_are_those_of_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_rows: int, group_rows: int) -> None:
    """To the last bit, for any size of row groups and of what is in memory; one of the noisy epochs has no scale, which counts as 1."""
    monkeypatch.setattr(whole_sources, "READ_ROWS", read_rows)
    monkeypatch.setattr(whole_sources, "_ROWS_AHEAD", 500)
    monkeypatch.setattr(nightrows, "GROUP_ROWS", group_rows)
    rows = rows_of_nights()
    nights = on_disk(rows, tmp_path)
    assert pq.read_metadata(nights.files[0]).num_row_groups == (30 if group_rows == 7 else 1)
    tables = []
    for names, starts, values in nights.parts(COLUMNS, 50):
        assert starts[-1] == len(values["mjd"])
        assert set(values) == set(COLUMNS)
        tables.append(pd.DataFrame({"source_id": np.repeat(names, np.diff(starts)), **values}))
    found = pd.concat(tables).sort_values("source_id", kind="stable", ignore_index=True)
    scale, fraction = (rows["epoch"].map(NOISY[name]).fillna(default) for name, default in (("scale", 1.0), ("fraction", 0.0)))
    expected = rows.assign(flux_err_jy=np.sqrt((0.1 * scale) ** 2 + rows["flux_jy"] ** 2 * fraction**2))
    expected = expected.sort_values(["source_id", "mjd"], ignore_index=True)[["source_id", *COLUMNS]]
    exact = [name for name in found if name != "flux_err_jy"]
    pd.testing.assert_frame_equal(found[exact], expected[exact], check_exact=True, check_dtype=False)
    np.testing.assert_allclose(found["flux_err_jy"], expected["flux_err_jy"], rtol=1e-14)


def test_what_is_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its last source a range has up to READ_ROWS rows; it begins where row groups do if it can; all ranges cover all sources."""
    monkeypatch.setattr(whole_sources, "READ_ROWS", 100)
    rng = np.random.default_rng(5)
    for trial in range(200):
        number = rng.integers(1, 30, rng.integers(1, 60))
        keys = np.arange(number.size) * 10
        sources = whole_sources.Sources(keys, np.concatenate([[0], np.cumsum(number)]))
        cuts = np.sort(rng.choice(keys, min(keys.size, trial % 8 + 1), replace=False))
        ranges = list(whole_sources._ranges(sources, cuts))
        assert [k for part in ranges for k in range(part.start, part.stop)] == list(range(keys.size))
        assert all(sources.starts[part.stop - 1] - sources.starts[part.start] <= 100 for part in ranges)
    sources = whole_sources.Sources(np.arange(50), np.arange(51) * 10)
    assert list(whole_sources._ranges(sources, np.array([0, 7, 14, 21, 28]))) == [
        slice(0, 7), slice(7, 14), slice(14, 21), slice(21, 28), slice(28, 38), slice(38, 48), slice(48, 50)
    ]  # fmt: skip


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    rows = rows_of_nights()
    nights = on_disk(rows, tmp_path)
    table = pq.read_table(nights.files[2])
    whole = nights.files[2].read_bytes()

    def broken() -> str:
        with pytest.raises(SilentWrongnessError, match="run: dsa110 archive verify") as refused:
            list(nights.parts(COLUMNS, 50))
        return str(refused.value)

    pq.write_table(table.take(list(range(table.num_rows))[::-1]), nights.files[2])
    assert "in order of source_key" in broken()
    pq.write_table(table.drop_columns(["correction"]), nights.files[2])
    assert str(nights.files[2]) in broken()
    assert "correction" in broken()
    nights.files[2].write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    assert str(nights.files[2]) in broken()
    nights.files[2].write_bytes(whole[:-9])
    assert "n2" in broken()


def test_nights_may_be_empty(tmp_path: Path) -> None:
    rows = rows_of_nights()
    empty = rows.iloc[:0]
    for name, tonight in (("a", empty), ("b", rows[rows["epoch"] == "n1"]), ("c", empty)):
        (tmp_path / name).mkdir()
        stored(tonight, tmp_path / name)
    assert list(Nights.of([tmp_path / "a", tmp_path / "c"]).parts(COLUMNS, 50)) == []
    blocks = list(Nights.of([tmp_path / name for name in "abc"]).parts(COLUMNS, 1000))
    assert [starts[-1] for _, starts, _ in blocks] == [205]


def test_rows_that_disappear_while_they_are_read_are_noticed(tmp_path: Path) -> None:
    """Between the count of all rows and their reading, one night loses a source and another gets one."""
    nights = on_disk(rows_of_nights(), tmp_path)
    table = pq.read_table(nights.files[2])
    keys, counts = np.unique(np.concatenate([pq.read_table(file)["source_key"] for file in nights.files]), return_counts=True)
    sources = whole_sources.Sources(keys, np.concatenate([[0], np.cumsum(counts)]))
    assert nights.errors is not None
    pq.write_table(table.slice(1), nights.files[2])
    with pytest.raises(SilentWrongnessError, match="lack rows"):
        list(whole_sources.read(nights.files, sources, COLUMNS, nights.errors, 50))
    pq.write_table(pa.concat_tables([table, table.slice(table.num_rows - 1)]), nights.files[2])
    with pytest.raises(SilentWrongnessError, match="changed"):
        list(whole_sources.read(nights.files, sources, COLUMNS, nights.errors, 50))
