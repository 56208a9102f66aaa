"""Changes over HTTP: only with the token, only as rehearsed, and always with a line in the audit."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
from starlette.types import ASGIApp

from dsa110_assets import settings
from dsa110_assets.archive import audit, backup, caltable_registry, integrity, quarantine
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import history
from dsa110_assets.portal.app import create_app
from dsa110_assets.portal.v1 import access, context, limits, tokens
from dsa110_assets.settings import Settings
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.conftest import Answer, ask
from dsa110_assets_tests.portal.small_archive import SmallArchive

TOKEN = "a-token-of-some-length"
BEARER = (b"authorization", f"Bearer {TOKEN}".encode())
ME = (b"x-dsa110-user", b"Ada")
TILE, TABLES = "tile_image-20260125T2205-v1", "caltables-20260125-v1"
SET = f"{TABLES}/3C138"
ORDERS = [
    (f"products/{TILE}/pin", {"reason": "in the paper"}), (f"products/{TILE}/unpin", {}), ("retention", {}), ("quarantine/0/release", None),
    ("ingest/pause", {"reason": "maintenance"}), ("ingest/resume", None), ("thresholds/reload", None),
    (f"caltables/{SET}/reject", {"reason": "bad"}), (f"caltables/{SET}/retire", {"reason": "bad", "since": "2026-01-25"}),
    (f"caltables/{SET}/restore", {}), ("caltables/import", {"directory": "/x"}), ("runs", {"first_night": "2026-01-25"}),
    ("runs/0/cancel", {}), ("runs/0/retry", None), ("requested-mosaics", {"name": "m", "tiles": [TILE]}),
    ("requested-mosaics/m/delete", {}), ("judgements", {"source_id": "x", "verdict": "real"}),
    ("alerts/0/acknowledge", {}), ("alerts/0/resolve", {}), ("alerts/0/false-alarm", {}), ("silences", {"what": "disk", "reason": "why"}),
    ("silences/0/end", None), ("drain/begin", {"reason": "version 2"}), ("drain/end", None),
    ("services/daemon/restart", {}),
]  # fmt: skip


@dataclass(frozen=True)
class Portal:
    """A portal over a private archive, and orders given with the token."""

    app: ASGIApp
    small: SmallArchive
    settings: Settings

    def get(self, resource: str) -> Any:
        answer = ask(self.app, f"/api/v1/{resource}")
        assert answer.status == 200, answer.text
        return answer.json

    def order(self, resource: str, body: Any = None, *headers: tuple[bytes, bytes]) -> Answer:
        return ask(self.app, f"/api/v1/{resource}", "POST", headers=headers or (BEARER, ME), body=body)

    def confirmed(self, resource: str, body: dict[str, Any]) -> Any:
        """Rehearse an order, then carry it out."""
        rehearsal = self.order(resource, body).json
        assert rehearsal["done"] is False, rehearsal
        answer = self.order(resource, {**body, "confirm": rehearsal["confirm"]})
        assert answer.status == 200, answer.text
        assert answer.json["done"] is True
        assert answer.json["affected"] == rehearsal["affected"]
        return answer.json


@pytest.fixture
def portal(small: SmallArchive, tmp_path: Path, no_settings_of_this_machine: None) -> Portal:
    shutil.copytree(small.root, tmp_path / "archive")
    small = SmallArchive(tmp_path / "archive", small.inbox, small.products)
    configured = settings.load(inbox=small.inbox, archive=small.root, DAGSTER_HOME=tmp_path / "home", token=TOKEN)
    return Portal(create_app(small.root, inbox=small.inbox, settings=configured), small, configured)


@pytest.fixture
def dagster(portal: Portal) -> Any:
    with instances.open_instance(portal.settings.home_path) as instance:
        yield instance


def snapshot(portal: Portal) -> dict[str, bytes]:
    """The contents of the JSON files of the archive, which hold its state."""
    return {str(path): path.read_bytes() for path in portal.small.root.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl")}


@pytest.mark.parametrize(
    "headers",
    [
        (ME,),
        ((b"authorization", b"Bearer wrong"),),
        ((b"authorization", f"Basic {TOKEN}".encode()),),
        ((b"cookie", f"{access.COOKIE}={TOKEN}".encode()),),
        ((b"cookie", f"{access.COOKIE}=x.y".encode()), (b"x-csrf-token", b"x")),
    ],
)
def test_orders_without_the_token_are_refused(
    portal: Portal, headers: tuple[tuple[bytes, bytes], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "TRIES", len(ORDERS))  # the limit on wrong tokens is tested elsewhere
    before, app = snapshot(portal), create_app(portal.small.root, settings=portal.settings)
    for resource, body in ORDERS:
        answer = ask(app, f"/api/v1/{resource}", "POST", headers=headers, body=body)
        assert (answer.status, answer.headers.get("www-authenticate")) == (401, "Bearer"), resource
    assert snapshot(portal) == before


def test_every_described_order_is_tested(portal: Portal) -> None:
    described = {path for path, methods in portal.get("openapi.json")["paths"].items() if "post" in methods} - {"/session"}
    tested = {re.sub(rf"{TILE}|{TABLES}|3C138|daemon|\b(0|m)\b", "X", f"/{resource}") for resource, _ in ORDERS}
    assert {re.sub(r"{\w+}", "X", path) for path in described} == tested


@pytest.mark.parametrize("known", [True, False])
def test_without_a_token_set_everybody_only_reads(portal: Portal, known: bool) -> None:
    app = create_app(portal.small.root, settings=portal.settings.model_copy(update={"token": None}) if known else None)
    for resource, body in ORDERS:
        answer = ask(app, f"/api/v1/{resource}", "POST", headers=(BEARER,), body=body)
        assert (answer.status, "read-only" in answer.json["detail"]) == (403, True)
    assert ask(app, "/api/v1/session", "POST", body={"token": TOKEN, "name": "Ada"}).status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post_orders(portal: Portal, method: str) -> None:
    before = snapshot(portal)
    for resource, body in ORDERS:
        answer = ask(portal.app, f"/api/v1/{resource}", method, headers=(BEARER, ME), body=body)
        read = method == "GET" and resource in ("runs", "requested-mosaics", "judgements", "silences")
        assert answer.status in (404, 405) or read
    assert snapshot(portal) == before


def test_a_wrong_token_can_be_tried_a_few_times_a_minute(portal: Portal) -> None:
    wrong = [portal.order("ingest/resume", None, (b"authorization", b"Bearer wrong")) for _ in range(12)]
    assert [answer.status for answer in wrong] == 10 * [401] + 2 * [429]
    assert 0 < int(wrong[-1].headers["retry-after"]) <= 61
    assert portal.order("session", {"token": "wrong", "name": "x"}).status == 429
    assert portal.order("ingest/resume").status == 200, "who has it is kept out by nobody"


def test_a_rate_limit_ends_after_its_time() -> None:
    now = [0.0]
    limiter = limits.Limiter(2, 60.0, lambda: now[0])
    limiter.take("a")
    now[0] = 30.0
    limiter.take("a")
    limiter.take("b")
    with pytest.raises(access.HTTPException) as refused:
        limiter.take("a")
    assert refused.value.headers == {"Retry-After": "31"}
    now[0] = 60.0
    limiter.take("a")


# -- sessions --


def session_of(portal: Portal) -> tuple[tuple[bytes, bytes], bytes]:
    """The cookie and the CSRF token of a new session."""
    answer = portal.order("session", {"token": TOKEN, "name": "Ada Lovelace"})
    assert answer.status == 201
    assert TOKEN not in answer.text + answer.headers["set-cookie"]
    value = answer.headers["set-cookie"].split(";")[0]
    return (b"cookie", value.encode()), str(answer.json["csrf"]).encode()


def test_a_browsers_session_is_strict_and_needs_its_csrf(portal: Portal) -> None:
    cookie, csrf = session_of(portal)
    attributes = portal.order("session", {"token": TOKEN, "name": "x"}).headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip() for part in attributes.split(";")}
    assert "secure" not in attributes  # because the request came over http; over https it is secure
    assert portal.order("ingest/resume", None, cookie).status == 403
    assert portal.order("ingest/resume", None, cookie, (b"x-csrf-token", b"0" * 64)).status == 403
    assert portal.order("ingest/resume", None, cookie, (b"x-csrf-token", csrf)).status == 200
    session = ask(portal.app, "/api/v1/session", headers=(cookie,)).json
    assert (session["name"], session["csrf"].encode()) == ("Ada Lovelace", csrf)
    assert portal.get("audit")["items"][0]["by"] == "Ada Lovelace"
    ended = ask(portal.app, "/api/v1/session", "DELETE", headers=(cookie,))
    assert (ended.status, "max-age=0" in ended.headers["set-cookie"].lower()) == (204, True)


def test_sessions_of_another_token_or_expired_ones_are_refused(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie, csrf = session_of(portal)
    assert tokens.Keys("another-token-of-length").session(cookie[1].decode().partition("=")[2]) is None
    body, _, signature = cookie[1].decode().partition("=")[2].partition(".")
    forged = (b"cookie", f"{access.COOKIE}={body[:-4]}AAAA.{signature}".encode())
    assert portal.order("ingest/resume", None, forged, (b"x-csrf-token", csrf)).status == 401
    later = tokens.time.time() + tokens.SESSION_S + 1
    monkeypatch.setattr(tokens.time, "time", lambda: later)
    assert portal.order("ingest/resume", None, cookie, (b"x-csrf-token", csrf)).status == 401


@pytest.mark.parametrize(
    "headers",
    [((b"origin", b"http://evil.example"),), ((b"sec-fetch-site", b"cross-site"),), ((b"referer", b"http://evil.example/x"),),
     ((b"origin", b"null"),)],
)  # fmt: skip
def test_other_sites_pages_order_nothing_even_with_the_token(portal: Portal, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    cookie, csrf = session_of(portal)
    assert portal.order("ingest/pause", {"reason": "x"}, cookie, (b"x-csrf-token", csrf), *headers).status == 403
    assert portal.order("session", {"token": TOKEN, "name": "x"}, *headers).status == 403
    assert pausing.paused(portal.small.root) is None


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x"])
def test_content_types_of_foreign_forms_are_refused_as_orders(portal: Portal, kind: bytes) -> None:
    answer = ask(portal.app, "/api/v1/ingest/pause", "POST", headers=((b"content-type", kind), BEARER))
    assert answer.status == 422
    assert pausing.paused(portal.small.root) is None


@pytest.mark.parametrize(
    "body", [300_000 * b" ", b"\xff", b"{", 50_000 * b"[", b'{"reason": NaN}', b'{"reason": "\\ud800"}', b'{"reason": 1e999}']
)
def test_invalid_bodies_get_problem_details(portal: Portal, body: bytes) -> None:
    answer = portal.order("ingest/pause", body)
    assert 400 <= answer.status < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert pausing.paused(portal.small.root) is None


# -- orders that are rehearsed first --


def test_rejecting_tables_is_rehearsed_and_says_what_becomes_stale(portal: Portal) -> None:
    done = portal.confirmed(f"caltables/{SET}/reject", {"reason": "antenna 5 swapped"})
    # the night's two observations and everything made of them, including both nights of light curves
    assert {name for name in done["affected"] if name.startswith("calibrated_ms")} == {
        "calibrated_ms-20260125T2205-v1", "calibrated_ms-20260125T2210-v1",
    }  # fmt: skip
    assert "light_curves-20260126-v1" in done["affected"]
    row = portal.get(f"caltables/{SET}")
    assert (row["status"], row["reason"]) == ("rejected", "antenna 5 swapped (Ada)")
    assert portal.order(f"caltables/{SET}/reject", {"reason": "x"}).status == 409
    assert portal.confirmed(f"caltables/{SET}/restore", {})["affected"] == [f"{TABLES}/3C138"]
    assert portal.get(f"caltables/{SET}")["status"] == "active"


def test_orders_that_differ_from_their_rehearsal_are_refused(portal: Portal) -> None:
    rehearsal = portal.order(f"caltables/{SET}/reject", {"reason": "bad"}).json
    for confirm in ("0" * 16, "", portal.order("retention", {}).json["confirm"]):
        assert portal.order(f"caltables/{SET}/reject", {"reason": "bad", "confirm": confirm}).status == 409
    with Archive(portal.small.root) as archive:  # meanwhile another product is made with these tables
        inputs = [TABLES, "measurement_set-20260125T2205-v1"]
        with archive.publish("calibrated_ms", "2026-01-25T22:15", inputs, settings={}, code_version="1", run_id="x") as draft:
            draft.metadata["caltable_set"] = f"{TABLES}/3C138"
            (draft.path / "x").write_bytes(b"x")
        assert portal.order(f"caltables/{SET}/reject", {"reason": "bad", "confirm": rehearsal["confirm"]}).status == 409
        assert caltable_registry.find(archive, TABLES).status == "active"
    assert portal.get("audit")["items"] == []


def test_tables_are_retired_for_a_span(portal: Portal) -> None:
    assert portal.order(f"caltables/{SET}/retire", {"reason": "moved"}).status == 422
    # the middles of the night's two observations are at 22:07:35 and 22:12:35
    done = portal.confirmed(f"caltables/{SET}/retire", {"reason": "antenna 5 moved", "since": "2026-01-25T22:08"})
    made = {name.partition("-2026")[2] for name in done["affected"] if name.startswith(("calibrated_ms", "tile_image"))}
    assert made == {"0125T2210-v1"}
    row = portal.get(f"caltables/{SET}")
    assert row["retired"] == [[pytest.approx(61065 + (22 + 8 / 60) / 24, abs=1e-9), None]]
    assert "by Ada" in row["history"][0]
    assert "antenna 5 moved" in row["history"][0]


def test_products_are_pinned_and_unpinned(portal: Portal) -> None:
    assert portal.order(f"products/{TILE}/pin", {"reason": " "}).status == 422
    assert portal.order(f"products/{TILE}/pin", {"reason": "in the paper"}).json["pinned"] is True
    portal.confirmed(f"products/{TILE}/unpin", {})
    assert portal.get(f"products/{TILE}")["pinned"] is False
    assert portal.order(f"products/{TILE}/unpin", {}).status == 409


def test_retention_is_rehearsed_and_removes_what_it_said(portal: Portal) -> None:
    newer = Archive(portal.small.root).publish("night_report", "2026-01-25", [], settings={}, code_version="2", run_id="x")
    with newer as draft:
        (draft.path / "x").write_bytes(b"x")
    (portal.small.root / "thresholds.toml").write_text("superseded_days = 0\n")
    done = portal.confirmed("retention", {})
    assert done["affected"] == ["night_report-20260125-v1"]
    assert portal.get("products/night_report-20260125-v1")["removed"] is True
    assert portal.get("products/night_report-20260125-v1/files") == []


def test_quarantined_files_are_released_once(portal: Portal) -> None:
    (record,) = portal.get("quarantine")["items"]
    assert portal.order(f"quarantine/{record['key']}/release").json["affected"] == [record["key"]]
    assert portal.get("quarantine")["items"] == []
    assert portal.get("quarantine?released=true")["items"][0]["released_at"]
    assert portal.order(f"quarantine/{record['key']}/release").status == 409
    with Archive(portal.small.root) as archive:
        assert quarantine.quarantined(archive) == []


def test_ingest_pauses_and_goes_on(portal: Portal, dagster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsa110_assets.orchestration.ingest import sensor as sensors
    from dsa110_assets.orchestration.resources import Platform
    from dsa110_assets.orchestration.running import capacity as room

    monkeypatch.setattr(room, "require_disk", lambda _: None)  # the disk of this machine does not matter here
    platform = Platform(portal.settings)

    def tick() -> Any:
        return sensors.inbox_sensor(dg.build_sensor_context(instance=dagster, cursor='{"open": {}}'), platform=platform)

    assert portal.order("ingest/pause", {"reason": "the correlator is serviced"}).json["by"] == "Ada"
    first_tick = tick()
    assert not first_tick.run_requests
    assert "paused by Ada" in str(first_tick.skip_reason)
    assert first_tick.cursor == '{"open": {}}'
    assert portal.get("ingest")["reason"] == "the correlator is serviced"
    assert portal.order("ingest/resume").json["paused"] is False
    assert "paused" not in str(tick().skip_reason)


def test_draining_is_started_reported_and_ended(portal: Portal, dagster: Any) -> None:
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.test_utils import create_run_for_test

    assert portal.get("drain") == {
        "draining": False, "drained": False, "by": None, "at": None, "reason": None, "running": [], "queued": 0,
    }  # fmt: skip
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dsa110"), "repository"), "observations")
    running = create_run_for_test(dagster, status=dg.DagsterRunStatus.STARTED)
    create_run_for_test(dagster, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=origin)
    report = portal.order("drain/begin", {"reason": "version 2"}).json
    assert (report["draining"], report["drained"], report["by"], report["reason"]) == (True, False, "Ada", "version 2")
    assert (report["running"], report["queued"]) == ([running.run_id], 1)
    assert pausing.halted(portal.small.root)[0].startswith("nothing new is begun: drained by Ada")
    dagster.report_run_failed(running)
    assert portal.get("drain")["drained"] is True
    assert portal.order("drain/end").json["draining"] is False
    assert pausing.halted(portal.small.root) == []


def test_thresholds_are_read_again_and_a_wrong_file_is_reported(portal: Portal) -> None:
    (portal.small.root / "thresholds.toml").write_text("max_flag_fraction = 0.25\n")
    report = portal.order("thresholds/reload").json
    assert {row["name"]: row["value"] for row in report["thresholds"]}["max_flag_fraction"] == 0.25
    (portal.small.root / "thresholds.toml").write_text("max_flag_fraction = 25\n")
    report = portal.order("thresholds/reload").json
    assert "max_flag_fraction" in report["refused"]
    assert {row["name"]: row["value"] for row in report["thresholds"]}["max_flag_fraction"] == 0.25


def test_importing_says_why_tables_are_refused(portal: Portal, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    answer = portal.order("caltables/import", {"directory": str(tmp_path / "tables")})
    assert answer.status == 422
    assert "holds no caltable" in answer.json["detail"]
    assert portal.get("audit")["items"][0]["state"] == "failed"
    (tmp_path / "tables" / "x.B").mkdir()
    (tmp_path / "tables" / "x.B" / "table.dat").write_bytes(b"no table")
    answer = portal.order("caltables/import", {"directory": str(tmp_path / "tables")})
    assert (answer.status, "x.B" in answer.json["detail"]) == (422, True), answer.text
    assert portal.order("caltables/import", {"directory": str(tmp_path / "nothing")}).status == 404
    for directory in ("relative", "/a\nb"):
        assert portal.order("caltables/import", {"directory": directory}).status == 422


# -- runs --


def test_partitions_are_requested_again_and_for_a_trial(portal: Portal, dagster: Any) -> None:
    wish = {"asset": "tile_image", "partitions": ["2026-01-25T22:05"]}
    assert portal.order("runs", {**wish, "dry_run": True}).json == {
        "backfill_id": None, "assets": ["tile_image"], "partitions": ["2026-01-25T22:05"], "left_out": [],
    }  # fmt: skip
    assert dagster.get_backfills() == []
    started = portal.order("runs", wish)
    assert started.status == 202
    queued = dagster.get_backfill(started.json["backfill_id"])
    assert [key.to_user_string() for key in queued.asset_selection] == ["tile_image"]
    assert queued.tags["dsa110/asked_by"] == "Ada"
    assert not queued.run_config
    trial = portal.order("runs", {**wish, "trial": "robust_0", "options": {"imaging.robust": 0}})
    assert trial.status == 202, trial.text
    config = dagster.get_backfill(trial.json["backfill_id"]).run_config
    assert config == {"ops": {"tile_image": {"config": {"trial": "robust_0", "imaging": {"robust": 0.0}}}}}
    assert [(line["state"], line["verb"]) for line in portal.get("audit")["items"]] == 2 * [("done", "start runs"), ("begun", "start runs")]


def test_the_run_config_of_a_trial_is_valid(portal: Portal, dagster: Any) -> None:
    from dagster import validate_run_config

    from dsa110_assets.definitions import defs

    body = {
        "asset": "tile_image",
        "partitions": ["2026-01-25T22:05"],
        "trial": "t",
        "options": {"imaging.robust": 0, "imaging_engine": "own"},
    }
    backfill = dagster.get_backfill(portal.order("runs", body).json["backfill_id"])
    job = defs.resolve_job_def("observations").get_subset(asset_selection=set(backfill.asset_selection))
    assert validate_run_config(job, backfill.run_config)
    assert backfill.partition_set_name == "observations_partition_set"
    assert backfill.partition_set_origin.repository_origin.repository_name == defs.get_repository_def().name


WRONG: list[tuple[dict[str, Any], int]] = [
    ({}, 422), ({"partitions": ["2026-01-25T22:05"]}, 422), ({"first_night": "2026-01-25", "partitions": ["2026-01-25T22:05"]}, 422),
    ({"first_night": "2026-01-25", "trial": "x"}, 422), ({"first_night": "2026-01-35"}, 400), ({"first_night": "2020-01-01"}, 404),
    ({"asset": "nothing", "partitions": ["2026-01-25T22:05"]}, 400), ({"asset": "source_catalog", "partitions": ["2026-01-25"]}, 400),
    ({"asset": "tile_image", "partitions": ["2026-01-25T22:07"]}, 400), ({"asset": "tile_image", "partitions": ["2026-01-25"]}, 400),
    ({"asset": "hour_mosaic", "partitions": ["2026-01-25T22:05"]}, 400),
    ({"asset": "tile_image", "partitions": ["2016-01-25T22:05"]}, 400),
    ({"asset": "tile_image", "partitions": ["2026-01-25T22:05"], "options": {"imaging.robust": 0}}, 400),
    ({"asset": "tile_image", "partitions": ["2026-01-25T22:05"], "trial": "t", "options": {"imaging.robust": 99}}, 400),
    ({"asset": "tile_image", "partitions": ["2026-01-25T22:05"], "trial": "t", "options": {"nothing": 1}}, 400),
    ({"asset": "tile_image", "partitions": ["2026-01-25T22:05"], "trial": "t", "options": {"ensemble.min_references": 5}}, 400),
]  # fmt: skip


def test_wrong_run_requests_start_nothing(portal: Portal, dagster: Any) -> None:
    for wish, status in WRONG:
        answer = portal.order("runs", wish)
        assert answer.status == status, (wish, answer.text)
    assert dagster.get_backfills() == []


def test_runs_are_listed_shown_cancelled_and_retried(portal: Portal, dagster: Any) -> None:
    import dagster as dg
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.test_utils import create_run_for_test

    chosen = frozenset({dg.AssetKey("tile_image")})
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dsa110"), "repository"), "observations")
    tags = {"dagster/partition": "2026-01-25T22:05", instances.LANE_TAG: "live"}
    ids = [
        create_run_for_test(dagster, status=status, asset_selection=chosen, tags=tags, remote_job_origin=origin).run_id
        for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.SUCCESS)
    ]
    first = portal.get("runs?limit=2")
    rest = portal.get(f"runs?limit=2&cursor={first['next']}")
    assert [row["run_id"] for row in (*first["items"], *rest["items"])] == ids[::-1]
    assert rest["next"] is None
    assert [row["run_id"] for row in portal.get("runs?status=QUEUED&status=FAILURE")["items"]] == ids[1::-1]
    assert portal.get(f"runs/{ids[0]}")["assets"] == ["tile_image"]
    assert portal.order(f"runs/{ids[2]}/cancel", {}).status == 409
    portal.confirmed(f"runs/{ids[1]}/cancel", {})
    assert history.run(portal.settings.home_path, ids[1]).status == "CANCELED"
    again = portal.order(f"runs/{ids[0]}/retry")
    assert again.status == 202
    assert dagster.get_backfill(again.json["backfill_id"]).tags["dsa110/retry"] == ids[0]
    assert portal.order(f"runs/{ids[2]}/retry").status == 409
    assert portal.order("runs/nothing/retry").status == 404


def test_a_trials_run_is_retried_for_the_trial(portal: Portal, dagster: Any) -> None:
    """It is not retried as a science run."""
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.test_utils import create_run_for_test

    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dsa110"), "repository"), "observations")
    config = {"ops": {"tile_image": {"config": {"trial": "robust_0", "imaging": {"robust": 0.0}}}}}
    failed = create_run_for_test(
        dagster, status=dg.DagsterRunStatus.FAILURE, asset_selection=frozenset({dg.AssetKey("tile_image")}),
        tags={"dagster/partition": "2026-01-25T22:05"}, remote_job_origin=origin, run_config=config,
    )  # fmt: skip
    queued = dagster.get_backfill(portal.order(f"runs/{failed.run_id}/retry").json["backfill_id"])
    assert queued.run_config == config
    assert (queued.is_asset_backfill, list(queued.partition_names)) == (False, ["2026-01-25T22:05"])


@pytest.mark.parametrize(("resource", "body"), [("runs", {"first_night": "2026-01-25"}), ("runs/0/cancel", {}), ("runs/0/retry", None)])
def test_without_dagster_orders_are_refused_with_the_remedy(portal: Portal, resource: str, body: Any) -> None:
    answer = portal.order(resource, body)
    assert answer.status == 503
    assert "dsa110 up" in answer.json["detail"]
    assert not portal.settings.home_path.exists()


def test_orders_that_start_work_are_rate_limited(portal: Portal, dagster: Any) -> None:
    wish = {"asset": "tile_image", "partitions": ["2026-01-25T22:05"], "dry_run": True}
    assert [portal.order("runs", wish).status for _ in range(31)] == 30 * [202] + [429]


# -- the audit --


def test_the_audit_outlives_the_index_and_is_in_the_backup(portal: Portal, tmp_path: Path) -> None:
    for number in range(5):
        portal.order("ingest/pause", {"reason": f"reason {number}"})
    lines = portal.get("audit?limit=100")["items"]
    assert [(one["state"], one["verb"], one["by"], one["origin"]) for one in lines[:2]] == [
        ("done", "pause ingest", "Ada", "127.0.0.1"), ("begun", "pause ingest", "Ada", "127.0.0.1"),
    ]  # fmt: skip
    assert json.loads(lines[0]["arguments"]) == {"reason": "reason 4"}
    assert TOKEN not in (portal.small.root / audit.FILE).read_text()
    paged: list[Any] = []
    cursor = ""
    for _ in range(5):
        page = portal.get(f"audit?limit=2{cursor}")
        paged, cursor = paged + page["items"], f"&cursor={page['next']}"
    assert (paged, page["next"]) == (lines, None)
    integrity.reindex(portal.small.root)
    assert portal.get("audit")["items"] == lines
    with Archive(portal.small.root) as archive:
        saved = backup.backup(archive, tmp_path / "backups", keep=1)
    (portal.small.root / audit.FILE).unlink()
    backup.restore(saved.path, portal.small.root)
    assert portal.get("audit")["items"] == lines


def test_orders_that_cannot_be_audited_are_not_carried_out(portal: Portal) -> None:
    (portal.small.root / audit.FILE).mkdir()
    with pytest.raises(IsADirectoryError):
        portal.order("ingest/pause", {"reason": "x"})
    assert pausing.paused(portal.small.root) is None


def test_failed_orders_are_audited_with_the_reason(tmp_path: Path) -> None:
    def fail() -> None:
        with audit.order(tmp_path, "Ada", "::1", "try", "x", "{}"):
            raise ConfigurationError("it is\nwrong")

    with pytest.raises(ConfigurationError):
        fail()
    last, first = audit.lines(tmp_path, 10)
    assert (first.state, last.state, last.told, last.order) == ("begun", "failed", "it is wrong", first.order)


@pytest.mark.parametrize("size", [10, 3000])
def test_lines_are_read_from_the_end(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in blocks shorter and longer than a line, with one torn line among the lines."""
    monkeypatch.setattr(audit, "_BLOCK_BYTES", size)
    expected = []
    for number in range(20):
        with audit.order(tmp_path, "Ada", "::1", "count", str(number), "{}") as order:
            order.told = "ü" * number
        expected += [(str(number), "begun"), (str(number), "done")]
        if number == 7:
            with (tmp_path / audit.FILE).open("ab") as file:
                file.write(b'{"torn\n')
    found: list[audit.Line] = []
    before = None
    while part := audit.lines(tmp_path, 7, before):
        found, before = found + part, part[-1].place
    assert [(one.target, one.state) for one in found] == expected[::-1]


