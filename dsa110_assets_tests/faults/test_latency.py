"""Row 24: a backfill does not delay observations that arrive while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.live.platform import LivePlatform
from dsa110_assets_tests.live.test_night import TINY
from dsa110_assets_tests.tiny import OPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.row(24)]
ALONE, BESIDE = 5, 5
"""Live observations timed without and with a backfill."""
OLD = {**OPTIONS, "start": "2026-01-15T22:43:40", "groups": 12, "nights": 4}
ENDED = timedelta(seconds=315)
"""From an observation's start until the correlator has closed its last file."""


def test_live_latency_beside_a_backfill(tmp_path: Path) -> None:
    """The latency from the last file to the measurement set: its 95th percentile at most doubles during a backfill of four nights."""
    scene, old = tmp_path / "scene", tmp_path / "old"
    simulate(scene, SimulationOptions(**{**OPTIONS, "groups": ALONE + BESIDE}))
    simulate(old, SimulationOptions(**OLD))
    groups = json.loads((scene / "truth.json").read_text())["groups"]
    live = LivePlatform(tmp_path, **TINY)
    live.clock("2026-01-25T22:20:00")
    live.start()
    try:
        alone = [latency_s(live, scene, group) for group in groups[:ALONE]]
        live.drop(old, sorted(path.name for path in old.glob("*.hdf5")))
        launched = live.command("backfill", "--nights", "2026-01-15..2026-01-18", "--json")
        assert launched.returncode == 0, launched.stderr
        keys = [key for launch in json.loads(launched.stdout) for key in launch["partitions"]]
        assert len(keys) == 48
        live.until(lambda: priorities(live), "a run that fills in history at work", 300)
        assert priorities(live) <= {instances.BACKFILL_NICE + os.getpriority(os.PRIO_PROCESS, 0), instances.BACKFILL_NICE}
        beside = [latency_s(live, scene, group) for group in groups[ALONE:]]
        assert not live.made("measurement_set", *keys), "the backfill ended too early to disturb anything"
        live.until(lambda: live.made("measurement_set", *keys), "the backfill's measurement sets", 900)
        with live.instance() as instance:
            failed = instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert [run.run_id for run in failed if dg.AssetKey("measurement_set") in (run.asset_selection or ())] == []
    finally:
        live.stop()
    ratio = float(np.percentile(beside, 95) / np.percentile(alone, 95))
    record_figure(24, "live latency alone, p95 [s]", round(float(np.percentile(alone, 95)), 1))
    record_figure(24, "beside a backfill, p95 [s]", round(float(np.percentile(beside, 95)), 1))
    record_figure(24, "live p95 ratio", round(ratio, 2))
    assert ratio <= 2


def priorities(live: LivePlatform) -> set[int]:
    """The nice values of the processes that now make old observations, requested by the backfill or by the inbox sensor."""
    found = set()
    with live.instance() as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={instances.LANE_TAG: instances.BACKFILL}, statuses=[dg.DagsterRunStatus.STARTED]))
    for run in runs:
        launcher = run.tags.get(instances.LAUNCHER_TAG, "").split("/")
        with contextlib.suppress(ProcessLookupError):
            found |= {os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in launcher[1:2]}
    return found


def latency_s(live: LivePlatform, scene: Path, group: dict[str, object]) -> float:
    """Seconds from the arrival of an observation's last file to its measurement set, with the clock at the time when it would arrive."""
    key = str(group["observation"])
    live.clock((datetime.fromisoformat(key) + ENDED + timedelta(minutes=5)).isoformat())
    files = group["files"]
    assert isinstance(files, list)
    live.drop(scene, files)
    dropped = time.monotonic()
    live.until(lambda: live.made("measurement_set", key), f"the measurement set of {key}")
    return time.monotonic() - dropped
