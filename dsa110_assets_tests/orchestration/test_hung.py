"""Runs that make no progress: real processes that are stopped, wait for a child, or block the interpreter, and how they are ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets import children
from dsa110_assets.archive import files, quarantine
from dsa110_assets.archive.lineage import MANIFEST
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import TransientError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.planning import requests
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import hung
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.execute import partition_lock
from dsa110_assets.orchestration.specification import spec
from dsa110_assets.settings import Settings

KEY, ASSET, REQUEST = "2026-01-25T22:25", "tile_image", "tile_image 2026-01-25T22:25:0123"
LIMIT_S = 60.0
WORK = """
import ctypes, fcntl, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)  # as Dagster does: what is asked to end goes on to the next line
lock = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(child.pid, flush=True)
while sys.argv[1] == "computes":
    pass
if sys.argv[1] == "interpreter":
    ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock: no signal handler runs
while True:
    child.wait()
"""


class Run:
    """A run as its launcher leaves it: started, in a step, with a separate process that holds a lock and has a child."""

    def __init__(self, instance: dg.DagsterInstance, lock: Path, how: str, tags: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", WORK, how, str(lock)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        run_id = str(uuid.uuid4())
        all_tags = {instances.LANE_TAG: instances.LIVE, requests.REQUEST_TAG: REQUEST, requests.PARTITION_TAG: KEY, **(tags or {})}
        launcher = instances.launcher(run_id).split("/")
        launcher[1:3] = [str(self.process.pid), instances._started(self.process.pid)]
        self.run_id, self.instance = run_id, instance
        started = dg.DagsterRunStatus.STARTED
        instance.add_run(
            dg.DagsterRun(
                job_name="observations", run_id=run_id, status=started, tags=all_tags | {instances.LAUNCHER_TAG: "/".join(launcher)}
            )
        )
        self.event(dg.DagsterEventType.STEP_START)
        if how == "stopped":
            self.process.send_signal(signal.SIGSTOP)

    def event(self, kind: dg.DagsterEventType) -> None:
        """Record an event of its step."""
        event = dg.DagsterEvent(event_type_value=kind.value, job_name="observations", step_key=ASSET)
        entry = dg.EventLogEntry(
            error_info=None, level=20, user_message="", run_id=self.run_id, timestamp=time.time(), step_key=ASSET, dagster_event=event
        )
        self.instance.store_event(entry)

    @property
    def now(self) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(self.run_id)
        assert found is not None
        return found

    def lives(self) -> bool:
        """Whether its process or its child still exists."""
        return any(instances._started(pid) for pid in (self.process.pid, self.child))

    def ends(self) -> bool:
        """Whether both end within 30 s; on a busy machine a killed process takes some time to disappear."""
        until = time.monotonic() + 30.0
        while self.lives() and time.monotonic() < until:
            time.sleep(0.01)
        return not self.lives()

    def failure_message(self) -> str:
        """The reason of its failure."""
        return str(instances.events(self.instance, self.run_id, dg.DagsterEventType.RUN_FAILURE)[-1].message)

    def close(self) -> None:
        children.kill_tree(self.process.pid)
        self.process.communicate()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """A platform with one observation, whose manifest names its raw file."""
    assert graph.ASSETS
    (tmp_path / "inbox").mkdir()
    raw = tmp_path / "inbox" / "a_sb00.hdf5"
    raw.write_bytes(b"raw")
    with (
        Archive.create(tmp_path / "archive") as archive,
        archive.publish("subband_group", KEY, (), settings={}, code_version="1", run_id="r", engines={}) as draft,
    ):
        (draft.path / MANIFEST).write_text(json.dumps({"files": [{"path": str(raw)}]}))
    return Platform(Settings(inbox=tmp_path / "inbox", archive=tmp_path / "archive", hung_after_min=LIMIT_S / 60))


def ended(platform: Platform, instance: dg.DagsterInstance, run: Run, began_s: float, limit_s: float = LIMIT_S) -> hung.Watch:
    """Look repeatedly, as the sensor does, until the run has been ended; assert that this does not happen before its limit."""
    watch, now_s = hung.Watch(), began_s
    while run.now.status != dg.DagsterRunStatus.FAILURE:
        watch = hung.restored(json.loads(json.dumps(asdict(watch)))) if watch.looked_s else watch
        watch = hung.look(platform, instance, watch, now_s)
        assert run.run_id not in watch.ending or now_s > began_s + limit_s, "ended before its limit"
        assert now_s < began_s + limit_s + hung.GRACE_S + 61.0, "not ended in time"
        now_s += 15.0
    assert not watch.ending
    return watch


@pytest.mark.parametrize("how", ["stopped", "child", "interpreter"])
def test_a_hung_run_is_killed_with_its_child_and_retried_once(platform: Platform, instance: dg.DagsterInstance, how: str) -> None:
    archive = platform.archive
    lock = archive.root / "lock"
    first = Run(instance, lock, how)
    try:
        with pytest.raises(TransientError, match="a tile: another process has had its lock"), files.locked(lock, "a tile", within_s=0.1):
            pass
        ended(platform, instance, first, 1e9)
        assert first.ends()
        with files.locked(lock, within_s=0.1):
            pass
        state = "is stopped (SIGSTOP)" if how == "stopped" else "sleeps"
        assert f"{ASSET} {KEY}: no progress for" in first.failure_message()
        assert f"its process {first.process.pid} {state}" in first.failure_message()
        assert "tried once more" in first.failure_message()
        assert quarantine.quarantined(archive) == []
    finally:
        first.close()
    retried = Run(instance, lock, how, tags={hung.HUNG_TAG: first.now.tags[hung.HUNG_TAG], "dagster/parent_run_id": first.run_id})
    try:
        ended(platform, instance, retried, 1e9)
        assert "set aside" in retried.failure_message()
        assert retried.now.tags["dagster/max_retries"] == "0"
        (record,) = quarantine.quarantined(archive)
        assert record.observation == KEY
        assert "no progress" in record.reason
        rests_s = requests.past(instance, [REQUEST], time.time())[REQUEST].rests_s
        assert rests_s > 23 * 3600
    finally:
        retried.close()


def test_computing_runs_have_the_time_limit_of_their_asset_and_lane(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"cpu_s": 0.0}

    def busy(pid: int) -> float:  # in this test the looks are fifteen seconds apart only on a simulated clock
        clock["cpu_s"] += 10.0
        return clock["cpu_s"]

    monkeypatch.setattr(hung, "processor_s", busy)
    monkeypatch.setitem(spec.assets(), ASSET, replace(spec.assets()[ASSET], patience=2.0))
    live = Run(instance, platform.archive.root / "lock", "computes")
    try:
        ended(platform, instance, live, 1e9, limit_s=2 * LIMIT_S)
        assert "computes" in live.failure_message()
    finally:
        live.close()
    filled_in = Run(instance, platform.archive.root / "lock", "computes", tags={instances.LANE_TAG: instances.BACKFILL})
    try:
        ended(platform, instance, filled_in, 1e9, limit_s=2 * LIMIT_S * hung.SLOWER)
    finally:
        filled_in.close()


def test_processor_time_counts_what_a_process_has_started() -> None:
    code = "import os, time\nif os.fork() == 0:\n  while True: pass\nprint(1, flush=True)\nos.wait()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        before, began = hung.processor_s(process.pid), time.monotonic()
        while hung.processor_s(process.pid) < before + 0.2:
            assert time.monotonic() - began < 30.0
    finally:
        children.kill_tree(process.pid)
        process.communicate()


def test_events_count_as_progress_and_unwatched_time_is_ignored(platform: Platform, instance: dg.DagsterInstance) -> None:
    run = Run(instance, platform.archive.root / "lock", "stopped")
    try:
        watch = hung.look(platform, instance, hung.Watch(), 1e9)
        for now_s in range(15, 300, 15):
            run.event(dg.DagsterEventType.STEP_START)
            watch = hung.look(platform, instance, watch, 1e9 + now_s)
        assert run.run_id in watch.seen
        watch = hung.look(platform, instance, watch, 1e9 + 90000.0)  # the machine slept for a day
        assert run.run_id in watch.seen
    finally:
        run.close()


def test_runs_of_a_command_and_of_other_hosts_are_not_touched(platform: Platform, instance: dg.DagsterInstance) -> None:
    by_command = Run(instance, platform.archive.root / "a", "stopped", tags={instances.LANE_TAG: instances.PROCESS})
    elsewhere = Run(instance, platform.archive.root / "b", "stopped")
    try:
        tag = elsewhere.now.tags[instances.LAUNCHER_TAG]
        instance.add_run_tags(elsewhere.run_id, {instances.LAUNCHER_TAG: f"another-host/{tag.partition('/')[2]}"})
        ended(platform, instance, elsewhere, 1e9)
        assert "its process is on another host" in elsewhere.failure_message()
        assert by_command.lives()
        assert elsewhere.lives(), "a process was killed by a number that another host gave"
        assert by_command.now.status == dg.DagsterRunStatus.STARTED
    finally:
        by_command.close()
        elsewhere.close()


def test_a_stopped_run_that_is_cancelled_is_killed(platform: Platform, instance: dg.DagsterInstance) -> None:
    run = Run(instance, platform.archive.root / "lock", "stopped")
    try:
        instance.report_run_canceling(run.now)
        watch = hung.look(platform, instance, hung.Watch(), 1e9)
        watch = hung.look(platform, instance, watch, 1e9 + 15.0)
        assert run.lives()
        watch = hung.look(platform, instance, watch, 1e9 + hung.GRACE_S)
        assert run.ends()
        assert run.now.status == dg.DagsterRunStatus.CANCELED
        assert not watch.ending
    finally:
        run.close()


def test_waiting_for_a_locked_partition_is_limited(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsa110_assets.orchestration.running.execute.LOCK_S", 0.2)
    archive = platform.archive
    with (
        partition_lock(archive, ASSET, KEY),
        pytest.raises(TransientError, match=f"{ASSET} {KEY}: another process"),
        partition_lock(archive, ASSET, KEY),
    ):
        pass
