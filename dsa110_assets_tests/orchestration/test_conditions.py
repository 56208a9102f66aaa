"""Every condition is really brought about: its alert, its end and its history reach the people who are notified."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.types import DaemonHeartbeat

from dsa110_assets.archive import alerts, backup, caltable_registry, quarantine
from dsa110_assets.archive.product import HELD
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets.orchestration.watching import conditions, disks, housekeeping
from dsa110_assets.settings import Settings
from dsa110_assets_tests.orchestration.test_alerts import TIMES, look, publish, run_to_failure
from dsa110_assets_tests.tiny import SMALL_DISK, tiny_settings
from dsa110_assets_tests.webhook import Webhook

ELSEWHERE = {"channel_silent", "thresholds", "blind"}
"""Conditions that are brought about in `test_alerts.py`."""


class Watch:
    """A platform with its webhook, and assertions about both; `limits` writes its thresholds file."""

    def __init__(self, platform: Platform, hook: Webhook) -> None:
        self.platform, self.hook = platform, hook
        self.archive, self.settings = platform.archive, platform.settings

    def limits(self, text: str = "") -> None:
        self.settings.thresholds_path.write_text(f"{SMALL_DISK.read_text()}group_min = 0\n{text}")

    def active(self) -> dict[str, alerts.Alert]:
        found = alerts.listed(self.archive, [alerts.ACTIVE, alerts.ACKNOWLEDGED])
        return {f"{one.condition} {one.subject}".strip(): one for one in found}

    def found(self, name: str, severity: str, words: str = "") -> None:
        """Look once, and assert that the alert is active and was sent."""
        look(self.platform)
        alert = self.active().get(name)
        assert alert is not None, (name, list(self.active()))
        assert alert.severity == severity
        assert words in alert.words
        assert any(alert.id in message["alerts"] and message["kind"] == "raised" for message in self.hook.taken), self.hook.taken

    def over(self, name: str) -> None:
        """Look once, and assert that the alert is resolved and in the history, and that its end was sent if its condition sends ends."""
        look(self.platform)
        assert name not in self.active()
        condition, _, subject = name.partition(" ")
        last = next(one for one in alerts.listed(self.archive, [alerts.RESOLVED], condition=condition) if one.subject == subject)
        ended = any(last.id in message["alerts"] and message["kind"] == "resolved" for message in self.hook.taken)
        assert ended == conditions.presentations()[condition].tells_end


@pytest.fixture
def hook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


def watching(settings: Settings, hook: Webhook, limits: Path) -> Watch:
    channels = {"alert_channels": {"ops": {"url": hook.url, "severity": "info"}}, "thresholds": limits}
    made = Watch(Platform(Settings(**{**{name: getattr(settings, name) for name in Settings.model_fields}, **channels})), hook)
    made.limits()
    alerts.watched_since(made.archive)
    return made


@pytest.fixture
def watch(tmp_path: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A new platform without alerts."""
    monkeypatch.setattr(disks, "SMALL_DISK_PART", 0.0)
    (tmp_path / "inbox").mkdir()
    made = watching(tiny_settings(tmp_path / "inbox", tmp_path), hook, tmp_path / "limits.toml")
    assert look(made.platform) == []
    return made


