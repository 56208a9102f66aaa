"""Row 12: an inbox of very many files, and an archive of years: ticks stay short, memory bounded, pages usable.

A test run uses 10,000 files and five weeks; LARGE_FILES=100000 and LARGE_DAYS=1096 give the promised sizes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.archive import index
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.ingest import inbox as looking
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.killing import environment
from dsa110_assets_tests.portal.conftest import ask

N_FILES = int(os.environ.get("LARGE_FILES", "10000"))
DAYS = int(os.environ.get("LARGE_DAYS", "36"))
KEYS = ["2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30"]
TICK_LIMIT_S = 20.0
"""A third of the 60 s after which Dagster abandons a sensor's tick."""
PAGE_LIMIT_S = 1.0
"""CPU time per page, on any machine, so that pages respond at once. Counts over three years take a quarter of it."""
PAGES = (
    "/", "/observations", "/observations?night=2026-01-25", "/nights", "/nights/2026-01-25", "/calibration", "/metrics", "/api/v1/status",
    "/api/v1/products?limit=100", "/api/v1/products?sort=-created_at", "/api/v1/images?since=2026-01-25",
    "/api/v1/observations", "/api/v1/checks", "/timeline.json?since=2025-01-26&until=2026-01-25",
    "/trends/latency.json?since=2025-01-26&until=2026-01-25", "/gallery", "/timeline", "/trends", "/success", "/alerts",
    "/control", "/trials", "/api/v1/queue", "/api/v1/runs", "/api/v1/caltables", "/api/v1/hosts",
)  # fmt: skip
MEMORY_LIMIT_MB = 400.0
"""Beyond the memory of an empty platform. 4096 cached headers of 16 kB at full scale are 64 MB, and 100,000 names 75 MB."""

_TICKS = """
import json, resource, sys, time
import dagster as dg
from dsa110_assets import settings
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.ingest.sensor import inbox_sensor
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.archive import quarantine

def memory_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def tick(cursor):
    began, cpu = time.monotonic(), time.process_time()
    result = inbox_sensor(dg.build_sensor_context(instance=instance, cursor=cursor), platform=platform)
    took.append((time.monotonic() - began, time.process_time() - cpu))
    for request in result.run_requests or ():
        requested.append(request.partition_key)
        tags = {**request.tags, "dagster/run_key": request.run_key, "dagster/partition": request.partition_key}
        instance.add_run(dg.DagsterRun(job_name="ingest", tags=tags, status=dg.DagsterRunStatus.STARTED))
    return result.cursor

count, later_s = int(sys.argv[1]), float(sys.argv[2])
platform, took, requested, cursors = Platform(settings.load()), [], [], []
with dg.DagsterInstance.ephemeral() as instance:
    platform.archive.products()
    empty_mb, cursor = memory_mb(), None
    for number in range(count):
        if number == 2:  # until then the files may still be growing
            now_s = inbox.now_s() + later_s
            inbox.now_s = lambda: now_s
        cursor = tick(cursor)
        cursors.append(len(cursor))
    outcome = {"took": took, "requested": requested, "memory_mb": memory_mb() - empty_mb, "cursor": max(cursors),
            "aside": len(quarantine.quarantined(platform.archive))}
print(json.dumps(outcome))
"""


