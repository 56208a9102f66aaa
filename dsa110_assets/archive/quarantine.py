"""Quarantine: records of raw files that are not used, and why. The files themselves are never touched.

A record applies only to the bytes it was made for: a file that has since changed in size or time is judged again.
Records are kept in the index and, for rebuilding it, as `<archive>/quarantine/<key>.json`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import xxhash
from sqlalchemy.engine import Connection

from dsa110_assets.archive import files, naming
from dsa110_assets.archive.index import quarantine as table
from dsa110_assets.errors import NotFoundError

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

log = logging.getLogger(__name__)
DIRECTORY = "quarantine"


@dataclass(frozen=True)
class Quarantined:
    """A quarantined file or group of files; `sizes_bytes` and `mtimes_ns` identify the bytes that were judged."""

    key: str
    paths: tuple[Path, ...]
    sizes_bytes: tuple[int | None, ...]
    mtimes_ns: tuple[int | None, ...]
    reason: str
    observation: str | None
    at: datetime
    released_at: datetime | None

    def holds_for(self, path: Path) -> bool:
        """Whether the record is not released and `path` is one of its files with unchanged bytes (by size and modification time)."""
        if self.released_at is not None or path.absolute() not in self.paths:
            return False
        i = self.paths.index(path.absolute())
        return _stamp(path) == (self.sizes_bytes[i], self.mtimes_ns[i])


def quarantine(archive: Archive, paths: Path | Sequence[Path], reason: str, observation: str | None = None) -> Quarantined:
    """Record that a file, or a group as a whole, is not used, and why. Repeating it changes nothing."""
    if not reason.strip():
        raise NotFoundError("a quarantine needs a reason")
    members = sorted(Path(p).absolute() for p in ([paths] if isinstance(paths, Path) else paths))
    stamps = [_stamp(path) for path in members]
    lines = [f"{path}|{size}|{mtime}" for path, (size, mtime) in zip(members, stamps, strict=True)]
    key = xxhash.xxh3_64_hexdigest("\0".join(lines).encode(errors="surrogateescape"))
    known = _find(archive, key)
    if known is not None and known.released_at is None and known.reason == reason:
        return known
    sizes, times = tuple(s for s, _ in stamps), tuple(t for _, t in stamps)
    record = Quarantined(
        key,
        tuple(members),
        sizes,
        times,
        reason,
        naming.check_partition(observation),
        datetime.now(UTC),
        None,
    )
    _write(archive, record)
    return record


def quarantined(archive: Archive, *, released: bool = False, observation: str | None = None) -> list[Quarantined]:
    """The records in force now, oldest first; with `released`, the released ones too.

    With `observation`, only groups quarantined as a whole under that partition. A row that is not a valid record is named in the log
    and left out.
    """
    query = sa.select(table.c.key, table.c.contents)
    if not released:
        query = query.where(~table.c.released)
    rows = archive.index.read(lambda c: c.execute(query).all())
    found = (_of_row(archive.root, row.key, row.contents) for row in rows)
    matching = (record for record in found if record is not None and (observation is None or record.observation == observation))
    return sorted(matching, key=lambda record: (record.at, record.key))


def get(archive: Archive, key: str) -> Quarantined:
    """The record with this key, released or not. Raises NotFoundError."""
    found = _find(archive, key)
    if found is None:
        raise NotFoundError(f"there is no quarantine record {key!r}; `dsa110 groups` and `dsa110 status` list them")
    return found


def release(archive: Archive, key_or_path: str | Path) -> list[Quarantined]:
    """Release a record (by key or observation), or all records of a file (by path or name), so that the files are tried again.

    Raises NotFoundError, with the number of records in force, when nothing is quarantined under that name.
    """
    name = str(key_or_path)
    records = quarantined(archive)
    matching = [
        record
        for record in records
        if name in (record.key, record.observation) or Path(name).absolute() in record.paths or name in {path.name for path in record.paths}
    ]
    if not matching:
        raise NotFoundError(f"{name} is not quarantined; {len(records)} records are (dsa110 groups lists them)")
    now = datetime.now(UTC)
    freed = [Quarantined(**{**vars(record), "released_at": now}) for record in matching]
    for record in freed:
        _write(archive, record)
    return freed


def store(connection: Connection, contents: dict[str, Any]) -> None:
    """Put the contents of one record's sidecar into the index (used when writing and when reindexing)."""
    row = {
        "key": contents["key"],
        "contents": json.dumps(contents, sort_keys=True),
        "released": contents["released_at"] is not None,
    }
    connection.execute(table.delete().where(table.c.key == contents["key"]))
    connection.execute(table.insert(), row)


