"""Light curves as the search reads them: whole sources, a bounded number of rows at a time, from memory or from disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsa110_assets.errors import BadDataError

COLUMNS = (
    "source_id", "ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "rms_jy", "detected", "quality", "catalogue_flux_jy",
)  # fmt: skip
"""What the search needs of LIGHT_CURVE_COLUMNS."""
BATCH_ROWS = 2_000_000
"""Some 150 MB of rows in memory, however long the history."""


class LightCurves(Protocol):
    """Rows of light curves, sorted or not within a batch; a source is never divided between batches."""

    def batches(self) -> Iterator[pd.DataFrame]:
        """All rows, batch by batch; can be asked for again."""
        ...

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        """All rows of these sources."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Light curves of one table."""

    rows: pd.DataFrame

    def batches(self) -> Iterator[pd.DataFrame]:
        yield self.rows

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        return self.rows[self.rows["source_id"].isin(list(sources))]


@dataclass(frozen=True)
class OnDisk:
    """Light curves in a Parquet file that holds each source's rows together, as `ensemble.normalise` sorts them."""

    path: Path
    batch_rows: int = BATCH_ROWS

    def batches(self) -> Iterator[pd.DataFrame]:
        """Raises BadDataError if a source's rows are not together."""
        ended: set[str] = set()
        kept: pa.Table | None = None
        with pq.ParquetFile(self.path, read_dictionary=["source_id"]) as file:
            columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(self.batch_rows, columns=columns):
                rows = pa.Table.from_batches([batch])
                rows = (rows if kept is None else pa.concat_tables([kept, rows])).unify_dictionaries().combine_chunks()
                names = rows["source_id"].chunk(0)
                codes = names.indices.to_numpy()
                others = np.flatnonzero(codes != codes[-1])
                begins = int(others[-1]) + 1 if others.size else 0
                whole, kept = rows.slice(0, begins), rows.slice(begins)
                if begins:
                    self._end(ended, whole["source_id"])
                    yield whole.to_pandas()
                if (last := names[-1].as_py()) in ended:
                    raise self._torn(last)
        if kept is not None:
            self._end(ended, kept["source_id"])
            yield kept.to_pandas()

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        """Only row groups that may hold the sources are read."""
        wanted = pc.field("source_id").isin(pa.array(sorted(sources), pa.string()))
        rows = pq.read_table(self.path, columns=self._columns(), filters=wanted).to_pandas()
        return rows.astype({"source_id": str})

    def _columns(self) -> list[str]:
        there = pq.read_schema(self.path).names
        return [name for name in COLUMNS if name in there]

    def _end(self, ended: set[str], names: pa.ChunkedArray) -> None:
        for name in pc.unique(names).to_pylist():
            if name in ended:
                raise self._torn(name)
            ended.add(name)

    def _torn(self, name: str) -> BadDataError:
        return BadDataError(f"{self.path}: the rows of {name} are not together; make the light curves again")


def sample(curves: LightCurves, most_rows: int) -> pd.DataFrame:
    """Whole sources spread evenly over all, up to about `most_rows` rows; everything if that is fewer."""
    sizes = pd.concat([batch["source_id"].astype(str).value_counts() for batch in curves.batches()] or [pd.Series(dtype=int)])
    if sizes.sum() <= most_rows:
        return curves.of(list(sizes.index))
    names = np.sort(sizes.index.to_numpy(object))
    number = max(int(names.size * most_rows / sizes.sum()), 1)
    return curves.of(list(names[np.linspace(0, names.size - 1, number).round().astype(int)]))
