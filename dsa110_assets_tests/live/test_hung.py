"""Runs that hang under a real daemon are ended and tried again, and do not block others; and one is cancelled from the web page."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import code_server
from dsa110_assets.orchestration.running import hung
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.execute import partition_lock
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.test_hung_runs import CANCEL, LAUNCH
from dsa110_assets_tests.live.platform import LivePlatform
from dsa110_assets_tests.live.test_night import TINY
from dsa110_assets_tests.tiny import OPTIONS

HUNG_AFTER_MIN, WITHIN_S = 2.0, 480.0
"""Compiling the kernels takes a minute without an event."""
LAST = "2026-01-25T22:30"


def processes(platform: LivePlatform, asset: str) -> dict[str, int]:
    """The unfinished runs that make this asset, with their process ids."""
    with platform.instance() as instance:
        runs = [run for run in instances.unfinished(instance) if dg.AssetKey(asset) in (run.asset_selection or ())]
        return {run.run_id: pid for run in runs if (pid := instances.process_of(run))}


def run_of(platform: LivePlatform, run_id: str) -> dg.DagsterRun:
    with platform.instance() as instance:
        found = instance.get_run_by_id(run_id)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.row(31)
def test_stopped_live_runs_are_retried_and_a_cancelled_one_ends(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    simulate(scene, SimulationOptions(**OPTIONS))
    groups = json.loads((scene / "truth.json").read_text())["groups"]
    platform = LivePlatform(tmp_path, **TINY, DSA110_HUNG_AFTER_MIN=str(HUNG_AFTER_MIN))
    platform.clock("2026-01-25T22:36:00")
    platform.start()
    try:
        with ExitStack() as held, Archive(platform.root) as archive:
            for key in ("2026-01-25T22:20", "2026-01-25T22:25"):  # runs that make these wait for the lock, so that they can be stopped
                held.enter_context(partition_lock(archive, "subband_group", key))
            platform.drop(scene, [name for group in groups[:2] for name in group["files"]])
            platform.until(lambda: len(processes(platform, "subband_group")) == 2, "both runs have begun")
            stopped = processes(platform, "subband_group")
            for pid in stopped.values():
                os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        platform.drop(scene, groups[2]["files"])
        platform.until(lambda: platform.made("measurement_set", LAST), "the observation that came after them", WITHIN_S)
        record_figure(31, "seconds from two stopped live runs to the next one's measurement set", round(time.monotonic() - began))
        platform.until(
            lambda: platform.made("measurement_set", "2026-01-25T22:20", "2026-01-25T22:25"), "those that hung, tried again", WITHIN_S
        )
        record_figure(31, "seconds from two stopped live runs to their measurement sets", round(time.monotonic() - began))
        for run_id, pid in stopped.items():
            platform.until(lambda: not Path(f"/proc/{pid}").exists(), "nothing is left of it")  # noqa: B023
            assert run_of(platform, run_id).status == dg.DagsterRunStatus.FAILURE
            assert "is stopped (SIGSTOP)" in run_of(platform, run_id).tags[hung.HUNG_TAG]
        platform.until(platform.idle, "every run has ended")

        selector = {
            "repositoryName": "__repository__", "repositoryLocationName": code_server.LOCATION, "pipelineName": "catalogues",
            "assetSelection": [{"path": ["source_catalog"]}],
        }  # fmt: skip
        given = {"selector": selector, "mode": "default", "runConfigData": {}}
        with Archive(platform.root) as archive, partition_lock(archive, "source_catalog", None):
            run_id = platform.graphql(LAUNCH, given=given)["launchRun"]["run"]["runId"]
            platform.until(lambda: run_id in processes(platform, "source_catalog"), "the run that is cancelled has begun")
            pid = processes(platform, "source_catalog")[run_id]
            os.kill(pid, signal.SIGSTOP)
        cancelled_at = time.monotonic()
        assert platform.graphql(CANCEL, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        platform.until(lambda: not Path(f"/proc/{pid}").exists(), "nothing is left of the cancelled run")
        record_figure(
            31, "seconds from a cancel in the web page to the end of a stopped run's process", round(time.monotonic() - cancelled_at)
        )
        platform.until(lambda: run_of(platform, run_id).status == dg.DagsterRunStatus.CANCELED, "the cancelled run has ended")
        after = platform.graphql(LAUNCH, given=given)["launchRun"]["run"]["runId"]
        platform.until(lambda: run_of(platform, after).is_finished, "a run after it")
        assert run_of(platform, after).status == dg.DagsterRunStatus.SUCCESS
    finally:
        platform.stop()
