"""Backup and restore of all that cannot be computed again: index, caltables, states, quarantine, judgements, Dagster's history.

    <destination>/backup-20260125T223000/
        archive.json  manifest.json            the archive's id; the digest of every file
        index.sqlite | index.dump              SQLite's online backup, or pg_dump's custom format
        files/                                 caltables, state files, quarantine records, judgements, requests, audit, as in the archive
        dagster/                               Dagster's databases (or dagster.dump), as in its home directory

A backup is written under a temporary name, verified, and only then renamed: a backup under its final name is complete.
After a restore, `integrity.sweep` adopts the products that are newer than the snapshot.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsa110_assets.archive import audit, databases, files, judgements, naming, quarantine
from dsa110_assets.archive.caltable_registry import BY_HAND
from dsa110_assets.archive.index import normalise_url
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import MARKER, Archive
from dsa110_assets.errors import NotFoundError, SilentWrongnessError

log = logging.getLogger(__name__)
_NAME = re.compile(r"backup-\d{8}T\d{6}(-\d+)?")


@dataclass(frozen=True)
class Dagster:
    """The location of Dagster's history: its home directory, and the URL of its PostgreSQL database if it has one."""

    home: Path
    url: str | None = None


@dataclass(frozen=True)
class Backup:
    """One finished backup: its path, time, size and number of caltables products. `left_out` are damaged caltables of which no
    earlier backup has an undamaged copy, and single Dagster runs whose databases are damaged, each with the reason."""

    path: Path
    at: datetime
    size_bytes: int
    caltables: int
    left_out: tuple[str, ...] = ()


