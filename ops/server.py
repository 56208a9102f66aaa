"""A server in service, as root sees it: its systemd units, the service account and settings, and queries to its releases."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from releases import Refused, Releases, run

USER, STATE, ENVIRONMENT = "dsa110", "/var/lib/dsa110", "/etc/dsa110/environment"
SERVICES = ("daemon", "webserver", "portal", "worker")
"""The services that run the release behind the link, in the order of restarting: the daemon first, because observations wait for it."""
OF_INDEX = ("daemon", "portal", "worker")
"""The services that read or write the index."""
POLL_S = 1.0
FORMAT = "from dsa110_assets.archive.index import SCHEMA; print(SCHEMA)"
PING = """import sys
from dagster._api.list_repositories import sync_list_repositories_grpc
from dagster._grpc.client import DagsterGrpcClient
client = DagsterGrpcClient(socket=sys.argv[1])
assert client.health_check_query() == "SERVING", "it does not answer"
assert sync_list_repositories_grpc(client).repository_symbols, "it serves no definitions"
"""
FIRST = """from dsa110_assets import settings
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running.instance import open_instance, prepare_home
configured = settings.load()
Archive.create(configured.archive, configured.database_url).close()
open_instance(prepare_home(configured.home_path)).dispose()
"""
WORKED = """import sys
from datetime import datetime
from dsa110_assets import settings
from dsa110_assets.orchestration.watching import history
home, since = settings.load().home_path, datetime.fromisoformat(sys.argv[1])
beat, looked = history.heartbeat(home), history.sensor_success(home, since).get("inbox")
assert beat is not None and beat >= since, f"Dagster's daemon gave its last sign of life at {beat}"
assert looked is not None, "it has not looked at the inbox yet"
"""
AUDIT = """import sys
from dsa110_assets import settings
from dsa110_assets.archive import audit
by, verb, target, arguments, told, failed = sys.argv[1:]
with audit.order(settings.load().archive, by, "ops/deploy", verb, target, arguments) as order:
    order.told = told
    if failed:
        raise SystemExit(failed)
"""


def code_server(release: str) -> str:
    """The unit of a release's code server."""
    return f"dsa110-code-server@{release}.service"


def unit(service: str) -> str:
    """The unit of one of SERVICES."""
    return f"dsa110-{service}.service"


def systemctl(*words: str) -> str:
    """The output of systemctl. Raises Refused if it fails."""
    return run(["systemctl", *words])


def show(name: str, what: str) -> str:
    """A property of a unit; empty where systemd has none."""
    return systemctl("show", "--property", what, "--value", name).strip()


def is_active(name: str) -> bool:
    """Whether a unit runs, or is just starting or stopping."""
    return show(name, "ActiveState") not in ("inactive", "failed")


def release_of(service: str) -> str | None:
    """The release that a service runs: the directory in which its process was started; None if it does not run."""
    pid = show(unit(service), "MainPID")
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).name if pid not in ("", "0") else None
    except FileNotFoundError:  # it ended meanwhile
        return None


def port_of(service: str) -> str | None:
    """The `--port` of a running service, from its unit or an operator's override; None if its command line has none."""
    try:
        words = Path(f"/proc/{show(unit(service), 'MainPID')}/cmdline").read_text(encoding="utf-8").split("\0")
    except FileNotFoundError:  # it ended meanwhile
        return None
    return words[words.index("--port") + 1] if "--port" in words else None


def until(holds: Callable[[], str], what: str, within_s: float) -> None:
    """Wait until `holds` returns no complaint. Raises Refused with the last complaint if that takes longer than `within_s`."""
    deadline = time.monotonic() + within_s
    while why := holds():
        if time.monotonic() > deadline:
            raise Refused(f"{what}: not within {within_s:.0f} s: {why}")
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Index:
    """Formats of the index: `found`, the present one; `oldest`, the oldest whose code works with it; `wanted`, the one a release would
    migrate it to; `oldest_then`, the oldest whose code works with that."""

    found: int
    oldest: int
    wanted: int
    oldest_then: int