def test_conditions_of_a_night_without_calibration_are_raised_and_end(
    processed: Settings, hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real night of the tiny telescope, some hours later: its tables are rejected and restored."""
    monkeypatch.setattr(disks, "SMALL_DISK_PART", 0.0)
    watch = watching(processed, hook, tmp_path / "limits.toml")

    def clock(moment: str) -> None:
        monkeypatch.setattr(inbox, "now_s", lambda: datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())

    clock("2026-01-25T23:00:00")
    watch.limits("inbox_silent_min = 10080\n")
    look(watch.platform)
    assert not {"no_calibration", "transit_unsolved 3C454.3 2026-01-25T22:27"} & watch.active().keys()
    watch.found("off noise", alerts.WARNING, "tile_image:rms of the last 3 observations")  # the noise of eight antennas is too high
    (tables,) = caltable_registry.sets(watch.archive)
    caltable_registry.reject(watch.archive, tables.set_id, "antenna 5 swapped")
    with watch.archive.publish("subband_group", "2026-01-25T22:35", [], settings={}, code_version="1", run_id="r") as draft:
        (draft.path / "x").write_text("x")
        last = watch.archive.current("subband_group", "2026-01-25T22:30")
        assert last is not None
        draft.metadata |= {
            **last.metadata,
            "mjd_start": last.metadata["mjd_start"] + 300 / 86400,
            "mjd_end": last.metadata["mjd_end"] + 300 / 86400,
        }
    clock("2026-01-26T01:00:00")
    watch.found("transit_unsolved 3C454.3 2026-01-25T22:27", alerts.WARNING, "no table set from it is in force")
    assert "no_calibration" not in watch.active()
    clock("2026-01-26T01:36:00")
    watch.found("no_calibration", alerts.WARNING, "no usable calibration for 3.0 h, since 2026-01-25 22:35")
    clock("2026-01-26T04:36:00")
    watch.found("no_calibration", alerts.CRITICAL, "no usable calibration for 6.0 h")
    caltable_registry.restore(watch.archive, tables.set_id)
    watch.over("no_calibration")
    watch.over("transit_unsolved 3C454.3 2026-01-25T22:27")
    watch.limits("inbox_silent_min = 10080\noff_in_a_row = 4\n")
    watch.over("off noise")


def test_repeatedly_failing_runs_are_reported(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("what,is,this\n1,2,3\n")
    broken = Platform(watch.settings.model_copy(update={"catalogues": (tmp_path / "bad.csv",)}), watch.archive)
    for _ in range(5):
        assert not run_to_failure(broken).success
    watch.found("run_failed source_catalog", alerts.WARNING, "bad.csv")
    watch.found("failures source_catalog", alerts.CRITICAL, "5 of 5 runs of the last hour failed (100%)")
    watch.found("retried source_catalog", alerts.WARNING, "failed after 4 retries: ConfigurationError")
    publish(watch.platform, None, asset="source_catalog")  # type: ignore[arg-type]
    watch.over("run_failed source_catalog")
    watch.over("retried source_catalog")
    watch.limits("failures_warn = 1\nfailures_critical = 1\n")
    watch.over("failures source_catalog")


def test_failed_housekeeping_and_a_missed_backup_are_reported(watch: Watch) -> None:
    product_id = publish(watch.platform, TIMES[0])
    path = watch.archive.get(product_id).path / "x"

    def run(job: dg.JobDefinition) -> bool:
        with open_instance(watch.settings.dagster_home) as instance:
            return job.execute_in_process(instance=instance, resources={"platform": watch.platform}, raise_on_error=False).success

    watch.limits("backup_warn_h = 1e-6\n")
    watch.found("backup", alerts.WARNING, "there is no verified one")
    watch.limits()
    assert run(housekeeping.backup_job)
    watch.over("backup")
    made = backup.backups(watch.settings.backups_path)[-1].path
    (made / "index.sqlite").write_bytes(b"damaged")
    assert not run(housekeeping.verify_job)
    watch.found("job_failed verify", alerts.WARNING, f"backup {made} is damaged")
    assert run(housekeeping.backup_job)
    assert path.read_text() == "x"
    assert run(housekeeping.verify_job)
    watch.over("job_failed verify")


def test_a_run_without_progress_is_reported(watch: Watch) -> None:
    watch.limits("run_silent_min = 0\n")
    with open_instance(watch.settings.dagster_home) as instance:
        run = create_run_for_test(instance, job_name="observations", asset_selection=frozenset({dg.AssetKey("tile_image")}))
        instance.handle_new_event(started(run))
        watch.found(f"run_silent {run.run_id[:8]}", alerts.WARNING, "tile_image")
        instance.report_run_canceled(instance.get_run_by_id(run.run_id))  # type: ignore[arg-type]
    watch.over(f"run_silent {run.run_id[:8]}")


def started(run: dg.DagsterRun) -> dg.EventLogEntry:
    """The first event of a run's process."""
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
    return dg.EventLogEntry(
        error_info=None, level=20, user_message="", run_id=run.run_id, timestamp=time.time() - 1, job_name=run.job_name, dagster_event=event
    )


def test_waiting_observations_are_reported_until_none_waits(watch: Watch) -> None:
    watch.limits("queue_warn = 2\nqueue_critical = 4\n")
    for number, key in enumerate(TIMES[:5]):
        publish(watch.platform, key, asset="subband_group")
        if number == 2:
            watch.found("queue", alerts.WARNING, "3 observations wait")
    watch.found("queue", alerts.CRITICAL, "5 observations wait")
    for key in TIMES[:5]:
        publish(watch.platform, key)
    watch.over("queue")
    (last,) = alerts.listed(watch.archive, condition="queue")
    watch.found(f"queue_empty {last.id}", alerts.INFO)
    publish(watch.platform, TIMES[6], asset="subband_group")
    watch.over(f"queue_empty {last.id}")


def test_a_disk_that_is_filling_is_reported(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk cannot be changed, so the limits are."""
    monkeypatch.setattr(disks, "SMALL_DISK_PART", 1.0)
    usage = disks.disk(watch.archive.root, 0, None, datetime.now(UTC))
    assert usage is not None
    free_gb, total_gb = usage.free_bytes / 1e9, usage.total_bytes / 1e9
    path = watch.settings.thresholds_path
    path.write_text(f"disk_critical_gb = 0\ndisk_warn_gb = {free_gb + 10}\n")
    watch.found("disk archive", alerts.WARNING, "GB free, below")
    path.write_text(f"disk_critical_gb = {min(free_gb + 10, total_gb)}\ndisk_warn_gb = 1e6\n")
    watch.found("disk archive", alerts.CRITICAL, "ingest pauses until there is more")
    publish(watch.platform, TIMES[0])
    path.write_text("disk_critical_gb = 0\ndisk_warn_gb = 0\ndisk_full_days = 0\n")
    watch.over("disk archive")
    path.write_text("disk_critical_gb = 0\ndisk_warn_gb = 0\ndisk_full_days = 36500\n")
    if usage.free_bytes / 1e3 < 36500 * 10:  # one published byte does not fill a disk within a century
        watch.found("disk archive", alerts.WARNING, "at the rate of the last 24 h")


def test_missing_and_truncated_files_are_reported(watch: Watch, tiny_run: Path) -> None:
    whole = next(tiny_run.glob("*sb00.hdf5"))
    path = watch.settings.inbox / whole.name
    path.write_bytes(whole.read_bytes()[:5000])
    os.utime(path, (time.time() - 1200,) * 2)
    plan.scan_and_quarantine(watch.archive, watch.settings)
    watch.found("inbox_silent", alerts.WARNING, "for 20 min")
    watch.found(f"quarantine {whole.name}", alerts.WARNING)
    path.write_bytes(whole.read_bytes())
    watch.over("inbox_silent")
    quarantine.release(watch.archive, path)
    watch.over(f"quarantine {whole.name}")


HOLDING = """
import sys, time
from pathlib import Path
from dsa110_assets.orchestration.running.daemon import daemon_lock
with daemon_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
BEATING = """
import sys, time
from pathlib import Path
from dsa110_assets.archive import alerts
from dsa110_assets.archive.store import Archive
archive = Archive(Path(sys.argv[1]))
while True:
    alerts.beat(archive, "worker a")
    print("beat", flush=True)
    time.sleep(0.1)
"""


@contextmanager
def child(code: str, argument: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", code, str(argument)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def test_a_dead_daemon_and_a_dead_worker_are_reported(watch: Watch) -> None:
    home = watch.settings.dagster_home
    assert home is not None
    with open_instance(home) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 30, "SENSOR", "x", []))
    with child(HOLDING, home) as daemon:
        os.kill(daemon.pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        watch.found("service_silent daemon", alerts.CRITICAL, "its process is stopped")
        os.kill(daemon.pid, signal.SIGCONT)
        until(lambda: Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T")
        watch.over("service_silent daemon")
        daemon.kill()
        daemon.wait()
    watch.found("service_silent daemon", alerts.CRITICAL, "its process has ended")
    with open_instance(home) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "x", []))
    watch.over("service_silent daemon")
    watch.limits("service_silent_s = 2\n")
    with child(BEATING, watch.archive.root) as worker:
        look(watch.platform)
        assert "service_silent worker a" not in watch.active()
        worker.kill()
    until(lambda: (datetime.now(UTC) - alerts.beats(watch.archive)["worker a"]).total_seconds() > 2)
    watch.found("service_silent worker a", alerts.CRITICAL)
    alerts.sign_off(watch.archive, "worker a")
    watch.over("service_silent worker a")


def test_products_that_fail_their_checks_and_are_held(watch: Watch) -> None:
    for key in TIMES[:3]:
        publish(watch.platform, key, "offset is 7 arcsec, above 2", "astrometry")
    held = publish(watch.platform, "2026-01-25T22:00", "noise is off", "noise_map", "hour_mosaic", **{HELD: "noise_map: noise is off"})
    watch.found("check_failed tile_image:astrometry", alerts.WARNING, "offset is 7 arcsec, above 2 (2026-01-25T22:10; 3 in the last 24 h)")
    watch.found("off astrometry", alerts.WARNING, "2026-01-25T22:10, 2026-01-25T22:05, 2026-01-25T22:00")
    watch.found(f"held {held}", alerts.WARNING, "noise_map: noise is off")
    publish(watch.platform, TIMES[3])  # the next one is good
    watch.over("off astrometry")
    for key in TIMES[:3]:
        publish(watch.platform, key)
    watch.over("check_failed tile_image:astrometry")
    publish(watch.platform, "2026-01-25T22:00", asset="hour_mosaic")
    watch.over(f"held {held}")


@pytest.mark.parametrize(
    ("asset", "metadata", "condition", "severity", "words"),
    [
        (
            "variability",
            {"n_candidates": 3, "n_flare": 2, "n_ese": 1},
            "candidate",
            alerts.WARNING,
            "3 candidates in the night of 2026-01-25: 2 flare, 1 ese",
        ),
        ("caltables", {"n_sets": 2}, "tables_registered", alerts.INFO, "2 table sets of 2026-01-25 are registered"),
        (
            "night_report",
            {"n_observations": 9, "n_images": 8, "n_errors": 1},
            "night_complete",
            alerts.INFO,
            "9 observations, 8 images, 1 errors",
        ),
    ],
)
def test_candidates_new_tables_and_complete_nights_are_announced(
    watch: Watch, asset: str, metadata: dict[str, Any], condition: str, severity: str, words: str
) -> None:
    product_id = publish(watch.platform, "2026-01-25", asset=asset, **metadata)
    name = f"{condition} {product_id if asset == 'caltables' else '2026-01-25'}"
    watch.found(name, severity, words)
    publish(watch.platform, "2026-01-25", asset=asset, **{**metadata, "n_candidates": 0})
    if asset == "night_report":  # it is no news after an hour
        alerts.remember(watch.archive, "watched since", (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="microseconds"))
    watch.over(name)


def test_every_condition_is_produced() -> None:
    """By a test of this file, which is found by the name of the condition, or of `test_alerts.py`."""
    text = Path(__file__).read_text(encoding="utf-8")
    in_this_file = set(re.findall(r'found\(\s*f?"([a-z_]+)', text)) | set(re.findall(r'"([a-z_]+)",\s+alerts\.', text))
    elsewhere = (Path(__file__).parent / "test_alerts.py").read_text(encoding="utf-8")
    produced = {name for name in ELSEWHERE if conditions.presentations()[name].title in elsewhere}
    assert set(conditions.NAMES) - in_this_file - produced == set()
