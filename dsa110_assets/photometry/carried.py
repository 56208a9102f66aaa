"""The names of new sources and first-found sizes that an hour passes on to later ones.

They are kept by hours of right ascension (24 bins). An hour reads, for each bin it sees, what the last hour that saw this bin
passed on, and passes on its own. The amount it reads is therefore bounded by the sky it sees, however many nights there were.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.photometry.blind import SIZE_COLUMNS
from dsa110_assets.photometry.forced import OFFSETS, SIZE

FILE = "carried.parquet"
BINS = 24
PLACE = ("ra_deg", "dec_deg", "ra_err_arcsec", "dec_err_arcsec")
SIZES = (*SIZE_COLUMNS, *OFFSETS)
COLUMNS = ("source_id", "new", "mjd", *PLACE, *SIZES)
"""`new`: an hour has named the source, and its position is that hour's; other sources are in the catalogue, and only their size is
passed on (NaN where none is known). `mjd`: when the source was first passed on."""


def bins_of(ra_deg: ArrayLike) -> NDArray[np.int64]:
    """Return the bin (n,) of right ascensions [deg]."""
    return np.asarray(np.floor(np.asarray(ra_deg, float) % 360 / (360 / BINS)), np.int64) % BINS


def read(of_bins: Mapping[int, Path]) -> pd.DataFrame:
    """Return COLUMNS of what was passed on in each bin, from that bin's hour's folder in `of_bins`; sorted by time, then by name."""
    frames = ((number, pd.read_parquet(folder / FILE)) for number, folder in sorted(of_bins.items()))
    tables = [part for number, frame in frames if len(part := frame[bins_of(frame["ra_deg"]) == number])]
    return _in_order(pd.concat(tables, ignore_index=True)) if tables else nothing()


def nothing() -> pd.DataFrame:
    """Return the empty table passed on before any hour."""
    return pd.DataFrame({name: np.zeros(0) for name in COLUMNS}).astype({"source_id": "str", "new": bool})


def known_sources(catalogue: pd.DataFrame, carried: pd.DataFrame) -> pd.DataFrame:
    """Return the catalogue and everything earlier hours discovered, under the name it was first given, with the first size found.

    Every later hour measures with the same size, so that a light curve has no step where a source begins or ceases to be called
    resolved.
    """
    new = carried[carried["new"]]
    known = pd.concat([catalogue, new[["source_id", *PLACE]]], ignore_index=True) if len(new) else catalogue
    sized = carried[carried[SIZE] > 0]
    if sized.empty:
        return known
    return known.drop(columns=[name for name in SIZES if name in known]).merge(sized[["source_id", *SIZES]], on="source_id", how="left")


def carry(carried: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return `carried` with this hour's additions: its new sources, and sizes of sources that had none."""
    known = rows.reindex(columns=["source_id", "mjd", *PLACE, *SIZES]).assign(new=(rows["kind"] == "blind").to_numpy(bool))
    has_size = known[SIZE] > 0
    known.loc[~has_size, list(SIZES)] = np.nan
    additions = known[known["new"] | has_size]
    before = carried.set_index("source_id")
    repeated = additions[additions["source_id"].isin(before.index)].set_index("source_id")
    unsized = before.index.intersection(repeated.index[repeated[SIZE] > 0]).intersection(before.index[~(before[SIZE] > 0)])
    before.loc[unsized, list(SIZES)] = repeated.loc[unsized, list(SIZES)]
    first = additions[~additions["source_id"].isin(before.index)]
    parts = [part for part in (before.reset_index()[list(COLUMNS)], first[list(COLUMNS)]) if len(part)]
    return _in_order(pd.concat(parts, ignore_index=True)) if parts else nothing()


def digests(carried: pd.DataFrame, bins: Collection[int]) -> dict[str, str]:
    """Return a digest of the names, positions (to 0.4 arcsec) and sizes (to 0.1 arcsec) in each of these bins; '' for an empty bin."""
    ordered = carried.sort_values("source_id")
    bin_of_row, lines = bins_of(ordered["ra_deg"]), ordered[["source_id", "ra_deg", "dec_deg", *SIZE_COLUMNS[:2]]].itertuples(index=False)
    texts = np.array([f"{name} {ra:.4f} {dec:.4f} {major:.1f} {minor:.1f}" for name, ra, dec, major, minor in lines], object)
    inside = {number: texts[bin_of_row == number] for number in sorted(bins)}
    return {f"{number:02d}": xxhash.xxh3_64_hexdigest("\n".join(lines).encode()) if len(lines) else "" for number, lines in inside.items()}


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["mjd", "source_id"], kind="stable", ignore_index=True)
