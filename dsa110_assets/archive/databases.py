"""Snapshots of databases in use, and their restoration: SQLite's online backup, PostgreSQL's own programs.

A snapshot of `name` in a directory is `name.sqlite`, or `name.dump` in pg_dump's custom format.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL

from dsa110_assets import children
from dsa110_assets.archive import files, readonly
from dsa110_assets.errors import ConfigurationError, SilentWrongnessError

_DEADLINE_S = 3600.0
_BUSY_S = 30.0


def dump(url: URL, directory: Path, name: str) -> None:
    """Make a consistent, verified snapshot of a database. Raises SilentWrongnessError if it cannot be read back."""
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        dump_sqlite(Path(url.database), directory / f"{name}.sqlite")
        return
    target = directory / f"{name}.dump"
    _postgres(["pg_dump", "--format=custom", "--no-owner", f"--file={target}"], url, directory)
    _postgres(["pg_restore", "--file=/dev/null", str(target)], url, directory)  # reads and unpacks every row


def load(url: URL, directory: Path, name: str) -> None:
    """Replace a database by a snapshot. Raises ConfigurationError if the snapshot is of the other kind of database."""
    kinds = {"sqlite": f"{name}.sqlite", "postgresql": f"{name}.dump"}
    snapshot = directory / kinds[url.get_backend_name()]
    if not snapshot.exists():
        other_kind = "PostgreSQL" if url.get_backend_name() == "sqlite" else "SQLite"
        variable = {"index": "DSA110_DATABASE_URL", "dagster": "DAGSTER_PG_URL"}[name]
        remedy = f"{'set' if other_kind == 'PostgreSQL' else 'unset'} {variable}"
        raise ConfigurationError(f"backup {directory}: its {name} is of {other_kind}; {remedy}, or make a new one: dsa110 archive reindex")
    assert url.database is not None
    if url.get_backend_name() == "sqlite":
        load_sqlite(snapshot, Path(url.database))
        return
    options = ["--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error"]
    _postgres(["pg_restore", *options, f"--dbname={url.database}", str(snapshot)], url, directory.parent)


def dump_sqlite(source: Path, target: Path) -> None:
    """Make a snapshot of one SQLite file, even while others write. Raises SilentWrongnessError if the snapshot is damaged."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            closing(connect_to_read(source)) as opened,
            closing(sqlite3.connect(target)) as copy,
        ):
            opened.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, complete without a -wal file
            verdict = copy.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        target.unlink(missing_ok=True)
        raise SilentWrongnessError(f"the snapshot of {source} is damaged ({verdict}); the disk may be failing")


def connect_to_read(source: Path) -> sqlite3.Connection:
    """A read-only connection to an SQLite file, which works even if this user may not write the file."""
    if not readonly.may_write(source):
        return readonly.connect(source, _BUSY_S)
    return sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)


def load_sqlite(snapshot: Path, target: Path) -> None:
    """Replace an SQLite file by a snapshot; no process may have the file open."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    shutil.copy2(snapshot, fresh)
    with closing(sqlite3.connect(fresh)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    for suffix in ("-wal", "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    os.rename(fresh, target)
    files.fsync_directory(target.parent)


def _postgres(command: Sequence[str], url: URL, directory: Path) -> None:
    """Run one of PostgreSQL's programs on a database; the password is passed only in the child's environment."""
    settings = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
    variables = {name: str(value) for name, value in settings.items() if value is not None}
    environment = {**os.environ, **variables, "PGDATABASE": url.database or ""}
    log_path = directory / f".{command[0]}.log"
    children.run(command, deadline_s=_DEADLINE_S, log_path=log_path, env=environment).require_success()
    log_path.unlink()
