"""Fixtures shared by all tests: a private PostgreSQL, and database URLs of both kinds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


def server_binaries() -> Path | None:
    """The directory of PostgreSQL's server programs: the newest of Debian's, or the one on PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def as_unprivileged(command: list[str]) -> list[str]:
    """`command` as a user the server accepts: PostgreSQL refuses to run as root."""
    return (
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        if os.geteuid() == 0
        else command
    )


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a private PostgreSQL server on a free loopback port, stopped and removed at the end."""
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server program under /usr/lib/postgresql or on PATH (Debian: postgresql)")
    home = Path(tempfile.mkdtemp(prefix="dsa110-postgres-"))
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)
    data, port = home / "data", free_port()
    # The locale and HOME are fixed: what this machine has set must not change how the server starts.
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"}
    options = f"-p {port} -h 127.0.0.1 -k {home} -c fsync=off -c shared_buffers=16MB -c max_connections=40"
    pg_ctl = [str(binaries / "pg_ctl"), "-D", str(data)]

    def run(command: list[str]) -> None:
        done = subprocess.run(
            as_unprivileged(command), env=environment, cwd=home, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"

    run([str(binaries / "initdb"), "-D", str(data), "-U", "dsa110", "-A", "trust", "-E", "UTF8", "--no-sync"])
    run([*pg_ctl, "-l", str(home / "log"), "-w", "-o", options, "start"])
    try:
        yield f"postgresql+psycopg2://dsa110@127.0.0.1:{port}/postgres"
    finally:
        run([*pg_ctl, "-m", "immediate", "-w", "stop"])
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """URL of a new, empty database on the private server, dropped after the test."""
    import psycopg2

    name = f"test_{uuid.uuid4().hex[:12]}"

    def execute(statement: str) -> None:
        connection = psycopg2.connect(postgres_url.replace("+psycopg2", ""))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    # A language's sort order, as a server may well have: nothing may depend on it.
    execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    yield postgres_url.removesuffix("/postgres") + f"/{name}"
    execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine_url(request: pytest.FixtureRequest) -> str | None:
    """The index's database URL: None (SQLite inside the archive), and an empty PostgreSQL database."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgres_database"))
