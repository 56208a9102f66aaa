"""Durable files: sealing (digest and fsync), atomic small writes, locks, removal, crash points.

All file operations that a crash could leave incomplete go through here. `crash_point` names the places where the tests
kill the process; it does nothing unless DSA110_CRASH_AT is set.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash

from dsa110_assets.archive.naming import SIDECAR
from dsa110_assets.errors import ConfigurationError, DsaError, ResourceError, SilentWrongnessError, TransientError

log = logging.getLogger(__name__)

CRASH_POINTS = (
    "draft_created",
    "written",
    "validated",
    "sealed",
    "sidecar_written",
    "renamed",
    "durable",
    "row_written",
    "indexed",
    "published",
)
"""The places in publishing, in their order: from `renamed` on the product is complete on disk, at `indexed` it has its row."""
UNSEALED = frozenset({SIDECAR, "table.lock"})
"""Left out of digest and size: the sidecar holds them, and casacore may write table.lock while reading."""
_CHUNK = 1 << 20
LOCK_S, _LOOK_AGAIN_S = 60.0, 0.2
"""The default time to wait for a lock (most are held for milliseconds), and the longest pause between two attempts."""


def crash_point(name: str, asset: str) -> None:
    """Kill this process if DSA110_CRASH_AT names this point: `renamed`, `tile_image/renamed` or `renamed:SIGTERM`."""
    requested = os.environ.get("DSA110_CRASH_AT")
    if requested is None:
        return
    place, _, how = requested.partition(":")
    if place in (name, f"{asset}/{name}"):
        os.kill(os.getpid(), signal.Signals[how or "SIGKILL"])


@dataclass(frozen=True)
class Seal:
    """Size and digest of a product's files."""

    size_bytes: int
    digest: str


def seal(directory: Path, *, durable: bool) -> Seal:
    """Return digest (xxh3_128 over sorted relative paths, sizes and bytes) and size of a product; fsync its files if `durable`.

    The bytes are read back: measurement sets and caltables are written by casacore, which cannot be
    intercepted. Done right before fsync, the read comes from the page cache, not from the disk.
    Raises SilentWrongnessError for symbolic links, special files or a product without files.
    """
    total, size_bytes, n_files = xxhash.xxh3_128(), 0, 0
    chunk = memoryview(bytearray(_CHUNK))
    for path in _walk(directory):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if path.name not in UNSEALED:
                size = os.fstat(fd).st_size
                total.update(f"{path.relative_to(directory).as_posix()}\0{size}\0".encode())
                _feed(total, fd, chunk)
                size_bytes += size
                n_files += 1
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
    if not n_files:
        raise SilentWrongnessError(f"{directory}: nothing was written into this product")
    if durable:
        for folder, _, _ in os.walk(directory, topdown=False):
            fsync_directory(Path(folder))
    return Seal(size_bytes, total.hexdigest())


def digest(path: Path) -> str:
    """The xxh3_128 of one file's bytes; they stay in the page cache for the next reader."""
    total = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        _feed(total, file.fileno(), memoryview(bytearray(_CHUNK)))
    return total.hexdigest()


def read_ahead(paths: Iterable[Path]) -> None:
    """Ask the system to load files into its page cache in the background; files that cannot be opened are left out."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:  # the code that reads the file reports what is wrong with it
            continue
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)


def _feed(total: xxhash.xxh3_128, fd: int, chunk: memoryview) -> None:
    """Feed the rest of a file into a digest through the reused buffer `chunk`: fresh memory would cost more than the digest."""
    while n := os.readv(fd, [chunk]):
        total.update(chunk[:n])


def size(directory: Path) -> int:
    """The total size of a product's sealed files [bytes], from their directory entries only."""
    return sum(path.stat().st_size for path in _walk(directory) if path.name not in UNSEALED)


