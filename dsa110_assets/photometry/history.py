"""Measurements of many nights, source by source: from a file for each hour to whole light curves, in bounded memory.

Hours are read one after another and their rows dealt out to files of neighbouring names, each small enough to be held in
memory. Names are numbers there, in the order of the names. What grows with the history is its list of epochs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dsa110_assets.photometry.association import NEW_PREFIX, merged_names
from dsa110_assets.photometry.transits import one_per_transit

IntArray = NDArray[np.int64]
BATCH_ROWS = 250_000
"""Rows held together: some 100 MB with all that is made of them."""
_NAMES = ("source_id", "epoch", "mosaic_id")
_INDICES = ("spectral_index", "spectral_index_err")
"""NaN in measurements of before there were any."""
_FIGURES = ("ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "rms_jy", "limit_jy", "catalogue_flux_jy", *_INDICES)
_COLUMNS = (*_NAMES, *_FIGURES, "quality", "detected")
_RECORD = np.dtype([*((name, "i4") for name in _NAMES), *((name, "f8") for name in _FIGURES), ("quality", "i8"), ("detected", "?")])


@dataclass(frozen=True)
class History:
    """Rows on disk, `paths` one after another in the order of their sources, and what the numbers in them stand for."""

    paths: tuple[Path, ...]
    names: dict[str, pd.Index]

    def parts(self) -> Iterator[pd.DataFrame]:
        """The columns of measurements that light curves are made of, one row per source and transit, by source_id and mjd.

        Each part holds whole sources. There is always one, if need be without rows. Can be asked for again.
        """
        for path in self.paths:
            rows = one_per_transit(pd.DataFrame(np.fromfile(path, _RECORD)))
            yield rows.assign(**{name: values.array.take(rows[name].to_numpy()) for name, values in self.names.items()})


def gather(files: Sequence[Path], scratch: Path, merge_arcsec: float, batch_rows: int = BATCH_ROWS) -> History:
    """Sort the measurements of `files` by source into new files in `scratch`, of about `batch_rows` rows
    each; a longer source has one of its own.

    One object that several hours discovered separately, within `merge_arcsec`, gets its earliest name.
    """
    seen = _Census()
    for file in files:
        seen.add(file)
    renamed = merged_names(seen.first_seen(), merge_arcsec, lambda names: _mosaics_of(files, names))
    count: Counter[str] = Counter()
    for name, number in seen.sources.items():
        count[renamed.get(name, name)] += number
    names = {"source_id": sorted(count), "epoch": sorted(seen.epochs), "mosaic_id": sorted(seen.mosaics)}
    vocabulary = {name: pd.Index(values, dtype="str") for name, values in names.items()}
    sizes = np.array([count[name] for name in names["source_id"]], np.int64)
    part = np.unique((np.cumsum(sizes) - sizes) // batch_rows, return_inverse=True)[1]
    history = History(tuple(scratch / f"{n:05d}.rows" for n in range(int(part.max(initial=0)) + 1)), vocabulary)
    history.paths[0].touch()
    for records in _gathered(files, renamed, vocabulary, batch_rows):
        _deal(records, part, history.paths)
    return history


@dataclass
class _Census:
    """What there is: rows by source, epochs, mosaics, and where and when new sources were first seen."""

    sources: Counter[str] = field(default_factory=Counter)
    epochs: set[str] = field(default_factory=set)
    mosaics: set[str] = field(default_factory=set)
    first: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def add(self, file: Path) -> None:
        rows = pq.read_table(file, columns=[*_NAMES, "mjd", "ra_deg", "dec_deg"])
        self.sources.update(rows["source_id"].to_pylist())
        self.epochs.update(rows["epoch"].unique().to_pylist())
        self.mosaics.update(rows["mosaic_id"].unique().to_pylist())
        new = rows.filter(pc.starts_with(rows["source_id"], NEW_PREFIX))
        columns = (new[name].to_pylist() for name in ("source_id", "mjd", "ra_deg", "dec_deg"))
        for name, mjd, ra, dec in zip(*columns, strict=True):
            if name not in self.first or mjd < self.first[name][0]:
                self.first[name] = mjd, ra, dec

    def first_seen(self) -> pd.DataFrame:
        table = pd.DataFrame(self.first.values(), index=list(self.first), columns=["mjd", "ra_deg", "dec_deg"], dtype=np.float64)
        return table.rename_axis("source_id").reset_index()


def _mosaics_of(files: Sequence[Path], names: set[str]) -> dict[str, set[str]]:
    """The mosaics each of these sources was measured on."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for file in files:
        rows = pq.read_table(file, columns=["source_id", "mosaic_id"], filters=[("source_id", "in", sorted(names))])
        for name, mosaic in zip(rows["source_id"].to_pylist(), rows["mosaic_id"].to_pylist(), strict=True):
            found[name].add(mosaic)
    return found


def _gathered(
    files: Sequence[Path], renamed: dict[str, str], vocabulary: dict[str, pd.Index], batch_rows: int
) -> Iterator[NDArray[np.void]]:
    """The files' rows as records, several hours together up to about `batch_rows`."""
    held: list[NDArray[np.void]] = []
    for file in files:
        there = pq.read_schema(file).names
        rows = pd.read_parquet(file, columns=[name for name in _COLUMNS if name in there or name not in _INDICES])
        held.append(_records(rows.reindex(columns=list(_COLUMNS)), renamed, vocabulary))
        if sum(rows.size for rows in held) >= batch_rows:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _records(rows: pd.DataFrame, renamed: dict[str, str], vocabulary: dict[str, pd.Index]) -> NDArray[np.void]:
    out = np.empty(len(rows), _RECORD)
    new = rows["source_id"].str.startswith(NEW_PREFIX).to_numpy()
    rows.loc[new, "source_id"] = [renamed.get(name, name) for name in rows.loc[new, "source_id"]]
    for name in _COLUMNS:
        out[name] = vocabulary[name].get_indexer(rows[name]) if name in vocabulary else rows[name].to_numpy()
    return out


def _deal(rows: NDArray[np.void], part: IntArray, paths: Sequence[Path]) -> None:
    """Append each row to the file of its source's part, in the order they came."""
    of = part[rows["source_id"]]
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(len(paths) + 1))
    for path, low, high in zip(paths, ends[:-1], ends[1:], strict=True):
        if high > low:
            with path.open("ab") as file:
                rows[order[low:high]].tofile(file)
