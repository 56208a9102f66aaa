"""The bright points of an image as a table: positions, fluxes, and spectral indices across the band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.wcs import WCS

if TYPE_CHECKING:
    import pandas as pd

    from dsa110_assets.imaging.tile import TileImage


FILE = "points.parquet"


def point_table(tile: TileImage) -> pd.DataFrame:
    """Return a row per point of `tile.points` that is not resolved: ra_deg, dec_deg (ICRS), apparent_jy at the image's frequency,
    spectral_index and spectral_index_err.

    The index is that of the source, S ~ nu^index, corrected for that of the primary beam, from the data alone; NaN for points
    fainter than 100 times the noise, whose error would be 0.3 or more.
    """
    import pandas as pd

    unresolved = ~tile.points.resolved
    points = tile.points.select(unresolved)
    ra, dec = WCS(tile.header).celestial.wcs_pix2world(points.columns, points.rows, 0)
    return pd.DataFrame(
        {
            "ra_deg": np.asarray(ra, float) % 360, "dec_deg": np.asarray(dec, float), "apparent_jy": points.flux_jy,
            "spectral_index": tile.spectral_index[unresolved], "spectral_index_err": tile.spectral_index_err[unresolved],
        }
    )  # fmt: skip
