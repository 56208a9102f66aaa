"""Several hosts: signs of life, ending runs of lost hosts, routing of runs, and which host may publish."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from dsa110_assets.archive import beats, integrity
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import SupersededError, TransientError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.ingest.sensor import FOLLOWING, LATER, LIVE
from dsa110_assets.orchestration.running import backfill, execute, routing
from dsa110_assets.orchestration.running import instance as instances

WINDOW = "2026-01-25T22:25"
FOLLOWING_STEP = ("calibrated_ms", "tile_image")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def archive(tmp_path: Path, engine_url: str | None) -> Iterator[Archive]:
    """An archive with either index."""
    with Archive.create(tmp_path / "archive", engine_url) as made:
        yield made


def publish(archive: Archive, follows: int | None = None, meanwhile: Callable[[], object] = lambda: None, asset: str = "tile_image") -> str:
    """Publish a product of one window, and call `meanwhile` while it is written. Return its id."""
    with archive.publish(asset, WINDOW, [], settings={}, code_version="1", run_id="r", follows=follows) as draft:
        (draft.path / "data").write_text(uuid.uuid4().hex)
        meanwhile()
    return draft.product.id


def test_the_second_publisher_of_a_version_publishes_nothing(archive: Archive) -> None:
    """A host was stopped while another one resumed its work and published. When it continues, it leaves no row and no file."""
    follows = archive.version("tile_image", WINDOW)
    with pytest.raises(SupersededError, match="version 1 was published"):
        publish(archive, follows, meanwhile=lambda: publish(archive, follows))
    assert [p.id for p in archive.products(state=None)] == ["tile_image-20260125T2225-v1"]
    assert archive.version("tile_image", WINDOW) == 1
    swept = integrity.sweep(archive, everywhere=True, min_age_s=0)
    assert (swept.adopted, swept.removed) == ([], [])


def test_the_index_transaction_decides_between_publishers(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process publishes between the last check and the row: the folder that was already renamed is removed again."""
    from dsa110_assets.archive import files

    def at(name: str, asset: str) -> None:
        if name == "durable":
            monkeypatch.undo()
            publish(archive, 0)

    monkeypatch.setattr(files, "crash_point", at)
    with pytest.raises(SupersededError, match="publishes nothing"):
        publish(archive, 0)
    (left,) = archive.products(state=None)
    assert sorted(path.name for path in left.path.parent.iterdir()) == [left.path.name]


def test_simultaneous_publishers_publish_one_version(archive: Archive) -> None:
    """Eight threads that began with the same last version, unaware of each other."""
    together, done, superseded = threading.Barrier(8), list[str](), list[SupersededError]()

    def one() -> None:
        try:
            done.append(publish(archive, 0, meanwhile=together.wait))
        except SupersededError as error:
            superseded.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), len(superseded)) == (1, 7)
    assert [p.id for p in archive.products(state=None)] == done
    assert integrity.sweep(archive, everywhere=True, min_age_s=0).adopted == []


def test_a_version_after_a_rejected_one_is_published(archive: Archive) -> None:
    archive.reject(publish(archive, 0), "bad")
    assert publish(archive, archive.version("tile_image", WINDOW)).endswith("-v2")


def age(root: Path, name: str, seconds: float) -> None:
    """Make a process look silent for so many seconds, by the file server's clock."""
    then = time.time() - seconds
    os.utime(root / beats.DIRECTORY / name, (then, then))


def test_a_process_is_lost_once_it_is_silent_for_long(tmp_path: Path) -> None:
    beats.keep(tmp_path, "alpha", {"slots": 2})
    beats.keep(tmp_path, "alpha.1.x")
    assert beats.living(tmp_path) == {"alpha": {"slots": 2}, "alpha.1.x": None}
    assert not beats.lost(tmp_path, "alpha")
    assert beats.lost(tmp_path, "never seen")
    age(tmp_path, "alpha", beats.LOST_S + 1)
    assert beats.lost(tmp_path, "alpha")
    assert beats.living(tmp_path) == {"alpha.1.x": None}


def test_a_worker_that_ends_removes_its_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that it left running does not restore its sign of life."""
    monkeypatch.setattr(beats, "BEAT_S", 0.02)
    beats.keep(tmp_path, "omega", {"slots": 2})
    thread = next(one for one in threading.enumerate() if one.name == "beat omega")
    beats.end(tmp_path, "omega")
    thread.join(30)
    assert not thread.is_alive()
    assert beats.lost(tmp_path, "omega")


def test_a_process_keeps_giving_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even after its file was removed."""
    monkeypatch.setattr(beats, "BEAT_S", 0.02)
    beats.keep(tmp_path, "alpha", {"slots": 2})
    for harm in (lambda: age(tmp_path, "alpha", 1e4), (tmp_path / beats.DIRECTORY / "alpha").unlink):
        harm()
        deadline = time.monotonic() + 30
        while "alpha" not in beats.living(tmp_path):
            assert time.monotonic() < deadline


def test_files_of_ended_processes_are_removed_by_later_ones(tmp_path: Path) -> None:
    beats.keep(tmp_path, "old")
    beats.keep(tmp_path, "ended a while ago")
    age(tmp_path, "old", beats.FORGOTTEN_S + 1)
    age(tmp_path, "ended a while ago", beats.FORGOTTEN_S - 60)
    beats.keep(tmp_path, "new")
    assert {path.name for path in (tmp_path / beats.DIRECTORY).iterdir()} == {"ended a while ago", "new", beats._CLOCK}


