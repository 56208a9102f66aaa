"""A failed check and a failed run reach people: console and a webhook that really listens."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.errors import TransientError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import capacity
from dsa110_assets.orchestration.running.process import QUIET
from dsa110_assets.orchestration.watching import alerts, sensors
from dsa110_assets_tests.tiny import tiny_settings

pytestmark = pytest.mark.row(44, cases="cases in which every alert is sent once")

KEY = dg.AssetKey("measurement_set")
CHECK = dg.AssetCheckKey(KEY, "flag_fraction")


class Hook(HTTPServer):
    """A webhook on loopback; `status` is what it answers, `posts` what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posts: list[dict[str, Any]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/alerts"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        hook = self.server
        assert isinstance(hook, Hook)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if hook.status == 200:
            hook.posts.append(body)
        self.send_response(hook.status)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


def evaluate(instance: dg.DagsterInstance, passed: bool, flag_fraction: float = 0.9) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=KEY, check_name=CHECK.name, passed=passed, severity=dg.AssetCheckSeverity.ERROR,
            description=f"flag_fraction is {flag_fraction}, above 0.5",
            metadata={"flag_fraction": flag_fraction, "partition": "2026-01-25T22:25"},
        )
    )  # fmt: skip


def test_only_failures_since_the_cursor_are_found_in_order(instance: dg.DagsterInstance) -> None:
    evaluate(instance, passed=False)
    found, cursor = alerts.failed_checks(instance, [CHECK], {})
    assert found == []  # history is not alerted about
    evaluate(instance, passed=True)
    assert alerts.failed_checks(instance, [CHECK], cursor) == ([], cursor)
    evaluate(instance, passed=False, flag_fraction=0.7)
    evaluate(instance, passed=False, flag_fraction=0.8)
    found, later = alerts.failed_checks(instance, [CHECK], cursor)
    assert [("0.7" in one.text, "0.8" in one.text) for one in found] == [(True, False), (False, True)]
    assert "measurement_set:flag_fraction" in found[0].title
    assert "2026-01-25T22:25" in found[0].title
    assert alerts.failed_checks(instance, [CHECK], later) == ([], later)


def test_a_failed_check_reaches_the_webhook_and_the_console(
    instance: dg.DagsterInstance, hook: Hook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, webhook_url=hook.url))
    repository = graph.over(platform).get_repository_def()

    def tick(cursor: str | None) -> dg.SensorResult:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository)
        result = sensors.alert_sensor(context, platform=platform)
        assert isinstance(result, dg.SensorResult)
        return result

    first = tick(None)
    evaluate(instance, passed=False)
    with caplog.at_level(logging.WARNING):
        second = tick(first.cursor)
    assert [post["title"] for post in hook.posts] == ["check measurement_set:flag_fraction failed 2026-01-25T22:25"]
    assert "flag_fraction is 0.9, above 0.5" in hook.posts[0]["text"]
    assert "flag_fraction is 0.9, above 0.5" in caplog.text
    tick(second.cursor)
    assert len(hook.posts) == 1


def test_a_webhook_that_refuses_keeps_the_cursor_so_nothing_is_lost(instance: dg.DagsterInstance, hook: Hook, tmp_path: Path) -> None:
    platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, webhook_url=hook.url))
    repository = graph.over(platform).get_repository_def()
    cursor = sensors.alert_sensor(dg.build_sensor_context(instance=instance, repository_def=repository), platform=platform).cursor  # type: ignore[union-attr]
    evaluate(instance, passed=False)
    hook.status = 503
    with pytest.raises(TransientError, match="will be sent again"):
        sensors.alert_sensor(dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository), platform=platform)
    hook.status = 200
    sensors.alert_sensor(dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository), platform=platform)
    assert len(hook.posts) == 1


def test_a_failed_run_reaches_the_webhook_with_the_steps_own_words(instance: dg.DagsterInstance, hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("what,is,this\n1,2,3\n")
    platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, webhook_url=hook.url, catalogues=(tmp_path / "bad.csv",)))
    job = graph.over(platform).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        run_config=QUIET, instance=instance, asset_selection=[dg.AssetKey("source_catalog")], raise_on_error=False
    )
    assert not result.success
    context = dg.build_run_status_sensor_context(
        "failed_runs", result.get_run_failure_event(), instance, result.dagster_run
    ).for_run_failure()
    sensors.failure_sensor(context, platform=platform)
    (post,) = hook.posts
    assert "source_catalog: ConfigurationError" in post["text"]
    assert "bad.csv" in post["text"]
    assert post["link"] == result.run_id


@pytest.fixture
def failed_run(instance: dg.DagsterInstance, hook: Hook, tmp_path: Path) -> tuple[Platform, dg.RunFailureSensorContext]:
    """A run that failed over a catalogue nobody can read, and the context in which Dagster tells of it."""
    (tmp_path / "bad.csv").write_text("what,is,this\n1,2,3\n")
    platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, webhook_url=hook.url, catalogues=(tmp_path / "bad.csv",)))
    job = graph.over(platform).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        run_config=QUIET, instance=instance, asset_selection=[dg.AssetKey("source_catalog")], raise_on_error=False
    )
    event = result.get_run_failure_event()
    return platform, dg.build_run_status_sensor_context("failed_runs", event, instance, result.dagster_run).for_run_failure()


