"""Light curves as they are stored: a night's measurements in, and a Parquet file a night.

A file holds a night's rows by a number that stands for the source's name, in groups small enough that one source is found
without reading the rest; and numbers of many nights are brought together much faster than names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from dsa110_assets.photometry.association import NEW_PREFIX, merged_names
from dsa110_assets.photometry.transits import HALF_TRANSIT_DAYS, one_per_transit
from dsa110_assets.telescope import timegrid

FILE = "light_curves.parquet"
GROUP_ROWS, PAGE_BYTES = 10_000, 8192
"""Of 100,000 sources over 1000 nights one is read the fastest so: smaller groups have longer lists of themselves to be read."""
_REPEATED = ("epoch", "mosaic_id", "correction", "correction_err", "n_references", "quality", "noise_scale", "detected")
_INDICES = ("spectral_index", "spectral_index_err")
"""Not in measurements of before there were any."""
_MEASURED = (
    "source_id", "epoch", "mosaic_id", "ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "rms_jy", "limit_jy",
    "catalogue_flux_jy", "quality", "detected", *_INDICES,
)  # fmt: skip
_EARLIER = ""
"""The mosaic that all names of earlier nights share: that they are different sources was decided then."""


def measured(
    files: Sequence[Path], night: str, names: pd.DataFrame, given: pd.DataFrame | None, merge_arcsec: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A night's measurements, one row per source and transit by source_id and mjd, under the names of `names` and of tonight's.

    `files` are those of its hours; `names` (as in `past.Past`) those of earlier nights. Two hours may have discovered one object
    separately: within `merge_arcsec` it is called by its earliest name, and stays so. The first and last hours reach over
    midnight: a transit that an earlier night has (`given`: its source_id and mjd) is not given again, and one that begins
    more than an observation after this night is the next night's.
    """
    tables = [pd.read_parquet(file) for file in files]
    rows = pd.concat([table.reindex(columns=list(_MEASURED)) for table in tables], ignore_index=True)
    names = _named(rows, names, merge_arcsec)
    other = names[names["source_id"] != names["called"]]
    rows["source_id"] = rows["source_id"].replace(dict(zip(other["source_id"], other["called"], strict=True))).astype("str")
    end_mjd = timegrid.datetime_to_mjd(timegrid.parse_key(night) + timegrid.NIGHT + timegrid.OBSERVATION_WINDOW)
    rows = one_per_transit(rows[rows["mjd"] < end_mjd])
    if given is not None and len(given):
        last = rows["source_id"].map(given.groupby("source_id", observed=True)["mjd"].max()).to_numpy(np.float64)
        rows = rows[~(np.abs(rows["mjd"].to_numpy(np.float64) - last) <= HALF_TRANSIT_DAYS)].reset_index(drop=True)
    return rows, names


def _named(rows: pd.DataFrame, names: pd.DataFrame, merge_arcsec: float) -> pd.DataFrame:
    """The names of earlier nights, and those that are new in these rows."""
    new = rows[rows["source_id"].str.startswith(NEW_PREFIX)]
    fresh = new[~new["source_id"].isin(names["source_id"])].sort_values("mjd", kind="stable").drop_duplicates("source_id")
    if fresh.empty:
        return names
    fresh = fresh[["source_id", "mjd", "ra_deg", "dec_deg"]]
    own = names[names["source_id"] == names["called"]]
    first = pd.concat([own[list(fresh.columns)], fresh], ignore_index=True) if len(own) else fresh
    mosaics = new.groupby("source_id", observed=True)["mosaic_id"].agg(set).to_dict()
    earlier = set(own["source_id"])

    def mosaics_of(wanted: set[str]) -> dict[str, set[str]]:
        return {name: mosaics.get(name, set()) | ({_EARLIER} if name in earlier else set()) for name in wanted}

    renamed = merged_names(first, merge_arcsec, mosaics_of)
    fresh = fresh.assign(called=[renamed.get(name, name) for name in fresh["source_id"]])[list(names.columns)]
    return pd.concat([names, fresh], ignore_index=True) if len(names) else fresh.reset_index(drop=True)


def source_keys(names: Iterable[str]) -> NDArray[np.int64]:
    """The number (n,) that stands for each name: 63 bits of its hash, so that of 100,000 names two have one once in 10^9 archives."""
    return np.array([xxhash.xxh3_64_intdigest(name.encode()) >> 1 for name in names], np.int64)


def write(curves: pd.DataFrame, folder: Path) -> None:
    """A night's rows, with their source_key, by that and mjd, as `archive.light_curves.Nights` reads them."""
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
