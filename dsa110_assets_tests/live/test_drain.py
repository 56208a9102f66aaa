"""A restart while observations keep arriving: drain, stop, start, resume. None is lost and none is made twice."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.execute import partition_lock
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets_tests.live.platform import LivePlatform
from dsa110_assets_tests.live.test_night import ARRIVALS, TINY
from dsa110_assets_tests.tiny import OPTIONS

FIRST, SECOND, LAST = ARRIVALS


def begun(platform: LivePlatform) -> set[str | None]:
    """The observations for which a run has begun."""
    with platform.instance() as instance:
        runs = instance.get_runs()
    return {run.tags.get("dagster/partition") for run in runs if run.status != dg.DagsterRunStatus.QUEUED}


@pytest.mark.slow
@pytest.mark.live
def test_a_restart_loses_no_observation_and_makes_none_twice(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    simulate(scene, SimulationOptions(**OPTIONS))
    groups = json.loads((scene / "truth.json").read_text())["groups"]
    platform = LivePlatform(tmp_path, **TINY)
    platform.clock("2026-01-25T22:36:00")
    platform.start()
    try:
        with Archive(platform.root) as archive, partition_lock(archive, "subband_group", FIRST):  # its run lasts until this is released
            platform.drop(scene, groups[0]["files"])
            platform.until(lambda: FIRST in begun(platform), "the first run has begun")
            with platform.instance() as instance:
                platform.until(lambda: instances.process_of(instances.unfinished(instance)[0]), "it waits in its step")
            early = platform.command("drain", "--timeout", "0", "--json")
            assert early.returncode == 1, early.stderr
            assert len(json.loads(early.stdout)["running"]) == 1
            platform.drop(scene, groups[1]["files"])
        done = platform.command("drain", "--timeout", "3", "--json")
        assert done.returncode == 0, done.stderr
        assert platform.made("measurement_set", FIRST)
        platform.stop()

        platform.drop(scene, groups[2]["files"])
        platform.start()
        halted = json.loads(platform.command("status", "--json").stdout)["halted"]
        assert len(halted) == 1
        assert begun(platform) <= {FIRST, None}, "something began while the platform was drained"

        assert platform.command("drain", "--off").returncode == 0
        platform.until(lambda: platform.made("measurement_set", FIRST, SECOND, LAST), "every observation")
        platform.until(platform.idle, "every run has ended")
        with Archive(platform.root) as archive:
            assert [one.id for one in archive.products(state=None) if one.version > 1] == []
    finally:
        platform.stop()
