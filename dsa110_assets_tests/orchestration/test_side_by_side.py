"""`process` with observations made side by side gives the same as one after another, whatever happens to the forks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.children import descendants, process_stat
from dsa110_assets.cli import WARM
from dsa110_assets.cli.app import EXIT_INCOMPLETE, EXIT_INTERRUPTED
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import ProcessReport, Progress, SideBySide, process
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults import killing
from dsa110_assets_tests.faults.same import greatest_difference
from dsa110_assets_tests.test_children import gone
from dsa110_assets_tests.tiny import OBSERVATIONS, spoil_data, tiny_settings

TWO = SideBySide(2, WARM)
COMMAND = [sys.executable, "-W", "ignore", "-c", "from dsa110_assets.cli import main; raise SystemExit(main())", "process"]
WITHIN_S = 120.0


def launchers(settings: Settings) -> dict[str, set[int]]:
    """The ids of the processes of the runs of each partition; '' stands for runs without one."""
    found: dict[str, set[int]] = {}
    with instances.open_instance(settings.dagster_home) as dagster:
        for run in dagster.get_runs():
            found.setdefault(run.tags.get("dagster/partition", ""), set()).add(int(run.tags[instances.LAUNCHER_TAG].split("/")[1]))
    return found


def unfinished(settings: Settings) -> list[dg.DagsterRun]:
    with instances.open_instance(settings.dagster_home) as dagster:
        return list(instances.unfinished(dagster))


@pytest.mark.slow
def test_side_by_side_gives_the_same_products_and_report(finished_run: tuple[Settings, ProcessReport], settings: Settings) -> None:
    """Products agree to the last bit, with one thread per image. The report is in the order of the observations, however they end."""
    updates: list[Progress] = []
    report = process(settings, progress=updates.append, side_by_side=TWO)
    with Archive(settings.archive) as ours, Archive(finished_run[0].archive) as one_by_one:
        distance, where = greatest_difference(ours, one_by_one)
    assert distance == 0, where
    expected = finished_run[1]
    assert [(made.asset, made.partition) for made in report.made] == [(made.asset, made.partition) for made in expected.made]
    assert [(check.check, check.reason) for check in report.failed_checks] == [
        (check.check, check.reason) for check in expected.failed_checks
    ]
    assert (report.failed, report.waiting, report.up_to_date) == (expected.failed, expected.waiting, expected.up_to_date)
    assert [now.done for now in updates if now.phase == "tile_image"] == [0, 1, 2, 3]
    processes = launchers(settings)
    assert processes[""] == {os.getpid()}  # catalogues are made while the forks get ready
    assert len(set.union(*(processes[key] for key in OBSERVATIONS)) - {os.getpid()}) == 2
    assert unfinished(settings) == []
    assert process(settings, side_by_side=TWO).made == ()


def test_a_single_observation_is_made_in_this_process(settings: Settings, inbox: Path) -> None:
    for path in [*inbox.glob("2026-01-25T22:2*")]:
        path.unlink()
    process(settings, through="measurement_set", side_by_side=TWO)
    assert launchers(settings) == {"": {os.getpid()}, OBSERVATIONS[2]: {os.getpid()}}


def test_a_failing_observation_is_named_and_the_others_are_made(settings: Settings, inbox: Path) -> None:
    for path in sorted(inbox.glob("2026-01-25T22:20*")):
        spoil_data(path)
    report = process(settings, through="measurement_set", side_by_side=TWO)
    one_by_one = process(tiny_settings(inbox, settings.archive.parent / "alone"), through="measurement_set")
    assert [(one.asset, one.partition, one.error_class) for one in report.failed] == [
        (one.asset, one.partition, one.error_class) for one in one_by_one.failed
    ]
    assert {one.partition for one in report.failed} == {OBSERVATIONS[0]}
    assert {one.partition for one in report.made if one.asset == "measurement_set"} == set(OBSERVATIONS[1:])


@pytest.mark.slow
def test_a_killed_fork_loses_only_its_own_run(settings: Settings) -> None:
    """Every fork is killed while it publishes a set, as by the kernel if memory is short. A second run makes everything."""
    arguments = ("process", "--at-once", "2", "--through", "measurement_set")
    done = killing.dsa110(settings, *arguments, DSA110_CRASH_AT="measurement_set/renamed:SIGKILL")
    assert done.returncode == EXIT_INCOMPLETE, done.stderr
    why = "its process was ended by SIGKILL: memory is short, perhaps; start it again, and the work goes on"
    failures = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert failures == [f"failed: measurement_set {key}: ResourceError: {why}" for key in OBSERVATIONS]
    assert unfinished(settings) == []
    again = killing.dsa110(settings, *arguments)
    assert again.returncode == 0, again.stderr
    with Archive(settings.archive) as archive:
        for asset in ("subband_group", "measurement_set"):
            assert [(one.partition, one.version) for one in archive.products(asset, state=None)] == [(key, 1) for key in OBSERVATIONS]
        assert all(archive.verify(one) == [] for one in archive.products())


@pytest.fixture
def at_work(tiny_run: Path, tmp_path: Path) -> Iterator[tuple[Settings, subprocess.Popen[str], set[int]]]:
    """(settings, command, forks): the two forks have each written a measurement set and are stopped before they publish it."""
    settings = tiny_settings(tiny_run, tmp_path)
    with subprocess.Popen(
        [*COMMAND, "--at-once", "2", "--through", "measurement_set"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=killing.environment(settings, DSA110_CRASH_AT="measurement_set/written:SIGSTOP"), start_new_session=True,
    ) as command:  # fmt: skip
        try:
            yield settings, command, two_stopped(command)
        finally:
            command.kill()


def two_stopped(command: subprocess.Popen[Any]) -> set[int]:
    """Wait until two child processes of a command are stopped. Return their ids."""
    pause = threading.Event()
    for _ in range(int(WITHIN_S / 0.05)):
        found = {pid for pid in descendants(command.pid) if is_stopped(pid)}
        if len(found) == 2:
            return found
        assert command.poll() is None, command.communicate()
        pause.wait(0.05)
    raise AssertionError(f"no two observations at a time in {WITHIN_S} s")


def is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):  # the process has ended
        return process_stat(pid)[0] == "T"
    return False


def go_on(stopped: set[int]) -> None:
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_all_of_them_in_order(at_work: tuple[Settings, subprocess.Popen[str], set[int]], name: str) -> None:
    settings, command, forks = at_work
    command.send_signal(signal.Signals[name])
    go_on(forks)
    _, errors = command.communicate(timeout=WITHIN_S)
    assert command.returncode == EXIT_INTERRUPTED, errors
    assert errors.splitlines()[-1] == "dsa110: interrupted; what was published stays, the rest resumes when run again"
    assert "Traceback" not in errors
    assert all(gone(pid) for pid in forks)
    assert unfinished(settings) == []
    assert not list(settings.archive.glob("*/*/*/.tmp-*"))


@pytest.mark.slow
def test_no_fork_outlives_the_command(at_work: tuple[Settings, subprocess.Popen[str], set[int]]) -> None:
    settings, command, forks = at_work
    everyone = descendants(command.pid) | forks
    command.kill()
    command.wait()
    go_on(forks)
    assert all(gone(pid) for pid in everyone)
    assert process(settings, through="measurement_set").ok
