"""Every fault is reported to people once, whichever process dies in between: with a real archive and a real webhook."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.archive import alerts, quarantine
from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS
from dsa110_assets.errors import BadDataError, ConfigurationError, TransientError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.judging.check_summary import check_summary
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets.orchestration.running.partition_run import QUIET
from dsa110_assets.orchestration.watching import conditions, disks, sending, sensors, watch
from dsa110_assets.settings import Channel
from dsa110_assets_tests.tiny import SMALL_DISK, tiny_settings
from dsa110_assets_tests.webhook import Webhook

pytestmark = pytest.mark.row(44, cases="cases in which every alert is sent once")
TIMES = tuple(f"2026-01-25T22:{minute:02d}" for minute in range(0, 60, 5))


@pytest.fixture
def hook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


Make = Callable[..., Platform]


@pytest.fixture
def make(hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a platform, watched from now on, whose webhook receives all alerts."""
    monkeypatch.setattr(disks, "SMALL_DISK_PART", 0.0)  # a developer's nearly full disk is no emergency
    limits = tmp_path / "limits.toml"
    limits.write_text(SMALL_DISK.read_text() + "group_min = 0\n")
    (tmp_path / "inbox").mkdir()

    def made(**more: Any) -> Platform:
        channels = {"ops": {"url": hook.url, "severity": "info"}}
        platform = Platform(tiny_settings(tmp_path / "inbox", tmp_path, **{"alert_channels": channels, "thresholds": limits, **more}))
        alerts.watched_since(platform.archive)
        return platform

    return made


def look(platform: Platform) -> list[str]:
    return watch.look(platform.archive, platform.settings, platform.thresholds, platform.refused_thresholds, "test", always=True)


def publish(platform: Platform, partition: str, reason: str = "", check: str = "rms", asset: str = "tile_image", **metadata: Any) -> str:
    """Publish a product. If there is a `reason`, a check of severity ERROR has failed on it. Return its id."""
    with platform.archive.publish(asset, partition, [], settings={}, code_version="1", run_id="r") as draft:
        (draft.path / "x").write_text("x")
        draft.metadata |= {VERDICTS: {check: reason}, "n_failed_checks": int(bool(reason)), FAILED_ERRORS: [check] if reason else []}
        draft.metadata |= metadata
    return draft.product.id


def put_aside(platform: Platform, name: str) -> None:
    path = platform.settings.inbox / name
    path.write_text("x")
    quarantine.quarantine(platform.archive, path, f"{name} is cut short")


def states(platform: Platform, condition: str) -> list[str]:
    return [one.state for one in alerts.listed(platform.archive, condition=condition)]


def test_a_failed_check_reaches_the_webhook_and_the_console_once(make: Make, hook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    platform = make()
    with caplog.at_level(logging.WARNING):
        product_id = publish(platform, TIMES[0], "rms is 2 Jy, above 1")
        for _ in range(2):
            look(platform)
    (post,) = hook.taken
    assert (post["title"], post["severity"], post["kind"]) == ("check failed: tile_image:rms", "warning", "raised")
    assert "rms is 2 Jy, above 1" in post["text"]
    assert post["link"] == f"http://127.0.0.1:3001/products/{product_id}"
    assert "rms is 2 Jy, above 1" in caplog.text
    publish(platform, TIMES[0])  # made again, and good
    look(platform)
    assert hook.titles[1:] == ["over: check failed: tile_image:rms"]
    assert states(platform, "check_failed") == [alerts.RESOLVED]


def test_conditions_present_before_the_first_look_are_not_sent(hook: Webhook, make: Make) -> None:
    platform = make()
    publish(platform, TIMES[0], "rms is 2 Jy, above 1")
    alerts.remember(platform.archive, "watched since", datetime.now(UTC).isoformat(timespec="microseconds"))
    assert look(platform) == []
    assert hook.taken == []


def test_the_sensor_and_the_portal_send_the_same_alerts(make: Make, hook: Webhook, tmp_path: Path) -> None:
    platform = make()
    put_aside(platform, "a.hdf5")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, repository_def=graph.over(platform).get_repository_def())
        result = sensors.alert_sensor(context, platform=platform)
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message == "quarantine a.hdf5"
    eye = watch.WatchThread(platform.archive, platform.settings, lambda: (platform.thresholds, None), conditions.PORTAL)
    eye.open()
    eye.close()
    assert hook.titles == ["quarantined: a.hdf5"]
    assert list(alerts.beats(platform.archive)) == [conditions.CODE_SERVER]  # the portal signed off when its eye closed