# -- requested mosaics --


def test_a_mosaic_is_requested_listed_and_deleted(portal: Portal, dagster: Any) -> None:
    request = {"name": "virgo", "tiles": [TILE]}
    answer = portal.order("requested-mosaics", request)
    assert answer.status == 202, answer.text
    assert answer.json["partitions"] == ["@virgo"]
    (made,) = dagster.get_backfills()
    assert (made.backfill_id, made.tags["dsa110/lane"]) == (answer.json["backfill_id"], "backfill")
    assert dagster.has_dynamic_partition("requests", "@virgo")
    (row,) = portal.get("requested-mosaics")
    assert (row["name"], row["by"], row["product_id"], row["tiles"]) == ("virgo", "Ada", None, ["2026-01-25T22:05"])
    assert row["due"], "it is not made yet"
    assert portal.order("requested-mosaics", {**request, "tier": "quick"}).status == 400, "that is another one"
    assert ask(portal.app, "/api/v1/requested-mosaics/none").status == 404
    portal.confirmed("requested-mosaics/virgo/delete", {})
    assert portal.get("requested-mosaics") == []
    assert not dagster.has_dynamic_partition("requests", "@virgo")
    verbs = [line["verb"] for line in portal.get("audit")["items"]]
    assert verbs.count("request mosaic") == 4, "two orders, each with its beginning and its end"