def _walk(directory: Path) -> Iterator[Path]:
    """The regular files below `directory`, sorted by relative path. Raises SilentWrongnessError for links and special files."""
    found: list[Path] = []
    for folder, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = Path(folder, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise SilentWrongnessError(f"{path}: a product holds plain files and directories only")
        found += [Path(folder, name) for name in names]
    return iter(sorted(found, key=lambda path: path.relative_to(directory).as_posix()))


def fsync_directory(directory: Path) -> None:
    """Make the directory's entries durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_up(directory: Path, root: Path) -> None:
    """Make the entries of `directory` and of its parents up to `root` durable."""
    for folder in (directory, *directory.parents):
        fsync_directory(folder)
        if folder == root:
            return


def write_json(path: Path, contents: Any) -> None:
    """Write JSON so that a reader sees either the old or the new file complete, even after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    text = json.dumps(contents, indent=1, sort_keys=True, allow_nan=False) + "\n"
    try:
        with open(temporary, "x", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def read_json(path: Path) -> Any:
    """The contents of a small JSON file; None if it is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


@cache
def log_once(message: str) -> None:
    """Log an error only once in a process, because the same rows are read every few seconds."""
    log.error(message)


def remove_tree(directory: Path) -> None:
    """Remove a directory so that no reader can see half of it: it is first renamed to a hidden name."""
    hidden = directory.with_name(f".tmp-removed-{uuid.uuid4().hex[:12]}")
    try:
        os.rename(directory, hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden)
    fsync_directory(directory.parent)


def take_lock(path: Path, *, create: bool = True) -> int | None:
    """Lock a file until its descriptor is closed or the process dies; None when another process holds it.

    Without `create`, also None when there is no such file. Raises the errors of `lock`.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
    except FileNotFoundError:
        if create:
            raise
        return None
    try:
        held = lock(fd, path)
    except DsaError:
        os.close(fd)
        raise
    if not held:
        os.close(fd)
        return None
    return fd


def lock(fd: int, path: Path) -> bool:
    """Lock an open file until it is closed or the process dies; False when another process holds it.

    Raises ConfigurationError if the file system does not support locks, TransientError if it refuses one temporarily.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        remedy = "mount it with locks (for NFS: without nolock, its lock service running), or name a directory on another file system"
        kind = TransientError if error.errno in _LOCK_LOST else ConfigurationError
        raise kind(f"{path}: its file system gives no lock ({error.strerror}); {remedy}") from error
    return True


@contextmanager
def exclusive_lock(path: Path, me: str, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold a lock file with the contents `me` for the block; the lock ends with the process.

    If another process has it, raises ConfigurationError with the message that `refusal` returns for the holder's name. Raises
    OSError if the file cannot be opened, and the errors of `lock`.
    """
    fd = take_lock(path)
    if fd is None:
        raise ConfigurationError(refusal(path.read_bytes()[:64].decode() or "another process"))
    try:
        os.truncate(fd, 0)
        os.pwrite(fd, me.encode(), 0)
        yield
    finally:
        os.close(fd)


def kept_by_another(path: Path, what: str, waited_s: float) -> TransientError:
    """The error to raise after waiting in vain for the lock of `what`."""
    return TransientError(f"{what}: another process has had its lock {path} for more than {waited_s:.0f} s; wait for it, or end it")


@contextmanager
def locked(path: Path, what: str = "", within_s: float = LOCK_S) -> Iterator[None]:
    """Wait until no other process holds a lock file, and hold it for the block; the lock ends with the process.

    Raises TransientError, which names `what` the lock is for, if another process holds it for longer than `within_s`, and the errors
    of `lock`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        until, pause_s = time.monotonic() + within_s, 0.001
        while not lock(fd, path):
            if time.monotonic() > until:
                raise kept_by_another(path, what or str(path), within_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOOK_AGAIN_S)
        yield
    finally:
        os.close(fd)


class FullDisk:
    """Context manager that turns any exception of a writer into ResourceError when the disk below `place` is full.

    casacore raises a RuntimeError and astropy an OSError without a number, so that only the disk's free space shows the cause.
    """

    def __init__(self, what: str, place: Path) -> None:
        self._what, self._place = what, place

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, DsaError) and free_bytes(self._place) < NEARLY_FULL_BYTES:
            raise ResourceError(f"{self._what}: no space left on the disk ({error}); free some, work resumes by itself") from error


def free_bytes(place: Path) -> float:
    """The free space of the disk below `place` [bytes]; infinite if the place itself is gone, because then space is not the cause."""
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return float("inf")


NEARLY_FULL_BYTES = 1 << 20
"""With less than this free, a failed writer is taken to have run out of space: it writes blocks of up to this size."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
_FAILING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)


_LOCK_LOST = (errno.ENOLCK, errno.EINTR, *_FAILING)


@contextmanager
def typed_errors(what: str, *, only_full: bool = False, setting: str = "DSA110_ARCHIVE") -> Iterator[None]:
    """Turn the operating system's errors into this package's: disk full, no permission, lost file system.

    With `only_full`, convert only a full disk: for code that handles its other errors itself. `setting` is the name of the setting
    for the place.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "free some, work resumes by itself"
            raise ResourceError(f"{what}: no space left on the disk ({error}); {remedy}") from error
        if error.errno in _FORBIDDEN and not only_full:
            remedy = f"make it writable or set {setting} to a place that is"
            raise ConfigurationError(f"{what}: not possible ({error}); {remedy}") from error
        if error.errno in _FAILING and not only_full:
            raise TransientError(f"{what}: the file system failed ({error})") from error
        raise
