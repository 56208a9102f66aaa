"""Claims: records of what is being changed or read right now, so that after a crash it is known where to look.

    <root>/.open/<name>     {"places": ["<asset>/night=.../partition=..."], "reads": [product ids]}

A claim is made before anything else is touched and withdrawn once everything is done; after a failure it stays. Its
process holds a lock on its file: a free lock means that the process died or failed. `integrity.sweep` looks only where
such claims point; retention keeps the products that a claim reads.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dsa110_assets.archive import files
from dsa110_assets.errors import DsaError

log = logging.getLogger(__name__)
DIRECTORY = ".open"


@dataclass(frozen=True)
class Claim:
    """One piece of work (`name`), the directories of assets' partitions that it changes, and the ids of products that it reads."""

    name: str
    places: tuple[PurePosixPath, ...]
    reads: tuple[str, ...]


@contextmanager
def claim(
    root: Path,
    places: Sequence[PurePosixPath] = (),
    reads: Sequence[str] = (),
    name: str = "claim",
    check: Callable[[], object] = lambda: None,
) -> Iterator[Claim]:
    """Claim places to change and products to read for the duration of the block. If it fails or is killed, the claim stays, unlocked.

    `check` is called once the claim is in place. If it raises, the block does not begin and the claim is removed: left behind, it
    would protect the products it reads from retention until the next sweep.
    """
    made = Claim(f"{name}-{uuid.uuid4().hex[:12]}", tuple(places), tuple(reads))
    folder = root / DIRECTORY
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{made.name}"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        files.lock(descriptor, fresh)  # before the rename, so that the claim of a living process is never found unlocked
        os.write(descriptor, json.dumps({"places": [str(p) for p in made.places], "reads": made.reads}).encode())
        os.fsync(descriptor)
        os.rename(fresh, folder / made.name)
        files.fsync_directory(folder)
        try:
            check()
        except DsaError:
            (folder / made.name).unlink(missing_ok=True)
            raise
        yield made
        (folder / made.name).unlink(missing_ok=True)
    finally:
        fresh.unlink(missing_ok=True)  # still there only if the disk was full before the rename
        os.close(descriptor)


def claims(root: Path) -> list[Claim]:
    """All claims, of living and of dead processes."""
    return [read(root, name) for name in unfinished(root) if not name.startswith(".")]


def read(root: Path, name: str) -> Claim:
    """The claim with this name. A file that is not a claim, or has gone meanwhile, claims nothing."""
    contents = files.read_json(root / DIRECTORY / name)
    try:
        return Claim(name, tuple(PurePosixPath(place) for place in contents["places"]), tuple(map(str, contents["reads"])))
    except (KeyError, TypeError) as error:
        if contents is not None:
            log.error("%s is not a claim of this archive (%s) and is ignored", root / DIRECTORY / name, error)
        return Claim(name, (), ())


def read_now(root: Path) -> set[str]:
    """The ids of the products read by work that has begun and has neither ended nor been swept."""
    return {product_id for held in claims(root) for product_id in held.reads}


def alive(root: Path, name: str) -> bool:
    """Whether the process of this claim is still at work."""
    descriptor = files.take_lock(root / DIRECTORY / name, create=False)
    if descriptor is None:
        return (root / DIRECTORY / name).exists()
    os.close(descriptor)
    return False


@contextmanager
def taken_over(root: Path, name: str) -> Iterator[bool]:
    """Take over a dead claim for the block and withdraw it at the end; yields False when its process is alive."""
    path = root / DIRECTORY / name
    descriptor = files.take_lock(path, create=False)
    try:
        yield descriptor is not None
        if descriptor is not None:
            path.unlink(missing_ok=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def unfinished(root: Path) -> list[str]:
    """The names of all claims, including those whose process was killed before the rename."""
    folder = root / DIRECTORY
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
