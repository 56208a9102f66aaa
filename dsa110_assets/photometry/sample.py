"""Rows of some sources instead of all: figures of millions of rows need only thousands of them."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pandas as pd

_RANGE = 1 << 32


class SourceSample:
    """All rows of all sources while they are few, else all rows of sources chosen by a hash of their names.

    The selection depends on the rows added, not on their order: the fraction of sources is the largest power of two that has at
    most `most_rows` rows.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows, self._below = most_rows, _RANGE
        self._rows: list[pd.DataFrame] = []
        self._hashes: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []

    def add(self, rows: pd.DataFrame) -> None:
        """Add rows with a source_id; all rows of a source must be added together."""
        code, names = pd.factorize(rows["source_id"])
        hashes = np.array([crc32(str(name).encode()) for name in names], np.int64)[code]
        self._rows.append(rows[hashes < self._below])
        self._hashes.append(hashes[hashes < self._below])
        while sum(map(len, self._hashes)) > self._most_rows and self._below > 1:
            self._below //= 2
            self._rows = [rows[hashes < self._below] for rows, hashes in zip(self._rows, self._hashes, strict=True)]
            self._hashes = [hashes[hashes < self._below] for hashes in self._hashes]

    def rows(self) -> pd.DataFrame:
        """Return the chosen rows, in the order they were added. Raises ValueError if nothing was ever added."""
        return pd.concat(self._rows, ignore_index=True)
