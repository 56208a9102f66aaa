"""Tasks done side by side, by forks of a process that has imported what they need.

Each fork does one task after another, and keeps its memory meanwhile. One that is killed costs the task it was at and no other; an
interrupt ends all of them in order, and none outlives the process that wanted the work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from types import TracebackType
from typing import Any

from dsa110_assets import children, heap

IDLE_S = 1.0
"""A fork that waits longer for its next task gives back the memory it kept for it."""
GRACE_S, SIGNAL_INTERVAL_S = 30.0, 5.0
"""From an interrupt to the killing of what has not ended; and between signals, of which Python may drop one."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: the fork ended in the middle of the task, by a signal (negative) or with an exit status."""

    exitcode: int

    @property
    def how(self) -> str:
        """How it ended, for people."""
        return f"was ended by {signal.Signals(-self.exitcode).name}" if self.exitcode < 0 else f"ended with status {self.exitcode}"


class _Begun:
    """What a fork says when it begins with a task."""


@dataclass
class _Place:
    """A task, and its result once it is `done`."""

    task: Any
    result: Any = None
    done: bool = False


@dataclass
class _Fork:
    """A process, the place it was given, whether it said that it began with that, and whether it has done one before."""

    process: Any
    pipe: connection.Connection
    at: _Place | None = field(default=None)
    has_begun: bool = False
    has_done_one: bool = False


class Forks:
    """Forks of a process that has imported `preload`; in each `make`, a module's function or a partial of one, gives what does a task.

    Tasks and results go through a pipe, and so does what `make` was given. Used in a `with` block, at whose end all forks have ended.
    """

    def __init__(self, preload: str, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._preload, self._make = preload, make
        self._context = multiprocessing.get_context("forkserver")
        self._forks: list[_Fork] = []
        self._ending = False

    def warm_up(self) -> None:
        """Begin to import, in the background: what is to be forked is ready sooner."""
        self._context.set_forkserver_preload([self._preload])
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is this process's alone
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def are_there(self) -> bool:
        """Whether any task was done, so that the next need not wait for a process."""
        return bool(self._forks)

    def each(self, tasks: Iterable[Any], most: int) -> Iterator[tuple[Any, Any]]:
        """Every task with its result, or Lost, in the tasks' order, `most` at a time; the next task is asked for when one of these
        places is free."""
        begun: deque[_Place] = deque()
        for task in tasks:
            begun.append(_Place(task))
            self._give(begun[-1])
            while sum(one.at is not None for one in self._forks) >= most:
                self._take_results()
            while begun and begun[0].done:
                yield begun[0].task, begun.popleft().result
        while begun:
            while not begun[0].done:
                self._take_results()
            yield begun[0].task, begun.popleft().result

    def _give(self, place: _Place) -> None:
        """Have a free fork do a task, a new one if none is there."""
        fork = next((one for one in self._forks if one.at is None), None) or self._start()
        fork.at, fork.has_begun = place, False
        try:
            fork.pipe.send(place.task)
        except (BrokenPipeError, ConnectionResetError):
            self._lose(fork)

    def _start(self) -> _Fork:
        self.warm_up()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make), daemon=True)
        process.start()
        theirs.close()
        self._forks.append(_Fork(process, ours))
        return self._forks[-1]

    def _take_results(self, timeout_s: float | None = None) -> None:
        """Wait until a fork at work has a result, or is gone."""
        busy = {one.pipe: one for one in self._forks if one.at is not None}
        for pipe in connection.wait(list(busy), timeout_s):
            fork = busy[pipe]  # type: ignore[index]
            assert fork.at is not None
            try:
                told = fork.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._lose(fork)
                continue
            if isinstance(told, _Begun):
                fork.has_begun = True
            else:
                fork.at.result, fork.at.done = told, True
                fork.at, fork.has_done_one = None, True

    def _lose(self, fork: _Fork) -> None:
        """Take leave of a fork that has ended. One that was killed while it waited costs nothing: another does what it did not begin."""
        fork.process.join()
        fork.pipe.close()
        self._forks.remove(fork)
        assert fork.at is not None
        if fork.has_done_one and not fork.has_begun and not self._ending:
            self._give(fork.at)
        else:
            fork.at.result, fork.at.done = Lost(fork.process.exitcode), True

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End all forks: those at work are interrupted, and killed with what they started if they go on for GRACE_S."""
        until, next_s, self._ending = time.monotonic() + GRACE_S, 0.0, True
        while (busy := [one for one in self._forks if one.at is not None]) and time.monotonic() < until:
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + SIGNAL_INTERVAL_S
                for one in busy:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one.process.pid, signal.SIGINT)
            self._take_results(min(SIGNAL_INTERVAL_S, max(0.0, until - time.monotonic())))
        for one in self._forks:
            one.pipe.close()  # which ends what waits for a task
            if one.at is None:
                one.process.join(GRACE_S)
            if one.process.exitcode is None:
                children.kill_tree(one.process.pid)
                one.process.join()
        self._forks.clear()


def _serve(pipe: connection.Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """A fork's life: tasks as they come, until there is nobody any more who gives them."""
    os.setsid()  # a Ctrl-C at the terminal is for whoever wanted the work, who passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        do = make()
        while True:
            if not pipe.poll(IDLE_S):
                heap.give_back()
            task = pipe.recv()
            pipe.send(_Begun())  # a pipe may take what its reader, killed meanwhile, will never read
            pipe.send(do(task))


def _end_with_parent() -> None:
    """End this process, at once and whatever it is at, when the one that wanted the work is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
