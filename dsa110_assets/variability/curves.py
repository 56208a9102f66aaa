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
from numba import njit
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.photometry.errormodel import group_starts

IntArray = NDArray[np.int64]

COLUMNS = (
    "source_id", "ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "rms_jy", "detected", "quality", "catalogue_flux_jy",
)  # fmt: skip
"""What the search needs of LIGHT_CURVE_COLUMNS."""
ROW_COLUMNS = ("ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "quality")
"""What it needs of every row; the others only of candidates and of new sources' neighbours."""
BATCH_ROWS = 1_000_000
"""Some 60 MB of rows in memory, however long the history."""


class LightCurves(Protocol):
    """Rows of light curves; a source is never divided between blocks."""

    def batches(self) -> Iterator[Block]:
        """All rows, block by block; can be asked for again."""
        ...

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        """All rows of these sources."""
        ...


@dataclass(frozen=True)
class Block:
    """Whole light curves end to end: source `names[k]` has rows `starts[k]:starts[k + 1]` of every column, in order of time.

    `columns` are those of ROW_COLUMNS, (n_rows,) float64 (quality too: its bits are few).
    """

    names: NDArray[np.object_]
    starts: IntArray
    columns: dict[str, NDArray[np.float64]]

    def part(self, first: int, last: int) -> Block:
        """Sources first:last, sharing memory."""
        low, high = self.starts[first], self.starts[last]
        columns = {name: values[low:high] for name, values in self.columns.items()}
        return Block(self.names[first:last], self.starts[first : last + 1] - low, columns)

    def followed_by(self, rest: Block) -> Block:
        """This block of one source and more rows of it, in another block of one."""
        columns = {name: np.concatenate([values, rest.columns[name]]) for name, values in self.columns.items()}
        return Block(self.names, np.array([0, self.starts[-1] + rest.starts[-1]]), columns)

    def in_order(self) -> Block:
        """The same with each source's rows in order of time; itself if they are."""
        mjd = self.columns["mjd"]
        if _in_order(mjd, self.starts):
            return self
        order = np.lexsort((mjd, np.repeat(np.arange(self.names.size), np.diff(self.starts))))
        return Block(self.names, self.starts, {name: values[order] for name, values in self.columns.items()})


@njit(cache=True)
def _in_order(mjd, starts):  # type: ignore[no-untyped-def]
    for k in range(starts.size - 1):
        for row in range(starts[k] + 1, starts[k + 1]):
            if mjd[row] < mjd[row - 1]:
                return False
    return True


@dataclass(frozen=True)
class InMemory:
    """Light curves of one table."""

    rows: pd.DataFrame

    def batches(self) -> Iterator[Block]:
        rows = self.rows.sort_values(["source_id", "mjd"], kind="stable")
        code, names = pd.factorize(rows["source_id"])
        columns = {name: rows[name].to_numpy(np.float64) for name in ROW_COLUMNS}
        yield Block(np.asarray(names, object), group_starts(code), columns)

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        return self.rows[self.rows["source_id"].isin(list(sources))]


@dataclass(frozen=True)
class OnDisk:
    """Light curves in a Parquet file that holds each source's rows together, as `ensemble.normalise` sorts them."""

    path: Path
    batch_rows: int = BATCH_ROWS

    def batches(self) -> Iterator[Block]:
        """Blocks of at most `batch_rows`, but for longer sources. Raises BadDataError if a source's rows are not together."""
        ended: set[str] = set()
        held: Block | None = None
        with self._opened() as file:
            for batch in file.iter_batches(self.batch_rows, columns=["source_id", *ROW_COLUMNS]):
                block = _block(batch)
                if held is not None:
                    if held.names[0] == block.names[0]:
                        held, block = held.followed_by(block.part(0, 1)), block.part(1, block.names.size)
                    if not block.names.size:
                        continue
                    yield self._whole(held, ended)
                if block.names.size > 1:
                    yield self._whole(block.part(0, block.names.size - 1), ended)
                held = block.part(block.names.size - 1, block.names.size)
        if held is not None:
            yield self._whole(held, ended)

    def of(self, sources: Collection[str]) -> pd.DataFrame:
        """A batch of rows is in memory at a time, beside those asked for."""
        wanted = pa.array(sorted(sources), pa.string())
        with self._opened() as file:
            columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            found = [file.schema_arrow.empty_table().select(columns)]
            for batch in file.iter_batches(self.batch_rows, columns=columns) if len(wanted) else ():
                named = batch.column("source_id")
                chosen = pc.is_in(named.dictionary, wanted).to_numpy(zero_copy_only=False)[named.indices.to_numpy()]
                if chosen.any():
                    found.append(pa.Table.from_batches([batch.filter(pa.array(chosen))]))
        return pa.concat_tables(found, promote_options="permissive").to_pandas().astype({"source_id": str})

    def _opened(self) -> pq.ParquetFile:
        """Not read ahead: pyarrow would keep all it has read until the last batch."""
        return pq.ParquetFile(self.path, read_dictionary=["source_id"], pre_buffer=False)

    def _whole(self, block: Block, ended: set[str]) -> Block:
        for name in block.names:
            if name in ended:
                raise self._torn(name)
            ended.add(name)
        return block.in_order()

    def _torn(self, name: str) -> BadDataError:
        return BadDataError(f"{self.path}: the rows of {name} are not together; make the light curves again")


def _block(batch: pa.RecordBatch) -> Block:
    """The runs of equal names of a batch with a dictionary of names."""
    named = batch.column("source_id")
    starts = group_starts(named.indices.to_numpy())
    names = named.dictionary.take(named.indices.take(pa.array(starts[:-1]))).to_numpy(zero_copy_only=False)
    columns = {name: np.asarray(batch.column(name).to_numpy(zero_copy_only=False), np.float64) for name in ROW_COLUMNS}
    return Block(names.astype(object), starts, columns)


def sample(curves: LightCurves, most_rows: int) -> pd.DataFrame:
    """Whole sources spread evenly over all, up to about `most_rows` rows; everything if that is fewer."""
    blocks = [(block.names, np.diff(block.starts)) for block in curves.batches()]
    if not blocks:
        return curves.of([])
    names, sizes = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    if sizes.sum() <= most_rows:
        return curves.of(list(names))
    names = np.sort(names)
    number = max(int(names.size * most_rows / sizes.sum()), 1)
    return curves.of(list(names[np.linspace(0, names.size - 1, number).round().astype(int)]))