def ticks(settings: Settings, count: int, later_s: float) -> dict[str, object]:
    """Run `count` ticks of the inbox sensor in a separate process, from the third on `later_s` later. Return times, requests and memory."""
    command = [sys.executable, "-W", "ignore", "-c", _TICKS, str(count), str(later_s)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment(settings, DSA110_STILL_S=0), cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def p95_s(seconds: list[float]) -> float:
    return round(float(np.quantile(seconds, 0.95)), 2)


def empty_files(inbox: Path, count: int) -> None:
    """Create empty files with valid names of earlier times, sixteen per observation."""
    start = datetime(2026, 1, 25, 22, tzinfo=UTC) - timedelta(seconds=309.3 * (count // 16 + 1))
    for number in range(count):
        moment = start + timedelta(seconds=309.3 * (number // 16))
        (inbox / f"{moment:%Y-%m-%dT%H:%M:%S}_sb{number % 16:02d}.hdf5").touch()


@pytest.mark.row(12)
def test_very_many_empty_files_do_not_delay_observations(settings: Settings) -> None:
    """Empty files, older than three real observations. The observations are requested in the first tick; the empty files are
    quarantined in batches."""
    empty_files(settings.inbox, N_FILES)
    result = ticks(settings, 4, settings.group_wait_s + 400)
    took = result["took"]
    assert isinstance(took, list)
    assert result["requested"] == KEYS, "the present waited for files that never get better, or was asked for twice"
    assert result["aside"] == 2 * 200  # QUARANTINED_PER_TICK, in the ticks after they can no longer be growing
    record_figure(12, "files in the inbox", N_FILES)
    record_figure(12, "tick p95, inbox [s]", p95_s([wall for wall, _ in took]))
    record_figure(12, "tick p95, inbox [s of CPU]", p95_s([cpu for _, cpu in took]))
    record_figure(12, "memory of the ticks [MB]", round(float(str(result["memory_mb"]))))
    assert p95_s([cpu for _, cpu in took]) < TICK_LIMIT_S
    assert float(str(result["memory_mb"])) < MEMORY_LIMIT_MB
    assert int(str(result["cursor"])) < 1_000_000


def history(until: datetime, days: int) -> Iterator[tuple[str, str, int, list[str]]]:
    """Yield (asset, partition, number, inputs) of every product of so many days."""
    for number in range(days * 288):
        moment = until - timedelta(minutes=5 * (days * 288 - number))
        key, previous = f"{moment:%Y-%m-%dT%H:%M}", None
        for asset in ("subband_group", "measurement_set", "calibrated_ms", "tile_image"):
            yield asset, key, number, [previous] if previous else []
            previous = f"{asset}-{key.replace('-', '').replace(':', '')}-v1"
        if moment.minute == 0:
            yield "hour_mosaic", key, number, []
            yield "source_measurements", key, number, []
        if moment.hour == moment.minute == 0:
            for asset in ("caltables", "night_mosaic", "light_curves", "variability", "night_report"):
                yield asset, key[:10], number, []


def fill(archive: Archive, until: datetime, days: int) -> int:
    """Insert the rows that an index holds after years, of products without files. Return their number."""
    metadata = json.dumps({"mjd_start": 61000.0, "mjd_end": 61000.003, "pointing_dec_deg": 16.27, "rms_jy": 0.002, "n_subbands": 16})

    def rows() -> Iterator[tuple[dict[str, object], list[dict[str, object]]]]:
        for asset, key, number, inputs in history(until, days):
            name = f"{asset}-{key.replace('-', '').replace(':', '')}-v1"
            files = [f"{key}:10_sb{s:02d}.hdf5:146000000:1769380000000000{s:03d}" for s in range(16)] if asset == "subband_group" else []
            row = {
                "id": name, "asset": asset, "partition_key": key, "version": 1, "settings": json.dumps({"files": files}),
                "engines": "{}", "metadata": metadata, "code_version": "1", "run_id": "r", "size_bytes": 1, "digest": f"{number:032x}",
                "created_at": f"{key[:10]}T00:00:00.000000+00:00", "state": "current", "reason": None, "pinned": False, "removed": False,
            }  # fmt: skip
            yield row, [{"product_id": name, "position": 0, "input_id": one} for one in inputs]

    made = list(rows())

    def insert(connection: sa.Connection) -> None:
        connection.execute(index.products.insert(), [row for row, _ in made])
        connection.execute(index.product_inputs.insert(), [one for _, inputs in made for one in inputs])

    archive.index.write(insert)
    return len(made)


@pytest.mark.row(12)
def test_sensor_and_pages_stay_fast_in_an_archive_of_years(settings: Settings, engine_url: str | None, tmp_path: Path) -> None:
    """The sensor reads only the index rows for the days of files in the inbox, and pages read only the rows that they show."""
    settings = settings.model_copy(update={"database_url": engine_url})
    with Archive.create(settings.archive, engine_url) as archive:
        count = fill(archive, datetime(2026, 1, 25, 22, tzinfo=UTC), DAYS)
        names = looking.listing(settings.inbox)
        began = time.process_time()
        known = looking.known_files(archive, names)
        known_s = time.process_time() - began
        day = 16 * 288
        assert day < len(known.used) <= 5 * day, "the history's files were read, or not those of the inbox's own days"
    result = ticks(settings, 5, 0.0)
    took = result["took"]
    assert isinstance(took, list)
    assert result["requested"] == KEYS
    look = partial(plan.scan_for_display, settings=settings)
    app = create_app(AnalystArchive(Archive(settings.archive, engine_url)), inbox=settings.inbox, look=look, settings=settings)
    pages = []
    for url in (*PAGES, *PAGES, *PAGES):
        began, cpu = time.monotonic(), time.process_time()
        answer = ask(app, url)
        pages.append((time.monotonic() - began, time.process_time() - cpu))
        assert answer.status == 200, url
    record_figure(12, "days of history", DAYS)
    record_figure(12, "rows of the index", count)
    record_figure(12, "what was judged before, read in [s of CPU]", round(known_s, 3))
    record_figure(12, "tick p95, years [s]", p95_s([wall for wall, _ in took]))
    record_figure(12, "page p95 [s]", p95_s([wall for wall, _ in pages]))
    record_figure(12, "page p95 [s of CPU]", p95_s([cpu for _, cpu in pages]))
    assert p95_s([cpu for _, cpu in took]) < TICK_LIMIT_S
    assert p95_s([cpu for _, cpu in pages]) < PAGE_LIMIT_S
