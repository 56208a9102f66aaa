"""Spectral indices of measured sources, from the bright points of the images they were measured on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.telescope import astrometry

FloatArray = NDArray[np.float64]


def source_indices(
    points: Iterable[pd.DataFrame], ra_deg: FloatArray, dec_deg: FloatArray, within_deg: float
) -> tuple[FloatArray, FloatArray]:
    """Return the spectral index and error (n,) of sources at (n,) ICRS positions [deg]: the weighted mean over all points within
    `within_deg`.

    `points` has one table per image, as made by `imaging.spectra.point_table`. NaN where no image has an index. With points of
    two images that differ by more than their errors, the error grows by the square root of the reduced chi-squared.
    """
    ra, dec = np.deg2rad(ra_deg), np.deg2rad(dec_deg)
    weight, first, second, count = np.zeros((4, ra.size))
    for table in points:
        known = table[table["spectral_index_err"] > 0]
        if not len(known) or not ra.size:
            continue
        point_ra, point_dec = (np.deg2rad(known[name].to_numpy(float))[:, None] for name in ("ra_deg", "dec_deg"))
        separation = astrometry.separation_deg(point_ra, point_dec, ra, dec)
        nearest = separation.argmin(axis=1)
        close = separation[np.arange(len(known)), nearest] < within_deg
        at, value = nearest[close], known["spectral_index"].to_numpy(float)[close]
        for sums, term in ((weight, 1.0), (first, value), (second, value**2)):
            np.add.at(sums, at, term / known["spectral_index_err"].to_numpy(float)[close] ** 2)
        np.add.at(count, at, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = first / weight
        spread = np.maximum(second - weight * mean**2, 0) / np.maximum(count - 1, 1)
        error = np.sqrt(np.maximum(spread, 1.0) / weight)
    return np.where(count > 0, mean, np.nan), np.where(count > 0, error, np.nan)
