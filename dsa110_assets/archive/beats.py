"""Signs of life: which processes, on whichever host, are at work on an archive. Each touches a file of its own.

    <root>/.beats/<host>.<pid>.<start>     a process that runs steps
    <root>/.beats/<host>                   a worker, with what it takes on: {"queues": [...], "slots": n}
    <root>/.beats/.hosts/<host>            a host, with what it has to spare (`orchestration.watching.hosts`)

How long ago that was is told by the file server's clock alone, between two files on it: hosts' clocks may differ. No other host
can ask the kernel about a process; of its own host's processes a host need not look here.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
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
_kept: dict[Path, tuple[int, threading.Event]] = {}
"""The process that beats under this name, and what ends that: a fork inherits the entry, and not the thread."""
Contents = Callable[[], Any] | Any
"""What a file says: the same for ever, or what a function returns at each beat."""


def keep(root: Path, name: str, contents: Contents = None, folder: str = DIRECTORY, forgotten_s: float = FORGOTTEN_S) -> None:
    """Touch `<root>/<folder>/<name>` now, and every BEAT_S until this process or `end` ends it. A second call for a name does nothing."""
    path, ended = root / folder / name, threading.Event()
    if path in _kept and _kept[path][0] == os.getpid():
        return
    path.parent.mkdir(exist_ok=True, parents=True)
    _write(path, contents)
    _forget(path.parent, forgotten_s)
    _kept[path] = os.getpid(), ended
    threading.Thread(target=_beat, args=(path, contents, ended), name=f"beat {name}", daemon=True).start()


def end(root: Path, name: str, folder: str = DIRECTORY) -> None:
    """Count as gone from now on: nothing more is to be given to this name. Once is enough."""
    path = root / folder / name
    if (kept := _kept.pop(path, None)) is not None:
        kept[1].set()
    path.unlink(missing_ok=True)


def _write(path: Path, contents: Contents) -> None:
    files.write_json(path, contents() if callable(contents) else contents)


def _beat(path: Path, contents: Contents, ended: threading.Event) -> None:
    """Touch a file until the end; one that is gone is written anew. A file server that is away, or full, is waited for."""
    while not ended.wait(BEAT_S):
        try:
            if path.exists() and not callable(contents):
                _touch(path)
            elif path.parent.is_dir():  # else the archive is not mounted, or removed
                _write(path, contents)
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
    return {path.name: files.read_json(path) for path, silent_s in ages_s(root / DIRECTORY).items() if silent_s <= LOST_S}


def ages_s(folder: Path) -> dict[Path, float]:
    """For how long each file of a folder of signs of life has been silent [s]; none where there is no such folder."""
    if not folder.is_dir():
        return {}
    now_s = _touch(folder / _CLOCK, os.O_CREAT)
    return {path: _silent_s(path, now_s) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def _forget(folder: Path, forgotten_s: float) -> None:
    """Remove what nobody has touched for long: a process that ends leaves its file behind."""
    for path, silent_s in ages_s(folder).items():
        if silent_s > forgotten_s:
            path.unlink(missing_ok=True)
