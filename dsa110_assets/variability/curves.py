"""Light curves for the search: whole sources, a bounded number of rows at a time, from memory or from disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.photometry.errormodel import group_starts

IntArray = NDArray[np.int64]

COLUMNS = (
    "source_id", "ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "rms_jy", "detected", "quality", "catalogue_flux_jy",
)  # fmt: skip
"""Those of LIGHT_CURVE_COLUMNS that the search needs."""
ROW_COLUMNS = ("ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "quality")
"""Columns it needs for every row; the others are needed only for candidates and for neighbours of new sources."""
BATCH_ROWS = 2_000_000
"""Some 100 MB of rows in a block, however long the history."""


class LightCurves(Protocol):
    """Rows of light curves; a source is never divided between blocks."""

    def batches(self) -> Iterator[Block]:
        """All rows, block by block; can be called repeatedly."""
        ...

    def sizes(self) -> pd.Series[int]:
        """The number of rows of every source, sorted by the sources' names, which are the index."""
        ...

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        """All rows of these sources."""
        ...


class Stored(Protocol):
    """A store from which rows of light curves are read."""

    def parts(self, columns: Sequence[str], rows: int) -> Iterator[tuple[NDArray[np.object_], IntArray, dict[str, NDArray[np.float64]]]]:
        """All rows, whole sources at a time, about `rows` rows together: the arguments of a `Block`."""
        ...

    def by_source(self, sql: str) -> pd.DataFrame:
        """These aggregates over each source's rows, sorted by source_id."""
        ...

    def of_sources(self, sources: Collection[str], columns: Sequence[str]) -> pd.DataFrame:
        """All rows of these sources, sorted by source_id and mjd."""
        ...


@dataclass(frozen=True)
class Block:
    """Whole light curves end to end: source `names[k]` has rows `starts[k]:starts[k + 1]` of every column, in order of time.

    `columns` are those of ROW_COLUMNS, (n_rows,) float64 (quality too: its bits are few).
    """

    names: NDArray[np.object_]
    starts: IntArray
    columns: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class InMemory:
    """Light curves in one table."""

    rows: pd.DataFrame

    def batches(self) -> Iterator[Block]:
        rows = self.rows.sort_values(["source_id", "mjd"], kind="stable")
        code, names = pd.factorize(rows["source_id"])
        columns = {name: rows[name].to_numpy(np.float64) for name in ROW_COLUMNS}
        yield Block(np.asarray(names, object), group_starts(code.astype(np.int64)), columns)

    def sizes(self) -> pd.Series[int]:
        return self.rows["source_id"].value_counts().sort_index()

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        return self.rows[self.rows["source_id"].isin(list(sources))]


@dataclass(frozen=True)
class OnDisk:
    """Light curves of many nights, each in its own file, read a range of sources at a time."""

    nights: Stored
    batch_rows: int = BATCH_ROWS

    def batches(self) -> Iterator[Block]:
        """Blocks of about `batch_rows` rows, longer only for a source with more rows."""
        for part in self.nights.parts(ROW_COLUMNS, self.batch_rows):
            yield Block(*part)

    def sizes(self) -> pd.Series[int]:
        """The number of rows of every source, which is found without reading them."""
        return self.nights.by_source("count(*) AS n").set_index("source_id")["n"]

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        """The columns the search needs of these sources' rows."""
        return self.nights.of_sources(sources, COLUMNS)


def sample(curves: LightCurves, most_rows: int) -> pd.DataFrame:
    """Return the rows of whole sources, spread evenly over all, up to about `most_rows` rows; all rows if there are fewer."""
    sizes = curves.sizes()
    names, n_rows = sizes.index.to_numpy(object), int(sizes.sum())
    if n_rows <= most_rows:
        return curves.of(list(names))
    number = max(int(names.size * most_rows / n_rows), 1)
    return curves.of(list(names[np.linspace(0, names.size - 1, number).round().astype(int)]))
