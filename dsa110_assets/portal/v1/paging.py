"""Pages of lists: a cursor is the place of the last item, so that products published in the meantime shift no page."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from dsa110_assets.errors import ConfigurationError

T = TypeVar("T")
Key = tuple[str | int | float, ...]
LONGEST, MOST = 300, 1000
Cursor = Annotated[str | None, Query(max_length=LONGEST, description="`next` of the previous page; omit it for the first page")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="largest number of items on a page")]


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T]
    next: str | None = Field(default=None, description="cursor of the next page, null on the last one")


def encode(key: Sequence[str | int | float]) -> str:
    """A place in a list as a cursor."""
    return base64.urlsafe_b64encode(json.dumps(list(key), separators=(",", ":")).encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: type) -> Key | None:
    """The place that a cursor names, in a list whose places have these types. Raises ConfigurationError for any other text."""
    if cursor is None:
        return None
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) != len(kinds) or not all(map(_is_valid, found, kinds)):
        raise ConfigurationError("cursor is not one of this list: take `next` of the previous page, or leave it out")
    return tuple(kind(value) for value, kind in zip(found, kinds, strict=True))


def _is_valid(value: object, kind: type) -> bool:
    """Whether a value can be part of a database key of this type."""
    if isinstance(value, bool):
        return False
    if kind is str:
        return isinstance(value, str) and value.isprintable()
    if kind is int:
        return isinstance(value, int) and abs(value) < 2**63
    return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)


def part(
    items: Iterable[T], key: Callable[[T], Key], after: Key | None, limit: int, *, descending: bool = False
) -> tuple[list[T], str | None]:
    """Return the page of a list in memory that follows a place, in order of a key that is unique to each item; and the next cursor."""
    ordered = sorted(items, key=key, reverse=descending)
    rest = [one for one in ordered if after is None or (key(one) < after if descending else key(one) > after)]
    return rest[:limit], encode(key(rest[limit - 1])) if len(rest) > limit else None
