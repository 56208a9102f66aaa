"""The audit log of orders given over the network: who, when, from where, what, and how each ended.

It is an append-only file of JSON lines in the archive; rebuilding the index does not touch it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dsa110_assets.archive import files

FILE = "audit.jsonl"
BEGUN, DONE, FAILED = "begun", "done", "failed"
_BLOCK_BYTES = 65536


@dataclass(frozen=True)
class Line:
    """One line of the log. `order` is the same at the beginning and the end of one order; `by` is the name of the person who gave it,
    `origin` their address, `told` its result, or why it failed. `place` is the line's offset in the file [bytes]."""

    order: str
    at: str
    by: str
    origin: str
    verb: str
    target: str
    arguments: str
    state: str
    told: str = ""
    place: int = -1


class Order:
    """An order that is being carried out; `told` is its result."""

    told = ""


@contextmanager
def order(root: Path, by: str, origin: str, verb: str, target: str, arguments: str) -> Iterator[Order]:
    """Write a line before the block, which carries out the order, and another after it, even if it raises.

    If the first line cannot be written, the order is not carried out: ConfigurationError or ResourceError is raised.
    """
    current, begun = Order(), Line(uuid.uuid4().hex[:12], _now(), by, origin, verb, target, arguments, BEGUN)
    _write(root, begun)
    try:
        yield current
    except BaseException as error:
        _write(root, replace(begun, at=_now(), state=FAILED, told=" ".join(str(error).split()) or type(error).__name__))
        raise
    _write(root, replace(begun, at=_now(), state=DONE, told=current.told))


def lines(root: Path, number: int, before: int | None = None) -> list[Line]:
    """At most `number` lines, last first; with `before`, only those before that offset. A line that cannot be read is left out."""
    path = root / FILE
    if not path.exists():
        return []
    with path.open("rb") as file:
        end = min(file.seek(0, os.SEEK_END), path.stat().st_size if before is None else before)
        begin, text = end, b""
        while begin > 0 and text.count(b"\n") <= number:
            step = min(_BLOCK_BYTES, begin)
            begin -= step
            file.seek(begin)
            text = file.read(step) + text
    found: list[Line] = []
    place = end
    for part in reversed(text.splitlines(keepends=True)):
        place -= len(part)
        if (place > 0 and place == begin) or len(found) == number:
            break  # the first line read may lack its beginning
        if (line := _line(part, place)) is not None:
            found.append(line)
    return found


def _line(text: bytes, place: int) -> Line | None:
    try:
        return Line(**{**json.loads(text), "place": place})
    except (ValueError, TypeError):
        files.log_once(f"{FILE}: the line at byte {place} cannot be read, and is left out")
        return None


def _write(root: Path, line: Line) -> None:
    contents = {name: value for name, value in asdict(line).items() if name != "place"}
    with files.typed_errors(f"{root / FILE}"):
        descriptor = os.open(root / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(descriptor, json.dumps(contents, sort_keys=True).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
