"""Durable files: sealing (digest and fsync), atomic small writes, locks, removal, crash points.

Everything a crash could tear goes through here. `crash_point` names the places where the tests kill the
process; it does nothing unless DSA110_CRASH_AT is set.
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
"""Places in publishing, in their order: from `renamed` on the product is whole on disk, at `indexed` it has its row."""
UNSEALED = frozenset({SIDECAR, "table.lock"})
"""Left out of digest and size: the sidecar holds them, and casacore may write table.lock while reading."""
_CHUNK = 1 << 20
LOCK_S, _LOOK_AGAIN_S = 60.0, 0.2
"""How long a lock is waited for, where no more is said: the work behind most takes milliseconds."""


def crash_point(name: str, asset: str) -> None:
    """Die here if DSA110_CRASH_AT says so: `renamed`, `tile_image/renamed` or `renamed:SIGTERM`."""
    wanted = os.environ.get("DSA110_CRASH_AT")
    if wanted is None:
        return
    place, _, how = wanted.partition(":")
    if place in (name, f"{asset}/{name}"):
        os.kill(os.getpid(), signal.Signals[how or "SIGKILL"])


@dataclass(frozen=True)
class Seal:
    """Size and digest of a product's files."""

    size_bytes: int
    digest: str


def seal(directory: Path, *, durable: bool) -> Seal:
    """Digest (xxh3_128 over sorted relative paths, sizes and bytes) and size; fsync too if `durable`.

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
    """xxh3_128 of one file's bytes; they stay in the page cache for a reader that comes next."""
    total = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        _feed(total, file.fileno(), memoryview(bytearray(_CHUNK)))
    return total.hexdigest()


def read_ahead(paths: Iterable[Path]) -> None:
    """Have the system fetch files into its page cache while something else is done; those it cannot open are left out."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:  # whoever needs its bytes says what is wrong with it
            continue
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)


def _feed(total: xxhash.xxh3_128, fd: int, chunk: memoryview) -> None:
    """The rest of a file into a digest, by way of `chunk`: memory never used before costs more than the digest."""
    while n := os.readv(fd, [chunk]):
        total.update(chunk[:n])


def size(directory: Path) -> int:
    """Bytes in a product's sealed files, from their directory entries alone."""
    return sum(path.stat().st_size for path in _walk(directory) if path.name not in UNSEALED)


def _walk(directory: Path) -> Iterator[Path]:
    """Regular files below `directory`, sorted by relative path."""
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
    """Write JSON so that a reader sees the old file or the new one, whole, even after a power cut."""
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
    """The contents of a small JSON file; None when it is absent or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


@cache
def log_once(message: str) -> None:
    """Log an error once in a process: the same rows are looked at every few seconds."""
    log.error(message)


def remove_tree(directory: Path) -> None:
    """Remove a directory so that no reader can see half of it: renamed out of sight first."""
    hidden = directory.with_name(f".tmp-removed-{uuid.uuid4().hex[:12]}")
    try:
        os.rename(directory, hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden)
    fsync_directory(directory.parent)


def take_lock(path: Path, *, create: bool = True) -> int | None:
    """Lock a file until its descriptor is closed or the process dies; None when another process holds it.

    Without `create`, also None when there is no such file. Raises what `lock` raises.
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

    Raises ConfigurationError where the file system knows no locks, TransientError where it refuses one for now.
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
    """Hold a lock file that says `me` for the block; it dies with the process.

    Raises ConfigurationError with what `refusal` makes of the holder's name if another process has it, OSError if the
    file cannot be opened, and what `lock` raises.
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
    """The error of who has waited for the lock of `what` in vain."""
    return TransientError(f"{what}: another process has had its lock {path} for more than {waited_s:.0f} s; wait for it, or end it")


@contextmanager
def locked(path: Path, what: str = "", within_s: float = LOCK_S) -> Iterator[None]:
    """Hold a lock file for the block, once no other process does; it dies with the process.

    Raises TransientError, naming `what` it is for, if another process holds it for longer than `within_s`, and what `lock` raises.
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
    """Turns whatever a writer raises into ResourceError when the disk below `place` is full.

    casacore raises a RuntimeError of its own, astropy an OSError without a number: only the disk tells.
    """

    def __init__(self, what: str, place: Path) -> None:
        self._what, self._place = what, place

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, DsaError) and free_bytes(self._place) < NEARLY_FULL_BYTES:
            raise ResourceError(f"{self._what}: no space left on the disk ({error}); free some, work resumes by itself") from error


def free_bytes(place: Path) -> float:
    """Free space of the disk below `place`; infinite when the place itself is gone: then that is not what failed."""
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return float("inf")


NEARLY_FULL_BYTES = 1 << 20
"""A writer that fails with less than this left failed for want of space: it writes blocks of up to so much."""
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

    With `only_full`, a full disk alone: for code whose other errors are its own. `setting` names the place.
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
