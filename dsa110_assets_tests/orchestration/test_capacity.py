"""Disk and memory are checked before a stage starts; runs whose process no longer exists are ended."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from dsa110_assets.errors import ResourceError
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import capacity, policy
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.specification.recipes import Ingredients
from dsa110_assets.settings import Settings
from dsa110_assets_tests.tiny import tiny_settings


def ingredients(size_gb: float) -> Ingredients:
    """Ingredients with a manifest of files of `size_gb`."""
    product = SimpleNamespace(size_bytes=1000, metadata={"size_gb": size_gb})
    return Ingredients(products=(product,))  # type: ignore[arg-type]


@pytest.fixture
def platform(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A platform with unlimited disk space."""
    monkeypatch.setattr(capacity, "require_disk", lambda platform: None)
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda path: SimpleNamespace(total=1e18, free=1e18))
    return Platform(settings)


def test_the_memory_needed_for_an_image_follows_from_its_data(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.9 GB of memory for 0.5 GB of visibilities."""
    monkeypatch.setattr(capacity, "available_bytes", lambda limit_gib: 2e9)
    capacity.require(platform, "tile_image", ingredients(0.5))
    monkeypatch.setattr(capacity, "available_bytes", lambda limit_gib: 1.8e9)
    with pytest.raises(ResourceError, match=r"tile_image: needs at least 1\.9 GB of memory, 1\.8 GB are available"):
        capacity.require(platform, "tile_image", ingredients(0.5))


def test_a_stage_that_does_not_fit_into_memory_does_not_start(settings: Settings) -> None:
    available_gb = capacity.available_bytes(1e5) / 1e9
    message = "tile_image: needs at least .* GB of memory, .* DSA110_MEMORY_LIMIT_GIB"
    platform = Platform(settings)
    with pytest.raises(ResourceError, match=message):
        capacity.require(platform, "tile_image", ingredients(available_gb * 2))
    capacity.require(platform, "night_report", ingredients(available_gb * 10))


def test_process_reports_too_little_memory_and_work_resumes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is retried, then fails with the class of the error and leaves nothing partial; the next run, with more memory, makes it."""
    monkeypatch.setitem(policy.TREATMENTS, ResourceError, policy.Treatment(max_retries=1, wait_s=0.01))
    report = process(settings.model_copy(update={"memory_limit_gib": 0.1}), through="calibrator_catalog")
    assert {failed.error_class for failed in report.failed} == {"ResourceError"}
    assert report.made == ()
    assert process(settings, through="calibrator_catalog").ok


def test_a_stage_that_does_not_fit_on_the_disk_does_not_start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "require_disk", lambda platform: None)
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda path: SimpleNamespace(total=1e12, free=2e9))
    with pytest.raises(ResourceError, match="GB on disk"):
        capacity.require(Platform(settings), "measurement_set", ingredients(2.3))


def test_process_reports_a_full_disk_and_work_resumes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is retried, then fails with the class of the error and leaves nothing partial; the next run, with free space, makes it."""
    monkeypatch.setitem(policy.TREATMENTS, ResourceError, policy.Treatment(max_retries=1, wait_s=0.01))
    with monkeypatch.context() as full:
        full.setattr(capacity, "disk_shortage", lambda platform: "no room")
        report = process(settings, through="calibrator_catalog")
        assert {failed.error_class for failed in report.failed} == {"ResourceError"}
        assert report.made == ()
    monkeypatch.setattr(capacity, "disk_shortage", lambda platform: None)
    assert process(settings, through="calibrator_catalog").ok


def run_of(tag: str | None, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> dg.DagsterRun:
    """A run whose launcher tag ends in its own id, unless `tag` names another run."""
    run_id = str(uuid.uuid4())
    tags = {} if tag is None else {instances.LAUNCHER_TAG: f"{tag}/{run_id}" if tag.count("/") == 2 else tag}
    return dg.DagsterRun(job_name="j", run_id=run_id, status=status, tags=tags)


def test_runs_without_their_process_are_ended_and_no_others() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    host, own_process = instances.launcher("").partition("/")[0], instances.launcher("").rpartition("/")[0]
    alive = f"{host}/{child.pid}/{instances._started(child.pid)}"
    with dg.DagsterInstance.ephemeral() as instance:
        killed, reused, ended = run_of(alive), run_of(f"{host}/{os.getpid()}/another boot"), run_of(alive, dg.DagsterRunStatus.SUCCESS)
        retried = run_of(f"{host}/{os.getpid()}/another boot/{reused.run_id}")
        unborn = run_of(f"{host}/{os.getpid()}/another boot", dg.DagsterRunStatus.NOT_STARTED)
        for new_run in (
            killed,
            reused,
            unborn,
            ended,
            retried,
            run_of("elsewhere/1/x"),
            run_of(None),
            run_of(own_process),
            run_of(f"{host}/1"),
        ):
            instance.add_run(new_run)
        assert set(instances.close_orphans(instance)) == {reused.run_id, unborn.run_id}
        child.kill()  # a zombie runs nothing, though its process id still exists
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
