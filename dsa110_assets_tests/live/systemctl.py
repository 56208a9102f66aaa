"""A stand-in for systemctl, for a server below a directory: `python systemctl.py ROOT COMMAND UNIT...`.

It starts and stops the platform's units as ordinary processes, following ExecStart, EnvironmentFile, WorkingDirectory,
RuntimeDirectory, KillMode, TimeoutStopSec and Type=notify of their files. Absolute paths in them are taken below ROOT. It does not
change users, limit memory or restart units: a unit whose process ended by itself has failed. Its state is in ROOT/systemd.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "STAND_IN_UNIT"
"""The environment variable that marks all processes of a unit, in place of systemd's control group."""
POLL_S, START_S, STOP_S = 0.2, 90.0, 90.0
SECONDS = {"": 1.0, "s": 1.0, "min": 60.0}


def below(root: Path, text: str) -> str:
    """A unit's text with the server's paths moved below the root."""
    return re.sub(r"(?<![\w./])/(?=(?:opt|run|etc|var)/)", f"{root}/", text)


@dataclass(frozen=True)
class Unit:
    """A unit by its full name, as of the last daemon-reload."""

    root: Path
    name: str

    @property
    def state(self) -> Path:
        """The file that holds the process id of the unit."""
        return self.root / "systemd" / self.name

    def says(self) -> dict[str, str]:
        """The directives of the unit's file, by name."""
        template = re.sub(r"@.*\.", "@.", self.name)
        text = (
            (self.root / "systemd/units" / template)
            .read_text(encoding="utf-8")
            .replace("%i", self.name.rpartition(".")[0].partition("@")[2])
        )
        return dict(line.split("=", 1) for line in below(self.root, text).splitlines() if "=" in line and not line.startswith("#"))

    def pid(self) -> int:
        """The id of its process, alive or not; 0 without one."""
        return int(self.state.read_text()) if self.state.exists() else 0

    def active_state(self) -> str:
        """The unit's ActiveState, as systemd defines it."""
        if not self.pid():
            return "inactive"
        if self.state.with_suffix(".stopping").exists():
            return "deactivating"
        return "active" if is_alive(self.pid()) else "failed"

    def show(self, what: str) -> str:
        """The value of a property of the unit."""
        return {"ActiveState": self.active_state(), "MainPID": str(self.pid() if is_alive(self.pid()) else 0)}[what]

    def start(self) -> None:
        """Start the unit unless it is active."""
        if self.active_state() == "active":
            return
        directives = self.says()
        place = os.path.realpath(directives["WorkingDirectory"])
        if "RuntimeDirectory" in directives:
            (self.root / "run" / directives["RuntimeDirectory"]).mkdir(parents=True, exist_ok=True)
        with self._ready_channel(directives) as channel, (self.root / "systemd" / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                shlex.split(directives["ExecStart"]), cwd=place, env=self._environment(directives), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            self.state.write_text(str(process.pid))
            if directives.get("Type") == "notify":
                self._await_ready(channel, process)

    def stop(self) -> None:
        """Stop the unit: send SIGTERM, then SIGKILL to processes left after its timeout or after the main process ends, by KillMode."""
        if not self.pid():
            return
        directives, pid, stopping = self.says(), self.pid(), self.state.with_suffix(".stopping")
        stopping.touch()
        mode = directives.get("KillMode", "control-group")
        send(signal.SIGTERM, self.processes() if mode == "control-group" else [pid])
        timeout = re.fullmatch(r"([\d.]+)(s|min|)", directives.get("TimeoutStopSec", str(STOP_S)))
        assert timeout is not None
        remaining: Callable[[], list[int]] = self.processes if mode == "control-group" else lambda: [pid] * is_alive(pid)
        if not until(lambda: not remaining(), float(timeout[1]) * SECONDS[timeout[2]]) and mode != "process":
            send(signal.SIGKILL, remaining())
        if mode == "mixed":
            send(signal.SIGKILL, self.processes())
        if "RuntimeDirectory" in directives:
            shutil.rmtree(self.root / "run" / directives["RuntimeDirectory"], ignore_errors=True)
        self.state.unlink()
        stopping.unlink()

    def _environment(self, says: dict[str, str]) -> dict[str, str]:
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.root / "var/lib/dsa110"),
            "LANG": "C.UTF-8",
            MARK: str(self.state),
        }
        lines = Path(says["EnvironmentFile"]).read_text(encoding="utf-8").splitlines()
        environment |= {
            name: " ".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines if line[:1] not in ("", "#"))
        }
        return environment | ({"NOTIFY_SOCKET": str(self._socket)} if says.get("Type") == "notify" else {})

    @property
    def _socket(self) -> Path:
        return self.state.with_suffix(".notify")

    def _ready_channel(self, says: dict[str, str]) -> socket.socket:
        """The socket on which a unit of Type=notify reports that it is ready."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if says.get("Type") == "notify":
            self._socket.unlink(missing_ok=True)
            channel.bind(str(self._socket))
            channel.settimeout(POLL_S)
        return channel

    def _await_ready(self, channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(TimeoutError):
                if channel.recv(4096) == b"READY=1":
                    return
        raise SystemExit(f"Job for {self.name} failed because the control process exited with error code.")

    def processes(self) -> list[int]:
        """The ids of all live processes of the unit."""
        mark, found = f"{MARK}={self.state}\0".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes() and is_alive(int(folder.name)):
                    found.append(int(folder.name))
        return found


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return pid > 0 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(number: signal.Signals, pids: list[int]) -> None:
    """Send a signal to those processes that still exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def until(holds: Callable[[], bool], within_s: float) -> bool:
    """Wait for a condition. Return whether it became true in time."""
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while not (held := holds()) and time.monotonic() < deadline:
        pause.wait(POLL_S)
    return held


def reload(root: Path) -> None:
    """Read the files of all units again."""
    shutil.rmtree(root / "systemd/units", ignore_errors=True)
    shutil.copytree(root / "etc/systemd/system", root / "systemd/units")


def main(root: Path, command: str, *words: str) -> int:
    """Run one command of systemctl. Return its exit status."""
    names = [word for word in words if word.endswith(".service")]
    units = [Unit(root, name) for name in names]
    if command == "daemon-reload":
        reload(root)
    elif command == "show":
        print(units[0].show(words[words.index("--property") + 1]))
    elif command == "is-active":
        return 0 if all(unit.active_state() == "active" for unit in units) else 3
    elif command in ("enable", "disable"):
        for unit in units:
            enabled = unit.state.with_suffix(".enabled")
            enabled.touch() if command == "enable" else enabled.unlink(missing_ok=True)
    elif command in ("start", "stop", "restart"):
        for unit in units:
            if command != "start":
                unit.stop()
            if command != "stop":
                unit.start()
    else:
        raise SystemExit(f"the stand-in knows no {command}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), *sys.argv[2:]))
