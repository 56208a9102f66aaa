"""Alerts on the portal and in its API: what is wrong, who acknowledged it, and links to the runbook."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from dsa110_assets.archive import alerts, audit
from dsa110_assets.archive.alerts import Decision, Finding
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.watching import conditions
from dsa110_assets.portal import alerts as pages
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.conftest import Answer, ask
from dsa110_assets_tests.portal.small_archive import SmallArchive

TOKEN = "a-token-of-some-length"
ALLOWED = ((b"authorization", f"Bearer {TOKEN}".encode()), (b"x-dsa110-user", b"Ada"))
FULL = Finding("disk", "archive", "platform", "critical", "2 GB free <b>", "/#room")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallArchive:
    """An archive with a resolved alert, an active one, and a message waiting to be sent."""
    made = small_archive.build(tmp_path_factory.mktemp("alerts"))
    began = datetime.now(UTC) - timedelta(hours=1)
    with Archive(made.root) as archive:
        alerts.settle(archive, [Finding("queue", "", "platform", "warning", "60 wait", "/#queue")], (), began, lambda _: Decision())
        waits = Decision([("ops", None, {"title": "disk"})])
        alerts.settle(archive, [FULL], (), began + timedelta(minutes=10), lambda _: waits)
    return made


@pytest.fixture(scope="module")
def app(small: SmallArchive, tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    given: dict[str, Any] = {"DAGSTER_HOME": tmp_path_factory.mktemp("home"), "token": TOKEN}
    return create_app(small.root, settings=Settings(inbox=small.inbox, archive=small.root, **given))


def post(app: ASGIApp, resource: str, body: Any, headers: Any = ALLOWED) -> Answer:
    return ask(app, f"/api/v1/{resource}", "POST", headers=headers, body=body)


def get(app: ASGIApp, resource: str) -> Any:
    answer = ask(app, f"/api/v1/{resource}")
    assert answer.status == 200, answer.text
    return answer.json


def test_alerts_are_paged_and_filtered(app: ASGIApp) -> None:
    first = get(app, "alerts?limit=1")
    assert [(one["condition"], one["state"], one["runbook"]) for one in first["items"]] == [("disk", "active", "/runbook#disk-fills-up")]
    rest = get(app, f"alerts?limit=1&cursor={first['next']}")
    assert [(one["condition"], one["state"]) for one in rest["items"]] == [("queue", "resolved")]
    assert rest["next"] is None
    for query, found in (("state=resolved", ["queue"]), ("severity=critical", ["disk"]), ("condition=disk&topic=data", [])):
        assert [one["condition"] for one in get(app, f"alerts?{query}")["items"]] == found
    assert ask(app, "/api/v1/alerts?state=gone").status == 422
    assert ask(app, "/api/v1/alerts/99").status == 404


def test_pages_show_current_and_past_alerts(app: ASGIApp) -> None:
    page = ask(app, "/alerts").text
    assert "2 GB free &lt;b&gt;" in page
    assert "1 messages wait to be sent on the channel ops" in page
    assert 'href="/runbook#disk-fills-up"' in page
    assert page.index("2 GB free") < page.index("60 wait")
    front = ask(app, "/").text
    assert "the disk is full or filling: archive" in front
    assert 'href="/alerts#alert-' in front
    assert ask(app, "/alerts?before=1").status == 200
    assert ask(app, "/alerts?before=x").status == 200


def test_orders_need_the_token_and_are_audited(app: ASGIApp, small: SmallArchive) -> None:
    (one,) = get(app, "alerts?state=active")["items"]
    assert post(app, f"alerts/{one['id']}/acknowledge", {}, headers=()).status == 401
    acknowledged = post(app, f"alerts/{one['id']}/acknowledge", {"note": "a disk is ordered"}).json
    assert (acknowledged["state"], acknowledged["acknowledged_by"], acknowledged["note"]) == ("acknowledged", "Ada", "a disk is ordered")
    assert post(app, f"alerts/{one['id']}/false-alarm", {}).json["false_alarm"] is True
    assert post(app, f"alerts/{one['id']}/false-alarm", {"false_alarm": False}).json["false_alarm"] is False
    assert post(app, f"alerts/{one['id']}/resolve", {}).json["state"] == "resolved"
    again = post(app, f"alerts/{one['id']}/resolve", {})
    assert (again.status, "is over since" in again.json["detail"]) == (400, True)
    recorded = [(line.verb, line.by, line.state) for line in audit.lines(small.root, 20) if line.state != audit.BEGUN]
    assert ("acknowledge alert", "Ada", audit.DONE) in recorded
    assert recorded[0] == ("resolve alert", "Ada", audit.FAILED)
    figures = get(app, "alerts/figures?days=1")
    assert (figures["number"], figures["undelivered"]) == (2, {"ops": 1})


def test_silences_are_made_listed_and_ended(app: ASGIApp) -> None:
    made = post(app, "silences", {"what": "platform", "hours": 2, "reason": "new disks"})
    assert (made.status, made.json["by"]) == (201, "Ada")
    assert get(app, "silences") == [made.json]
    assert "new disks" in ask(app, "/alerts").text
    assert post(app, f"silences/{made.json['id']}/end", None).json["done"] is True
    assert get(app, "silences") == []
    assert post(app, "silences", {"what": "disc", "reason": "x"}).status == 422


def test_every_condition_is_listed_with_the_limits_in_force(app: ASGIApp, small: SmallArchive) -> None:
    (small.root / "thresholds.toml").write_text("queue_warn = 7\n")
    listed = {one["name"]: one for one in get(app, "alerts/conditions")}
    assert list(listed) == list(conditions.CONDITIONS)
    assert listed["queue"]["limits"] == {"queue_warn": 7, "queue_critical": 100}


def test_the_runbook_is_a_page_and_alerts_lead_to_its_sections(app: ASGIApp) -> None:
    page = ask(app, "/runbook").text
    for name in conditions.NAMES:
        assert f'id="{conditions.runbook(name)}"' in page, name
    assert "<script>" not in page.split("<main", 1)[1]


def test_a_missing_runbook_is_reported(app: ASGIApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "RUNBOOKS", (Path("/nowhere/at/all"),))
    answer = ask(app, "/runbook")
    assert (answer.status, "is not installed here" in answer.text) == (404, True)
