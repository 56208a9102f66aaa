"""An alert about a run or its products names both the run and its trace: in the message, in the API and on the pages."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive import alerts
from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets.orchestration.watching import history, watch
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.tiny import tiny_settings
from dsa110_assets_tests.webhook import Webhook

KEY, TRACE, OTHER_TRACE = "2026-01-25T22:25", "1" * 32, "2" * 32


@pytest.fixture
def hook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


def failed_run(home: Path, asset: str, **tags: str) -> str:
    """Record a run that began and failed in Dagster. Return its id."""
    with open_instance(home) as instance:
        run = dg.DagsterRun(
            job_name="observations",
            run_id=str(uuid.uuid4()),
            status=dg.DagsterRunStatus.STARTED,
            asset_selection=frozenset({dg.AssetKey(asset)}),
            tags={"dagster/partition": KEY, **tags},
        )
        instance.add_run(run)
        instance.report_run_failed(run, "its process was killed")
        return run.run_id


def test_alerts_of_runs_and_products_name_run_and_trace(hook: Webhook, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    settings = tiny_settings(tmp_path / "inbox", tmp_path, alert_channels={"ops": {"url": hook.url, "severity": "info"}})
    home, platform = settings.home_path, Platform(settings)
    alerts.watched_since(platform.archive)
    run_id = failed_run(home, "calibrated_ms", **{history.TRACE_TAG: TRACE})
    untraced = failed_run(home, "measurement_set")
    with platform.archive.publish("tile_image", KEY, [], settings={}, code_version="1", run_id="a run that expired") as draft:
        (draft.path / "x").write_text("x")
        draft.metadata |= {VERDICTS: {"rms": "too much"}, "n_failed_checks": 1, FAILED_ERRORS: ["rms"], "trace_id": OTHER_TRACE}
    watch.look(platform.archive, settings, platform.thresholds, None, "test", always=True)

    reported = {
        (message["condition"], subject): (run, trace)
        for message in hook.taken
        for subject, run, trace in zip(message["subjects"], message["run_ids"], message["trace_ids"], strict=True)
    }
    expected = {
        ("run_failed", f"calibrated_ms {KEY}"): (run_id, TRACE), ("run_failed", f"measurement_set {KEY}"): (untraced, ""),
        ("check_failed", "tile_image:rms"): ("a run that expired", OTHER_TRACE),
    }  # fmt: skip
    assert {key: reported[key] for key in expected} == expected
    assert all(ids == ("", "") for key, ids in reported.items() if key not in expected)  # an alert about a disk or a queue has no run
    (message,) = [one for one in hook.taken if one["condition"] == "run_failed"]
    assert message["link"].endswith("/#failed")  # an alert about two runs links to the page that shows both

    app = create_app(settings.archive, settings=settings)
    rows = {(one["condition"], one["subject"]): one for one in ask(app, "/api/v1/alerts").json["items"]}
    assert {key: (rows[key]["run_id"], rows[key]["trace_id"]) for key in expected} == expected
    page = ask(app, "/alerts").text
    assert all(one in page for one in (run_id, TRACE, untraced, OTHER_TRACE, f'href="/runs/{run_id}"'))
    assert 'href="/runs/a run' not in page  # Dagster no longer has this run
    shown = ask(app, rows["run_failed", f"calibrated_ms {KEY}"]["page"])
    assert shown.status == 200
    assert all(one in shown.text for one in (run_id, TRACE, KEY, "its process was killed"))
    assert OTHER_TRACE in ask(app, f"/products/tile_image-{KEY[:16].replace('-', '').replace(':', '')}-v1").text
    assert ask(app, f"/runs/{uuid.uuid4()}").status == 404
