"""Ending of cancelled and abandoned runs of a host's worker, with real processes that hold a lock and have a child, as in `test_hung`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets import children
from dsa110_assets.archive import beats
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import workers
from dsa110_assets_tests.orchestration.test_hung import Run

Status = dg.DagsterRunStatus


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture
def begin(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    """Begins runs whose processes are children of this process, as those of a worker are of the worker."""
    begun = list[Run]()

    def one(how: str) -> Run:
        begun.append(Run(instance, tmp_path / f"lock{len(begun)}", how))
        return begun[-1]

    yield one
    for run in begun:
        kill(run)


def kill(run: Run) -> None:
    """Kill its process, and the child that an interrupted process leaves; in the platform `children.run` kills that."""
    if instances._started(run.child):
        children.kill_tree(run.child)
    run.close()


def test_a_cancelled_run_that_takes_no_signal_is_killed_with_its_child(instance: dg.DagsterInstance, begin: Callable[[str], Run]) -> None:
    run, other = begin("stopped"), begin("child")
    living = workers.look(instance, os.getpid(), {}, 100.0)
    assert living == {run.run_id: None, other.run_id: None}
    instance.report_run_canceling(run.now)
    for now_s in (105.0, 110.0, 134.0):
        living = workers.look(instance, os.getpid(), living, now_s)
    assert living == {run.run_id: 105.0, other.run_id: None}
    assert run.lives()
    living = workers.look(instance, os.getpid(), living, 135.0)
    assert run.ends()
    assert workers.look(instance, os.getpid(), living, 140.0) == {other.run_id: None}
    assert run.now.status == Status.CANCELED
    assert other.lives()
    assert other.now.status == Status.STARTED


def test_a_cancelled_run_that_handles_signals_is_interrupted_at_once(instance: dg.DagsterInstance, begin: Callable[[str], Run]) -> None:
    """It ends by itself, long before it would be killed."""
    run = begin("child")
    instance.report_run_canceling(run.now)
    living = workers.look(instance, os.getpid(), {}, 100.0)
    run.process.wait(60)
    assert workers.look(instance, os.getpid(), living, 105.0) == {}
    assert run.now.status == Status.CANCELED


def test_a_process_of_a_failed_run_may_first_end_by_itself(instance: dg.DagsterInstance, begin: Callable[[str], Run]) -> None:
    """The daemon reported the run as failed, as it does for a silent host. The process does not know this, and the report stands."""
    run = begin("child")
    living = workers.look(instance, os.getpid(), {}, 100.0)
    instance.report_run_failed(run.now, "its host was silent")
    living = workers.look(instance, os.getpid(), living, 105.0)
    assert living == {run.run_id: 105.0}
    assert run.lives()
    assert run.process.poll() is None
    living = workers.look(instance, os.getpid(), living, 110.0)
    run.process.wait(60)
    assert workers.look(instance, os.getpid(), living, 115.0) == {}
    assert run.now.status == Status.FAILURE


def test_processes_of_others_are_left_alone(instance: dg.DagsterInstance, begin: Callable[[str], Run]) -> None:
    """Processes of other hosts, and those on this host that no worker began, such as those of a command."""
    elsewhere, of_command = begin("child"), begin("child")
    tag = elsewhere.now.tags[instances.LAUNCHER_TAG]
    instance.add_run_tags(elsewhere.run_id, {instances.LAUNCHER_TAG: f"another-host/{tag.partition('/')[2]}"})
    for run in (elsewhere, of_command):
        instance.report_run_canceling(run.now)
    living = dict[str, float | None]()
    for now_s in (100.0, 200.0, 300.0):
        living = workers.look(instance, elsewhere.process.pid, living, now_s)
    assert living == {}
    assert elsewhere.process.poll() is None
    assert of_command.process.poll() is None
    assert {elsewhere.now.status, of_command.now.status} == {Status.CANCELING}


@pytest.mark.parametrize("host", ["this", "another"])
def test_a_cancelled_run_whose_process_is_gone_is_not_tried_again(
    instance: dg.DagsterInstance, begin: Callable[[str], Run], tmp_path: Path, host: str
) -> None:
    """The process was killed before it could report, or its host lost power. If the run counted as failed, it would be retried."""
    run = begin("child")
    instance.report_run_canceling(run.now)
    if host == "another":
        tag = run.now.tags[instances.LAUNCHER_TAG]
        instance.add_run_tags(run.run_id, {instances.LAUNCHER_TAG: f"another-host/{tag.partition('/')[2]}"})
    children.kill_tree(run.process.pid)
    run.process.wait()
    (tmp_path / beats.DIRECTORY).mkdir()
    assert instances.close_orphans(instance, tmp_path) == [run.run_id]
    assert run.now.status == Status.CANCELED
