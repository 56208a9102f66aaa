"""Times in queries: the meaning of `since` and `until` for partition keys."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import sqlalchemy as sa

from dsa110_assets.archive import naming
from dsa110_assets.errors import NotFoundError

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def conditions(column: sa.Column[str], since: datetime | str | None, until: datetime | str | None) -> list[sa.ColumnElement[bool]]:
    """Conditions on a partition-key column for window starts from `since` to `until`, both included.

    A night's key is the date alone and sorts before its own midnight, so that comparing text compares times. Where either is given,
    products without a time are left out: catalogues and named partitions ('@' sorts after digits).
    Raises NotFoundError for a text that is not an ISO time.
    """
    found: list[sa.ColumnElement[bool]] = [] if since is None and until is None else [column != "", column < naming.NAME_MARK]
    if since is not None:
        found.append(column >= first(since))
    if until is not None:
        found.append(column <= last(until))
    return found


def first(since: datetime | str) -> str:
    """The smallest partition key of windows that start at or after a time."""
    start = key(since)
    return start[:10] if start.endswith("T00:00") else start


def last(until: datetime | str) -> str:
    """An upper bound of the partition keys of windows that start at or before a time; a date alone includes all windows of its day."""
    return f"{until}U" if isinstance(until, str) and _DATE.fullmatch(until) else key(until)  # 'U' sorts after 'T'


def key(moment: datetime | str) -> str:
    """A time as text that compares with partition keys: UTC to the minute; naive times are UTC.

    Raises NotFoundError for a text that is not an ISO time.
    """
    try:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        aware = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # overflow: the year 1, in a zone ahead of UTC
        raise NotFoundError(f"{moment!r} is no time; use 2026-01-25 or 2026-01-25T22:25 (UTC)") from None
    return aware.strftime("%Y-%m-%dT%H:%M")
