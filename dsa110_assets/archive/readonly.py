"""Reading an SQLite index that this user, or this mount, may not write.

SQLite's write-ahead log wants to be written by readers too: they note in `-shm` what they look at. Where that file is there, a
reader may look without it; where it is not, for nobody has the index open, the file is read as it is (`immutable`), and what
was read is believed only if the file is the same afterwards. Nothing is made beside the index: files there of another
owner would lock its owner out.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sqlalchemy.exc import DBAPIError

from dsa110_assets.errors import TransientError

MOST_TRIES = 20
T = TypeVar("T")


def may_write(index: Path) -> bool:
    """Whether this user may write an index and what lies beside it, as SQLite's usual way of reading needs."""
    beside = (path for path in (index, _beside(index, "-wal"), _beside(index, "-shm")) if os.path.exists(path))
    return os.access(index.parent, os.W_OK | os.X_OK) and all(os.access(path, os.W_OK) for path in beside)


def connect(index: Path, busy_s: float) -> sqlite3.Connection:
    """A connection that writes nothing, for one transaction: it may not see what is written later."""
    shared = _beside(index, "-shm").exists()
    if not shared and _size(_beside(index, "-wal")):
        connection = _with_its_log(index)
    else:
        uri = f"file:{quote(str(index))}?{'mode=ro' if shared else 'immutable=1'}"
        connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection


def retry_if_changed(index: Path, work: Callable[[], T]) -> T:
    """What `work` reads of an index by a connection of `connect`, read again if somebody changed the file meanwhile."""
    for _ in range(MOST_TRIES):
        before = _stamp(index)
        try:
            found = work()
        except DBAPIError:
            if before == _stamp(index):
                raise
            continue
        if before == _stamp(index):
            return found
    raise TransientError(f"The index {index} changes all the time while it is read without write permission; try again")


def _with_its_log(index: Path) -> sqlite3.Connection:
    """A copy in memory of an index whose log was left behind: only one who may write could fold it in."""
    with tempfile.TemporaryDirectory(prefix="dsa110-index-") as folder:
        for path in (index, _beside(index, "-wal")):
            shutil.copyfile(path, Path(folder, path.name))
        with closing(sqlite3.connect(Path(folder, index.name))) as copied:
            whole = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            copied.backup(whole)
    return whole


def _beside(index: Path, suffix: str) -> Path:
    return index.with_name(index.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _stamp(index: Path) -> tuple[object, ...]:
    """What changes when an index is written, opened or closed by one who may: itself, and whether its log can be shared."""
    try:
        found = index.stat()
    except OSError:
        return ()
    shared = _beside(index, "-shm").exists()
    return (shared,) if shared else (shared, found.st_ino, found.st_size, found.st_mtime_ns)
