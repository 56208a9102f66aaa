"""The checks of `dsa110 doctor` on the machine itself: locks, home, compiled kernels, sockets, and Earth rotation bulletins."""

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
    """The result of one check: whether it passed, what was found, and the remedy if it failed."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


def nearest(place: Path) -> Path:
    """Return `place`, or the nearest existing directory above it."""
    return next((path for path in (place, *place.parents) if os.path.exists(path)), place)


def locks(place: Path, setting: str, *, with_database: bool) -> Finding:
    """Check that a directory's file system supports the locks between processes, and SQLite's own locks."""
    check, folder = f"locks, {setting}", nearest(place)
    remedy = f"mount it with locks (for NFS: without nolock, its lock service running), or set {setting} to another file system"
    try:
        with tempfile.TemporaryDirectory(prefix=".dsa110-doctor-", dir=folder) as probe_directory:
            with files.locked(Path(probe_directory, "lock")):
                pass
            if with_database:
                _require_database(Path(probe_directory, "index.sqlite"))
    except OSError as error:
        return Finding(check, False, f"{folder} cannot be written: {error.strerror}", f"let this user write it, or set {setting}")
    except (DsaError, sqlite3.Error) as error:
        return Finding(check, False, f"{folder}: {str(error).partition(';')[0]}", remedy)
    return Finding(check, True, f"given on {folder}")


def _require_database(path: Path) -> None:
    """Write into an SQLite database with a write-ahead log. Raises sqlite3.Error if that is impossible."""
    with closing(sqlite3.connect(path, timeout=1)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError("SQLite cannot share its log between processes there")
        connection.execute("CREATE TABLE t (x)")
        connection.commit()


def current_directory() -> list[Finding]:
    """Return a finding only if the current directory is gone: paths are relative to it, and libraries look for it."""
    gone = Finding("current directory", False, "it is gone", "change to another (cd)")
    return [gone] if surroundings.is_nowhere() else []


def home() -> Finding:
    """Report the home directory, which libraries need."""
    assumed = os.environ[surroundings.HOME]
    found = f"HOME is not set; {assumed} is used" if surroundings.HOME in surroundings.completed else assumed
    return Finding("HOME", True, found)


def kernels() -> Finding:
    """Check where compiled kernels are kept: without a folder nothing loads; in a temporary one everything is compiled repeatedly."""
    place = surroundings.kernels_place()
    if place is None:
        remedy = f"set {surroundings.KERNELS} to a directory this user can write"
        return Finding("compiled kernels", False, "Numba has no place to keep them, and would not load", remedy)
    found = f"in {place}"
    if surroundings.KERNELS in surroundings.completed:
        found += f", compiled again when that is cleared; set {surroundings.KERNELS} to a permanent place"
    return Finding("compiled kernels", True, found)


def temporary() -> Finding:
    """Check that the directory of temporary files exists, is writable, and has a name short enough for sockets in it."""
    try:
        place = tempfile.gettempdir()
    except OSError as error:
        return Finding("temporary files", False, str(error), "set TMPDIR to a directory this user can write")
    if len(os.fsencode(place)) > sockets.LONGEST_PLACE_BYTES:
        found = f"{place} has {len(os.fsencode(place))} bytes, but with sockets in it a path may have only {sockets.LONGEST_PLACE_BYTES}"
        return Finding("temporary files", False, found, "set TMPDIR to a shorter path, such as /tmp")
    configured = os.environ.get("TMPDIR", "").strip()
    if configured and Path(configured).absolute() != Path(place).absolute():
        return Finding("temporary files", False, f"TMPDIR={configured} cannot be written; {place} is used", "make it, or unset TMPDIR")
    return Finding("temporary files", True, place)


def earth() -> Finding:
    """Check that the installed bulletins cover the Earth's rotation today: without the network there is no other source."""
    from dsa110_assets.telescope import earth as bulletins
    from dsa110_assets.telescope import timegrid

    last, now = bulletins.last_day_mjd(), timegrid.datetime_to_mjd(datetime.now(UTC))
    found = f"IERS bulletins to {timegrid.night_key(last)}"
    remedy = "update them: python -m pip install --upgrade astropy-iers-data"
    return Finding("turn of the Earth", now < last, found if now < last else f"{found}: positions of today are off by arcseconds", remedy)
