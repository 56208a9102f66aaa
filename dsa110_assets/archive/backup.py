"""Backup and restore of what cannot be computed again: the index, caltables, states and quarantine records.

    <destination>/backup-20260125T223000/
        archive.json  manifest.json            whose it is; digest of every file
        index.sqlite | index.dump              SQLite's online backup, or pg_dump's custom format
        files/                                 caltables, state files, quarantine records, as in the archive

A backup is written under a temporary name, verified, and only then renamed: one that has its name is whole.
After a restore, `integrity.sweep` adopts the products the snapshot did not know yet.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import xxhash
from sqlalchemy.engine import URL

from dsa110_assets import children
from dsa110_assets.archive import files, naming, quarantine
from dsa110_assets.archive.store import MARKER, Archive
from dsa110_assets.errors import ConfigurationError, NotFoundError, SilentWrongnessError

_NAME = re.compile(r"backup-\d{8}T\d{6}(-\d+)?")
_DUMP_DEADLINE_S = 3600.0


@dataclass(frozen=True)
class Backup:
    """One finished backup: where, when, how large, and how many caltables products it holds."""

    path: Path
    at: datetime
    size_bytes: int
    caltables: int


def backup(archive: Archive, destination: Path, *, keep: int, now: datetime | None = None) -> Backup:
    """Make a verified backup in `destination` and remove all but the newest `keep`.

    Raises SilentWrongnessError if the copy differs from what it was made of or a caltable is damaged,
    ConfigurationError if it cannot be written or a program is missing, ResourceError on a full disk.
    """
    at = now or datetime.now(UTC)
    destination = destination.absolute()
    temporary = destination / f".tmp-backup-{uuid.uuid4().hex[:12]}"
    with files.typed_errors(f"Backup to {destination}"):
        temporary.mkdir(parents=True)
        try:
            shutil.copy2(archive.root / MARKER, temporary / MARKER)
            _dump(archive, temporary)
            caltables = _copy_files(archive, temporary / "files")
            digests = dict(_digests(temporary))
            files.write_json(
                temporary / "manifest.json", {"at": at.isoformat(), "files": digests, "caltables": caltables}
            )
            _check_index(archive, temporary)
            sealed = files.seal(temporary, durable=True)
            path = _free_name(destination, at)
            os.rename(temporary, path)
            files.fsync_directory(destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _rotate(destination, keep)
    return Backup(path, at, sealed.size_bytes, caltables)


def backups(destination: Path) -> list[Backup]:
    """The finished backups in `destination`, oldest first."""
    found = []
    for path in sorted(destination.glob("backup-*")) if destination.is_dir() else []:
        manifest = files.read_json(path / "manifest.json")
        if _NAME.fullmatch(path.name) and isinstance(manifest, dict):
            at = datetime.fromisoformat(manifest["at"])
            found.append(Backup(path, at, files.size(path), manifest["caltables"]))
    return sorted(found, key=lambda one: (one.at, one.path.name))


def verify_backup(path: Path) -> list[str]:
    """What is wrong with a backup; [] if every file is as it was written."""
    manifest = files.read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        return [f"{path}: manifest.json is missing or unreadable"]
    expected, found = manifest["files"], dict(_digests(path))
    names = sorted(expected.keys() | found.keys())
    return [f"{path / name}: missing or changed" for name in names if expected.get(name) != found.get(name)]


def restore(path: Path, root: Path, database_url: str | None = None) -> None:
    """Bring index, caltables, states and quarantine records back from the backup at `path` into `root`.

    The index becomes the backup's; files that are there and whole are left as they are. Run
    `integrity.sweep` afterwards. Raises NotFoundError (no backup), SilentWrongnessError (damaged, or of
    another archive), ConfigurationError (not writable).
    """
    if not _NAME.fullmatch(path.name) or not path.is_dir():
        raise NotFoundError(f"{path} is no backup; they are called backup-20260125T223000")
    if problems := verify_backup(path):
        raise SilentWrongnessError(f"backup {path} is damaged: {problems[0]}; choose an older one")
    marker, here = files.read_json(path / MARKER), files.read_json(root / MARKER)
    if here is not None and here["archive_id"] != marker["archive_id"]:
        raise SilentWrongnessError(f"backup {path} is of another archive than {root}; correct DSA110_ARCHIVE")
    with files.typed_errors(f"DSA110_ARCHIVE={root}"):
        root.mkdir(parents=True, exist_ok=True)
        if here is None:
            files.write_json(root / MARKER, marker)
        archive = Archive(root, database_url)
        _load(archive, path)
        _bring_back(path / "files", archive.root)


def _dump(archive: Archive, directory: Path) -> None:
    """A consistent snapshot of the index, taken while it is in use."""
    url = archive.index.url
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        archive.index.read(lambda _: None)  # a clear error where it is missing or damaged
        with (
            closing(sqlite3.connect(url.database)) as source,
            closing(sqlite3.connect(directory / "index.sqlite")) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, whole without its -wal
        return
    _postgres(
        ["pg_dump", "--format=custom", "--no-owner", f"--file={directory / 'index.dump'}"], url, directory
    )


def _load(archive: Archive, path: Path) -> None:
    """Put a snapshot in the index's place."""
    url = archive.index.url
    if url.get_backend_name() == "sqlite":
        if not (path / "index.sqlite").exists():
            raise ConfigurationError(f"backup {path} is of PostgreSQL; set DSA110_DATABASE_URL")
        assert url.database is not None
        target = Path(url.database)
        fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        shutil.copy2(path / "index.sqlite", fresh)
        with closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        for suffix in ("-wal", "-shm"):
            Path(f"{target}{suffix}").unlink(missing_ok=True)
        os.rename(fresh, target)
        files.fsync_directory(target.parent)
        return
    if not (path / "index.dump").exists():
        raise ConfigurationError(
            f"backup {path} is of SQLite; unset DSA110_DATABASE_URL, or use: dsa110 archive reindex"
        )
    options = ["--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error"]
    assert url.database is not None
    _postgres(
        ["pg_restore", *options, f"--dbname={url.database}", str(path / "index.dump")], url, archive.root
    )


