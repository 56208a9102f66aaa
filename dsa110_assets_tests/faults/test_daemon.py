"""Row 11: a daemon is killed during a burst of arrivals and started again; a second daemon is started beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.children import descendants
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.live.platform import STOP_S, LivePlatform
from dsa110_assets_tests.live.test_night import TINY
from dsa110_assets_tests.tiny import OPTIONS

KEYS = ("2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30")
DAEMON = "dsa110_assets.orchestration.running.daemon"


def daemon_pid(platform: LivePlatform) -> int:
    """The process id of the platform's daemon."""
    assert platform.process is not None
    (pid,) = [pid for pid in descendants(platform.process.pid) if DAEMON in Path(f"/proc/{pid}/cmdline").read_text()]
    return pid


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.row(11)
def test_a_killed_daemon_and_a_second_one_make_nothing_twice(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    simulate(scene, SimulationOptions(**OPTIONS))
    platform = LivePlatform(tmp_path, **TINY)
    platform.clock("2026-01-25T22:36:00")
    platform.start()
    try:
        second = subprocess.run(
            [sys.executable, "-m", DAEMON, "--workspace", str(platform.home / "workspace.yaml")],
            env=platform.environment, capture_output=True, text=True, timeout=STOP_S,
        )  # fmt: skip
        record_figure(11, "second daemons that started", int(second.returncode == 0))
        assert second.returncode == 1
        assert f"pid {daemon_pid(platform)} on" in second.stderr

        platform.drop(scene, sorted(path.name for path in scene.glob("*.hdf5")))
        platform.until(lambda: ingest_runs(platform), "the first run of the storm is asked for")
        os.kill(daemon_pid(platform), signal.SIGKILL)
        assert platform.process is not None
        assert platform.process.wait(STOP_S) == 1, "a platform without its daemon goes on as if nothing were"
        restarted = time.monotonic()
        platform.start()
        platform.until(lambda: platform.made("measurement_set", *KEYS), "every observation after the restart")
        record_figure(11, "catch-up of 3 small observations, start included [s]", round(time.monotonic() - restarted))
        platform.until(platform.idle, "every run has ended")
        successes = Counter(run.tags["dagster/partition"] for run in ingest_runs(platform) if run.status == dg.DagsterRunStatus.SUCCESS)
        duplicates = sum(successes.values()) - len(successes)
        record_figure(11, "duplicate runs", duplicates)
        assert set(successes) == set(KEYS)
        assert duplicates == 0
        with Archive(platform.root) as archive:
            assert [one.id for one in archive.products(state=None) if one.version > 1] == []
    finally:
        platform.stop()


def ingest_runs(platform: LivePlatform) -> list[dg.DagsterRun]:
    """The runs requested by the inbox sensor."""
    with platform.instance() as instance:
        return [run for run in instance.get_runs() if "dsa110/request" in run.tags]