def sidecars(root: Path, refused: dict[Path, str]) -> Iterable[dict[str, Any]]:
    """Yield the contents of the records on disk; a damaged or foreign file goes into `refused`, with the reason."""
    for path in sorted((root / DIRECTORY).glob("*.json")):
        try:
            contents = files.read_json(path)
            if _from_json(contents).key != path.stem:
                raise ValueError(f"it is the record of {contents['key']}")
        except (OSError, ValueError) as error:
            refused[path] = f"is no quarantine record ({error}); remove it: its files are judged afresh"
            log.error("%s %s", path, refused[path])
        else:
            yield contents


def _write(archive: Archive, record: Quarantined) -> None:
    contents = asdict(record) | {
        "paths": [str(path) for path in record.paths],
        "at": record.at.isoformat(),
        "released_at": record.released_at.isoformat() if record.released_at else None,
    }
    with files.typed_errors(f"{archive.root / DIRECTORY}"):
        (archive.root / DIRECTORY).mkdir(exist_ok=True)
        files.write_json(archive.root / DIRECTORY / f"{record.key}.json", contents)
    archive.index.write(lambda c: store(c, contents))


def _find(archive: Archive, key: str) -> Quarantined | None:
    query = sa.select(table.c.contents).where(table.c.key == key)
    text = archive.index.read(lambda c: c.scalar(query))
    return None if text is None else _of_row(archive.root, key, text)


def _of_row(root: Path, key: str, text: str) -> Quarantined | None:
    """The record of a row. If the row cannot be read, a message is logged and None returned: it must not hide the others."""
    try:
        return _from_json(json.loads(text))
    except ValueError as error:
        files.log_once(f"the index's quarantine record {key} cannot be read ({error}); remove {root / DIRECTORY / key}.json, "
                        "then run: dsa110 archive reindex")  # fmt: skip
        return None


def _from_json(contents: Any) -> Quarantined:
    """The record in a JSON object. Raises ValueError, which says what is wrong, if it is not a valid record."""
    try:
        released, at = contents["released_at"], datetime.fromisoformat(contents["at"])
        record = Quarantined(
            key=contents["key"],
            paths=tuple(Path(path) for path in contents["paths"]),
            sizes_bytes=tuple(contents["sizes_bytes"]),
            mtimes_ns=tuple(contents["mtimes_ns"]),
            reason=contents["reason"],
            observation=naming.check_partition(contents["observation"]),
            at=at,
            released_at=datetime.fromisoformat(released) if released else None,
        )
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]}") from None
    except (AttributeError, TypeError, NotFoundError) as error:
        raise ValueError(str(error)) from None
    if at.tzinfo is None or not isinstance(record.reason, str):
        raise ValueError("its time has no time zone, or its reason is not text")
    if not len(record.paths) == len(record.sizes_bytes) == len(record.mtimes_ns):
        raise ValueError("its numbers of files, sizes and times differ")
    return record


def _stamp(path: Path) -> tuple[int | None, int | None]:
    """The size [bytes] and modification time [ns] of a file; (None, None) if it does not exist."""
    try:
        status = path.lstat()
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns
