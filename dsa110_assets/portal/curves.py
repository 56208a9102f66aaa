"""Light curves for pages and the API, kept between requests because reading a thousand nights takes about a second."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import xxhash

from dsa110_assets import analyst_tables
from dsa110_assets.portal.remembered import Memory

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.timeseries import TimeSeries

    from dsa110_assets.analyst import AnalystArchive

MOST_BYTES = 64 << 20
"""A curve of a thousand nights takes half a megabyte, the table of 100,000 sources twelve."""
_known, _reading = Memory(MOST_BYTES), threading.Lock()
Read = TypeVar("Read", bound="Table")


def version(archive: AnalystArchive) -> str:
    """A digest that changes whenever the light curves of any night do."""
    return xxhash.xxh3_128_hexdigest(repr(sorted(archive.store.digests("light_curves").items())).encode())


def sources(archive: AnalystArchive, cone: tuple[float, float, float] | None = None) -> Table:
    """As `AnalystArchive.sources`: all sources, or those within a `cone` (ra, dec, radius) [deg]. Raises NotFoundError if none exist."""
    table = _once(archive, "", archive.sources)
    return table if cone is None else analyst_tables.within(table, *cone)


def light_curve(archive: AnalystArchive, name: str) -> TimeSeries:
    """As `AnalystArchive.light_curve`."""
    return _once(archive, name, lambda: archive.light_curve(name))


def _once(archive: AnalystArchive, name: str, read: Callable[[], Read]) -> Read:
    """Return what was read under this name if the light curves are unchanged, else read it now; one thread reads, the others wait."""
    key = (archive, name, version(archive))
    found = _known.get(key)
    if found is None:
        with _reading:
            found = _known.get(key) or (_read(key, read),)
    return cast("Read", found[0])


def _read(key: tuple[AnalystArchive, str, str], read: Callable[[], Read]) -> Read:
    table = read()
    if not table.meta["left_out"]:  # nights that were left out may be readable next time
        _known.put(key, table, sum(getattr(column, "nbytes", 16 * len(table)) for column in table.itercols()))
    return table
