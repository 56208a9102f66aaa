"""Claims: what is being changed or read right now, so that a crash leaves word of where to look.

    <root>/.open/<name>     {"places": ["<asset>/night=.../partition=..."], "reads": [product ids]}

A claim is made before anything else is touched and withdrawn once everything is done; after a failure it stays. Its
file is locked by its process: free means dead or failed. `integrity.sweep` looks only where such claims point;
retention keeps what a claim reads.
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
    """Whose work it is (`name`), the directories of assets' partitions it changes, the products it reads."""

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
    """Claim places and what is read for the time of the block. Where it fails or is killed, the claim stays, unlocked.

    `check` is called once the claim stands. Where it raises, nothing is begun, and the claim goes: left behind, it would
    keep what it reads from retention until it is swept.
    """
    made = Claim(f"{name}-{uuid.uuid4().hex[:12]}", tuple(places), tuple(reads))
    folder = root / DIRECTORY
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{made.name}"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        files.lock(descriptor, fresh)  # before it has its name: a named one is never unlocked and alive
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
        fresh.unlink(missing_ok=True)  # it has its name, unless the disk was full
        os.close(descriptor)


def claims(root: Path) -> list[Claim]:
    """Every claim, of the living and of the dead."""
    return [read(root, name) for name in unfinished(root) if not name.startswith(".")]


def read(root: Path, name: str) -> Claim:
    """The claim of this name. What is none of ours, or is gone meanwhile, claims nothing."""
    contents = files.read_json(root / DIRECTORY / name)
    try:
        return Claim(name, tuple(PurePosixPath(place) for place in contents["places"]), tuple(map(str, contents["reads"])))
    except (KeyError, TypeError) as error:
        if contents is not None:
            log.error("%s is no claim of this archive (%s) and claims nothing", root / DIRECTORY / name, error)
        return Claim(name, (), ())


def read_now(root: Path) -> set[str]:
    """Ids of the products that work begun and not ended (nor swept) reads."""
    return {product_id for one in claims(root) for product_id in one.reads}


def alive(root: Path, name: str) -> bool:
    """Whether the process of this claim still works on it."""
    descriptor = files.take_lock(root / DIRECTORY / name, create=False)
    if descriptor is None:
        return (root / DIRECTORY / name).exists()
    os.close(descriptor)
    return False


@contextmanager
def taken_over(root: Path, name: str) -> Iterator[bool]:
    """Take over a dead claim for the block, and withdraw it at its end; False when its process is alive."""
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
    """Names of all claims, also of those killed before they had their name."""
    folder = root / DIRECTORY
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