# -- judgements --


def test_judgements_carry_the_name_of_the_token_holder(portal: Portal) -> None:
    answer = portal.order("judgements", {"source_id": small_archive.FAINT, "verdict": "artefact", "note": "beside a bright one"})
    assert answer.status == 201, answer.text
    (row,) = portal.get(f"judgements?source_id={quote(small_archive.FAINT)}")
    assert row == answer.json == {**row, "name": "Ada", "verdict": "artefact", "note": "beside a bright one"}
    assert portal.get("judgements") == [row]
    assert portal.order("judgements", {"source_id": "nobody's", "verdict": "real"}).status == 404
    assert portal.order("judgements", {"source_id": small_archive.FAINT, "verdict": "perhaps"}).status == 422
    assert portal.get("audit")["items"][0]["told"] == f"{small_archive.FAINT} is artefact"


def test_candidates_are_filtered_by_their_last_verdict(portal: Portal) -> None:
    """The API, the page and the CSV agree. Of the two rows below this rate one has no kind, and pages leave it out."""

    def chosen(verdict: str) -> list[str]:
        query = f"max_false_discovery_rate=0.5&verdict={verdict}"
        names = [row["source_id"] for row in portal.get(f"candidates?{query}")["items"] if row["kind"]]
        assert {row["verdict"] for row in portal.get(f"candidates?{query}")["items"]} <= {verdict}
        page, table = (ask(portal.app, f"/candidates{form}?{query}").text for form in ("", ".csv"))
        assert [small_archive.FAINT in text for text in (page, table)] == 2 * [bool(names)], verdict
        return names

    verdicts = ("real", "artefact", "unsure", "unclassified")
    assert [chosen(one) for one in verdicts] == [[], [], [], [small_archive.FAINT]]
    for judged in ("artefact", "unsure"):
        assert portal.order("judgements", {"source_id": small_archive.FAINT, "verdict": judged}).status == 201
    assert [chosen(one) for one in verdicts] == [[], [], [small_archive.FAINT], []], "the last word holds"
    assert len(portal.get("candidates?max_false_discovery_rate=0.5")["items"]) == 2
    assert ask(portal.app, "/api/v1/candidates?verdict=none").status == 422
    assert ask(portal.app, "/candidates?verdict=none").status == 400
