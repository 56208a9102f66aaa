"""Light curves are kept between requests while the nights do not change, and candidates' thumbnails are drawn together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from astropy.timeseries import TimeSeries

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.archive.store import Archive
from dsa110_assets.portal import curves, thumbnails
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.portal.small_archive import FAINT, NIGHTS, SOURCES


class Counted(AnalystArchive):
    """An archive that records its reads of the nights' files."""

    def __init__(self, store: Archive) -> None:
        super().__init__(store)
        self.read: list[str] = []

    def sources(self, ra: Any = None, dec: Any = None, radius: Any = None) -> Table:
        self.read.append("sources")
        return super().sources(ra, dec, radius)

    def light_curve(self, name: str) -> TimeSeries:
        self.read.append(name)
        return super().light_curve(name)

    def light_curves(self, names: Sequence[str]) -> Table:
        self.read.append(f"{len(names)} together")
        return super().light_curves(names)


@pytest.fixture
def archive(tmp_path: Path) -> Counted:
    return Counted(Archive(small_archive.build(tmp_path).root))


def test_light_curves_are_cached_until_a_night_is_updated(archive: Counted) -> None:
    app = create_app(archive)
    for url in (f"/sources/{FAINT}", f"/sources/{FAINT}/chart.json", f"/api/v1/light-curves/{FAINT}", "/sources", "/api/v1/sources"):
        for _ in range(2):
            assert ask(app, url).status == 200
    assert archive.read == [FAINT, "sources"]
    small_archive.light_curves_again(archive.store, NIGHTS[-1])
    assert ask(app, f"/sources/{FAINT}").status == ask(app, "/sources").status == 200
    assert archive.read == [FAINT, "sources"] * 2


def test_light_curves_that_lacked_a_damaged_night_are_read_again(archive: Counted) -> None:
    """A damaged file may be repaired, which changes no digest."""
    (first, _) = archive.store.products("light_curves")
    (file,) = first.path.glob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.warns(UserWarning, match="left out"):
        assert len(curves.light_curve(archive, FAINT)) == 2
    file.write_bytes(whole)
    assert len(curves.light_curve(archive, FAINT)) == 4


def test_thumbnails_of_candidates_are_drawn_together_and_as_alone(archive: Counted) -> None:
    app = create_app(archive)
    drawn = {name: ask(app, f"/sources/{name}/spark.svg") for name in [*SOURCES, *SOURCES]}
    steady = next(name for name in SOURCES if name != FAINT)
    assert archive.read == ["1 together", steady]
    for name, answer in drawn.items():
        curve = AnalystArchive(archive.store).light_curve(name)
        detections = curve[np.asarray(curve["detected"])]
        single = thumbnails.sparkline(name, detections.time.mjd, detections["flux"].to_value("mJy"), detections["error"].to_value("mJy"))
        assert answer.body == single


def test_a_thumbnail_of_many_nights_shows_flare_and_dip() -> None:
    """Of 3000 epochs it shows the flare at the first, the dip at the last, and no more points than fit."""
    flux = np.full(3000, 50.0)
    flux[[0, -1]] = 90.0, 10.0
    drawn = thumbnails.sparkline("a", np.arange(3000.0), flux, np.ones(3000)).decode()
    heights = [float(place) for place in re.findall(r"M[0-9.]+ ([0-9.]+)h0", drawn)]
    assert thumbnails.POINTS / 2 <= len(heights) <= thumbnails.POINTS
    assert len(drawn) < 5000  # because a page has two hundred of them
    assert heights[0] == min(heights) < heights[1] == heights[-2] < heights[-1] == max(heights)
