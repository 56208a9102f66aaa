"""A night on two hosts, compared with the same night in one process; hosts that fail; outages of broker and database."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive import integrity, naming, stale
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import routing
from dsa110_assets.orchestration.running.process import ProcessReport
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults.same import greatest_difference
from dsa110_assets_tests.live.fleet import Fleet, fleet
from dsa110_assets_tests.live.test_night import TINY
from dsa110_assets_tests.postgres import Server
from dsa110_assets_tests.redis import RedisServer
from dsa110_assets_tests.tiny import OBSERVATIONS, regular_assets

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.postgres, pytest.mark.timeout(3600)]
AFTER = "2026-01-26T00:20:05"
"""A time at which all assets of the night are due."""
STOP_AND_GO = (signal.SIGSTOP, signal.SIGCONT)
OUTAGE_S = float(os.environ.get("RELIABILITY_OUTAGE_S", "60"))
Reference = tuple[Settings, ProcessReport]


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Fleet]:
    """Two hosts with a running platform, before the night's files arrive."""
    with fleet(tmp_path, ["alpha", "beta"], **TINY) as made:
        made.live.clock(AFTER)
        made.live.start()
        for host in made.hosts:
            host.start()
        made.live.until(lambda: all(host.ready for host in made.hosts), "both workers take runs")
        yield made


def finish(night: Fleet, tiny_run: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Let the night's files arrive, call `meanwhile`, and wait until everything of the night is made and nothing runs."""
    for path in sorted(tiny_run.glob("*.hdf5")):
        writing = night.live.inbox / f"{path.stem}_incomplete.hdf5"
        shutil.copy2(path, writing)  # with its times, which manifests record
        writing.rename(night.live.inbox / path.name)
    meanwhile()
    try:
        night.live.until(lambda: is_over(night), "everything of the night is made", 900.0)
    except BaseException:
        print(night.recent_logs())
        raise


def is_over(night: Fleet) -> bool:
    """Whether every asset of every observation is made, made again where its inputs changed, and nothing runs."""
    with Archive(night.live.root, night.live.database_url) as archive:
        return is_complete(archive) and night.live.idle()


def is_complete(archive: Archive) -> bool:
    """Whether all assets are made and up to date. If an hour was made without a tile that waited for a retry, it is made again later."""
    current = archive.products()
    tiles = {product.id for product in current if product.asset == "tile_image"}
    mosaicked = {one for product in current if product.asset == "hour_mosaic" for one in product.inputs}
    outdated = archive.index.read(lambda c: stale.find(c, archive.root))
    return (
        {product.asset for product in current} == regular_assets()
        and len(tiles) == len(OBSERVATIONS)
        and tiles <= mosaicked
        and not outdated
    )


def same_as_one_process(night: Fleet, reference: Reference) -> None:
    """Assert the same products to the last bit, each made once, with no remains."""
    with Archive(night.live.root, night.live.database_url) as archive, Archive(reference[0].archive) as batch:
        distance, where = greatest_difference(archive, batch)
        versions = [product.id for product in archive.products(state=None)]
        swept = integrity.sweep(archive, everywhere=True, min_age_s=0)
    assert distance == 0, where
    assert (swept.adopted, swept.removed) == ([], [])
    assert len(versions) == len(set(versions))


def test_two_hosts_make_the_same_night_as_one_process(night: Fleet, tiny_run: Path, finished_run: Reference) -> None:
    finish(night, tiny_run)
    same_as_one_process(night, finished_run)
    with Archive(night.live.root, night.live.database_url) as archive:
        assert [p.id for p in archive.products(state=None) if not p.id.endswith("-v1")] == []
        makers = {p.partition: p.run_id for p in archive.products("measurement_set")}
        users = {p.partition: p.run_id for p in archive.products("calibrated_ms")}
    with night.live.instance() as instance:
        ended = instance.get_runs()
    assert {run.status for run in ended} == {dg.DagsterRunStatus.SUCCESS}
    runs = {run.run_id: run.tags for run in ended}
    assert all(tags[instances.LAUNCHER_TAG].partition("/")[0] in ("alpha", "beta") for tags in runs.values())
    for partition, run_id in users.items():  # a run for the queue of its host ran on that host
        requested = routing.host_of(runs[run_id][routing.QUEUE_TAG])
        maker = runs[makers[partition]][instances.LAUNCHER_TAG].partition("/")[0]
        assert requested in (None, maker)
        assert requested is None or runs[run_id][instances.LAUNCHER_TAG].startswith(f"{requested}/")
    with urllib.request.urlopen(f"http://127.0.0.1:{night.live.portal_port}/api/v1/hosts", timeout=60) as answer:
        hosts = {row["name"]: row for row in json.loads(answer.read())}
    assert hosts.keys() == {os.uname().nodename, "alpha", "beta"}
    assert not any(row["stale"] for row in hosts.values())
    assert all(row["scratch_bytes"] > row["scratch_free_bytes"] > 0 for row in hosts.values())


def test_a_host_that_repeatedly_loses_power_changes_no_result(night: Fleet, tiny_run: Path, finished_run: Reference) -> None:
    """Five times, at a random moment of a step on this host, which is started again each time."""
    draw, pause, victim, hit = random.Random(19), threading.Event(), night.hosts[0], set[Path]()

    def lose_power() -> None:
        for _ in range(5):
            night.live.until(lambda: drafts(night, victim.name) - hit or is_over(night), "the host is at work, or all is done", 900.0)
            hit.update(drafts(night, victim.name))
            pause.wait(draw.uniform(0.0, 3.0))  # a random moment within the step
            victim.lose_power()
            victim.start()

    finish(night, tiny_run, lose_power)
    assert hit
    same_as_one_process(night, finished_run)


def test_a_host_that_comes_back_publishes_nothing(night: Fleet, tiny_run: Path, finished_run: Reference) -> None:
    """The host is stopped in the middle of a step until the other host has made the night, and then continues."""
    victim = night.hosts[0]

    def stand_still() -> None:
        night.live.until(lambda: drafts(night, victim.name), "the host is in the middle of a step")
        victim.signal(signal.SIGSTOP)

    finish(night, tiny_run, stand_still)
    with Archive(night.live.root, night.live.database_url) as archive:
        before = [product.id for product in archive.products(state=None)]
    victim.signal(signal.SIGCONT)
    night.live.until(lambda: not drafts(night, victim.name), "what it was at has ended")
    with Archive(night.live.root, night.live.database_url) as archive:
        assert [product.id for product in archive.products(state=None)] == before
    same_as_one_process(night, finished_run)


def drafts(night: Fleet, host: str) -> set[Path]:
    """The drafts that runs of this host are writing or have left behind."""
    with night.live.instance() as instance:
        runs = {naming.token(run.run_id) for run in instance.get_runs() if run.tags.get(instances.LAUNCHER_TAG, "").startswith(f"{host}/")}
    return {path for path in night.live.root.glob("*/night=*/partition=*/.tmp-*") if any(name in path.name for name in runs)}


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("what", ["broker", "database"])
def test_an_outage_of_broker_or_database_changes_no_result(
    night: Fleet, tiny_run: Path, finished_run: Reference, what: str, how: str
) -> None:
    """If the server is killed, its connections break; if it is stopped, they stay open without an answer."""
    server: RedisServer | Server = night.redis if what == "broker" else night.postgres
    goes, comes = (server.stop, server.start) if how == "killed" else (partial(server.signal, number) for number in STOP_AND_GO)

    def outage() -> None:
        night.live.until(lambda: any(drafts(night, host.name) for host in night.hosts), "a step is being made")
        goes()
        threading.Event().wait(OUTAGE_S)  # the length of the outage is what is tested
        comes()

    finish(night, tiny_run, outage)
    same_as_one_process(night, finished_run)
    with night.live.instance() as instance:
        assert [run.run_id for run in instances.unfinished(instance)] == []
