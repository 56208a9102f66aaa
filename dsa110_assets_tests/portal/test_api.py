"""The JSON interface and the metrics: pure, complete, and strict about what they are asked."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from dsa110_assets import settings
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import TransientError
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.portal import overview
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get, ask


def test_products_are_selected_and_paged(get: Get) -> None:
    answer = get("/api/products?asset=tile_image&since=2026-01-26&limit=1").json
    assert answer["total"] == 2
    assert [row["product_id"] for row in answer["products"]] == ["tile_image-20260126T2205-v1"]
    assert answer["products"][0]["metadata"]["rms_jy"] == made.RMS_JY
    second = get("/api/products?asset=tile_image&since=2026-01-26&limit=1&offset=1").json["products"]
    assert second[0]["product_id"] == "tile_image-20260126T2210-v1"


def test_cone_search_finds_what_lies_within(get: Get) -> None:
    ra, dec, flux = made.SOURCES["NVSS J024000+161612"]
    found = get(f"/api/sources?ra={ra}&dec={dec}&radius=0.1").json["sources"]
    assert [row["source_id"] for row in found] == ["NVSS J024000+161612"]
    assert found[0]["flux_jy"] == pytest.approx(flux)
    # haversine of (0.25 deg cos 16.3, 0.0633 deg) by hand: 0.2482 deg
    both = get(f"/api/sources?ra={ra}&dec={dec}&radius=0.249").json["sources"]
    assert both[1]["separation_arcsec"] == pytest.approx(3600 * 0.2482, rel=1e-3)
    assert len(get(f"/api/sources?ra={ra}&dec={dec}&radius=0.247").json["sources"]) == 1


def test_light_curve_has_limits_where_nothing_was_detected(get: Get) -> None:
    curve = get(f"/api/lightcurve/{made.FAINT}").json
    assert [point["detected"] for point in curve["points"]] == [True, False, True, False]
    assert [point["limit_jy"] for point in curve["points"]] == [None, 5 * made.RMS_JY, None, 5 * made.RMS_JY]
    assert curve["points"][0]["product_id"] == "hour_mosaic-20260125T2200-v1"
    assert curve["ra_deg"] == made.SOURCES[made.FAINT][0]


def test_candidates_obey_the_rate(get: Get) -> None:
    assert [row["source_id"] for row in get("/api/variables").json["candidates"]] == [made.FAINT]
    assert len(get("/api/variables?max_false_discovery_rate=0.5").json["candidates"]) == 2


def test_lineage_ends_at_the_subband_files(get: Get) -> None:
    node = get("/api/lineage/tile_image-20260125T2205-v1").json
    while "inputs" in node:
        node = node["inputs"][0]
    assert node["file"]["path"].endswith("2026-01-25T22:05:00_sb00.hdf5")


def test_status_counts(get: Get) -> None:
    state = get("/api/status").json
    assert state["products"]["tile_image"] == 4
    assert state["latest_observation"] == "2026-01-26T22:10"
    # tables from 6 h before the first observation of the night; the latest is 5 minutes after it
    assert state["calibration"]["age_at_latest_observation_h"] == pytest.approx(6 + 5 / 60, abs=1e-6)
    assert state["quarantined"][0]["reason"] == "the file is empty"
    assert state["waiting"] == []


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/api/products?limit=x", 400), ("/api/products?limit=0", 400), ("/api/products?limit=1e99", 400),
        ("/api/products?limit=nan", 400), ("/api/products?since=yesterday", 404),
        ("/api/products?asset=A'--", 404),
        ("/api/sources?ra=12&dec=91", 400), ("/api/sources?ra=12", 400), ("/api/sources?ra=foo&dec=1", 400),
        ("/api/sources?ra=1&dec=1&radius=-1", 400), ("/api/lightcurve/nobody", 404),
        ("/api/lineage/tile_image-20260125T2205-v9", 404), ("/api/lineage/../../etc/passwd", 404),
        ("/api/variables?max_false_discovery_rate=2", 400), ("/api/nothing", 404),
    ],
)  # fmt: skip
def test_wrong_questions_get_a_sentence(get: Get, url: str, status: int) -> None:
    answer = get(url)
    assert answer.status == status
    assert set(answer.json) == {"error"}
    assert answer.json["error"]


def test_unknown_source_is_told_what_is_there(get: Get) -> None:
    assert made.FAINT in get("/api/lightcurve/NVSS%20J024100").json["error"]


def test_metrics_are_prometheus_text(get: Get) -> None:
    answer = get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r'[a-z][a-z0-9_]*(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (\S+)')
    values = {}
    typed = set()
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        if not line.startswith("#"):
            match = sample.fullmatch(line)
            assert match, line
            assert line.split("{")[0].split()[0] in typed
            values[line.rpartition(" ")[0]] = float(match[3])
    assert all(math.isfinite(value) for value in values.values())
    assert values['dsa110_products{asset="tile_image"}'] == 4
    assert values["dsa110_image_noise_jy"] == made.RMS_JY
    assert values["dsa110_flagged_fraction"] == made.FLAGGED  # the number of the observations' page
    assert values["dsa110_flagged_fraction_calibrated"] == made.FLAGGED_CALIBRATED
    assert values["dsa110_quarantined"] == 1


def test_health(get: Get) -> None:
    assert get("/healthz").json["status"] == "ok"


def test_the_portal_tells_what_lies_in_the_inbox_and_looks_seldom(tmp_path: Path, no_settings_of_this_machine: None) -> None:
    """Its status, its front page and its metrics agree; a look that fails is told and takes nothing else with it."""
    small, looks = made.build(tmp_path), list[int]()
    configured = settings.load(inbox=small.inbox, archive=small.root)
    (small.inbox / "2026-01-26T23:00:00_sb01.uvh5").write_bytes(b"x")

    def look(archive: Archive) -> inbox.Inbox:
        looks.append(1)
        return plan.scan_for_display(archive, configured)

    def away(archive: Archive) -> inbox.Inbox:
        raise TransientError("the inbox is away")

    app = create_app(small.root, inbox=small.inbox, look=overview.at_most_every(3600.0, look))
    status = ask(app, "/api/status").json
    assert status["inbox_groups"] == {"ready": 0, "waiting": 0, "unusable": 0}
    assert any("uvh5" in row["path"] for row in status["inbox_files"])
    assert 'dsa110_inbox_groups{state="ready"} 0.0\n' in ask(app, "/metrics").text
    assert ask(app, "/").status == 200
    assert len(looks) == 1
    app = create_app(small.root, inbox=small.inbox, look=overview.at_most_every(0.0, away))
    later = ask(app, "/api/status").json
    assert (later["inbox_groups"], later["troubles"]) == (None, ["the inbox: the inbox is away"])
    assert later["products"] == status["products"]
    assert "the inbox is away" in ask(app, "/").text
