"""A private PostgreSQL server for tests, which can be stopped and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsa110_assets import children


@dataclass(frozen=True)
class Server:
    """A server below `home`, listening on loopback."""

    binaries: Path
    home: Path
    port: int

    @property
    def url(self) -> str:
        """URL of its first database."""
        return f"postgresql+psycopg2://dsa110@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.home} -c fsync=off -c shared_buffers=16MB -c max_connections=40"
        self.run("pg_ctl", "-D", str(self.home / "data"), "-l", str(self.home / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once: open connections break, as if its machine had lost power."""
        self.run("pg_ctl", "-D", str(self.home / "data"), "-m", "immediate", "-w", "stop")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes. After SIGSTOP connections stay open without an answer, until SIGCONT."""
        server = int((self.home / "data" / "postmaster.pid").read_text().split()[0])
        for pid in (server, *children.descendants(server)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def new_database(self, name: str) -> str:
        """Create a database. Return its URL."""
        import psycopg2

        connection = psycopg2.connect(self.url.replace("+psycopg2", ""))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        return self.url.removesuffix("/postgres") + f"/{name}"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the server's programs, not as root, because PostgreSQL refuses that."""
        # The locale and HOME are fixed, because settings of this machine must not change how the server starts.
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C.UTF-8"}
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*as_user, str(self.binaries / program), *arguments]
        done = subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"


@contextmanager
def private_server() -> Iterator[Server]:
    """A new server on a free loopback port, stopped and removed at the end; skips where PostgreSQL is not installed."""
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server program under /usr/lib/postgresql or on PATH (Debian: postgresql)")
    home = Path(tempfile.mkdtemp(prefix="dsa110-postgres-"))
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)
    server = Server(binaries, home, free_port())
    server.run("initdb", "-D", str(home / "data"), "-U", "dsa110", "-A", "trust", "-E", "UTF8", "--no-sync")
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def server_binaries() -> Path | None:
    """The directory of PostgreSQL's server programs: the newest of Debian's, or the one on PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def free_port() -> int:
    """A free TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
