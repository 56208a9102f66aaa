"""Names and sizes that hours pass on: each once, in its bin of the sky, whatever the number of hours between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.photometry import carried
from dsa110_assets.photometry.forced import SIZE


def measured(mjd: float, *sources: tuple[str, float, str, float]) -> pd.DataFrame:
    """An hour's rows: name, right ascension [deg], kind, major axis [arcsec] (0: a point, NaN: not known)."""
    names, ra, kinds, sizes = zip(*sources, strict=True)
    defaults: dict[str, Any] = dict.fromkeys((*carried.PLACE, *carried.SIZES), 1.0)
    return pd.DataFrame({**defaults, "source_id": names, "ra_deg": ra, "kind": kinds, SIZE: np.array(sizes), "mjd": mjd})


def hour(folder: Path, before: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The table that an hour passes on, written to its file and read back."""
    folder.mkdir()
    carried.carry(before, rows).to_parquet(folder / carried.FILE)
    return carried.read(dict.fromkeys(range(carried.BINS), folder))


def test_bins_are_hours_of_right_ascension() -> None:
    assert carried.bins_of([0.0, 14.999, 15.0, 359.999, 360.0, -0.001]).tolist() == [0, 0, 1, 23, 0, 23]


def test_names_and_first_sizes_are_kept_whatever_follows(tmp_path: Path) -> None:
    """A source named in the first hour and given a size in the second keeps both in the third, which finds another size. A listed source
    keeps the size from the second hour; a point has no size to pass on."""
    first = hour(tmp_path / "1", carried.nothing(), measured(1.0, ("new", 80.0, "blind", 0.0), ("listed", 80.1, "forced", np.nan)))
    assert first["source_id"].tolist() == ["new"]
    assert np.isnan(first[SIZE]).all()
    second = hour(tmp_path / "2", first, measured(2.0, ("new", 80.3, "forced", 30.0), ("listed", 80.1, "forced", 20.0)))
    third = hour(tmp_path / "3", second, measured(3.0, ("new", 80.0, "forced", 50.0), ("listed", 80.1, "forced", 60.0)))
    pd.testing.assert_frame_equal(second, third)
    assert third.set_index("source_id")[SIZE].to_dict() == {"new": 30.0, "listed": 20.0}
    assert third.set_index("source_id")["ra_deg"].to_dict() == {"new": 80.0, "listed": 80.1}
    catalogue = pd.DataFrame({"source_id": ["listed", "other"], **{name: [80.1, 81.0] for name in carried.PLACE}})
    known = carried.known_sources(catalogue, third)
    assert known["source_id"].tolist() == ["listed", "other", "new"]
    assert known[SIZE].tolist()[::2] == [20.0, 30.0]
    assert np.isnan(known[SIZE].iloc[1])
    assert carried.known_sources(catalogue, carried.nothing()) is catalogue


def test_each_bin_is_read_from_the_hour_that_saw_it_last(tmp_path: Path) -> None:
    """One hour covers 5 h and a later one 7 h: the next hour reads each bin from the hour that saw it last, and no bin twice at their
    common border."""
    early = hour(tmp_path / "early", carried.nothing(), measured(1.0, ("a", 80.0, "blind", 0.0), ("b", 91.0, "blind", 0.0)))
    late = hour(tmp_path / "late", early[early["ra_deg"] > 90], measured(2.0, ("c", 110.0, "blind", 0.0)))
    assert late["source_id"].tolist() == ["b", "c"]
    both = carried.read({5: tmp_path / "early", 6: tmp_path / "late", 7: tmp_path / "late"})
    assert both["source_id"].tolist() == ["a", "b", "c"]
    assert carried.read({8: tmp_path / "late"}).empty
    assert carried.read({}).columns.tolist() == list(carried.COLUMNS)


@pytest.mark.parametrize(
    ("column", "change", "same"), [("mjd", 1.0, True), ("ra_deg", 1e-6, True), ("ra_deg", 1e-3, False), (SIZE, 1.0, False)]
)
def test_a_bins_digest_is_that_of_its_names_places_and_sizes(column: str, change: float, same: bool) -> None:
    """Changes too small to alter a measurement do not change the digest, nor do another bin or the order."""
    rows = measured(1.0, ("a", 80.00002, "blind", 20.0), ("b", 80.5, "blind", 0.0), ("c", 100.0, "blind", 0.0))
    before = carried.digests(carried.carry(carried.nothing(), rows), [5, 6, 7])
    assert [bool(before[name]) for name in ("05", "06", "07")] == [True, True, False]
    rows.loc[0, column] += change
    after = carried.digests(carried.carry(carried.nothing(), rows.iloc[::-1]), [5, 6, 7])
    assert (after["05"] == before["05"]) is same
    assert after["06"] == before["06"]
