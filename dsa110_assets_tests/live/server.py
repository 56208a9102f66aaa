"""A server below a directory, as `ops/install` makes it: releases side by side, units, settings, and an inbox for arriving observations.

Its services are processes of this machine, which a stand-in for systemctl (systemctl.py) starts and stops. Each release has a separate
virtual environment, which finds the sources of a tree and the packages installed beside this interpreter.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.live import systemctl
from dsa110_assets_tests.live.test_night import TINY
from dsa110_assets_tests.tiny import SMALL_DISK

VERSION = "0.1.0"
PROGRAM = "#!{python}\nimport sys\nfrom dsa110_assets.cli import main\nsys.exit(main(sys.argv[1:]))\n"
SERVICES = ("daemon", "webserver", "portal")
STEP_S, POLL_S = 900.0, 0.5
"""Generous: the machine may be busy."""
DEADLINE_S = "600"
"""Of each wait of ops/deploy [s]."""


def tree(place: Path, version: str, *changes: tuple[str, str, str]) -> Path:
    """Write the sources of another version. Each change is a file, a text that occurs in it once, and the replacement of that text."""
    for part in ("pyproject.toml", "README.md", "LICENSE", "ops", "dsa110_assets"):
        source, target = pages.ROOT / part, place / part
        if source.is_dir():  # with the compiled kernels, which Numba matches to the source by its modification time
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pyc"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    version_changes = (
        ("pyproject.toml", f'\nversion = "{VERSION}"', f'\nversion = "{version}"'),
        ("dsa110_assets/__init__.py", f'__version__ = "{VERSION}"', f'__version__ = "{version}"'),
    )
    for name, old, new in (*version_changes, *changes):
        text = (place / name).read_text()
        assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
        (place / name).write_text(text.replace(old, new))
    return place


def ops(sources: Path, code: str, *words: str | Path) -> str:
    """The output of a few lines of code that use the modules in ops/ of a tree."""
    command = [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{code}", *map(str, words)]
    return subprocess.run(command, cwd=sources / "ops", check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Server:
    """A server below `root`, with no release in service yet."""

    def __init__(self, root: Path) -> None:
        self.root, self.inbox, self.archive = root, root / "srv/inbox", root / "srv/archive"
        self.ports = {"portal": free_port(), "webserver": free_port()}
        for path in (
            self.inbox,
            root / "etc/dsa110",
            root / "etc/systemd/system",
            root / "var/lib/dsa110/dagster",
            root / "tmp",
            root / "bin",
        ):
            path.mkdir(parents=True)
        stand_in = root / "bin/systemctl"
        stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{systemctl.__file__}" "{root}" "$@"\n')
        stand_in.chmod(0o755)
        shutil.copyfile(pages.ROOT / "dagster.yaml", root / "var/lib/dsa110/dagster/dagster.yaml")
        settings = {
            **TINY, "DSA110_INBOX": self.inbox, "DSA110_ARCHIVE": self.archive, "DAGSTER_HOME": root / "var/lib/dsa110/dagster",
            "DSA110_BACKUPS": root / "srv/backups", "DSA110_THRESHOLDS": SMALL_DISK, "DSA110_PORTAL_PORT": self.ports["portal"],
            "TMPDIR": root / "tmp", "OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1, "NUMBA_NUM_THREADS": 1, "PYTHONDONTWRITEBYTECODE": 1,
        }  # fmt: skip
        (root / "etc/dsa110/environment").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def install(self, sources: Path) -> str:
        """Make a release of a tree, as ops/deploy would find an existing one. Return its name."""
        name = self.name_of(sources)
        place = self.root / "opt/dsa110/releases" / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        (packages,) = place.glob("lib/python*/site-packages")
        (packages / "release.pth").write_text("\n".join([str(sources), *site.getsitepackages()]) + "\n")
        program = place / "bin/dsa110"
        program.write_text(PROGRAM.format(python=place / "bin/python"))
        program.chmod(0o755)
        (place / "units").mkdir()
        for unit in (sources / "ops/systemd").glob("dsa110*"):
            text = unit.read_text().replace("--port 3000", f"--port {self.ports['webserver']}")
            (place / "units" / unit.name).write_text(text)
        shutil.copyfile(sources / "ops/smoke.py", place / "smoke.py")
        workspace = (sources / "ops/systemd/workspace.yaml").read_text().replace("RELEASE", name)
        (place / "workspace.yaml").write_text(systemctl.below(self.root, workspace))
        (place / "installed-from").write_text("a tree of the test\n")
        return name

    def name_of(self, sources: Path) -> str:
        """The name that ops/deploy gives a tree's release."""
        return ops(sources, "import releases; print(releases.name_of_sources())")

    def start(self, name: str) -> None:
        """Put the first release into service."""
        for unit in (self.root / "opt/dsa110/releases" / name / "units").iterdir():
            shutil.copyfile(unit, self.root / "etc/systemd/system" / unit.name)
        (self.root / "opt/dsa110/current").symlink_to(f"releases/{name}")
        ops(
            pages.ROOT, "import releases, server; server.Server(releases.Releases(Path(sys.argv[1]))).prepare(sys.argv[2])", self.root, name
        )
        self.systemctl("daemon-reload")
        server = f"dsa110-code-server@{name}.service"
        self.systemctl("enable", server)
        self.systemctl("start", server, *(f"dsa110-{service}.service" for service in SERVICES))

    def stop(self) -> None:
        """Kill all processes of the server, including runs."""
        names = [*SERVICES, *(f"code-server@{place.name}" for place in self.root.glob("opt/dsa110/releases/*"))]
        units = [systemctl.Unit(self.root, f"dsa110-{name}.service") for name in names]
        for unit in units:
            systemctl.send(signal.SIGKILL, unit.processes())
        assert systemctl.until(lambda: not any(unit.processes() for unit in units), systemctl.STOP_S)

    def systemctl(self, *words: str) -> None:
        """Run a command of the stand-in for systemctl."""
        subprocess.run([self.root / "bin/systemctl", *words], check=True)

    def deploy(self, sources: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `ops/deploy` of a tree."""
        environment = {"PATH": f"{self.root / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": sys.executable, "SUDO_USER": "operator"}
        command = [sources / "ops/deploy", "--root", self.root, "--deadline", DEADLINE_S, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def running(self) -> dict[str, str]:
        """The release of each running service, from the working directory of its process."""
        pids = {service: systemctl.Unit(self.root, f"dsa110-{service}.service").show("MainPID") for service in SERVICES}
        return {service: Path(os.readlink(f"/proc/{pid}/cwd")).name for service, pid in pids.items() if pid != "0"}

    def code_servers(self) -> set[str]:
        """The releases with a running code server."""
        names = [place.name for place in self.root.glob("opt/dsa110/releases/*")]
        return {name for name in names if systemctl.Unit(self.root, f"dsa110-code-server@{name}.service").active_state() == "active"}

    def linked(self, link: str) -> str:
        """The release to which a link points."""
        return Path(os.readlink(self.root / "opt/dsa110" / link)).name

    def deployments(self) -> str:
        """The log of deployments."""
        log = self.root / "opt/dsa110/deployments.log"
        return log.read_text() if log.exists() else ""

    def made(self) -> dict[str, datetime]:
        """When the measurement set of each observation was published."""
        if not (self.archive / "archive.json").exists():
            return {}
        with Archive(self.archive) as archive:
            return {str(product.partition): product.created_at for product in archive.products("measurement_set")}

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for a condition. If it does not become true, fail with the ends of the services' logs."""
        deadline, pause = time.monotonic() + STEP_S, threading.Event()
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"not in {STEP_S:.0f} s: {what}\n{self.recent_logs()}")
            pause.wait(POLL_S)

    def recent_logs(self) -> str:
        """The last lines of every service's log."""
        logs = sorted((self.root / "systemd").glob("*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]) for log in logs)


class Arrivals:
    """Observations that arrive every `period_s` during the block; `at` is the time [unix s] at which each was complete."""

    def __init__(self, server: Server, scene: Path, period_s: float) -> None:
        self.server, self.scene, self.period_s, self.at = server, scene, period_s, dict[str, float]()
        self.groups = iter(json.loads((scene / "truth.json").read_text())["groups"])
        self.ended, self.thread, self.one_at_a_time = threading.Event(), threading.Thread(target=self._arrive), threading.Lock()

    def drop(self) -> str:
        """Let the next observation arrive as the correlator writes it: each file has another name until it is complete. Return its key."""
        with self.one_at_a_time:
            group = next(self.groups)
        for name in group["files"]:
            writing = self.server.inbox / name.replace(".hdf5", "_incomplete.hdf5")
            shutil.copyfile(self.scene / name, writing)
            writing.rename(self.server.inbox / name)
        self.at[group["observation"]] = time.time()
        return str(group["observation"])

    def _arrive(self) -> None:
        while not self.ended.wait(self.period_s):
            self.drop()

    def __enter__(self) -> Arrivals:
        self.drop()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def latencies_s(self) -> dict[str, float]:
        """The time from the arrival of each observation to its measurement set, for those that have one."""
        made = self.server.made()
        return {key: made[key].timestamp() - at for key, at in dict(self.at).items() if key in made}
