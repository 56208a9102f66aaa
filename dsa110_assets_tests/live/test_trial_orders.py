"""Trials ordered over HTTP by a program and on the page, and made by a live daemon: apart from science products, once, and reported."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.archive import audit
from dsa110_assets.archive.store import Archive
from dsa110_assets.archive.trials import Trial
from dsa110_assets.settings import Settings
from dsa110_assets_tests.browser import chromium
from dsa110_assets_tests.live.platform import LivePlatform
from dsa110_assets_tests.live.test_night import TINY, ended
from dsa110_assets_tests.portal.test_browser import shown
from dsa110_assets_tests.portal.test_operated import TOKEN, Person
from dsa110_assets_tests.tiny import OBSERVATIONS

pytestmark = [pytest.mark.slow, pytest.mark.live]
TWO = list(OBSERVATIONS[:2])


@pytest.fixture
def platform(processed: Settings, tmp_path: Path) -> Iterator[LivePlatform]:
    """The platform over the processed tiny night, hours later, when nothing is left to be made."""
    live = LivePlatform(tmp_path, **TINY, DSA110_TOKEN=TOKEN)
    assert (live.root, live.home) == (processed.archive, processed.home_path)
    live.clock("2026-01-26T06:00:00")
    live.start()
    try:
        yield live
    finally:
        live.stop()


def order(platform: LivePlatform, resource: str, body: dict[str, Any]) -> Any:
    """The portal's answer to an order with the token."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}", "x-dsa110-user": "Ada"}
    address = f"http://127.0.0.1:{platform.portal_port}/api/v1/{resource}"
    with urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers), timeout=120) as answer:
        return json.load(answer)


def science(platform: LivePlatform) -> dict[str, tuple[Any, ...]]:
    """(digest, state, run id) of every science product."""
    with Archive(platform.root) as archive:
        return {p.id: (p.digest, p.state, p.run_id) for p in archive.products(state=None)}


def made(platform: LivePlatform, trial: str) -> dict[str, float]:
    """The robust weighting of each tile of a trial, by partition."""
    with Archive(platform.root) as archive:
        found = {key: Trial(archive, trial).current("tile_image", key) for key in OBSERVATIONS}
        return {key: tile.settings["imaging"]["robust"] for key, tile in found.items() if tile is not None and tile.trial == trial}


def requested_by_the_planner(platform: LivePlatform, since: float) -> list[tuple[str, ...]]:
    """(asset, partition, reason) of every run that the platform requested by itself."""
    with platform.instance() as instance:
        found = instance.get_runs(filters=dg.RunsFilter(created_after=datetime.fromtimestamp(since, UTC)))
        planned = [run for run in found if "dsa110/reason" in run.tags]
        return sorted(
            (*map(str, run.asset_selection or ()), run.tags.get("dagster/partition", ""), run.tags["dsa110/reason"]) for run in planned
        )


def runs_of(platform: LivePlatform, backfill_id: str) -> list[tuple[str | None, str]]:
    """Partition and state of each run of a backfill."""
    with platform.instance() as instance:
        runs = instance.get_runs(filters=dg.RunsFilter(tags={"dagster/backfill": backfill_id}))
        return sorted((run.tags.get("dagster/partition"), run.status.value) for run in runs)


def test_trials_ordered_over_http_are_made_by_the_daemon(platform: LivePlatform, tmp_path: Path) -> None:
    before, began = science(platform), time.time()
    body = {"asset": "tile_image", "partitions": TWO, "trial": "robust_0", "options": {"imaging.robust": 0}}
    backfill_id = order(platform, "runs", body)["backfill_id"]
    platform.until(lambda: ended(platform, backfill_id), "the daemon makes the program's trial, and says so")
    assert made(platform, "robust_0") == dict.fromkeys(TWO, 0.0)
    assert runs_of(platform, backfill_id) == [(key, "SUCCESS") for key in TWO]

    with chromium(tmp_path / "profile", "--hide-scrollbars") as browser:
        ada = Person(browser, f"http://127.0.0.1:{platform.portal_port}")
        shown(browser, 1400, dark=False)
        ada.sign_in()
        answer = ada.order(
            "runs", label="Partitions", asset="tile_image", partitions=TWO[0], trial="robust_1", options='{"imaging.robust": 1}'
        )
    assert answer.startswith("Queued as backfill "), answer
    page_backfill_id = answer.split()[3].rstrip(":")
    platform.until(lambda: ended(platform, page_backfill_id), "the daemon makes the page's trial, and says so")
    assert made(platform, "robust_1") == {TWO[0]: 1.0}

    platform.until(platform.idle, "every run has ended")
    assert science(platform) == before
    assert requested_by_the_planner(platform, began) == [], "nothing of science follows from a trial"
    done = [(line.by, line.told) for line in audit.lines(platform.root, 10) if line.state == "done" and line.verb == "start runs"]
    assert done == [("Ada", f"backfill {page_backfill_id}: 1 partitions"), ("Ada", f"backfill {backfill_id}: 2 partitions")]
    failures = [one for one in platform.webhook.taken if one["condition"] == "run_failed"]
    assert failures == []
