"""Forks: results in order, a limited number at a time, and a killed fork costs only its own task."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dsa110_assets.forks import Forks, Lost
from dsa110_assets_tests.test_children import gone

PRELOAD = "dsa110_assets.errors"


def squared() -> Callable[[int], tuple[int, int]]:
    """Tasks of numbers: small ones take longest, a negative one kills its process, and 100 or more ends it with that number minus 100."""

    def do(number: int) -> tuple[int, int]:
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if number >= 100:
            os._exit(number - 100)
        time.sleep(0.05 * (4 - number))
        return number * number, os.getpid()

    return do


def at_rendezvous(place: Path) -> Callable[[int], bool]:
    """Tasks that leave a mark and wait for a second one. They return whether it came in time."""

    def do(number: int) -> bool:
        (place / str(number)).touch()
        until = time.monotonic() + 60
        while len(list(place.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        return len(list(place.iterdir())) > 1

    return do


def for_ever(place: Path, heedless: bool) -> Callable[[int], str]:
    """Tasks that never end by themselves. They mark an interrupt, and end at it unless they are `heedless`."""

    def do(number: int) -> str:
        (place / str(os.getpid())).touch()
        while True:
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                (place / f"{os.getpid()}-interrupted").touch()
                if not heedless:
                    return "interrupted"

    return do


def test_results_come_in_the_order_of_the_tasks() -> None:
    with Forks(PRELOAD, squared) as forks:
        assert not forks.are_there
        done = list(forks.each(range(4), 2))
        assert forks.are_there
        one_by_one = list(forks.each(range(3), 1))
    assert [(task, square) for task, (square, _) in done] == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert len({pid for _, (_, pid) in done}) == 2
    assert len({pid for _, (_, pid) in one_by_one}) == 1
    assert all(gone(pid) for _, (_, pid) in done)


def test_tasks_run_at_the_same_time_and_are_drawn_only_as_needed(tmp_path: Path) -> None:
    requested: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(3):
            requested.append(number)
            yield number

    with Forks(PRELOAD, partial(at_rendezvous, tmp_path)) as forks:
        each = forks.each(tasks(), 2)
        assert next(each) == (0, True)
        assert requested in ([0, 1], [0, 1, 2])  # the third may begin before the first, which ends last of the two, is reported
        assert [task for task, _ in each] == [1, 2]


def test_a_killed_fork_loses_only_its_own_task() -> None:
    with Forks(PRELOAD, squared) as forks:
        done = dict(forks.each([3, -1, 2, 107, 1], 2))
    assert [done[number][0] for number in (3, 2, 1)] == [9, 4, 1]
    assert (done[-1], done[107]) == (Lost(-signal.SIGKILL), Lost(7))
    assert done[-1].how == "was ended by SIGKILL"
    assert done[107].how == "ended with status 7"


def test_a_fork_killed_while_waiting_is_replaced() -> None:
    with Forks(PRELOAD, squared) as forks:
        ((_, (_, pid)),) = forks.each([3], 1)
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        ((_, (square, other)),) = forks.each([2], 1)
    assert (square, other != pid) == (4, True)


@pytest.mark.parametrize("heedless", [False, True])
def test_working_forks_are_interrupted_at_the_end_of_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heedless: bool) -> None:
    monkeypatch.setattr("dsa110_assets.forks.GRACE_S", 2.0)

    def tasks() -> Iterator[int]:
        yield from range(2)
        until = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Forks(PRELOAD, partial(for_ever, tmp_path, heedless)) as forks:
        list(forks.each(tasks(), 3))
    pids = [path.name for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(pids) == 2
    assert all((tmp_path / f"{pid}-interrupted").exists() for pid in pids)
    assert all(gone(int(pid)) for pid in pids)
