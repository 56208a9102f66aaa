"""Reading an SQLite index that this user, or this mount, may not write.

With a write-ahead log, SQLite's readers write too: they record in `-shm` what they read. If that file exists, a reader can do
without writing to it. If it does not exist, because nobody has the index open, the file is read as it is (`immutable`), and the
result is accepted only if the file is unchanged afterwards. No file is made beside the index: files of another owner there would
lock its owner out.
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
    """Whether this user may write an index and the files beside it, which SQLite's usual way of reading requires."""
    beside = (path for path in (index, _beside(index, "-wal"), _beside(index, "-shm")) if os.path.exists(path))
    return os.access(index.parent, os.W_OK | os.X_OK) and all(os.access(path, os.W_OK) for path in beside)


def connect(index: Path, busy_s: float) -> sqlite3.Connection:
    """A connection that writes nothing. It is for one transaction only, because it may not see later changes."""
    shared = _beside(index, "-shm").exists()
    if not shared and _size(_beside(index, "-wal")):
        connection = _with_its_log(index)
    else:
        uri = f"file:{quote(str(index))}?{'mode=ro' if shared else 'immutable=1'}"
        connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection


def retry_if_changed(index: Path, work: Callable[[], T]) -> T:
    """The result of `work`, which reads an index through a connection of `connect`; repeated if the file changed meanwhile.

    Raises TransientError after MOST_TRIES attempts.
    """
    for _ in range(MOST_TRIES):
        before = _stamp(index)
        try:
            result = work()
        except DBAPIError:
            if before == _stamp(index):
                raise
            continue
        if before == _stamp(index):
            return result
    raise TransientError(f"The index {index} keeps changing while it is read without write permission; try again")


def _with_its_log(index: Path) -> sqlite3.Connection:
    """A copy in memory of an index whose log was left behind: merging the log into the index itself needs write permission."""
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
    """A stamp that changes when a process with write permission writes, opens or closes an index: the file's state, and whether its
    log is shared."""
    try:
        found = index.stat()
    except OSError:
        return ()
    shared = _beside(index, "-shm").exists()
    return (shared,) if shared else (shared, found.st_ino, found.st_size, found.st_mtime_ns)
