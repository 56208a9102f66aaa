"""The table of all sources, kept between requests: reading every night's light curves takes longer than all else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.table import Table

    from dsa110_assets.analyst import AnalystArchive


class SourceTable:
    """One archive's, read again when a night's light curves are new."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._table: Table | None = None
        self._lock = threading.Lock()

    def of(self, archive: AnalystArchive) -> Table:
        """As `AnalystArchive.sources`. Raises NotFoundError while there is none."""
        with self._lock:
            now = archive.store.digests("light_curves")
            if self._table is None or now != self._digests or self._table.meta["left_out"]:  # what was left out may be whole again
                self._table, self._digests = archive.sources(), now
            return self._table
