"""The transit times of sources, and the selection of one row per source and transit: hour mosaics overlap, so the same tiles can
measure a source twice."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.photometry.quality import Quality
from dsa110_assets.telescope import astrometry, timegrid

HALF_TRANSIT_DAYS = 0.4
"""Rows of a source closer in time than this belong to one transit; transits repeat after 0.997 days."""


def transit_mjd(ra_deg: ArrayLike, dec_deg: ArrayLike, first_mjd: float, last_mjd: float) -> NDArray[np.float64]:
    """Return the times [MJD UTC] (n,) at which ICRS positions [deg] (n,) cross the meridian, nearest to the middle of an
    observation.

    For a source that crosses before or after the observation this is its beginning or end, when the source was observed through
    the side of the beam.
    """
    ra, dec = np.deg2rad(np.asarray(ra_deg, np.float64)), np.deg2rad(np.asarray(dec_deg, np.float64))
    mjd = np.full(ra.shape, (first_mjd + last_mjd) / 2)
    for _ in range(2 if ra.size else 0):  # the second step corrects for precession and aberration over half a day
        mjd = mjd - astrometry.hour_angle_rad(ra, dec, mjd) / (2 * np.pi) / timegrid.SIDEREAL_RATIO
    return np.clip(mjd, first_mjd, last_mjd)


@njit(cache=True)
def _transits(source: NDArray[np.int64], mjd: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the running transit number of rows sorted by (source, mjd); a transit ends HALF_TRANSIT_DAYS after it begins."""
    out = np.zeros(source.size, np.int64)
    start = 0
    for n in range(1, source.size):
        if source[n] != source[n - 1] or mjd[n] - mjd[start] > HALF_TRANSIT_DAYS:
            start = n
            out[n] = out[n - 1] + 1
        else:
            out[n] = out[n - 1]
    return out


def one_per_transit(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return the row of lowest noise of each source's each transit, sorted by source_id and mjd.

    Needs source_id, mjd, flux_jy, flux_err_jy. Rows with a flux are preferred to rows without, and rows of other tiles to those
    of suspect ones (`quality`, if present). Equal noise goes to the earlier epoch, so the result does not depend on the order
    of the rows.
    """
    columns = ["source_id", "mjd"] + (["mosaic_id"] if "mosaic_id" in measurements else [])
    rows = measurements.sort_values(columns, kind="stable").reset_index(drop=True)
    if rows.empty:
        return rows
    source = pd.factorize(rows["source_id"])[0].astype(np.int64)
    transit = _transits(source, rows["mjd"].to_numpy(np.float64))
    missing = ~np.isfinite(rows["flux_jy"].to_numpy(np.float64))
    error = np.nan_to_num(rows["flux_err_jy"].to_numpy(np.float64), nan=np.inf)
    suspect = (rows["quality"].to_numpy(np.int64) & int(Quality.TILE_SUSPECT)) != 0 if "quality" in rows else missing
    order = np.lexsort((np.arange(len(rows)), error, suspect, missing, transit))
    first = order[np.r_[True, np.diff(transit[order]) > 0]]
    return rows.iloc[np.sort(first)].reset_index(drop=True)