def backup(archive: Archive, destination: Path, *, keep: int, dagster: Dagster | None = None, now: datetime | None = None) -> Backup:
    """Make a verified backup in `destination`, with Dagster's history if `dagster` is given, and keep the newest `keep`.

    A damaged caltable is taken from the newest backup that has it undamaged. Raises SilentWrongnessError if the copy differs
    from its source, ConfigurationError if it cannot be written or a program is missing, ResourceError on a full disk.
    """
    at = now or datetime.now(UTC)
    destination = destination.absolute()
    temporary = destination / f".tmp-backup-{uuid.uuid4().hex[:12]}"
    with files.typed_errors(f"Backup to {destination}", setting="DSA110_BACKUPS"):
        temporary.mkdir(parents=True)
        try:
            shutil.copy2(archive.root / MARKER, temporary / MARKER)
            archive.index.read(lambda _: None)  # a clear error where it is missing or damaged
            databases.dump(archive.index.url, temporary, "index")
            left_out = _dump_dagster(dagster, temporary) if dagster is not None else ()
            earlier = [previous.path / "files" for previous in reversed(backups(destination))]
            caltables, damaged = _copy_files(archive, temporary / "files", earlier)
            left_out += damaged
            digests = dict(_digests(temporary))
            files.write_json(
                temporary / "manifest.json",
                {"at": at.isoformat(), "files": digests, "caltables": caltables, "left_out": list(left_out)},
            )
            sealed = files.seal(temporary, durable=True)
            path = _free_name(destination, at)
            os.rename(temporary, path)
            files.fsync_directory(destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _rotate(destination, keep)
    return Backup(path, at, sealed.size_bytes, caltables, left_out)


def backups(destination: Path) -> list[Backup]:
    """The finished backups in `destination`, oldest first."""
    found = []
    for path in sorted(destination.glob("backup-*")) if destination.is_dir() else []:
        if not _NAME.fullmatch(path.name):
            continue
        try:
            manifest = files.read_json(path / "manifest.json")
            at = datetime.fromisoformat(manifest["at"]).astimezone(UTC)
            found.append(Backup(path, at, files.size(path), int(manifest["caltables"]), tuple(manifest.get("left_out", ()))))
        except (LookupError, TypeError, ValueError, OSError, SilentWrongnessError) as error:
            log.warning("%s is not a finished backup and is left as it is: %s", path, error)
    return sorted(found, key=lambda made: (made.at, made.path.name))


def verify_backup(path: Path) -> list[str]:
    """The problems found in a backup; [] if every file is as it was written."""
    manifest = files.read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return [f"{path}: manifest.json is missing or unreadable"]
    expected, found = manifest["files"], dict(_digests(path))
    names = sorted(expected.keys() | found.keys())
    return [f"{path / name}: missing or changed" for name in names if expected.get(name) != found.get(name)]


def restore(path: Path, root: Path, database_url: str | None = None, dagster: Dagster | None = None) -> None:
    """Bring index, caltables, states and quarantine records back from the backup at `path` into `root`.

    With `dagster`, Dagster's history is restored too: then no part of the platform may be running. The index is replaced by
    that of the backup; existing files are left as they are. Run `integrity.sweep(everywhere=True)` afterwards. Raises
    NotFoundError (no backup), SilentWrongnessError (damaged, or of another archive), ConfigurationError (not
    writable, or of the other kind of database).
    """
    if not _NAME.fullmatch(path.name) or not path.is_dir():
        raise NotFoundError(f"{path} is no backup; they are called backup-20260125T223000")
    if problems := verify_backup(path):
        raise SilentWrongnessError(f"backup {path} is damaged: {problems[0]}; choose an older one")
    marker, existing = files.read_json(path / MARKER), files.read_json(root / MARKER)
    if existing is not None and existing["archive_id"] != marker["archive_id"]:
        raise SilentWrongnessError(f"backup {path} is of another archive than {root}; correct DSA110_ARCHIVE")
    with files.typed_errors(f"DSA110_ARCHIVE={root}"):
        root.mkdir(parents=True, exist_ok=True)
        if existing is None:
            files.write_json(root / MARKER, marker)
        archive = Archive(root, database_url)
        databases.load(archive.index.url, path, "index")
        if dagster is not None:
            _load_dagster(dagster, path)
        _bring_back(path / "files", archive.root)


def _dump_dagster(dagster: Dagster, directory: Path) -> tuple[str, ...]:
    """Copy snapshots of Dagster's databases and its configuration. Returns the reasons for what is left out: runs with a damaged
    database."""
    left_out = []
    if dagster.url is not None:
        databases.dump(normalise_url(dagster.url, "DAGSTER_PG_URL"), directory, "dagster")
    for source in sorted(dagster.home.rglob("*.db")) if dagster.url is None else ():
        try:
            databases.dump_sqlite(source, directory / "dagster" / source.relative_to(dagster.home))
        except SilentWrongnessError as error:
            if source.parent.name != "runs" or source.name == "index.db":
                raise
            log.error("left out of the backup, the others are in it: %s", error)
            left_out.append(str(error))
    if (dagster.home / "dagster.yaml").exists():
        (directory / "dagster").mkdir(exist_ok=True)
        shutil.copy2(dagster.home / "dagster.yaml", directory / "dagster" / "dagster.yaml")
    return tuple(left_out)


def _load_dagster(dagster: Dagster, path: Path) -> None:
    """Restore Dagster's databases and configuration. Databases that are not in the backup are removed, so that the state is consistent."""
    if dagster.url is not None:
        databases.load(normalise_url(dagster.url, "DAGSTER_PG_URL"), path, "dagster")
    for old in sorted(dagster.home.rglob("*.db")) if dagster.url is None else ():
        for part in (old, Path(f"{old}-wal"), Path(f"{old}-shm")):
            part.unlink(missing_ok=True)
    for snapshot in sorted((path / "dagster").rglob("*.db")):
        databases.load_sqlite(snapshot, dagster.home / snapshot.relative_to(path / "dagster"))
    configuration = path / "dagster" / "dagster.yaml"
    if configuration.exists() and not (dagster.home / "dagster.yaml").exists():
        dagster.home.mkdir(parents=True, exist_ok=True)
        shutil.copy2(configuration, dagster.home / "dagster.yaml")


def _copy_files(archive: Archive, target: Path, earlier: Sequence[Path]) -> tuple[int, tuple[str, ...]]:
    """Copy caltables (each verified against its published digest), states, quarantine records, judgements, requests and the audit.

    Returns the number of caltables copied, and the reasons why others are left out: those damaged here and in the copies in `earlier`.
    They do not prevent the backup of the others.
    """
    target.mkdir()
    kept = [p for asset in ("caltables", BY_HAND) for p in archive.products(asset, state=None) if not p.removed]
    damaged = []
    for product in kept:
        place = product.path.relative_to(archive.root)
        if not any(_copied(product, root / place, target / place) for root in (archive.root, *earlier)):
            damaged.append(f"{product.id} is damaged, and no earlier backup has it whole; run: dsa110 archive verify")
            log.error("left out of the backup, the others are in it: %s", damaged[-1])
    small = [*archive.root.glob("*/*.state.json"), *archive.root.glob("*/night=*/partition=*/*.state.json")]
    small += [path for folder in (quarantine.DIRECTORY, judgements.DIRECTORY) for path in (archive.root / folder).glob("*.json")]
    small += [*archive.root.glob("*/name=*/*.json"), *archive.root.glob(audit.FILE)]
    for path in small:
        copy = target / path.relative_to(archive.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return len(kept) - len(damaged), tuple(damaged)


def _copied(product: Product, source: Path, copy: Path) -> bool:
    """Copy a product from `source` if it exists there undamaged, and return whether it was copied."""
    if not source.is_dir():
        return False
    shutil.copytree(source, copy)
    if files.seal(copy, durable=False).digest == product.digest:
        return True
    shutil.rmtree(copy)
    return False


def _bring_back(source: Path, root: Path) -> None:
    """Copy missing files back into the archive, products by rename so that none is ever incomplete."""
    for sidecar in sorted(source.rglob(naming.SIDECAR)):
        target = root / sidecar.parent.relative_to(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f".tmp-restore-{uuid.uuid4().hex[:12]}"
            shutil.copytree(sidecar.parent, temporary)
            files.seal(temporary, durable=True)
            os.rename(temporary, target)
            files.fsync_up(target.parent, root)
    for path in source.glob(audit.FILE):
        if not (root / audit.FILE).exists():
            shutil.copy2(path, root / audit.FILE)
    for path in sorted(source.rglob("*.json")):
        target = root / path.relative_to(source)
        if path.name != naming.SIDECAR and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(target, files.read_json(path))


def _digests(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and digest of each file of a backup except its manifest."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / "manifest.json":
            yield path.relative_to(directory).as_posix(), files.digest(path)


def _free_name(destination: Path, at: datetime) -> Path:
    """The backup's final path; a second one in the same second gets a number."""
    base = f"backup-{at.astimezone(UTC):%Y%m%dT%H%M%S}"
    names = [base, *(f"{base}-{i}" for i in range(2, 1000))]
    return next(destination / name for name in names if not (destination / name).exists())


def _rotate(destination: Path, keep: int) -> None:
    """Remove all but the newest `keep` backups."""
    for old in backups(destination)[: -max(1, keep)]:
        files.remove_tree(old.path)
