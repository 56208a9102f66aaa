"""Signs of life of the processes, on all hosts, that are at work on an archive. Each process touches its own file.

    <root>/.beats/<host>.<pid>.<start>     a process that runs steps
    <root>/.beats/<host>                   a worker, with its queues and slots: {"queues": [...], "slots": n}
    <root>/.beats/.hosts/<host>            a host, with its spare resources (`orchestration.watching.hosts`)

The age of a sign of life is the difference of the times of two files on the file server, by its clock only, because hosts' clocks
may differ. A host cannot ask the kernel about processes of other hosts; for its own processes it need not look here.
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
"""A process that has been silent for this long counts as gone; another then makes what it has not published. Longer than any
computation that blocks Python's threads, and than the restart of a file server."""
FORGOTTEN_S = 3600.0
"""A file silent for this long is removed, because a process that ends leaves its file behind."""
_CLOCK = ".clock"
_kept: dict[Path, tuple[int, threading.Event]] = {}
"""For each path, the process that touches it and the event that ends this: a fork inherits the entry, but not the thread."""
Contents = Callable[[], Any] | Any
"""The contents of a file: fixed, or returned by a function at each beat."""


def keep(root: Path, name: str, contents: Contents = None, folder: str = DIRECTORY, forgotten_s: float = FORGOTTEN_S) -> None:
    """Touch `<root>/<folder>/<name>` now and every BEAT_S until this process ends or `end` is called. A second call for a name does
    nothing."""
    path, ended = root / folder / name, threading.Event()
    if path in _kept and _kept[path][0] == os.getpid():
        return
    path.parent.mkdir(exist_ok=True, parents=True)
    _write(path, contents)
    _forget(path.parent, forgotten_s)
    _kept[path] = os.getpid(), ended
    threading.Thread(target=_beat, args=(path, contents, ended), name=f"beat {name}", daemon=True).start()


def end(root: Path, name: str, folder: str = DIRECTORY) -> None:
    """Stop the signs of life of this name, so that it counts as gone at once and is given no more work. Repeating it does nothing."""
    path = root / folder / name
    if (kept := _kept.pop(path, None)) is not None:
        kept[1].set()
    path.unlink(missing_ok=True)


def _write(path: Path, contents: Contents) -> None:
    files.write_json(path, contents() if callable(contents) else contents)


def _beat(path: Path, contents: Contents, ended: threading.Event) -> None:
    """Touch a file until `ended` is set; write it again if it is gone. Keep trying while the file server is unavailable or full."""
    while not ended.wait(BEAT_S):
        try:
            if path.exists() and not callable(contents):
                _touch(path)
            elif path.parent.is_dir():  # else the archive is not mounted, or was removed
                _write(path, contents)
        except OSError as error:
            log.warning("%s cannot be touched (%s); other hosts take this process for gone after %.0f s", path, error, LOST_S)


def _touch(path: Path, flags: int = 0) -> float:
    """Set a file's time to now by its server's clock, and return it [unix s]."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o644)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def _silent_s(path: Path, now_s: float) -> float:
    """Seconds since a file was touched; infinite if it does not exist. The file is opened, because a client's cached time may be old."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return float("inf")
    try:
        return now_s - os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def lost(root: Path, name: str) -> bool:
    """Whether the process of this name has been silent for longer than LOST_S, or has no file."""
    path = root / DIRECTORY / name
    return not path.exists() or _silent_s(path, _touch(path.with_name(_CLOCK), os.O_CREAT)) > LOST_S


def living(root: Path) -> dict[str, Any]:
    """The names that are not lost, with the contents of their files."""
    return {path.name: files.read_json(path) for path, silent_s in ages_s(root / DIRECTORY).items() if silent_s <= LOST_S}


def ages_s(folder: Path) -> dict[Path, float]:
    """The time [s] since each file in a folder of signs of life was touched; {} if there is no such folder."""
    if not folder.is_dir():
        return {}
    now_s = _touch(folder / _CLOCK, os.O_CREAT)
    return {path: _silent_s(path, now_s) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def _forget(folder: Path, forgotten_s: float) -> None:
    """Remove files that were not touched for `forgotten_s`, because a process that ends leaves its file behind."""
    for path, silent_s in ages_s(folder).items():
        if silent_s > forgotten_s:
            path.unlink(missing_ok=True)
