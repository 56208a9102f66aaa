"""What an hour passes on to later ones: the names it and earlier hours gave to new sources, and the sizes they first found.

By hours of right ascension (24 bins): an hour reads, for each bin it sees, what the last hour that saw this bin passed on, and
passes on its own. So what it reads is bounded by the sky it sees, however many nights there were.
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
"""`new`: an hour has named it, and its place is that hour's; others are in the catalogue, and only their size is passed on (NaN
where none is known). `mjd`: when it was first passed on."""


def bins_of(ra_deg: ArrayLike) -> NDArray[np.int64]:
    """The bin (n,) of right ascensions [deg]."""
    return np.asarray(np.floor(np.asarray(ra_deg, float) % 360 / (360 / BINS)), np.int64) % BINS


def read(of_bins: Mapping[int, Path]) -> pd.DataFrame:
    """COLUMNS of what was passed on in each bin, from the folder of the hour that is to be asked for it; by time, then by name."""
    frames = ((one, pd.read_parquet(folder / FILE)) for one, folder in sorted(of_bins.items()))
    tables = [part for one, frame in frames if len(part := frame[bins_of(frame["ra_deg"]) == one])]
    return _in_order(pd.concat(tables, ignore_index=True)) if tables else nothing()


def nothing() -> pd.DataFrame:
    """What is passed on before any hour."""
    return pd.DataFrame({name: np.zeros(0) for name in COLUMNS}).astype({"source_id": "str", "new": bool})


def known_sources(catalogue: pd.DataFrame, carried: pd.DataFrame) -> pd.DataFrame:
    """The catalogue and everything earlier hours discovered, under the name it was first given, with the first size found.

    Every later hour measures with the same size: a light curve then has no step where a source is called resolved or not.
    """
    new = carried[carried["new"]]
    known = pd.concat([catalogue, new[["source_id", *PLACE]]], ignore_index=True) if len(new) else catalogue
    sized = carried[carried[SIZE] > 0]
    if sized.empty:
        return known
    return known.drop(columns=[name for name in SIZES if name in known]).merge(sized[["source_id", *SIZES]], on="source_id", how="left")


def carry(carried: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """`carried` with what this hour's measurements add: its new sources, and sizes of what had none."""
    known = rows.reindex(columns=["source_id", "mjd", *PLACE, *SIZES]).assign(new=(rows["kind"] == "blind").to_numpy(bool))
    has_size = known[SIZE] > 0
    known.loc[~has_size, list(SIZES)] = np.nan
    own = known[known["new"] | has_size]
    before = carried.set_index("source_id")
    again = own[own["source_id"].isin(before.index)].set_index("source_id")
    unsized = before.index.intersection(again.index[again[SIZE] > 0]).intersection(before.index[~(before[SIZE] > 0)])
    before.loc[unsized, list(SIZES)] = again.loc[unsized, list(SIZES)]
    first = own[~own["source_id"].isin(before.index)]
    parts = [part for part in (before.reset_index()[list(COLUMNS)], first[list(COLUMNS)]) if len(part)]
    return _in_order(pd.concat(parts, ignore_index=True)) if parts else nothing()


def digests(carried: pd.DataFrame, bins: Collection[int]) -> dict[str, str]:
    """A digest of the names, places (to 0.4 arcsec) and sizes (to 0.1 arcsec) in each of these bins; '' where there are none."""
    ordered = carried.sort_values("source_id")
    own, lines = bins_of(ordered["ra_deg"]), ordered[["source_id", "ra_deg", "dec_deg", *SIZE_COLUMNS[:2]]].itertuples(index=False)
    texts = np.array([f"{name} {ra:.4f} {dec:.4f} {major:.1f} {minor:.1f}" for name, ra, dec, major, minor in lines], object)
    inside = {one: texts[own == one] for one in sorted(bins)}
    return {f"{one:02d}": xxhash.xxh3_64_hexdigest("\n".join(lines).encode()) if len(lines) else "" for one, lines in inside.items()}


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["mjd", "source_id"], kind="stable", ignore_index=True)
