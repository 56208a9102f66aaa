"""Quarantine: which raw files are not used, and why. The files themselves are never touched.

A record holds for the bytes it was made for: a file that has since changed in size or time is judged afresh.
Records live in the index and, for rebuilding it, as `<archive>/quarantine/<key>.json`.
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
    """A quarantined file or group of files; `sizes_bytes` and `mtimes_ns` tell which bytes were judged."""

    key: str
    paths: tuple[Path, ...]
    sizes_bytes: tuple[int | None, ...]
    mtimes_ns: tuple[int | None, ...]
    reason: str
    observation: str | None
    at: datetime
    released_at: datetime | None

    def holds_for(self, path: Path) -> bool:
        """Whether `path` is one of these files and still the same bytes (by size and modification time)."""
        if self.released_at is not None or path.absolute() not in self.paths:
            return False
        i = self.paths.index(path.absolute())
        return _stamp(path) == (self.sizes_bytes[i], self.mtimes_ns[i])


def quarantine(archive: Archive, paths: Path | Sequence[Path], reason: str, observation: str | None = None) -> Quarantined:
    """Record that a file, or a group as a whole, is not used and why. Doing it again changes nothing."""
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
    one = Quarantined(
        key,
        tuple(members),
        sizes,
        times,
        reason,
        naming.check_partition(observation),
        datetime.now(UTC),
        None,
    )
    _write(archive, one)
    return one


def quarantined(archive: Archive, *, released: bool = False, observation: str | None = None) -> list[Quarantined]:
    """What is quarantined now, oldest first; with `released`, also what was and is no more.

    With `observation`, only groups put aside as a whole under that partition. A row that is no record is named in the log and
    left out.
    """
    query = sa.select(table.c.key, table.c.contents)
    if not released:
        query = query.where(~table.c.released)
    rows = archive.index.read(lambda c: c.execute(query).all())
    found = (_of_row(archive.root, row.key, row.contents) for row in rows)
    wanted = (one for one in found if one is not None and (observation is None or one.observation == observation))
    return sorted(wanted, key=lambda one: (one.at, one.key))


def get(archive: Archive, key: str) -> Quarantined:
    """The record of this key, also if it was released. Raises NotFoundError."""
    found = _find(archive, key)
    if found is None:
        raise NotFoundError(f"there is no quarantine record {key!r}; `dsa110 groups` and `dsa110 status` list them")
    return found


def release(archive: Archive, key_or_path: str | Path) -> list[Quarantined]:
    """Let the files of a record (by key or observation), or all records of a file (by path or name), be tried again.

    Raises NotFoundError, saying how many there are, when nothing is quarantined under that name.
    """
    wanted = str(key_or_path)
    there = quarantined(archive)
    matching = [
        one
        for one in there
        if wanted in (one.key, one.observation) or Path(wanted).absolute() in one.paths or wanted in {path.name for path in one.paths}
    ]
    if not matching:
        raise NotFoundError(f"{wanted} is not quarantined; {len(there)} records are (dsa110 groups lists them)")
    now = datetime.now(UTC)
    freed = [Quarantined(**{**vars(one), "released_at": now}) for one in matching]
    for one in freed:
        _write(archive, one)
    return freed


def store(connection: Connection, contents: dict[str, Any]) -> None:
    """Put one record's sidecar into the index (used by writing and by reindexing)."""
    row = {
        "key": contents["key"],
        "contents": json.dumps(contents, sort_keys=True),
        "released": contents["released_at"] is not None,
    }
    connection.execute(table.delete().where(table.c.key == contents["key"]))
    connection.execute(table.insert(), row)


def sidecars(root: Path, refused: dict[Path, str]) -> Iterable[dict[str, Any]]:
    """The records on disk; a torn or foreign file goes into `refused`, with the reason."""
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


def _write(archive: Archive, one: Quarantined) -> None:
    contents = asdict(one) | {
        "paths": [str(path) for path in one.paths],
        "at": one.at.isoformat(),
        "released_at": one.released_at.isoformat() if one.released_at else None,
    }
    with files.typed_errors(f"{archive.root / DIRECTORY}"):
        (archive.root / DIRECTORY).mkdir(exist_ok=True)
        files.write_json(archive.root / DIRECTORY / f"{one.key}.json", contents)
    archive.index.write(lambda c: store(c, contents))


def _find(archive: Archive, key: str) -> Quarantined | None:
    query = sa.select(table.c.contents).where(table.c.key == key)
    text = archive.index.read(lambda c: c.scalar(query))
    return None if text is None else _of_row(archive.root, key, text)


def _of_row(root: Path, key: str, text: str) -> Quarantined | None:
    """The record of a row; None, and a word in the log, if it is none: it must not hide the others."""
    try:
        return _from_json(json.loads(text))
    except ValueError as error:
        files.tell_once(f"the index's quarantine record {key} cannot be read ({error}); remove {root / DIRECTORY / key}.json, "
                        "then run: dsa110 archive reindex")  # fmt: skip
        return None


def _from_json(contents: Any) -> Quarantined:
    """The record that JSON tells. Raises ValueError, saying what is wrong, for what tells none."""
    try:
        released, at = contents["released_at"], datetime.fromisoformat(contents["at"])
        one = Quarantined(
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
    if at.tzinfo is None or not isinstance(one.reason, str):
        raise ValueError("its time has no time zone, or its reason is no text")
    if not len(one.paths) == len(one.sizes_bytes) == len(one.mtimes_ns):
        raise ValueError("it tells of more files than of sizes or times, or of fewer")
    return one


def _stamp(path: Path) -> tuple[int | None, int | None]:
    """Size and modification time [ns] of a file; (None, None) when it is not there."""
    try:
        status = path.lstat()
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns
