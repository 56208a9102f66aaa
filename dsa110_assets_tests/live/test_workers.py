"""A night on two hosts, against the same night in one process; hosts that are lost; broker and database that are away."""

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
from dsa110_assets_tests.tiny import OBSERVATIONS, unasked

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.postgres, pytest.mark.timeout(3600)]
AFTER = "2026-01-26T00:20:05"
"""By then all of the night is due."""
STOP_AND_GO = (signal.SIGSTOP, signal.SIGCONT)
OUTAGE_S = float(os.environ.get("RELIABILITY_OUTAGE_S", "60"))
Reference = tuple[Settings, ProcessReport]


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Fleet]:
    """Two hosts with a platform that is up, before the night's files are there."""
    with fleet(tmp_path, ["alpha", "beta"], **TINY) as made:
        made.live.clock(AFTER)
        made.live.start()
        for host in made.hosts:
            host.start()
        made.live.until(lambda: all(host.ready for host in made.hosts), "both workers take runs")
        yield made


def finish(night: Fleet, tiny_run: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """The night's files arrive, `meanwhile` happens, and the night is over when its report is there and nothing runs."""
    for path in sorted(tiny_run.glob("*.hdf5")):
        writing = night.live.inbox / f"{path.stem}_incomplete.hdf5"
        shutil.copy2(path, writing)  # with its times, which manifests name
        writing.rename(night.live.inbox / path.name)
    meanwhile()
    try:
        night.live.until(lambda: is_over(night), "everything of the night is made", 900.0)
    except BaseException:
        print(night.told())
        raise


def is_over(night: Fleet) -> bool:
    """Whether every asset is there, of every observation and of what replaced what was made at first, and nothing runs."""
    with Archive(night.live.root, night.live.database_url) as archive:
        return is_complete(archive) and night.live.idle()


def is_complete(archive: Archive) -> bool:
    """An hour may have been made without a tile that rested: then the tile, the hour and what follows are still to come."""
    current = archive.products()
    tiles = {product.id for product in current if product.asset == "tile_image"}
    mosaicked = {one for product in current if product.asset == "hour_mosaic" for one in product.inputs}
    outdated = archive.index.read(lambda c: stale.find(c, archive.root))
    return {product.asset for product in current} == unasked() and len(tiles) == len(OBSERVATIONS) and tiles <= mosaicked and not outdated


def same_as_one_process(night: Fleet, reference: Reference) -> None:
    """The same products to the last bit, each once, nothing left over."""
    with Archive(night.live.root, night.live.database_url) as archive, Archive(reference[0].archive) as batch:
        apart, where = greatest_difference(archive, batch)
        versions = [product.id for product in archive.products(state=None)]
        swept = integrity.sweep(archive, everywhere=True, min_age_s=0)
    assert apart == 0, where
    assert (swept.adopted, swept.removed) == ([], [])
    assert len(versions) == len(set(versions))


def test_two_hosts_make_the_night_of_one_process(night: Fleet, tiny_run: Path, finished_run: Reference) -> None:
    finish(night, tiny_run)
    same_as_one_process(night, finished_run)
    with Archive(night.live.root, night.live.database_url) as archive:
        assert [p.id for p in archive.products(state=None) if not p.id.endswith("-v1")] == []
        of = {p.partition: p.run_id for p in archive.products("measurement_set")}
        on = {p.partition: p.run_id for p in archive.products("calibrated_ms")}
    with night.live.instance() as instance:
        ended = instance.get_runs()
    assert {run.status for run in ended} == {dg.DagsterRunStatus.SUCCESS}
    runs = {run.run_id: run.tags for run in ended}
    assert all(tags[instances.LAUNCHER_TAG].partition("/")[0] in ("alpha", "beta") for tags in runs.values())
    for partition, run_id in on.items():  # whoever asked for its host's queue got it
        wanted = routing.host_of(runs[run_id][routing.QUEUE_TAG])
        maker = runs[of[partition]][instances.LAUNCHER_TAG].partition("/")[0]
        assert wanted in (None, maker)
        assert wanted is None or runs[run_id][instances.LAUNCHER_TAG].startswith(f"{wanted}/")
    with urllib.request.urlopen(f"http://127.0.0.1:{night.live.portal_port}/api/v1/hosts", timeout=60) as answer:
        told = {row["name"]: row for row in json.loads(answer.read())}
    assert told.keys() == {os.uname().nodename, "alpha", "beta"}
    assert not any(row["stale"] for row in told.values())
    assert all(row["scratch_bytes"] > row["scratch_free_bytes"] > 0 for row in told.values())


def test_a_host_that_loses_power_again_and_again(night: Fleet, tiny_run: Path, finished_run: Reference) -> None:
    """Five times, at a random moment of a step of its own, and started again each time."""
    draw, pause, victim, hit = random.Random(19), threading.Event(), night.hosts[0], set[Path]()

    def lose_power() -> None:
        for _ in range(5):
            night.live.until(lambda: drafts(night, victim.name) - hit or is_over(night), "the host is at work, or all is done", 900.0)
            hit.update(drafts(night, victim.name))
            pause.wait(draw.uniform(0.0, 3.0))  # the moment is what is drawn
            victim.lose_power()
            victim.start()

    finish(night, tiny_run, lose_power)
    assert hit
    same_as_one_process(night, finished_run)


def test_a_host_that_comes_back_publishes_nothing(night: Fleet, tiny_run: Path, finished_run: Reference) -> None:
    """It stands still in the middle of a step until somebody else has made the night, and then goes on."""
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
    """The drafts that this host's runs write, or left behind."""
    with night.live.instance() as instance:
        runs = {naming.token(run.run_id) for run in instance.get_runs() if run.tags.get(instances.LAUNCHER_TAG, "").startswith(f"{host}/")}
    return {path for path in night.live.root.glob("*/night=*/partition=*/.tmp-*") if any(name in path.name for name in runs)}


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("what", ["broker", "database"])
def test_broker_or_database_away_for_a_minute(night: Fleet, tiny_run: Path, finished_run: Reference, what: str, how: str) -> None:
    """Killed, its connections break; stopped, they stay and nobody answers."""
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