def _check_index(archive: Archive, directory: Path) -> None:
    """Make sure that the snapshot can be read. Raises SilentWrongnessError."""
    snapshot = directory / "index.sqlite"
    if snapshot.exists():
        with closing(sqlite3.connect(f"file:{snapshot}?mode=ro", uri=True)) as connection:
            verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
            known = connection.execute("SELECT count(*) FROM products").fetchone()[0]
        if verdict != "ok":
            raise SilentWrongnessError(
                f"the snapshot of the index is damaged ({verdict}); the disk may be failing"
            )
        if not known and archive.products(state=None):
            raise SilentWrongnessError("the snapshot of the index is empty, the index is not")
        return
    log_path = directory.with_name(f"{directory.name}.log")
    listed = children.run(
        ["pg_restore", "--list", str(directory / "index.dump")],
        deadline_s=_DUMP_DEADLINE_S,
        log_path=log_path,
    )
    listed.require_success()
    complete = "TABLE DATA public products" in log_path.read_text(errors="replace")
    log_path.unlink()
    if not complete:
        raise SilentWrongnessError("the snapshot of the index has no products table")


def _postgres(command: Sequence[str], url: URL, directory: Path) -> None:
    """Run one of PostgreSQL's programs on the index; the password travels in the child's environment only."""
    settings = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
    given = {name: str(value) for name, value in settings.items() if value is not None}
    environment = {**os.environ, **given, "PGDATABASE": url.database or ""}
    log_path = directory / f".{command[0]}.log"
    done = children.run(command, deadline_s=_DUMP_DEADLINE_S, log_path=log_path, env=environment)
    done.require_success()
    log_path.unlink()


def _copy_files(archive: Archive, target: Path) -> int:
    """Copy caltables (each verified against its published digest), states and quarantine records."""
    target.mkdir()
    kept = [p for p in archive.products("caltables", state=None) if not p.removed]
    for product in kept:
        copy = target / product.path.relative_to(archive.root)
        shutil.copytree(product.path, copy)
        if files.seal(copy, durable=False).digest != product.digest:
            raise SilentWrongnessError(
                f"{product.id} is damaged, its backup would be; run: dsa110 archive verify"
            )
    small = [*archive.root.glob("*/*.state.json"), *archive.root.glob("*/night=*/partition=*/*.state.json")]
    small += (archive.root / quarantine.DIRECTORY).glob("*.json")
    for path in small:
        copy = target / path.relative_to(archive.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return len(kept)


def _bring_back(source: Path, root: Path) -> None:
    """Copy back what is missing in the archive, products by rename so that none is ever half there."""
    for sidecar in sorted(source.rglob(naming.SIDECAR)):
        target = root / sidecar.parent.relative_to(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f".tmp-restore-{uuid.uuid4().hex[:12]}"
            shutil.copytree(sidecar.parent, temporary)
            files.seal(temporary, durable=True)
            os.rename(temporary, target)
            files.fsync_up(target.parent, root)
    for path in sorted(source.rglob("*.json")):
        target = root / path.relative_to(source)
        if path.name != naming.SIDECAR and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(target, files.read_json(path))


def _digests(directory: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of each file of a backup but its manifest."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / "manifest.json":
            digest = xxhash.xxh3_128()
            with path.open("rb") as handle:
                while chunk := handle.read(4 << 20):
                    digest.update(chunk)
            yield path.relative_to(directory).as_posix(), digest.hexdigest()


def _free_name(destination: Path, at: datetime) -> Path:
    """The backup's final name; two in one second get a number."""
    base = f"backup-{at.astimezone(UTC):%Y%m%dT%H%M%S}"
    names = [base, *(f"{base}-{i}" for i in range(2, 1000))]
    return next(destination / name for name in names if not (destination / name).exists())


def _rotate(destination: Path, keep: int) -> None:
    """Remove all but the newest `keep` backups."""
    for old in backups(destination)[: -max(1, keep)]:
        files.remove_tree(old.path)