def run_of(host: str, queue: str = "", status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> dg.DagsterRun:
    """A run that a process of this host claimed or, without a host, that no process has claimed yet."""
    run_id = str(uuid.uuid4())
    tags = {instances.LAUNCHER_TAG: f"{host}/7/boot.1/{run_id}"} if host else {}
    return dg.DagsterRun("j", run_id=run_id, status=status, tags=tags | ({routing.QUEUE_TAG: queue} if queue else {}))


def test_runs_of_a_silent_host_are_ended_and_its_queue_is_left(tmp_path: Path) -> None:
    """Process id 7 exists on this host too: the kernel must not be asked about processes of other hosts."""
    starting = dg.DagsterRunStatus.STARTING
    for name in ("alive.7.boot.1", "alive", "gone.7.boot.1", "gone"):
        beats.keep(tmp_path, name)
    age(tmp_path, "gone.7.boot.1", beats.LOST_S + 1)
    age(tmp_path, "gone", beats.LOST_S + 1)
    alive, gone, never = run_of("alive"), run_of("gone", routing.of_host("gone", "imaging")), run_of("never")
    waits, waits_there = (run_of("", routing.of_host(host, "imaging"), starting) for host in ("alive", "gone"))
    with dg.DagsterInstance.ephemeral() as instance:
        for run in (alive, gone, never, waits, waits_there, run_of("", "imaging", starting), run_of("", "", starting)):
            instance.add_run(run)
        assert instances.close_orphans(instance) == []  # without an archive the state of other hosts cannot be determined
        assert set(instances.close_orphans(instance, tmp_path)) == {gone.run_id, never.run_id, waits_there.run_id}
        for run in (gone, waits_there):  # a retry inherits the tags
            ended = instance.get_run_by_id(run.run_id)
            assert ended is not None
            assert ended.tags[routing.QUEUE_TAG] == "imaging"


def test_queues_follow_from_the_specifications() -> None:
    assert routing.needed(("subband_group", "measurement_set")) == "ingest"
    assert routing.needed(("caltables",)) == "solving"
    assert routing.needed(FOLLOWING_STEP) == "imaging"
    assert routing.needed(("hour_mosaic", "source_measurements")) == "dagster"
    pools = {asset.pool for asset in graph.specifications().values() if asset.pool}
    assert pools == {"imaging", "solving"}


def test_the_order_is_the_same_at_dagster_and_at_the_broker() -> None:
    """For Dagster the greater number comes first, for Celery over Redis the smaller."""
    tags = [LIVE, FOLLOWING, LATER, backfill.TAGS]
    assert sorted(tags, key=lambda one: -int(one["dagster/priority"])) == tags
    assert sorted(tags, key=lambda one: int(one[routing.PRIORITY_TAG])) == tags
    assert len({one[routing.PRIORITY_TAG] for one in tags}) == len(tags)


def holding(host: str) -> tuple[dg.DagsterInstance, Archive]:
    """Stand-ins for the Dagster instance and archive used by routing, in which this host made every measurement set."""
    run = SimpleNamespace(tags={instances.LAUNCHER_TAG: f"{host}/7/boot.1/run"})
    product = SimpleNamespace(run_id="run")
    stand_ins: tuple[dg.DagsterInstance, Archive] = (
        SimpleNamespace(get_run_by_id=lambda run_id: run),  # type: ignore[assignment]
        SimpleNamespace(current=lambda asset, partition: product if asset == "measurement_set" else None),
    )
    return stand_ins


def queue_for(hosts: routing.Hosts, host: str, assets: tuple[str, ...] = FOLLOWING_STEP, partition: str = WINDOW) -> str:
    return hosts.tags(*holding(host), assets, partition, instances.LAUNCHER_TAG)[routing.QUEUE_TAG]


def test_an_observation_continues_on_the_host_of_its_measurement_set(tmp_path: Path) -> None:
    beats.keep(tmp_path, "alpha", {"queues": ["imaging", "ingest"], "slots": 2})
    beats.keep(tmp_path, "beta", {"queues": ["ingest"], "slots": 2})
    beats.keep(tmp_path, "alpha.7.boot.1")
    hosts = routing.Hosts.now(tmp_path, [run_of("alpha", routing.of_host("alpha", "imaging"))])
    assert queue_for(hosts, "alpha", ("caltables",), "2026-01-25") == "solving"  # a step of a night has many inputs
    assert queue_for(hosts, "beta") == "imaging"  # beta does not serve the imaging queue
    assert queue_for(hosts, "gone") == "imaging"
    assert queue_for(hosts, "alpha") == routing.of_host("alpha", "imaging")
    assert queue_for(hosts, "alpha") == "imaging"  # its places are taken
    age(tmp_path, "alpha", beats.LOST_S + 1)
    assert queue_for(routing.Hosts.now(tmp_path, []), "alpha") == "imaging"
    assert routing.Hosts.now(tmp_path / "nothing there", []).workers == {}


def test_a_lock_held_longer_than_any_stage_takes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "LOCK_S", 0.1)
    first, second = (execute.partition_lock(Archive.create(tmp_path), "tile_image", WINDOW) for _ in range(2))
    with first, pytest.raises(TransientError, match=r"tile_image .*: another process has had its lock"), second:
        pass


def test_the_lock_of_a_silent_process_is_ignored(tmp_path: Path) -> None:
    """The file server keeps the lock of a process that is stopped, or whose host is. It is ignored; the lock of a live process is not."""
    with Archive.create(tmp_path) as archive:
        me = instances.beat(instances.launcher(""))
        with execute.partition_lock(archive, "tile_image", WINDOW):
            entered = threading.Event()

            def other() -> None:
                with execute.partition_lock(archive, "tile_image", WINDOW):
                    entered.set()

            waiting = threading.Thread(target=other)
            waiting.start()
            assert not entered.wait(3 * execute.LOOK_AGAIN_S)
            age(tmp_path, me, beats.LOST_S + 1)
            assert entered.wait(30)
            waiting.join()
