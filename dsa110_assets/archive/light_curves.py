"""The only reader of light curves: the nights' files as one table, a source at a time or all in parts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.photometry.nighterrors import MADE_OF, NightErrors, has_model, missing, require
from dsa110_assets.photometry.nightrows import FILE, readable, source_keys

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_END = b"PAR1"
_MODELLED = ("flux_err_jy", "absolute_err_jy")
"""Columns that the last night's error model replaces."""


@dataclass(frozen=True)
class Nights:
    """The light curves of many nights, one file each, with the error model of the last of them.

    `errors` is None where rows keep their own errors; `left_out` are products whose file is missing or cut short.
    """

    files: tuple[Path, ...]
    errors: NightErrors | None
    left_out: tuple[Path, ...] = ()

    @classmethod
    def of(cls, folders: Sequence[Path]) -> Nights:
        """The light curves of products of one or more nights, in order of time. Raises NotFoundError for those of an earlier version."""
        for folder in folders:
            require(folder)
        return cls(tuple(folder / FILE for folder in folders), NightErrors.read(folders[-1]))

    @classmethod
    def to_read(cls, folders: Sequence[Path]) -> Nights:
        """As `of`, but only with the nights whose files are complete: a damaged one does not hide the others.

        If the last product has no error model, its file is read as a table of all its nights and sources. Raises
        SilentWrongnessError if no file is complete.
        """
        are_whole = [_is_whole(folder / FILE) for folder in folders]
        whole = [folder for folder, is_whole in zip(folders, are_whole, strict=True) if is_whole]
        left_out = tuple(folder for folder, is_whole in zip(folders, are_whole, strict=True) if not is_whole)
        if not whole:
            raise SilentWrongnessError(f"{left_out[-1] / FILE} is cut short or not there: run: dsa110 archive verify")
        if not has_model(whole[-1]):
            return cls((whole[-1] / FILE,), None, left_out)
        return replace(cls.of(whole), left_out=left_out)

    def by_source(self, sql: str) -> pd.DataFrame:
        """A table of the aggregates `sql` over each source's rows; source_id is its first column, by which it is sorted."""
        if self.errors is None:
            return self._grouped("source_id", sql)
        found = self._grouped("source_key", sql)
        keys = found.pop("source_key").to_numpy(np.int64)
        found.insert(0, "source_id", self._names(keys))
        return found.sort_values("source_id", ignore_index=True)

    def _grouped(self, column: str, sql: str) -> pd.DataFrame:
        with self._opened() as connection:
            return connection.execute(f"SELECT {column}, {sql} FROM rows GROUP BY {column} ORDER BY {column}").df()

    def names(self) -> list[str]:
        """All source ids, sorted."""
        return [str(name) for name in self.by_source("count(*)")["source_id"]]

    def of_sources(self, sources: Collection[str], columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows of these sources, sorted by source_id and mjd, with all columns or these; errors are those of the last night's model."""
        requested = sorted(sources)
        keys = [int(key) for key in source_keys(requested)]
        where, values = "source_key IN (SELECT unnest(?))", list[Any]([keys])
        if len(requested) == 1:  # with an equality, only the row groups that may contain it are read
            where, values = "source_key = ?", keys
        if self.errors is None:
            where, values = "source_id IN (SELECT unnest(?))", [requested]
        modelled = () if self.errors is None else _MODELLED
        needed = ["source_id", "epoch", "mjd", *MADE_OF, *(name for name in columns or () if name not in modelled)]
        read = "*" if columns is None else ", ".join(dict.fromkeys(needed))
        with self._opened() as connection:
            found = connection.execute(f"SELECT {read} FROM rows WHERE {where} ORDER BY source_id, mjd", values).df()
        found = found.astype({"source_id": str})
        found = found[found["source_id"].isin(requested)].reset_index(drop=True)  # two names may have one key
        found = found if self.errors is None else self.errors.with_errors(found)
        return found.drop(columns="source_key", errors="ignore") if columns is None else found[list(columns)]

    def parts(self, columns: Sequence[str], rows: int) -> Iterator[tuple[NDArray[np.object_], IntArray, dict[str, FloatArray]]]:
        """Yield all rows, whole sources at a time, in parts of up to about `rows` rows: the sources' names, the index where each source
        begins (and the last ends), and these columns as float64, in order of time. flux_err_jy is that of the last night's model.

        Raises NotFoundError if there is no such model.
        """
        if self.errors is None:
            raise missing(self.files[-1].parent)
        from dsa110_assets.archive import whole_sources  # with numba, which few readers of light curves need

        counts = self._grouped("source_key", "count(*) AS n")
        keys, number = (counts[name].to_numpy(np.int64) for name in ("source_key", "n"))
        names, sources = self._names(keys), whole_sources.Sources(keys, np.concatenate([[0], np.cumsum(number)]))
        for part, values in whole_sources.read(self.files, sources, columns, self.errors, rows):
            yield names[part], sources[part].starts, values

    def _names(self, keys: IntArray) -> NDArray[np.object_]:
        """The names (n,) of these sorted keys, each from the last night whose file has it."""
        names, unnamed = np.full(keys.size, None, object), np.ones(keys.size, bool)
        for file in reversed(self.files):
            if not unnamed.any():
                break
            with readable(file):
                place = np.searchsorted(keys, pq.read_table(file, columns=["source_key"])["source_key"].to_numpy())
                new = unnamed[place]  # reading names is slow, and most nights have none that is new
                if new.any():
                    names[place[new]] = pq.read_table(file, columns=["source_id"])["source_id"].filter(pa.array(new)).to_numpy()
                    unnamed[place] = False
        return names

    @contextmanager
    def _opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the view `rows`."""
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET threads = 2; SET memory_limit = '2GB'")
            try:
                connection.read_parquet([str(file) for file in self.files], hive_partitioning=False).create_view("rows")
                yield connection
            except duckdb.Error as error:
                raise SilentWrongnessError(
                    f"light curves cannot be read ({str(error).splitlines()[0]}): run: dsa110 archive verify"
                ) from error


def _is_whole(file: Path) -> bool:
    """Whether a Parquet file ends with the Parquet mark, which is written last."""
    try:
        with file.open("rb") as opened:
            opened.seek(-len(_END), os.SEEK_END)
            return opened.read() == _END
    except OSError:
        return False
