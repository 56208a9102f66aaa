"""Rows of whole sources from the files of many nights: each row group is decoded about once, and nothing is sorted.

A night's file is in order of source_key, so that its rows follow a list of all keys, and the nights are in order of time: a source's
rows are put one after the other while the nights are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from operator import methodcaller
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.photometry.nighterrors import MADE_OF, NightErrors
from dsa110_assets.photometry.nightrows import readable

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
READ_ROWS = 10_000_000
"""Rows in memory at a time, 80 MB for each column: as many as 1000 nights have in a row group each, so that each is decoded once."""
_READERS, _ROWS_AHEAD = 2, 300_000
"""Threads that decode, and the number of rows they decode, of whole files, before these are put in place."""
_NO_KEYS = SimpleNamespace(min=0, max=-1)


@dataclass(frozen=True)
class Sources:
    """Sources of the nights' files: `keys` (n,) ascending, and source k's rows are `starts[k]:starts[k + 1]` of any column."""

    keys: IntArray
    starts: IntArray

    def slices(self, part: slice, rows: int) -> Iterator[slice]:
        """Consecutive ranges of the sources of `part` with about `rows` rows each, more only if the last source has more."""
        number = (self.starts[part] - self.starts[part.start]) // rows
        first = part.start + np.flatnonzero(np.diff(number, prepend=-1))
        yield from (slice(low, high) for low, high in pairwise([*first.tolist(), part.stop]))

    def __getitem__(self, sources: slice) -> Sources:
        starts = self.starts[sources.start : sources.stop + 1]
        return Sources(self.keys[sources], starts - starts[0])


def read(
    files: Sequence[Path], sources: Sources, columns: Sequence[str], errors: NightErrors, rows: int
) -> Iterator[tuple[slice, dict[str, FloatArray]]]:
    """Yield ranges of `sources` (all that the files have) of about `rows` rows, with these columns of them, each source's in order of
    time. flux_err_jy is that of `errors`. Raises SilentWrongnessError, naming the file, if one cannot be read or has other rows than
    `sources` lists.
    """
    together = ("mjd", *(name for name in columns if name != "mjd"))
    nights = [_NightFile.opened(path, together, errors) for path in files]
    ranges = list(_ranges(sources, max(nights, key=lambda night: night.first.size).first))
    out = np.empty((max((int(sources[part].starts[-1]) for part in ranges), default=0), len(together)))
    with ThreadPoolExecutor(_READERS) as pool:
        for part in ranges:
            _fill(out, nights, sources[part], pool)
            for piece in sources.slices(part, rows):
                low, high = sources.starts[[piece.start, piece.stop]] - sources.starts[part.start]
                yield piece, {name: out[low:high, together.index(name)].copy() for name in columns}


def _ranges(sources: Sources, cuts: IntArray) -> Iterator[slice]:
    """Ranges of sources with up to READ_ROWS rows that begin at the keys `cuts` where possible: there, row groups begin."""
    begin, places = 0, [*np.searchsorted(sources.keys, cuts).tolist(), sources.keys.size]
    for place, following in pairwise(places):
        if begin < place and sources.starts[following] - sources.starts[begin] > READ_ROWS:
            yield from sources.slices(slice(begin, place), READ_ROWS)
            begin = place
    yield from sources.slices(slice(begin, sources.keys.size), READ_ROWS)


def _fill(out: FloatArray, nights: Sequence[_NightFile], sources: Sources, pool: ThreadPoolExecutor) -> None:
    """Put all rows of these sources into `out` (n, columns)."""
    decoded = methodcaller("between", int(sources.keys[0]), int(sources.keys[-1]))
    filled = sources.starts[:-1].copy()
    at_once = max(1, _ROWS_AHEAD * len(nights) // int(sources.starts[-1]))
    groups = [nights[k : k + at_once] for k in range(0, len(nights), at_once)]
    coming = pool.map(decoded, groups[0])
    for group, following in zip(groups, [*groups[1:], ()], strict=True):
        keys, values = zip(*coming, strict=True)
        coming = pool.map(decoded, following)  # are decoded while these are put in place
        ends = np.cumsum([0, *(key.size for key in keys)])
        if _place(np.concatenate(keys), np.concatenate(values), ends, sources.keys, sources.starts, filled, out) < ends[-1]:
            raise SilentWrongnessError(
                f"light curves in {group[0].path} or up to {len(group) - 1} nights after it are not in order of source_key, or changed "
                "while they were read: run: dsa110 archive verify"
            )
    if np.any(filled < sources.starts[1:]):
        raise SilentWrongnessError(
            f"light curves in {nights[0].path} or later nights lack rows that they had, or are not in order of source_key: "
            "run: dsa110 archive verify"
        )


@njit(cache=True, nogil=True)
def _place(key: IntArray, values: FloatArray, ends: IntArray, keys: IntArray, starts: IntArray, filled: IntArray, out: FloatArray) -> int:
    """Put the rows of some nights behind those that their sources have, and return how many were put: all, if `keys` has them.

    Night j has the rows ends[j]:ends[j + 1] of `key` (n,) and `values` (n, columns), whose first column is the time; its keys are
    ascending, as `keys` are. filled[k] is where the next row of source k goes in `out`. A row that is earlier than the source's last
    ones is put before them.
    """
    following = ends[:-1].copy()
    for k in range(keys.size):
        for night in range(following.size):
            row = following[night]
            while row < ends[night + 1] and key[row] == keys[k] and filled[k] < starts[k + 1]:
                place = filled[k]
                while place > starts[k] and out[place - 1, 0] > values[row, 0]:
                    for column in range(out.shape[1]):
                        out[place, column] = out[place - 1, column]
                    place -= 1
                for column in range(out.shape[1]):
                    out[place, column] = values[row, column]
                filled[k] += 1
                row += 1
            following[night] = row
    return int((following - ends[:-1]).sum())


@dataclass(frozen=True)
class _NightFile:
    """A night's file: the smallest and the largest key of each of its row groups, and what to read of it."""

    path: Path
    metadata: pq.FileMetaData
    first: IntArray
    last: IntArray
    columns: tuple[str, ...]
    errors: NightErrors

    @classmethod
    def opened(cls, path: Path, columns: Sequence[str], errors: NightErrors) -> _NightFile:
        with readable(path):
            metadata = pq.read_metadata(path)
            column = metadata.schema.names.index("source_key")
            groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
            limits = [group.column(column).statistics if group.num_rows else _NO_KEYS for group in groups]
            first, last = (np.array([getattr(limit, name) for limit in limits], np.int64) for name in ("min", "max"))
        return cls(path, metadata, first, last, tuple(columns), errors)

    def between(self, first: int, last: int) -> tuple[IntArray, FloatArray]:
        """The keys (n,) of the rows of sources from `first` to `last`, and their columns (n, columns)."""
        groups = np.flatnonzero((self.last >= first) & (self.first <= last)).tolist()
        if not groups:
            return np.zeros(0, np.int64), np.zeros((0, len(self.columns)))
        needed = {"source_key", *self.columns}
        if "flux_err_jy" in needed:
            needed = needed - {"flux_err_jy"} | {*MADE_OF, *(["epoch"] if len(self.errors.noisy) else [])}
        with readable(self.path):
            with pq.ParquetFile(self.path, metadata=self.metadata) as file:
                table = file.read_row_groups(groups, columns=sorted(needed), use_threads=False)
            key = table["source_key"].to_numpy()
            low, high = np.searchsorted(key, first), np.searchsorted(key, last, side="right")
            return key[low:high], self._values(table.slice(low, high - low))

    def _values(self, table: pa.Table) -> FloatArray:
        read = {name: table[name].to_numpy() for name in table.column_names if name not in ("source_key", "epoch")}
        if "flux_err_jy" in self.columns:
            noise, fraction = np.ones(1), np.zeros(1)
            if len(self.errors.noisy):
                epoch = table["epoch"].combine_chunks().dictionary_encode()
                noise, fraction = (value[epoch.indices.to_numpy()] for value in self.errors.of_epochs(epoch.dictionary.to_pylist()))
            read["flux_err_jy"] = self.errors.of(read, noise, fraction)
        return np.stack([read[name].astype(np.float64, copy=False) for name in self.columns], axis=1)
