"""Light curves as they are stored: from a night's measurements to a Parquet file per night.

A file identifies sources by a number instead of the name, and has row groups small enough that one source is found without
reading the rest. Numbers of many nights are also merged much faster than names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.photometry.association import NEW_PREFIX, merged_names
from dsa110_assets.photometry.transits import HALF_TRANSIT_DAYS, one_per_transit
from dsa110_assets.telescope import timegrid

FILE = "light_curves.parquet"
GROUP_ROWS, PAGE_BYTES = 10_000, 8192
"""The fastest for reading one of 100,000 sources over 1000 nights: with smaller groups the index of groups, which must be read, is
longer."""
_REPEATED = ("epoch", "mosaic_id", "correction", "correction_err", "n_references", "quality", "noise_scale", "detected")
_INDICES = ("spectral_index", "spectral_index_err")
"""Missing from measurements made before spectral indices were added."""
_MEASURED = (
    "source_id", "epoch", "mosaic_id", "ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "rms_jy", "limit_jy",
    "catalogue_flux_jy", "quality", "detected", *_INDICES,
)  # fmt: skip
_EARLIER = ""
"""The mosaic assigned to all names of earlier nights, which were decided then to be different sources."""


def measured(
    files: Sequence[Path], night: str, names: pd.DataFrame, given: pd.DataFrame | None, merge_arcsec: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a night's measurements, one row per source and transit by source_id and mjd, and the names: those of `names` and
    tonight's.

    `files` are those of its hours; `names` (as in `past.Past`) are those of earlier nights. Two hours may have discovered one
    object separately: within `merge_arcsec` it is called by its earliest name, and keeps it. The first and last hours reach
    over midnight. A transit that an earlier night has (`given`: its source_id and mjd) is omitted, and one that begins more
    than an observation after this night belongs to the next night.
    """
    tables = [pd.read_parquet(file) for file in files]
    rows = pd.concat([table.reindex(columns=list(_MEASURED)) for table in tables], ignore_index=True)
    names = _named(rows, names, merge_arcsec)
    renamed = names[names["source_id"] != names["called"]]
    rows["source_id"] = rows["source_id"].replace(dict(zip(renamed["source_id"], renamed["called"], strict=True))).astype("str")
    end_mjd = timegrid.datetime_to_mjd(timegrid.parse_key(night) + timegrid.NIGHT + timegrid.OBSERVATION_WINDOW)
    rows = one_per_transit(rows[rows["mjd"] < end_mjd])
    if given is not None and len(given):
        last_mjd = rows["source_id"].map(given.groupby("source_id", observed=True)["mjd"].max()).to_numpy(np.float64)
        rows = rows[~(np.abs(rows["mjd"].to_numpy(np.float64) - last_mjd) <= HALF_TRANSIT_DAYS)].reset_index(drop=True)
    return rows, names


def _named(rows: pd.DataFrame, names: pd.DataFrame, merge_arcsec: float) -> pd.DataFrame:
    """Return the names of earlier nights, and those that are new in these rows."""
    new = rows[rows["source_id"].str.startswith(NEW_PREFIX)]
    unnamed = new[~new["source_id"].isin(names["source_id"])].sort_values("mjd", kind="stable").drop_duplicates("source_id")
    if unnamed.empty:
        return names
    unnamed = unnamed[["source_id", "mjd", "ra_deg", "dec_deg"]]
    current = names[names["source_id"] == names["called"]]
    first = pd.concat([current[list(unnamed.columns)], unnamed], ignore_index=True) if len(current) else unnamed
    mosaics = new.groupby("source_id", observed=True)["mosaic_id"].agg(set).to_dict()
    earlier = set(current["source_id"])

    def mosaics_of(requested: set[str]) -> dict[str, set[str]]:
        return {name: mosaics.get(name, set()) | ({_EARLIER} if name in earlier else set()) for name in requested}

    renamed = merged_names(first, merge_arcsec, mosaics_of)
    unnamed = unnamed.assign(called=[renamed.get(name, name) for name in unnamed["source_id"]])[list(names.columns)]
    return pd.concat([names, unnamed], ignore_index=True) if len(names) else unnamed.reset_index(drop=True)


def source_keys(names: Iterable[str]) -> NDArray[np.int64]:
    """Return the number (n,) of each name: 63 bits of its hash, so that two of 100,000 names share one in one of 10^9 archives."""
    return np.array([xxhash.xxh3_64_intdigest(name.encode()) >> 1 for name in names], np.int64)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Raise SilentWrongnessError, naming the file, if reading it in the block fails because it is damaged or lacks a column."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        what = str(error).splitlines()[0]
        raise SilentWrongnessError(f"light curves in {file} cannot be read ({what}): run: dsa110 archive verify") from error


def write(curves: pd.DataFrame, folder: Path) -> None:
    """Write a night's rows, with their source_key, sorted by source_key and mjd, as `archive.light_curves.Nights` reads them."""
    code, names = pd.factorize(curves["source_id"])
    rows = curves.assign(source_key=source_keys(map(str, names))[code] if len(names) else np.zeros(0, np.int64))
    rows = rows.sort_values(["source_key", "mjd"], kind="stable")
    pq.write_table(
        pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None),
        folder / FILE,
        row_group_size=GROUP_ROWS,
        data_page_size=PAGE_BYTES,
        write_page_index=True,
        use_dictionary=list(_REPEATED),
        write_statistics=["source_key"],
        store_schema=False,
    )