@dataclass(frozen=True)
class Server:
    """The server that has these releases."""

    releases: Releases

    def at(self, path: str) -> Path:
        """The path `path` of the server, below its root."""
        return self.releases.root / path.lstrip("/")

    @property
    def account(self) -> str:
        """The service account. Below another root, whose users are not those of this machine, it is the owner of the state directory."""
        return USER if self.releases.root == Path("/") else self.at(STATE).owner()

    def environment(self) -> dict[str, str]:
        """The environment that systemd gives the services, with the home directory of their account."""
        path, home = self.at(ENVIRONMENT), str(self.at(STATE))
        found = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C.UTF-8"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            name, equals, value = line.strip().partition("=")
            if equals and not name.startswith(("#", ";")):
                try:
                    found[name.strip()] = " ".join(shlex.split(value))
                except ValueError as error:
                    raise Refused(f"{path}, line {number}: {error}") from None
        return found

    def as_service(self, release: str, program: str, *words: str, accept: Sequence[int] = (0,)) -> str:
        """The output of a program of a release, run by the service account with the service's settings. Raises Refused if it fails."""
        place = self.releases.of(release)
        command = ["runuser", "-u", self.account, "--", str(place / "bin" / program), *words]
        done = subprocess.run(command, env=self.environment(), cwd=place, capture_output=True, text=True)
        if done.returncode not in accept:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise Refused(told[-1] if told else f"{program} of {release} ended with status {done.returncode}")
        return done.stdout

    def prepare(self, release: str) -> None:
        """Make the archive and Dagster's tables if they do not exist, so that services starting together do not all make them at once."""
        self.as_service(release, "python", "-c", FIRST)

    def serves(self, release: str) -> str:
        """Why a release's code server does not serve; empty if it answers and has definitions. Raises Refused if its unit failed."""
        if show(code_server(release), "ActiveState") == "failed":
            raise Refused(f"{code_server(release)} failed; see journalctl -u {code_server(release)}")
        return self._said(release, PING, str(self.at(f"/run/dsa110/{release}/code-server.sock")))

    def well(self, release: str, services: Sequence[str], since: datetime) -> str:
        """Why these services of a release, started after `since`, do not work; empty if all of them do. Raises Refused if a unit failed."""
        for service in services:
            state, runs = show(unit(service), "ActiveState"), release_of(service)
            if state == "failed":
                raise Refused(f"{unit(service)} failed; see journalctl -u {unit(service)}")
            if state != "active" or runs != release:
                return f"{unit(service)} is {state} and runs {runs}"
        given = self.environment().get("DSA110_PORTAL_PORT", "3001")
        for service, default, page in (("webserver", "3000", "server_info"), ("portal", given, "health")):
            if service in services and (why := _asked(f"http://127.0.0.1:{port_of(service) or default}/{page}")):
                return f"the {service} does not answer: {why}"
        return self._said(release, WORKED, since.isoformat()) if "daemon" in services else ""

    def _said(self, release: str, program: str, *words: str) -> str:
        """The error message of a small program run by a release's Python; empty if it succeeds."""
        try:
            self.as_service(release, "python", "-c", program, *words)
        except Refused as error:
            return str(error)
        return ""

    def format_of(self, release: str) -> int:
        """The index format of a release."""
        return int(self.as_service(release, "python", "-c", FORMAT))

    def index(self, old: str, new: str) -> Index:
        """The present format of the index and the one that the release `new` needs."""
        formats = {release: self.format_of(release) for release in (old, new)}
        knows = max(formats, key=lambda release: formats[release])
        told = self._migration(knows, "--dry-run")
        wanted = formats[new]
        if told["oldest"] <= wanted <= told["found"]:
            return Index(told["found"], told["oldest"], told["found"], told["oldest"])
        steps = self._migration(knows, "--dry-run", "--to", str(wanted))["steps"]
        return Index(told["found"], told["oldest"], wanted, steps[-1]["oldest"])

    def migrate(self, release: str, to: int) -> None:
        """Migrate the index to the format `to`."""
        self._migration(release, "--to", str(to))

    def _migration(self, release: str, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.as_service(release, "dsa110", "archive", "migrate", *words, "--json"))
        return found

    def audit(self, release: str, verb: str, arguments: str, told: str, failed: str) -> None:
        """Record in the archive's audit who did what and how it ended."""
        by = os.environ.get("SUDO_USER") or "root"
        self.as_service(release, "python", "-c", AUDIT, by, verb, release, arguments, told, failed, accept=(0, 1))


def _asked(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return "" if answer.status == 200 else f"status {answer.status}"
    except OSError as error:
        return str(error)


def now() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)
