"""The only way to start a child process: with its own process group and a deadline, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsa110_assets.errors import ConfigurationError, OverrunError, ResourceError, TransientError

GRACE_S = 5.0
"""The time between SIGTERM and SIGKILL."""
_WATCH = """
import os, signal, sys, time
parent, child = map(int, sys.argv[1:])
while os.getppid() == parent:
    time.sleep(0.2)
try:
    os.killpg(child, signal.SIGKILL)
except ProcessLookupError:
    pass
"""
"""The program of a watcher process, which kills the child's group if this process is killed outright and cannot do so itself. It
polls, because not every Python can wait for a process that is not its child (`os.pidfd_open`)."""
_LONGEST_PAUSE_S = 0.05
_TAIL_BYTES = 8192
_TAIL_LINES = 12


def at_exit(work: Callable[[], None], order: int) -> None:
    """Run `work` when this process ends, the highest order first. This also works when a fork ends, which `atexit` does not cover."""
    from multiprocessing.util import Finalize

    Finalize(None, work, exitpriority=order)


@dataclass(frozen=True)
class Completed:
    """A child that ended by itself: its exit status (>= 0), wall time [s] and log."""

    command: tuple[str, ...]
    returncode: int
    elapsed_s: float
    log_path: Path

    @property
    def tail(self) -> str:
        """The last lines of the child's log."""
        return log_tail(self.log_path)

    def require_success(self) -> Completed:
        """Return this object if the child exited with 0. Raises TransientError with the last lines of its log otherwise."""
        if self.returncode:
            raise TransientError(f"{self.command[0]} ended with status {self.returncode}; log {self.log_path}:\n{self.tail}")
        return self


def log_tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """The last non-empty lines of a text file; '' if there is none. Undecodable bytes are replaced."""
    if not path.exists():
        return ""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        text = handle.read().decode(errors="replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    deadline_s: float,
    log_path: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run `command` to its end in a separate session; stdout and stderr go to `log_path`.

    `env` is the child's whole environment (default: this process's). However the call ends, even by an exception in
    the caller's thread or the death of this process, the child's whole process group is ended: SIGTERM, then
    SIGKILL after GRACE_S.

    Raises ConfigurationError if the program cannot be started, ResourceError if the child was killed by
    SIGKILL (the kernel's out-of-memory killer), OverrunError on overrun and TransientError on any other signal.
    An exit status other than 0 is returned; see `Completed.require_success`.
    """
    arguments = tuple(os.fspath(part) for part in command)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log_path.open("wb") as log:
        try:
            child = subprocess.Popen(
                arguments,
                cwd=cwd,
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot start {arguments[0]}: {error}; is it installed?") from error
    overrun, watch = True, None
    try:
        watch = subprocess.Popen([sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid()), str(child.pid)], start_new_session=True)
        overrun = not _ended(child.pid, deadline_s)
    finally:
        # the leader is not reaped yet, so its process group id cannot belong to anyone else
        _kill_group(child.pid, gently=overrun)
        if watch is not None:
            watch.kill()
            watch.wait()
        returncode = child.wait()
    elapsed_s = time.monotonic() - started
    cause = f"; log {log_path}:\n{log_tail(log_path)}"
    if overrun:
        raise OverrunError(f"{arguments[0]} overran its deadline of {deadline_s:g} s and was killed{cause}")
    if returncode == -signal.SIGKILL:
        raise ResourceError(f"{arguments[0]} was killed (SIGKILL): memory is short{cause}")
    if returncode < 0:
        raise TransientError(f"{arguments[0]} crashed with {signal.Signals(-returncode).name}{cause}")
    return Completed(arguments, returncode, elapsed_s, log_path)


def _ended(pid: int, timeout_s: float) -> bool:
    """Wait until child `pid` is a zombie (True) or the time is up (False), without reaping it."""
    until, pause_s = time.monotonic() + timeout_s, 0.001
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        left_s = until - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return True


def _kill_group(pid: int, *, gently: bool) -> None:
    """Kill process group `pid`; `gently` gives it GRACE_S after SIGTERM first."""
    if gently:
        _signal_group(pid, signal.SIGTERM)
        _ended(pid, GRACE_S)
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # nobody left in it


def process_stat(pid: int | str) -> list[str]:
    """The fields after the name in the kernel's status of a process, proc(5): state, parent and so on. Raises OSError if it is gone."""
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()


def descendants(root: int) -> set[int]:
    """The ids of the processes below `root`, read from /proc, including zombies that nobody waits for."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = int(process_stat(entry.name)[1])
    found: set[int] = set()
    layer = {root}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer} - found
        found |= layer
    return found


def kill_tree(root: int) -> None:
    """Kill a process and all its descendants, including stopped ones and leaders of other process groups."""
    for pid in (root, *descendants(root)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
