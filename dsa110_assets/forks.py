"""Tasks done in parallel, by forks of a process that has imported the modules they need.

Each fork does one task after another, and keeps its memory in between. If a fork is killed, only its present task is lost. An
interrupt ends all forks in order, and no fork outlives the process that gave the tasks.
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
"""A fork that waits longer than this for its next task returns its free memory to the system."""
GRACE_S, SIGNAL_INTERVAL_S = 30.0, 5.0
"""The time from an interrupt until forks that have not ended are killed; and the time between signals, of which Python may drop one."""


@dataclass(frozen=True)
class Lost:
    """A stand-in for the result: the fork ended during the task, by a signal (negative) or with an exit status."""

    exitcode: int

    @property
    def how(self) -> str:
        """How it ended, for people."""
        return f"was ended by {signal.Signals(-self.exitcode).name}" if self.exitcode < 0 else f"ended with status {self.exitcode}"


class _Begun:
    """The message of a fork that it has begun a task."""


@dataclass
class _Place:
    """A task, and its result once it is `done`."""

    task: Any
    result: Any = None
    done: bool = False


@dataclass
class _Fork:
    """A process, its present task, whether it has reported the beginning of that, and whether it has finished a task before."""

    process: Any
    pipe: connection.Connection
    at: _Place | None = field(default=None)
    has_begun: bool = False
    has_done_one: bool = False


class Forks:
    """Forks of a process that has imported `preload`. In each, `make` (a module's function or a partial of one) returns the function
    that does a task.

    Tasks, results and the arguments of `make` are sent through a pipe. Use it in a `with` block, at whose end all forks have ended.
    """

    def __init__(self, preload: str, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._preload, self._make = preload, make
        self._context = multiprocessing.get_context("forkserver")
        self._forks: list[_Fork] = []
        self._ending = False

    def warm_up(self) -> None:
        """Begin the import in the background, so that the first fork is ready sooner."""
        self._context.set_forkserver_preload([self._preload])
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # only this process handles Ctrl-C
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def are_there(self) -> bool:
        """Whether any fork exists, so that the next task need not wait for a new process."""
        return bool(self._forks)

    def each(self, tasks: Iterable[Any], most: int) -> Iterator[tuple[Any, Any]]:
        """Yield every task with its result, or Lost, in the tasks' order. At most `most` are done at a time; the next task is taken from
        `tasks` when fewer are."""
        begun: deque[_Place] = deque()
        for task in tasks:
            begun.append(_Place(task))
            self._give(begun[-1])
            while sum(fork.at is not None for fork in self._forks) >= most:
                self._take_results()
            while begun and begun[0].done:
                yield begun[0].task, begun.popleft().result
        while begun:
            while not begun[0].done:
                self._take_results()
            yield begun[0].task, begun.popleft().result

    def _give(self, place: _Place) -> None:
        """Give a task to a free fork, or to a new one if none is free."""
        fork = next((idle for idle in self._forks if idle.at is None), None) or self._start()
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
        """Wait until a busy fork sends a result, or ends."""
        busy = {working.pipe: working for working in self._forks if working.at is not None}
        for pipe in connection.wait(list(busy), timeout_s):
            fork = busy[pipe]  # type: ignore[index]
            assert fork.at is not None
            try:
                message = fork.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._lose(fork)
                continue
            if isinstance(message, _Begun):
                fork.has_begun = True
            else:
                fork.at.result, fork.at.done = message, True
                fork.at, fork.has_done_one = None, True

    def _lose(self, fork: _Fork) -> None:
        """Remove a fork that has ended. If it was killed while it waited for a further task, that task is given to another fork."""
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
        """End all forks. Busy ones are interrupted, and killed with all they started if they have not ended after GRACE_S."""
        until, next_s, self._ending = time.monotonic() + GRACE_S, 0.0, True
        while (busy := [fork for fork in self._forks if fork.at is not None]) and time.monotonic() < until:
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + SIGNAL_INTERVAL_S
                for fork in busy:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(fork.process.pid, signal.SIGINT)
            self._take_results(min(SIGNAL_INTERVAL_S, max(0.0, until - time.monotonic())))
        for fork in self._forks:
            fork.pipe.close()  # which ends a fork that waits for a task
            if fork.at is None:
                fork.process.join(GRACE_S)
            if fork.process.exitcode is None:
                children.kill_tree(fork.process.pid)
                fork.process.join()
        self._forks.clear()


def _serve(pipe: connection.Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """The main loop of a fork: do tasks as they come, until the process that gives them closes the pipe."""
    os.setsid()  # a Ctrl-C at the terminal goes only to the process that gives the tasks, which passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        do = make()
        while True:
            if not pipe.poll(IDLE_S):
                heap.give_back()
            task = pipe.recv()
            pipe.send(_Begun())  # because a pipe accepts tasks even if its reader is killed before reading them
            pipe.send(do(task))


def _end_with_parent() -> None:
    """Kill this process at once, whatever it is doing, when the process that gives the tasks is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