def test_a_webhook_that_is_down_loses_nothing(make: Make, hook: Webhook) -> None:
    platform = make()
    hook.answer = lambda _: 503
    for number in range(3):
        put_aside(platform, f"{number}.hdf5")
        look(platform)
    assert hook.taken == []
    hook.answer = lambda _: 200
    for _ in range(2):
        look(platform)
    assert hook.titles == [f"quarantined: {number}.hdf5" for number in range(3)]


def test_alerts_sent_before_the_webhook_failed_are_not_sent_again(make: Make, hook: Webhook) -> None:
    """A webhook accepts two messages and then no more, as with a rate limit: the rest is sent at the next look."""
    platform = make()
    answers = iter([200, 200, 429, 429, 200, 200, 200])
    down, hook.answer = hook.answer, lambda _: 503
    for number in range(5):
        put_aside(platform, f"{number}.hdf5")
        look(platform)
    hook.answer = lambda _: next(answers)
    for _ in range(3):
        look(platform)
    hook.answer = down
    assert hook.titles == [f"quarantined: {number}.hdf5" for number in range(5)]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_alert_refused_by_the_webhook_blocks_no_other(make: Make, hook: Webhook, caplog: pytest.LogCaptureFixture, status: int) -> None:
    platform = make()
    hook.answer = lambda message: status if "0.hdf5" in message["title"] else 200
    for number in range(2):
        put_aside(platform, f"{number}.hdf5")
        look(platform)
    look(platform)
    assert hook.titles == ["quarantined: 1.hdf5"]
    assert f"channel ops refuses the alert quarantined: 0.hdf5 (HTTP {status}" in caplog.text


def test_a_failing_channel_delays_no_other_and_is_reported_there(make: Make, hook: Webhook) -> None:
    other = Webhook()
    try:
        platform = make(alert_channels={"ops": {"url": hook.url}, "pager": {"url": other.url}})
        other.answer = lambda _: 503
        platform.settings.thresholds_path.write_text(SMALL_DISK.read_text() + "channel_silent_min = 0\n")
        put_aside(platform, "a.hdf5")
        for _ in range(2):
            look(platform)
        assert hook.titles == ["quarantined: a.hdf5", "a channel takes no alerts: pager"]
        other.answer = lambda _: 200
        look(platform)
        assert other.titles == ["quarantined: a.hdf5", "a channel takes no alerts: pager"]
        look(platform)
        assert hook.titles[2:] == ["over: a channel takes no alerts: pager"]
    finally:
        other.close()


def run_to_failure(platform: Platform) -> dg.ExecuteInProcessResult:
    """Run a step that fails because of an unreadable catalogue, in the platform's Dagster."""
    with open_instance(platform.settings.dagster_home) as instance:
        job = graph.over(platform).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            run_config=QUIET, instance=instance, asset_selection=[dg.AssetKey("source_catalog")], raise_on_error=False
        )


