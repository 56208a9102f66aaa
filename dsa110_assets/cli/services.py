"""Long-running services managed together: each started in its own process group, watched, and stopped without survivors.

Every child leads its own process group, so that Ctrl-C reaches only this process, which decides the order
of stopping. This process also adopts orphans (Linux: child subreaper), so a grandchild that left its group,
such as a pipeline run's CASA child, is still found and ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from dsa110_assets.children import descendants
from dsa110_assets.errors import ConfigurationError, ResourceError

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)  # opened before any fork: a child may not allocate much between fork and exec
POLL_S = 0.2
LOOKS_PER_LOG = 25
STOP_DEADLINE_S = 20.0  # Dagster's daemon ends its ticks in a few seconds; a run is interrupted at once
START_DEADLINE_S = 120.0
TAIL_LINES = 12


@dataclass(frozen=True)
class Service:
    """A long-running child: its name, command, log, and the URL or port that answers once it is ready."""

    name: str
    command: Sequence[str]
    log_path: Path
    ready_url: str | None = None
    ready_port: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


class Stopped(Exception):
    """Raised when a signal requests the end; carries its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that is free at the moment."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def require_port(host: str, port: int, setting: str) -> None:
    """Raise ConfigurationError, naming the setting, when `port` is taken or not permitted."""
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise ConfigurationError(
            f"port {port} on {host} is not free ({error.strerror}): perhaps another `dsa110 up` runs; stop it or set {setting}"
        ) from error


def run(
    services: Sequence[Service], announce: Callable[[str], None], on_ready: Callable[[], None], keep_logs: Callable[[Path], object]
) -> None:
    """Start `services` in order, each after the previous one answers; return when a signal ends them all. `keep_logs` is called
    with each log every few seconds.

    Raises ResourceError, with the end of its log, when a service dies by itself or never answers.
    In every case, no process started here or by a child is left when this returns.
    """
    _adopt_orphans()
    started: dict[str, subprocess.Popen[bytes]] = {}
    previous = {number: signal.signal(number, _raise_stopped) for number in _SIGNALS}
    try:
        for service in services:
            started[service.name] = _start(service)
            _await_ready(service, services, started)
            announce(f"{service.name}: running, log {service.log_path}")
        on_ready()
        for number in itertools.count():
            _require_alive(services, started)
            if number % LOOKS_PER_LOG == 0:
                for service in services:
                    keep_logs(service.log_path)
            time.sleep(POLL_S)
    except Stopped as stopped:
        announce(f"stopping ({stopped})")
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them running
        _stop(started)
        for number, handler in previous.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _raise_stopped(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


def _adopt_orphans() -> None:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(option, argument, 0, 0, 0)


def _start(service: Service) -> subprocess.Popen[bytes]:
    service.log_path.parent.mkdir(parents=True, exist_ok=True)
    with service.log_path.open("ab") as log:
        return subprocess.Popen(
            list(service.command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **service.environment}, preexec_fn=_end_with_parent,
        )  # fmt: skip


def _end_with_parent() -> None:
    """Make the kernel end the child if this process is killed; called in the child before it becomes the service."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _await_ready(service: Service, services: Sequence[Service], started: Mapping[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while not _answers(service):
        _require_alive(services, started)
        if time.monotonic() > deadline:
            raise ResourceError(f"{service.name} did not answer in {START_DEADLINE_S:.0f} s{_tail(service)}")
        time.sleep(POLL_S)


def _answers(service: Service) -> bool:
    if service.ready_url is not None:
        try:
            with urllib.request.urlopen(service.ready_url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
    if service.ready_port is not None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", service.ready_port), 1):
            return True
        return False
    return True


def _require_alive(services: Sequence[Service], started: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for service in services:
        process = started.get(service.name)
        if process is not None and process.poll() is not None:
            raise ResourceError(f"{service.name} ended with status {process.returncode}{_tail(service)}")


def _tail(service: Service) -> str:
    lines = service.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"; its log {service.log_path} ends: {last}"


def _stop(started: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Ask every group to end, then all remaining processes, including orphans; then kill those still left."""
    for process in reversed(list(started.values())):
        _signal_group(process.pid, signal.SIGTERM)
    if _all_gone(started, STOP_DEADLINE_S):
        return
    _signal_all(descendants(os.getpid()), signal.SIGTERM)
    if _all_gone(started, STOP_DEADLINE_S / 4):
        return
    while pids := descendants(os.getpid()):
        _signal_all(pids, signal.SIGKILL)
        _reap(started)
        time.sleep(POLL_S / 4)


def _all_gone(started: Mapping[str, subprocess.Popen[bytes]], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        _reap(started)
        if not descendants(os.getpid()):
            return True
        time.sleep(POLL_S / 2)
    return False


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def _reap(started: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for process in started.values():
        process.poll()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
