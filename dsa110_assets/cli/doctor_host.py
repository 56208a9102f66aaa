"""What `dsa110 doctor` asks of the machine itself: locks, a home, room for compiled kernels, sockets, the Earth's turn."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsa110_assets import surroundings
from dsa110_assets.archive import files
from dsa110_assets.cli import sockets
from dsa110_assets.errors import DsaError


@dataclass(frozen=True)
class Finding:
    """One check: whether it holds, what was found, and the remedy when it does not."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


def nearest(place: Path) -> Path:
    """The place itself, or the nearest directory above that is there."""
    return next((path for path in (place, *place.parents) if os.path.exists(path)), place)


def locks(place: Path, setting: str, *, with_database: bool) -> Finding:
    """Whether the file system of a directory gives the locks that keep two processes apart, and SQLite its own."""
    check, folder = f"locks, {setting}", nearest(place)
    remedy = f"mount it with locks (for NFS: without nolock, its lock service running), or set {setting} to another file system"
    try:
        with tempfile.TemporaryDirectory(prefix=".dsa110-doctor-", dir=folder) as own:
            with files.locked(Path(own, "lock")):
                pass
            if with_database:
                _require_database(Path(own, "index.sqlite"))
    except OSError as error:
        return Finding(check, False, f"{folder} cannot be written: {error.strerror}", f"let this user write it, or set {setting}")
    except (DsaError, sqlite3.Error) as error:
        return Finding(check, False, f"{folder}: {str(error).partition(';')[0]}", remedy)
    return Finding(check, True, f"given on {folder}")


def _require_database(path: Path) -> None:
    """Write into an SQLite database with a write-ahead log. Raises sqlite3.Error where that cannot be."""
    with closing(sqlite3.connect(path, timeout=1)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError("SQLite cannot share its log between processes there")
        connection.execute("CREATE TABLE t (x)")
        connection.commit()


def current_directory() -> list[Finding]:
    """Nothing but where it is gone: paths are relative to it, and libraries look for it."""
    gone = Finding("current directory", False, "it is gone", "change to another (cd)")
    return [gone] if surroundings.is_nowhere() else []


def home() -> Finding:
    """The home directory that libraries want to be told of."""
    assumed = os.environ[surroundings.HOME]
    found = f"HOME is not set; {assumed} is taken for it" if surroundings.HOME in surroundings.completed else assumed
    return Finding("HOME", True, found)


def kernels() -> Finding:
    """Where compiled kernels are kept: without a place nothing loads, with a temporary one everything is compiled again and again."""
    place = surroundings.kernels_place()
    if place is None:
        remedy = f"set {surroundings.KERNELS} to a directory this user can write"
        return Finding("compiled kernels", False, "Numba can keep them nowhere, and would not load", remedy)
    found = f"in {place}"
    if surroundings.KERNELS in surroundings.completed:
        found += f", compiled again when that is cleared; {surroundings.KERNELS} names a lasting place"
    return Finding("compiled kernels", True, found)


def temporary() -> Finding:
    """The directory of temporary files: there, writable, and with a name short enough for sockets in it."""
    try:
        place = tempfile.gettempdir()
    except OSError as error:
        return Finding("temporary files", False, str(error), "set TMPDIR to a directory this user can write")
    if len(os.fsencode(place)) > sockets.LONGEST_PLACE_BYTES:
        found = f"{place} has {len(os.fsencode(place))} bytes, and a path with sockets in it no more than {sockets.LONGEST_PLACE_BYTES}"
        return Finding("temporary files", False, found, "set TMPDIR to a shorter path, /tmp say")
    configured = os.environ.get("TMPDIR", "").strip()
    if configured and Path(configured).absolute() != Path(place).absolute():
        return Finding("temporary files", False, f"TMPDIR={configured} cannot be written; {place} is taken", "make it, or unset TMPDIR")
    return Finding("temporary files", True, place)


def earth() -> Finding:
    """Whether the installed bulletins know how the Earth is turned now: without the network nothing else tells."""
    from dsa110_assets.telescope import earth as bulletins
    from dsa110_assets.telescope import timegrid

    last, now = bulletins.last_day_mjd(), timegrid.datetime_to_mjd(datetime.now(UTC))
    found = f"IERS bulletins to {timegrid.night_key(last)}"
    remedy = "update them: python -m pip install --upgrade astropy-iers-data"
    return Finding("turn of the Earth", now < last, found if now < last else f"{found}: positions of today are off by arcseconds", remedy)
