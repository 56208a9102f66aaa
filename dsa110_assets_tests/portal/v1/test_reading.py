"""The API's resources agree with what was published, in stable pages, and reject malformed requests."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets import settings
from dsa110_assets.archive.store import Archive
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get, ask
from dsa110_assets_tests.portal.small_archive import SmallArchive

TILE = "tile_image-20260125T2205-v1"


def everything(get: Get, url: str) -> list[Any]:
    """All items of a list, page by page. Raises AssertionError after 200 pages, because that would be an endless loop."""
    found: list[Any] = []
    cursor = ""
    for _ in range(200):
        page = get(f"{url}{cursor}").json
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"
    raise AssertionError(f"{url} has no last page")


def test_products_are_selected_and_sorted(get: Get) -> None:
    rows = everything(get, "/api/v1/products?asset=tile_image&since=2026-01-26&limit=1")
    assert [row["product_id"] for row in rows] == ["tile_image-20260126T2205-v1", "tile_image-20260126T2210-v1"]
    assert rows[0]["metadata"]["rms_jy"] == made.RMS_JY
    assert everything(get, "/api/v1/images?since=2026-01-26&sort=-partition&limit=1") == rows[::-1]
    assert everything(get, "/api/v1/images?since=2026-01-26&sort=-created_at&limit=1") == rows[::-1]


@pytest.mark.parametrize("sort", ["partition", "-partition", "created_at", "-created_at"])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_every_product_is_listed_once_whatever_the_page_size(get: Get, small: SmallArchive, sort: str, limit: int) -> None:
    ids = [row["product_id"] for row in everything(get, f"/api/v1/products?state=all&sort={sort}&limit={limit}")]
    assert sorted(ids) == sorted(small.products)


def test_products_published_meanwhile_do_not_shift_pages(tmp_path: Path) -> None:
    """With offsets, a row inserted before the page would shift the last row of the page onto the next page as well."""
    small = made.build(tmp_path)
    app = create_app(small.root)
    first = ask(app, "/api/v1/images?sort=-partition&limit=2").json
    with Archive(small.root) as archive, archive.publish(
        "tile_image", "2026-01-26T22:15", [], settings={}, code_version="1", run_id="later"
    ) as draft:  # fmt: skip
        (draft.path / "x").write_bytes(b"x")
    second = ask(app, f"/api/v1/images?sort=-partition&limit=2&cursor={first['next']}").json
    assert [row["partition"] for row in (*first["items"], *second["items"])] == [
        "2026-01-26T22:10", "2026-01-26T22:05", "2026-01-25T22:10", "2026-01-25T22:05",
    ]  # fmt: skip


def test_files_and_lineage_of_a_product_are_listed(get: Get) -> None:
    files = get(f"/api/v1/products/{TILE}/files").json
    assert {one["name"] for one in files} == {"image.fits", "image-pb.fits", "preview.png", "product.json"}
    for one in files:
        assert len(get(one["url"]).body) == one["size_bytes"]
    lineage = get(f"/api/v1/products/{TILE}/lineage").json
    assert [node["product_id"].rpartition("-v")[0] for node in lineage["nodes"]] == [
        "tile_image-20260125T2205", "calibrated_ms-20260125T2205", "caltables-20260125", "measurement_set-20260125T2205",
        "subband_group-20260125T2205",
    ]  # fmt: skip
    assert [one["subband"] for one in lineage["nodes"][-1]["files"]] == [0, 1]
    assert not lineage["truncated"]
    near = get(f"/api/v1/products/{TILE}/lineage?depth=1").json
    assert (len(near["nodes"]), near["truncated"]) == (2, True)
    assert [row["asset"] for row in get(f"/api/v1/products/{TILE}/dependents").json] == ["hour_mosaic"]
    group = get("/api/v1/groups/2026-01-25T22:05").json
    assert group["files"] == lineage["nodes"][-1]["files"]


def test_observations_say_how_far_they_are(tmp_path: Path) -> None:
    small = made.build(tmp_path)
    with Archive(small.root) as archive:
        archive.reject("tile_image-20260126T2205-v1", "wrong")
    app = create_app(small.root)
    rows = {row["observation"]: row for row in ask(app, "/api/v1/observations").json["items"]}
    assert list(rows) == ["2026-01-26T22:10", "2026-01-26T22:05", "2026-01-25T22:10", "2026-01-25T22:05"]
    done, open_ = rows["2026-01-26T22:10"], rows["2026-01-26T22:05"]
    assert (done["state"], done["figures"]["rms_jy"], done["pointing_dec_deg"]) == ("imaged", made.RMS_JY, made.DEC_DEG)
    assert (open_["state"], open_["next_step"]) == ("waiting", "tile_image")


def test_cone_search_finds_what_lies_within(get: Get) -> None:
    ra, dec, flux = made.SOURCES["NVSS J024000+161612"]
    found = get(f"/api/v1/sources?ra={ra}&dec={dec}&radius=0.1").json["items"]
    assert [row["source_id"] for row in found] == ["NVSS J024000+161612"]
    assert found[0]["flux_jy"] == pytest.approx(flux)
    # haversine of (0.25 deg cos 16.3, 0.0633 deg) by hand: 0.2482 deg
    both = get(f"/api/v1/sources?ra={ra}&dec={dec}&radius=0.249&sort=separation_arcsec").json["items"]
    assert both[1]["separation_arcsec"] == pytest.approx(3600 * 0.2482, rel=1e-3)
    assert len(get(f"/api/v1/sources?ra={ra}&dec={dec}&radius=0.247").json["items"]) == 1


def test_sources_by_flux_and_in_order(get: Get) -> None:
    assert [row["source_id"] for row in everything(get, "/api/v1/sources?sort=-flux_jy&limit=1")] == list(made.SOURCES)
    assert [row["source_id"] for row in everything(get, "/api/v1/sources?max_flux_jy=0.2&min_epochs=4")] == [made.FAINT]
    assert get(f"/api/v1/sources/{made.FAINT.replace(' ', '%20').lower()}").json["n_detected"] == 2


def test_light_curve_has_limits_where_nothing_was_detected(get: Get) -> None:
    url = f"/api/v1/light-curves/{made.FAINT.replace(' ', '%20')}"
    curve = get(url).json
    assert [point["detected"] for point in curve["points"]] == [True, False, True, False]
    assert [point["limit_jy"] for point in curve["points"]] == [None, 5 * made.RMS_JY, None, 5 * made.RMS_JY]
    assert curve["points"][0]["product_id"] == "hour_mosaic-20260125T2200-v1"
    assert curve["ra_deg"] == made.SOURCES[made.FAINT][0]
    assert get(f"{url}?until=2026-01-25").json["points"] == curve["points"][:2]
    assert get(f"{url}?since=2026-01-26").json["points"] == curve["points"][2:]


def test_candidates_are_limited_by_the_false_discovery_rate(get: Get) -> None:
    assert [row["source_id"] for row in get("/api/v1/candidates").json["items"]] == [made.FAINT]
    both = everything(get, "/api/v1/candidates?max_false_discovery_rate=0.5&limit=1")
    assert [row["q_value"] for row in both] == [1e-6, 0.4]
    assert everything(get, "/api/v1/candidates?max_false_discovery_rate=0.5&kind=flare") == both[:1]


def test_status_counts(get: Get) -> None:
    state = get("/api/v1/status").json
    assert state["products"]["tile_image"] == 4
    assert state["latest_observation"] == "2026-01-26T22:10"
    # the tables are from 6 h before the first observation of the night, and the latest observation is 5 minutes after it
    assert state["calibration"]["age_at_latest_observation_h"] == pytest.approx(6 + 5 / 60, abs=1e-6)
    assert state["quarantined"][0]["reason"] == "the file is empty"
    assert state["waiting"] == []
    (aside,) = get("/api/v1/quarantine").json["items"]
    assert get(f"/api/v1/quarantine/{aside['key']}").json == aside


def test_calibration_in_force_and_all_sets_are_listed(get: Get) -> None:
    rows = everything(get, "/api/v1/caltables?limit=1")
    assert [row["product_id"] for row in rows] == ["caltables-20260126-v1", "caltables-20260125-v1"]
    (chosen,) = get("/api/v1/caltables/in-force?at=2026-01-25T22:05").json
    assert chosen["set_id"] == rows[1]["set_id"]
    # the transit lies a quarter of a day before the observation's start
    assert chosen["age_h"] == pytest.approx(6.0, abs=1e-6)
    assert get(f"/api/v1/caltables/{chosen['set_id']}").json == rows[1]
    assert everything(get, "/api/v1/caltables?until=2026-01-25") == rows[1:]


def test_checks_are_those_of_the_products(tmp_path: Path) -> None:
    small = made.build(tmp_path)
    reasons = {"rms": "", "dynamic_range": "3 below 5"}
    with Archive(small.root) as archive:
        for number in range(3):
            with archive.publish(
                "tile_image", f"2026-01-26T22:{20 + 5 * number}", [], settings={}, code_version="1", run_id="x"
            ) as draft:  # fmt: skip
                draft.metadata.update(checks=reasons, n_failed_checks=1, failed_errors=["dynamic_range"])
                (draft.path / "x").write_bytes(b"x")
    app = create_app(small.root)

    def get(url: str) -> Any:
        return ask(app, url)

    failed = everything(get, "/api/v1/checks?limit=1")
    assert [(row["partition"][-5:], row["check"]) for row in failed] == [(t, "dynamic_range") for t in ("22:30", "22:25", "22:20")]
    assert failed[0]["reason"] == "3 below 5"
    assert everything(get, "/api/v1/checks?failed=false&asset=tile_image&until=2026-01-26T22:20&limit=1") != failed


def test_settings_show_no_secrets_and_thresholds_name_refused_values(tmp_path: Path, no_settings_of_this_machine: None) -> None:
    small = made.build(tmp_path)
    secret = "postgresql://dsa:geheim-geheim@host/name"
    configured = settings.load(inbox=small.inbox, archive=small.root, token="geheim-geheim-geheim")
    app = create_app(small.root, settings=configured.model_copy(update={"database_url": secret}))
    answer = ask(app, "/api/v1/settings")
    assert "geheim" not in answer.text
    assert {row["name"]: row["value"] for row in answer.json}["DSA110_TOKEN"] == "********"
    assert ask(app, "/api/v1/thresholds").json["refused"] is None
    (small.root / "thresholds.toml").write_text("max_flag_fraction = 7\n")
    assert "max_flag_fraction" in ask(app, "/api/v1/thresholds").json["refused"]
    assert ask(create_app(small.root), "/api/v1/settings").status == 503


def test_unchanged_answers_are_not_sent_again(get: Get) -> None:
    url = "/api/v1/products?asset=tile_image"
    first = get(url)
    tag = first.headers["etag"].encode()
    again = get(url, headers=((b"if-none-match", b'"other", W/' + tag),))
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert get(url, headers=((b"if-none-match", b'"other"'),)).body == first.body
    assert get(f"{url}&limit=1").headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("products?limit=x", 422), ("products?limit=0", 422), ("products?limit=1e99", 422), ("products?limit=nan", 422),
        ("products?since=yesterday", 422), ("products?since=2026-13-01", 422), ("products?asset=A'--", 422),
        ("products?asset=nothing", 404),
        ("products?cursor=x", 400), ("products?cursor=WzFd", 400), ("products?cursor=WyIiLCJcdTAwMDAiLDFd", 400),
        ("products?cursor=WyIiLCJcdWQ4MDAiLDFd", 400), ("products?cursor=WyIiLCJhIiwxZTk5OV0", 400), ("products?sort=nothing", 422),
        ("sources?ra=12&dec=91", 400), ("sources?ra=12", 400), ("sources?ra=foo&dec=1", 400), ("sources?ra=1&dec=1&radius=-1", 400),
        ("sources?sort=separation_arcsec", 400), ("light-curves/nobody", 404), ("sources/nobody", 404),
        ("products/tile_image-20260125T2205-v9/lineage", 404), ("products/../../etc/passwd", 404), ("products/%2e%2e", 404),
        ("candidates?max_false_discovery_rate=2", 422), ("caltables/none/none", 404), ("caltables/none", 404),
        ("quarantine/none", 404), ("groups/none", 404),
        ("nothing", 404), ("", 404), ("runs", 503), ("queue", 503), ("products?limit=" + "1" * 500, 400),
    ],
)  # fmt: skip
def test_wrong_requests_get_problem_details(get: Get, url: str, status: int) -> None:
    answer = get(f"/api/v1/{url}")
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["detail"]
    assert answer.json["title"]


def test_errors_about_unknown_sources_name_existing_ones(get: Get) -> None:
    assert made.FAINT in get("/api/v1/light-curves/NVSS%20J024100").json["detail"]


@pytest.mark.parametrize(
    "resource",
    ["status", "observations", "groups", "measurement-sets", "images", "mosaics", "sources", "candidates", "checks", "caltables",
     "quarantine", "products", "audit", "ingest", "session", "health", "docs", "openapi.json"],
)  # fmt: skip
def test_an_empty_archive_has_all_resources(empty: Get, resource: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "unclosed database", ResourceWarning)  # of archives that tests before left open
        assert empty(f"/api/v1/{resource}").status == 200


def test_the_api_documentation_needs_no_other_origin(get: Get) -> None:
    page = get("/api/v1/docs")
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert "//" not in page.text.replace("DSA-110", "")
    for path, methods in get("/api/v1/openapi.json").json["paths"].items():
        for method, operation in methods.items():
            assert f"<code>{method.upper()} /api/v1{path}</code>" in page.text
            assert operation["description"].split("\n")[0].rstrip().endswith((".", ";", ":")), operation["operationId"]


def test_scripts_are_allowed_only_from_this_origin(get: Get) -> None:
    policy = get("/").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe-eval" not in policy
