"""Signs of life: which processes, on whichever host, are at work on an archive. Each touches a file of its own.

    <root>/.beats/<host>.<pid>.<start>     a process that runs steps
    <root>/.beats/<host>                   a worker, with what it takes on: {"queues": [...], "slots": n}

How long ago that was is told by the file server's clock alone, between two files on it: hosts' clocks may differ. No other host
can ask the kernel about a process; of its own host's processes a host need not look here.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

from dsa110_assets.archive import files

log = logging.getLogger(__name__)
DIRECTORY = ".beats"
BEAT_S = 10.0
LOST_S = 120.0
"""A process that has been silent for so long counts as gone. Longer than what computes without letting Python's threads run, and
than a file server that starts again; what it did not publish by then, somebody else makes."""
FORGOTTEN_S = 3600.0
"""A file silent for so long is removed: a process that ends leaves its own behind."""
_CLOCK = ".clock"
_kept: dict[tuple[str, str], tuple[int, threading.Event]] = {}
"""The process that beats under this name, and what ends that: a fork inherits the entry, and not the thread."""


def keep(root: Path, name: str, contents: Any = None) -> None:
    """Touch `<root>/.beats/<name>` now, and every BEAT_S until this process or `end` ends it. A second call for a name does nothing."""
    key, ended = (str(root), name), threading.Event()
    if key in _kept and _kept[key][0] == os.getpid():
        return
    path = root / DIRECTORY / name
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, contents)
    _forget(path.parent)
    _kept[key] = os.getpid(), ended
    threading.Thread(target=_beat, args=(path, contents, ended), name=f"beat {name}", daemon=True).start()


def end(root: Path, name: str) -> None:
    """Count as gone from now on: nothing more is to be given to this name. Once is enough."""
    if (kept := _kept.pop((str(root), name), None)) is not None:
        kept[1].set()
    (root / DIRECTORY / name).unlink(missing_ok=True)


def _beat(path: Path, contents: Any, ended: threading.Event) -> None:
    """Touch a file until the end; one that is gone is written anew. A file server that is away, or full, is waited for."""
    while not ended.wait(BEAT_S):
        try:
            if path.exists():
                _touch(path)
            elif path.parent.is_dir():  # else the archive is not mounted, or removed
                files.write_json(path, contents)
        except OSError as error:
            log.warning("%s cannot be touched (%s); other hosts take this process for gone after %.0f s", path, error, LOST_S)


def _touch(path: Path, flags: int = 0) -> float:
    """Set a file's time to now by its server's clock, and tell it [unix s]."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o644)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def _silent_s(path: Path, now_s: float) -> float:
    """Seconds since a file was touched, infinite for none. It is opened: what a client remembers of a file's time may be old."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return float("inf")
    try:
        return now_s - os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def lost(root: Path, name: str) -> bool:
    """Whether the process of this name has been silent for longer than LOST_S, or never was."""
    path = root / DIRECTORY / name
    return not path.exists() or _silent_s(path, _touch(path.with_name(_CLOCK), os.O_CREAT)) > LOST_S


def living(root: Path) -> dict[str, Any]:
    """The names that are not lost, with what each wrote."""
    ages_s = _ages_s(root / DIRECTORY) if (root / DIRECTORY).is_dir() else {}
    return {path.name: files.read_json(path) for path, silent_s in ages_s.items() if silent_s <= LOST_S}


def _ages_s(folder: Path) -> dict[Path, float]:
    """For how long each file has been silent [s]."""
    now_s = _touch(folder / _CLOCK, os.O_CREAT)
    return {path: _silent_s(path, now_s) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def _forget(folder: Path) -> None:
    """Remove what nobody has touched for long: a process that ends leaves its file behind."""
    for path, silent_s in _ages_s(folder).items():
        if silent_s > FORGOTTEN_S:
            path.unlink(missing_ok=True)
