"""Row 3 in operation: the disk fills up under a running platform, which pauses, sends an alert, and resumes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from dagster._core.scheduler.instigation import TickStatus

from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.test_disk_full import leave_free, small_disk
from dsa110_assets_tests.live.platform import LivePlatform
from dsa110_assets_tests.live.test_night import ARRIVALS, NIGHT, TINY
from dsa110_assets_tests.tiny import OPTIONS

__all__ = ["small_disk"]
pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.row(3)]


def test_ingest_pauses_with_an_alert_and_resumes(small_disk: Path, engine_url: str | None, tmp_path: Path) -> None:
    """Files that arrive while the disk is full stay unchanged in the inbox, and are ingested once there is room."""
    scene = tmp_path / "scene"
    simulate(scene, SimulationOptions(**OPTIONS))
    groups = json.loads((scene / "truth.json").read_text())["groups"]
    given = {"DSA110_ARCHIVE": str(small_disk / "archive"), **({"DSA110_DATABASE_URL": engine_url} if engine_url else {})}
    live = LivePlatform(tmp_path, **TINY, **given)
    (first, arrived), (second, later), *_ = ARRIVALS.items()
    live.clock(f"{NIGHT}T{arrived}")
    live.start()
    try:
        live.drop(scene, groups[0]["files"])
        live.until(lambda: live.made("measurement_set", first), "a measurement set while there is room")
        leave_free(small_disk, 2**20)
        full = time.monotonic()
        live.until(lambda: alerted(live, "raised"), "the alert that the disk is full")
        alert_s = time.monotonic() - full
        live.clock(f"{NIGHT}T{later}")
        live.drop(scene, groups[1]["files"])
        live.until(lambda: "ResourceError" in last_error(live), "the inbox says why it waits")
        assert not live.made("subband_group", second)
        (small_disk / "ballast").unlink()
        live.until(lambda: live.made("measurement_set", second), "the measurement set once there is room")
        live.until(lambda: alerted(live, "resolved"), "the alert that there is room again")
    finally:
        live.stop()
    harmed = [path.name for path in sorted(live.inbox.iterdir()) if path.read_bytes() != (scene / path.name).read_bytes()]
    record_figure(3, "seconds to the alert", round(alert_s, 1))
    record_figure(3, "inputs harmed", len(harmed))
    assert harmed == []


def alerted(live: LivePlatform, kind: str) -> bool:
    """Whether the webhook has received a message of this kind about the disk."""
    return any((message["condition"], message["kind"]) == ("disk", kind) for message in live.webhook.taken)


def last_error(live: LivePlatform) -> str:
    """The error of the inbox sensor's last finished tick; '' if it succeeded."""
    with live.instance() as instance:
        for state in instance.all_instigator_state():
            if state.instigator_name == "inbox":
                ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2)
                ended = [tick for tick in ticks if tick.status != TickStatus.STARTED]
                return str(ended[0].error) if ended and ended[0].error else ""
    return ""
