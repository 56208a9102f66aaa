"""Contents of interactive plots, timelines, galleries and cards, compared with those of the small archive."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.portal import calibration, gallery
from dsa110_assets.portal.app import create_app
from dsa110_assets.telescope import astrometry, timegrid
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get, ask

FAINT = quote(made.FAINT)
KEYS = [night + suffix for night in made.NIGHTS for suffix in made.OBSERVATIONS]


def columns(item: Any) -> Iterator[dict[str, Any]]:
    """The columns of every data source in Bokeh's description of a plot."""
    if isinstance(item, dict):
        if item.get("name") == "ColumnDataSource" and "attributes" in item:
            yield {name: _values(values) for name, values in item["attributes"]["data"]["entries"]}
        for value in item.values():
            yield from columns(value)
    elif isinstance(item, list):
        for value in item:
            yield from columns(value)


def _values(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "ndarray":
        if isinstance(value["array"], list):
            return value["array"]
        return np.frombuffer(gzip.decompress(base64.b64decode(value["array"]["data"])), value["dtype"]).tolist()
    return value


def milliseconds(key: str) -> float:
    return 1000 * timegrid.parse_key(key).timestamp()


def test_a_light_curve_holds_every_point_detections_and_limits_apart(get: Get) -> None:
    detected, limits = columns(get(f"/sources/{FAINT}/chart.json").json)
    assert detected["epoch"] == [KEYS[0], KEYS[2]]
    assert limits["epoch"] == [KEYS[1], KEYS[3]]
    assert detected["flux"] == pytest.approx([100, 100], rel=1e-6)
    error_mjy = np.hypot(2.0, 100 / 1.02 * 0.001)  # the rms, and the correction's error times the uncorrected flux
    assert [high - low for high, low in zip(detected["high"], detected["low"], strict=True)] == pytest.approx([2 * error_mjy] * 2, rel=1e-6)
    assert limits["limit"] == pytest.approx([10, 10], rel=1e-6)
    assert detected["at"] == pytest.approx([milliseconds(KEYS[0]), milliseconds(KEYS[2])], abs=1)
    assert detected["calibration"] == ["× 1.0200 ± 0.0010 of 12 references"] * 2
    assert detected["said"] == ["clean"] * 2
    text = get(f"/sources/{FAINT}/chart.json").text
    assert f"/sources/{FAINT}/point?epoch=@link" in text
    assert get(f"/sources/{FAINT}/chart.json?dark=1").text != text


def test_downloadable_tables_hold_every_point(get: Get) -> None:
    rows = list(csv.DictReader(io.StringIO(get(f"/sources/{FAINT}/table.csv").text)))
    assert [row["epoch"] for row in rows] == KEYS
    assert [float(row["flux_jy"]) for row in rows] == pytest.approx([0.1, 0.001, 0.1, 0.001])
    assert b"<title>" in get(f"/sources/{FAINT}/spark.svg").body


def test_the_timeline_shows_all_observations_and_is_filtered(get: Get) -> None:
    (points,) = columns(get("/timeline.json?since=2026-01-25&until=2026-01-26").json)
    assert (points["key"], points["rms"], points["flagged"]) == (KEYS, [1e3 * made.RMS_JY] * 4, [100 * made.FLAGGED] * 4)
    text = get("/timeline?since=2026-01-25T22:05&until=2026-01-25T22:05").text
    assert "1 observations" in text
    assert "/observations/2026-01-25T22:05" in text
    assert "/observations/2026-01-25T22:10" not in text
    for query, number in (("state=failed", 0), ("state=completed", 4), ("strip=16", 4), ("strip=40", 0), ("checks=failed", 0)):
        assert f"{number} observations" in get(f"/timeline?since=2026-01-25&until=2026-01-26&{query}").text


def test_the_timeline_is_filtered_by_calibrator(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "a") as archive:
        for key, calibrator in ((KEYS[0], "0521+166"), (KEYS[1], "2253+161")):
            for asset in ("subband_group", "calibrated_ms"):
                with archive.publish(asset, key, [], settings={}, code_version="1", run_id="r") as draft:
                    draft.metadata["calibrator"] = calibrator
                    (draft.path / "x").write_text("x")
    text = ask(create_app(tmp_path / "a"), "/timeline?calibrator=2253%2B161").text
    assert f"/observations/{KEYS[1]}" in text
    assert f"/observations/{KEYS[0]}" not in text


def test_the_timeline_of_a_season_shows_each_hours_imaged_part(get: Get) -> None:
    (cells,) = columns(get("/timeline.json?since=2025-12-01&until=2026-01-26").json)
    assert (cells["night"], cells["hour"], cells["value"], cells["n"]) == (list(made.NIGHTS), [22.5, 22.5], [100.0, 100.0], [2, 2])
    (cells,) = columns(get("/timeline.json?since=2025-12-01&until=2026-01-26&colour=rms").json)
    assert cells["value"] == [1e3 * made.RMS_JY] * 2


def test_trends_show_figures_and_medians_over_weeks(get: Get) -> None:
    (points,) = columns(get("/trends/flagged.json?since=2026-01-25&until=2026-01-26").json)
    assert (points["key"], points["value"]) == (KEYS, [100 * made.FLAGGED] * 4)
    (points,) = columns(get("/trends/flagged.json?since=2025-12-25&until=2026-01-26").json)
    assert (points["key"], points["value"]) == (list(made.NIGHTS), [100 * made.FLAGGED] * 2)
    assert get("/trends/astrometry.json").json is None, "the small archive's tiles tell of none"


def test_the_page_of_a_point_shows_flux_tiles_and_other_changed_sources(get: Get) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", get(f"/sources/{FAINT}/point?epoch={KEYS[0]}").text).split())
    assert "Flux density 100.000 ± 2.002 mJy" in text
    assert "Reference sources 12" in text
    assert "Of 1 sources within 3°, 0 %" in text  # the other source is constant
    assert f"tile_image-{KEYS[0].replace('-', '').replace(':', '')}-v1" in text
    assert "0.25" in text  # degrees from the centre of the tile: 0.25 deg of RA at 16 deg, and 0.06 deg of declination


@pytest.fixture
def many(tmp_path: Path) -> Get:
    """A portal over 60 tiles, one per night, of two strips, some noisy, with the MJDs of their observations."""
    with Archive.create(tmp_path / "a") as archive:
        for number in range(60):
            night = f"2026-0{1 + number // 30}-{1 + number % 28:02d}" if number % 30 < 28 else f"2025-12-{number // 30 + 1:02d}"
            start = timegrid.datetime_to_mjd(timegrid.parse_key(f"{night}T{number % 24:02d}:00"))
            figures = {
                "rms_jy": 0.001 * (1 + number % 3),
                "pointing_dec_deg": 16.27 if number % 2 else 54.57,
                "mjd_start": start,
                "mjd_end": start + 0.00358,
            }
            with archive.publish("tile_image", f"{night}T{number % 24:02d}:00", [], settings={}, code_version="1", run_id="r") as draft:
                draft.metadata.update(figures)
                (draft.path / "preview.png").write_bytes(b"x")
    app = create_app(tmp_path / "a")
    return lambda url, **options: ask(app, url, **options)


def partitions(text: str) -> list[str]:
    return re.findall(r"<strong>(2\d{3}-\d\d-\d\dT\d\d:\d\d)</strong>", text)


def test_the_pages_of_a_gallery_show_each_image_once(many: Get) -> None:
    url: str | None = "/gallery"
    seen: list[str] = []
    while url is not None:
        text = many(url).text
        seen += partitions(text)
        older = re.search(r'rel="next" href="([^"]+)"', text)
        url = older[1].replace("&amp;", "&") if older else None
    assert len(seen) == len(set(seen)) >= 56
    assert seen == sorted(seen, reverse=True)


def test_a_gallery_shows_images_that_match_the_filters(many: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PAGE", 100)
    everything = partitions(many("/gallery").text)
    few, north, both = (partitions(many(f"/gallery?{query}").text) for query in ("max_rms=1.5", "strip=54.5", "max_rms=1.5&strip=54.5"))
    assert 0 < len(both) < min(len(few), len(north)) < len(everything)
    assert set(both) == set(few) & set(north)
    span = partitions(many("/gallery?since=2026-01-10&until=2026-01-12").text)
    assert span == [one for one in everything if "2026-01-10" <= one[:10] <= "2026-01-12"] != []
    key = north[3]
    middle = timegrid.datetime_to_mjd(timegrid.parse_key(key)) + 0.00179
    ((ra, dec),) = np.rad2deg(astrometry.meridian_icrs_rad([middle], np.deg2rad(54.57)))
    assert key in partitions(many(f"/gallery?ra={ra}&dec={dec}").text)
    assert key not in partitions(many(f"/gallery?ra={ra + 20}&dec={dec}").text)


def test_an_antennas_panel_has_its_amplitudes_where_they_belong() -> None:
    """Half the median lies a quarter of the way from 0 to twice the median; a phase of 90 degrees three quarters from -180 to 180."""
    values = np.ones((1, 3, 8, 2), np.complex128)
    values[:, 1] = 0.5j
    flags = np.zeros(values.shape, np.bool_)
    flags[:, 2] = True
    flags[:, 1, :, 1] = True
    table = Gains(
        "B",
        values,
        flags,
        np.ones(values.shape, np.float32),
        np.array([61066.0]),
        300.0,
        np.linspace(1.3e9, 1.5e9, 8),
        ("1", "2", "3"),
        0,
        "f",
    )
    first, second = calibration.panels([table])
    assert (first["antenna"], second["antenna"], second["dead"]) == ("1", "2", ["Y"]), "one without any solution has no panel"
    known = calibration.medians.__wrapped__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "read", lambda paths: (table, table))
        found = known(())
    # bandpass and gains are the same table: 1 squared at 0 degrees, and 0.5 squared at twice 90 degrees
    np.testing.assert_allclose(found["1"], [[1, 1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(found["2"], [[0.25, np.nan], [-180, np.nan]], atol=1e-12)
    lines = dict(second["parts"][0]["lines"])
    assert lines["amplitude Y"] == lines["phase Y"] == ""
    for name, height in (("amplitude X", 0.75), ("phase X", 0.25)):
        dots = re.findall(r"M(\d+) (\d+)h0", lines[name])
        assert [int(y) for _, y in dots] == [round(height * calibration.HEIGHT)] * 8
        assert [int(x) for x, _ in dots] == [round((n + 0.5) / 8 * calibration.WIDTH) for n in range(8)]
