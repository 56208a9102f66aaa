"""Disk and memory are looked at before a stage starts; runs whose process is gone are ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pytest
from astropy.io import fits

from dsa110_assets import spill
from dsa110_assets.errors import ResourceError
from dsa110_assets.orchestration import alerts, memory, policy, room
from dsa110_assets.orchestration import instance as instances
from dsa110_assets.orchestration.process import process
from dsa110_assets.orchestration.recipes import Ingredients
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.settings import Settings
from dsa110_assets_tests.tiny import tiny_settings


def ingredients(size_gb: float) -> Ingredients:
    """A manifest of files of so many GB."""
    product = SimpleNamespace(size_bytes=1000, metadata={"size_gb": size_gb})
    return Ingredients(products=(product,))  # type: ignore[arg-type]


@pytest.fixture
def platform(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """One whose disk has room for anything."""
    monkeypatch.setattr(room, "require_disk", lambda platform: None)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(total=1e18, free=1e18))
    return Platform(settings)


def test_large_arrays_are_in_a_file_where_memory_is_short(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 0.5 GB of visibilities: 1.9 GB at ease, 0.6 at least, by the figures measured."""
    in_file = {}
    for available_gb in (2.0, 1.8, 0.7):
        monkeypatch.setattr(memory, "available_bytes", lambda limit_gib, gb=available_gb: gb * 1e9)
        with room.granted(platform, "tile_image", ingredients(0.5)) as in_file[available_gb]:
            pass
    assert in_file == {2.0: False, 1.8: True, 0.7: True}


def test_a_stage_that_does_not_fit_into_memory_does_not_start(platform: Platform) -> None:
    available_gb = memory.available_bytes(None) / 1e9
    message = "tile_image: needs at least .* GB of memory, .* DSA110_MEMORY_LIMIT_GIB"
    with pytest.raises(ResourceError, match=message), room.granted(platform, "tile_image", ingredients(available_gb * 2)):
        pass
    with room.granted(platform, "night_report", ingredients(available_gb * 10)) as in_file:
        assert not in_file
    assert [path.name for path in (platform.archive.root / memory.FOLDER).iterdir()] == [memory.LOCK]


def test_a_step_in_a_file_needs_the_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "require_disk", lambda platform: None)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(total=1e12, free=1.5e9))
    platform = Platform(settings)
    with room.granted(platform, "tile_image", ingredients(0.5)):
        pass
    monkeypatch.setattr(memory, "available_bytes", lambda limit_gib: 1e9)
    with pytest.raises(ResourceError, match=r"1\.9 GB on disk"), room.granted(platform, "tile_image", ingredients(0.5)):
        pass


@pytest.fixture
def small_arrays_in_file_too(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The telescope is tiny: 1 kB is large there. The size is compiled into the functions."""
    monkeypatch.setattr(spill, "LEAST_BYTES", 1024)
    spill._handler.cache_clear()
    yield
    spill._handler.cache_clear()


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is room for 2 GB, else on the disk: of so many small arrays each takes place on it."""
    memory_disk = Path("/dev/shm")
    if not memory_disk.is_dir() or shutil.disk_usage(memory_disk).free < 2e9:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory_disk, prefix="dsa110-test-") as place:
        yield Path(place)


@pytest.mark.slow
def test_little_memory_makes_the_same_products(tiny_run: Path, quick_disk: Path, small_arrays_in_file_too: None) -> None:
    """Made from the group to the catalogue; the tiles, to which all before them goes, have the same bytes."""
    pixels = {}
    for name, limit_gib in (("at ease", 6.0), ("short", 0.4)):
        (place := quick_disk / name).mkdir()
        settings = tiny_settings(tiny_run, place, memory_limit_gib=limit_gib)
        report = process(settings, through="source_measurements")
        assert report.failed == ()
        archive = Platform(settings).archive
        products = [p for asset in ("measurement_set", "caltables", "calibrated_ms", "tile_image") for p in archive.products(asset)]
        assert [p.metadata["arrays_in_file"] for p in products] == [name == "short"] * len(products)
        pixels[name] = [fits.getdata(p.path / "image.fits") for p in archive.products("tile_image")]
        assert len(pixels[name]) == 3
    for one, other in zip(pixels["at ease"], pixels["short"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stage_that_does_not_fit_on_the_disk_does_not_start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "require_disk", lambda platform: None)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(total=1e12, free=2e9))
    with pytest.raises(ResourceError, match="GB on disk"), room.granted(Platform(settings), "measurement_set", ingredients(2.3)):
        pass


def test_a_full_disk_is_told_by_process_and_work_resumes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retried, then failed with its class; nothing half made; the next run, with room, makes it."""
    monkeypatch.setitem(policy.TREATMENTS, ResourceError, policy.Treatment(max_retries=1, wait_s=0.01))
    with monkeypatch.context() as full:
        full.setattr(room, "disk_shortage", lambda platform: "no room")
        report = process(settings, through="calibrator_catalog")
        assert {failed.error_class for failed in report.failed} == {"ResourceError"}
        assert report.made == ()
    monkeypatch.setattr(room, "disk_shortage", lambda platform: None)
    assert process(settings, through="calibrator_catalog").ok


def test_a_pause_and_its_end_are_told_once() -> None:
    told, state = alerts.disk_changes("1 GB free", None)
    assert [alert.severity for alert in told] == ["ERROR"]
    told, state = alerts.disk_changes("1 GB free", state)
    assert told == []
    told, state = alerts.disk_changes(None, state)
    assert [alert.title for alert in told] == ["ingest resumes"]
    assert alerts.disk_changes(None, state) == ([], "")


def run_of(tag: str | None, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> dg.DagsterRun:
    """A run whose tag ends in its own id, unless it names another."""
    run_id = str(uuid.uuid4())
    tags = {} if tag is None else {instances.LAUNCHER_TAG: f"{tag}/{run_id}" if tag.count("/") == 2 else tag}
    return dg.DagsterRun(job_name="j", run_id=run_id, status=status, tags=tags)


def test_runs_without_their_process_are_ended_and_no_others() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    host, own = instances.launcher("").partition("/")[0], instances.launcher("").rpartition("/")[0]
    alive = f"{host}/{child.pid}/{instances._started(child.pid)}"
    with dg.DagsterInstance.ephemeral() as instance:
        killed, reused, ended = run_of(alive), run_of(f"{host}/{os.getpid()}/another boot"), run_of(alive, dg.DagsterRunStatus.SUCCESS)
        retried = run_of(f"{host}/{os.getpid()}/another boot/{reused.run_id}")
        unborn = run_of(f"{host}/{os.getpid()}/another boot", dg.DagsterRunStatus.NOT_STARTED)
        for one in (killed, reused, unborn, ended, retried, run_of("elsewhere/1/x"), run_of(None), run_of(own), run_of(f"{host}/1")):
            instance.add_run(one)
        assert set(instances.close_orphans(instance)) == {reused.run_id, unborn.run_id}
        child.kill()  # a zombie runs nothing, though it still has its number
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert instances.close_orphans(instance) == [killed.run_id]
        child.communicate()
        assert instances.close_orphans(instance) == []
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert {run.run_id for run in failed} == {killed.run_id, reused.run_id, unborn.run_id}


def test_every_run_says_which_process_runs_it(settings: Settings, tmp_path: Path) -> None:
    assert process(tiny_settings(settings.inbox, tmp_path), through="calibrator_catalog").ok
    with instances.open_instance(settings.dagster_home) as instance:
        assert all(run.tags.get(instances.LAUNCHER_TAG) == instances.launcher(run.run_id) for run in instance.get_runs())