def tick(instance: dg.DagsterInstance, platform: Platform, cursor: str | None) -> str:
    repository = graph.over(platform).get_repository_def()
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository)
    result = sensors.alert_sensor(context, platform=platform)
    assert isinstance(result, dg.SensorResult)
    return result.cursor or ""


def test_a_failed_run_is_told_once_the_webhook_is_back(
    instance: dg.DagsterInstance, hook: Hook, failed_run: tuple[Platform, dg.RunFailureSensorContext]
) -> None:
    """Dagster moves on from a failed run whatever its sensor does: what was not sent is sent later, once."""
    platform, context = failed_run
    cursor = tick(instance, platform, None)
    hook.status = 503
    sensors.failure_sensor(context, platform=platform)
    with pytest.raises(TransientError, match="will be sent again"):
        tick(instance, platform, cursor)
    hook.status = 200
    for _ in range(2):
        cursor = tick(instance, platform, cursor)
    (post,) = hook.posts
    assert post["title"] == "run failed"
    assert "source_catalog: ConfigurationError" in post["text"]
    assert post["link"] == context.dagster_run.run_id


def test_a_retry_does_not_inherit_what_is_left_to_tell(
    instance: dg.DagsterInstance, hook: Hook, failed_run: tuple[Platform, dg.RunFailureSensorContext]
) -> None:
    platform, context = failed_run
    tags = {alerts.SENT_TAG: "not yet"}
    for status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED):
        instance.add_run(dg.DagsterRun(job_name="ingest", tags=tags, status=status))
    instance.add_run_tags(context.dagster_run.run_id, tags)
    run = instance.get_run_by_id(context.dagster_run.run_id)
    assert run is not None
    alerts.send_of_run(instance, run, platform.settings.webhook_url)
    tick(instance, platform, None)
    assert len(hook.posts) == 1


def test_what_was_sent_before_the_webhook_went_is_not_sent_again(
    instance: dg.DagsterInstance, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that takes two and then no more, as one that limits its rate: the rest comes at the next tick."""
    platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, webhook_url=hook.url))
    cursor = tick(instance, platform, None)
    for number in range(5):
        evaluate(instance, passed=False, flag_fraction=0.5 + number / 10)
    answers = iter([200, 200, 429, 429, 200, 200, 200])
    post = alerts._post

    def rated(url: str, alert: alerts.Alert) -> None:
        hook.status = next(answers)
        post(url, alert)

    monkeypatch.setattr(alerts, "_post", rated)
    cursor = tick(instance, platform, cursor)
    with pytest.raises(TransientError):
        tick(instance, platform, cursor)
    tick(instance, platform, cursor)
    told = [sent["text"].split("flag_fraction is ")[1][:3] for sent in hook.posts]
    assert told == ["0.5", "0.6", "0.7", "0.8", "0.9"]


def test_an_alert_the_webhook_refuses_stands_in_no_others_way(
    instance: dg.DagsterInstance, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, webhook_url=hook.url))
    cursor = tick(instance, platform, None)
    for fraction in (0.7, 0.8):
        evaluate(instance, passed=False, flag_fraction=fraction)
    post = alerts._post

    def refusing(url: str, alert: alerts.Alert) -> None:
        hook.status = 400 if "0.7" in alert.text else 200
        post(url, alert)

    monkeypatch.setattr(alerts, "_post", refusing)
    tick(instance, platform, cursor)
    assert ["0.8" in sent["text"] for sent in hook.posts] == [True]
    assert "the webhook refuses the alert" in caplog.text


def test_more_failures_than_a_page_are_all_told(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """After days without a webhook."""
    _, cursor = alerts.failed_checks(instance, [CHECK], {})
    for number in range(12):
        evaluate(instance, passed=False, flag_fraction=number)
    monkeypatch.setattr(alerts, "PER_CHECK", 5)
    found, cursor = alerts.failed_checks(instance, [CHECK], cursor)
    assert [f"flag_fraction is {number}," in one.text for number, one in enumerate(found)] == [True] * 12
    assert alerts.failed_checks(instance, [CHECK], cursor) == ([], cursor)


def test_refused_thresholds_are_told_and_hide_nothing(
    instance: dg.DagsterInstance, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no limits are known that were ever right."""
    monkeypatch.setattr(capacity, "SMALL_DISK_PART", 0.0)  # a developer's nearly full disk is no emergency
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("max_flag_fraction = 7\n")
    platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, webhook_url=hook.url, thresholds=wrong))
    cursor = tick(instance, platform, None)
    evaluate(instance, passed=False)
    cursor = tick(instance, platform, cursor)
    wrong.write_text("max_flag_fraction = 0.7\ndisk_warn_gb = 0\ndisk_critical_gb = 0\n")
    tick(instance, platform, cursor)
    titles = [sent["title"].partition(":")[0] for sent in hook.posts]
    assert titles == ["thresholds are refused", "check measurement_set", "thresholds are right again"]
    assert f"thresholds {wrong}: max_flag_fraction = 7: " in hook.posts[0]["text"]
    assert hook.posts[0]["text"].endswith("; correct it, it is read again at once")


def test_the_summary_counts_what_the_history_holds(instance: dg.DagsterInstance) -> None:
    for passed in (True, True, False):
        evaluate(instance, passed=passed)
    (row,) = alerts.check_summary(instance)
    assert (row.asset, row.check, row.passed, row.failed) == ("measurement_set", "flag_fraction", 2, 1)
    assert "above 0.5" in row.last_failure