def test_a_failed_run_is_reported_with_the_steps_error_until_resolved(make: Make, hook: Webhook, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("what,is,this\n1,2,3\n")
    platform = make(catalogues=(tmp_path / "bad.csv",))
    hook.answer = lambda _: 503
    failed = run_to_failure(platform)
    assert not failed.success
    look(platform)
    hook.answer = lambda _: 200
    for _ in range(2):
        look(platform)
    (post,) = hook.taken
    assert post["title"] == "run failed: source_catalog"
    assert "ConfigurationError" in post["text"]
    assert "bad.csv" in post["text"]
    assert failed.run_id in post["text"]
    publish(platform, None, asset="source_catalog")  # type: ignore[arg-type]
    look(platform)
    assert hook.titles[1:] == ["over: run failed: source_catalog"]


def test_refused_thresholds_are_reported_and_hide_no_other_alert(make: Make, hook: Webhook, tmp_path: Path) -> None:
    """This holds even if no valid limits were ever read."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("max_flag_fraction = 7\n")
    platform = make(thresholds=wrong)
    put_aside(platform, "a.hdf5")
    look(platform)
    wrong.write_text("max_flag_fraction = 0.7\ndisk_warn_gb = 0\ndisk_critical_gb = 0\n")
    look(platform)
    assert hook.titles == ["thresholds are refused", "quarantined: a.hdf5", "over: thresholds are refused"]
    assert f"thresholds {wrong}: max_flag_fraction = 7: " in hook.taken[0]["text"]
    assert "; correct it, it is read again at once" in hook.taken[0]["text"]


def test_quiet_hours_end_with_one_message(make: Make, hook: Webhook) -> None:
    now = datetime.now(UTC)
    span = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}"
    platform = make(alert_channels={"ops": {"url": hook.url, "quiet": span}})
    for name in ("a.hdf5", "b.hdf5"):
        put_aside(platform, name)
        look(platform)
    assert hook.taken == []
    with platform.archive.index._engine.begin() as connection:  # type: ignore[union-attr]
        connection.exec_driver_sql("UPDATE alert_messages SET not_before = '2026-01-01T00:00:00+00:00'")
    look(platform)
    (post,) = hook.taken
    assert post["title"] == "2 alerts while it was quiet"
    assert post["text"].index("a.hdf5") < post["text"].index("b.hdf5")


def test_apprise_sends_by_url_and_reports_refusals(hook: Webhook) -> None:
    channel = Channel(url=hook.url.replace("http://", "json://"))  # type: ignore[arg-type]
    message = sending.test_message("ops", "http://portal")
    sending.send(channel, message)
    assert (hook.taken[0]["title"], hook.taken[0]["type"]) == ("test: this is no alert", "info")
    for status, kind in ((400, BadDataError), (503, TransientError)):
        hook.answer = lambda _, status=status: status  # type: ignore[misc]
        with pytest.raises(kind, match=f"HTTP {status}"):
            sending.send(channel, message)
    with pytest.raises(ConfigurationError, match="of no known kind: use https://"):
        sending.send(Channel(url="smoke://signal"), message)  # type: ignore[arg-type]


def test_channel_urls_are_never_logged(hook: Webhook) -> None:
    secret, output = "s3cret-token", io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(output)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        for place in (
            f"http://{secret}@127.0.0.1:1/",
            f"json://user:{secret}@127.0.0.1:1/",
            f"http://[{secret}/",
            f"json://{hook.url[7:]}",
        ):
            channel = Channel(url=f"{place}{secret}")  # type: ignore[arg-type]
            wrong = sending.try_all({"ops": channel}, "http://portal")
            assert bool(wrong["ops"]) == (not hook.taken)
            assert secret not in f"{wrong} {channel!r}"
        logging.getLogger("dsa110_assets").warning("seen")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert "seen" in output.getvalue()
    assert secret not in output.getvalue()


def test_heartbeats_are_sent_only_while_everything_is_watched(make: Make, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HEARTBEAT_S", 0.0)
    platform = make(heartbeat_url=hook.url)
    look(platform)
    assert hook.heartbeats == 1
    alerts.remember(platform.archive, "beat/worker a", (datetime.now(UTC) - timedelta(minutes=5)).isoformat(timespec="microseconds"))
    look(platform)
    assert hook.heartbeats == 1
    assert hook.titles == ["no sign of life: worker a"]
    alerts.sign_off(platform.archive, "worker a")
    platform.settings.inbox.rmdir()  # its contents cannot be determined
    look(platform)
    assert hook.heartbeats == 1
    assert hook.titles[1:] == ["something cannot be found out", "over: no sign of life: worker a"]
    assert "no such directory" in hook.taken[1]["text"]
    platform.settings.inbox.mkdir()
    look(platform)
    assert hook.heartbeats == 2


LOOKING = """
import os, sys
from pathlib import Path
from dsa110_assets.archive import alerts
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.watching import sending, watch
from dsa110_assets.settings import load

platform = Platform(load())
if sys.argv[1] == "decides and dies":
    sending.deliver = lambda *_: os.kill(os.getpid(), 9)
elif sys.argv[1] == "sends and dies":
    alerts.sent = lambda *_: os.kill(os.getpid(), 9)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    watch.look(platform.archive, platform.settings, platform.thresholds, platform.refused_thresholds, sys.argv[1], always=True)
"""


def start(platform: Platform, what: str, looks: int) -> subprocess.Popen[str]:
    """Start a separate process that looks `looks` times after `go`."""
    settings = platform.settings
    channels = {name: {"url": one.url.get_secret_value(), "severity": one.severity} for name, one in settings.alert_channels.items()}
    environment = {
        "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "DSA110_INBOX": str(settings.inbox),
        "DSA110_ARCHIVE": str(settings.archive), "DAGSTER_HOME": str(settings.dagster_home),
        "DSA110_THRESHOLDS": str(settings.thresholds_path),
        "DSA110_ALERT_CHANNELS": json.dumps(channels), "HOME": str(settings.archive),
    }  # fmt: skip
    if settings.database_url:
        environment["DSA110_DATABASE_URL"] = settings.database_url
    process = subprocess.Popen(
        [sys.executable, "-c", LOOKING, what, str(looks)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_a_kill_between_decision_and_delivery_loses_no_alert(
    make: Make, hook: Webhook, engine_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = make(database_url=engine_url)
    put_aside(platform, "a.hdf5")
    with start(platform, "decides and dies", 1) as process:
        go(process)
        assert process.wait(60) == -9
    assert hook.taken == []
    assert len(alerts.due(platform.archive, "ops", datetime.now(UTC))) == 1
    look(platform)
    look(platform)
    assert hook.titles == ["quarantined: a.hdf5"]
    put_aside(platform, "b.hdf5")
    with start(platform, "sends and dies", 1) as process:
        go(process)
        assert process.wait(60) == -9
    look(platform)
    assert hook.titles[1:] == ["quarantined: b.hdf5"]  # the dead process still holds the lease of the channel
    monkeypatch.setattr(alerts, "_text", lambda at: (at + timedelta(seconds=sending.LEASE_S)).isoformat(timespec="microseconds"))
    look(platform)
    assert (
        hook.titles[1:] == ["quarantined: b.hdf5"] * 2
    )  # delivery is at least once: the new process cannot know that the message was accepted


def test_two_daemons_send_each_alert_once(make: Make, hook: Webhook, engine_url: str | None) -> None:
    platform = make(database_url=engine_url)
    with start(platform, "one", 8) as one, start(platform, "other", 8) as other:
        for process in (one, other):
            go(process)
        for number in range(6):
            put_aside(platform, f"{number}.hdf5")
        assert (one.wait(120), other.wait(120)) == (0, 0)
    look(platform)
    subjects = sorted(subject for message in hook.taken for subject in message["subjects"])
    assert subjects == [f"{number}.hdf5" for number in range(6)]


def test_the_summary_counts_what_the_history_holds() -> None:
    key, check = dg.AssetKey("measurement_set"), "flag_fraction"
    with dg.DagsterInstance.ephemeral() as instance:
        for passed in (True, True, False):
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(asset_key=key, check_name=check, passed=passed, description="flag_fraction is 0.9, above 0.5")
            )
        (row,) = check_summary(instance)
    assert (row.asset, row.check, row.passed, row.failed) == ("measurement_set", "flag_fraction", 2, 1)
    assert "above 0.5" in row.last_failure
