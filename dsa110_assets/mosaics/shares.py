"""The tiles that contribute to a position in a mosaic: the weight of each there, PB^2 / sigma^2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.errors import NotFoundError
from dsa110_assets.imaging.fits import map_image
from dsa110_assets.mosaics.coadd import TileInput

FloatArray = NDArray[np.float64]


def tile_shares(tiles: Sequence[TileInput], ra_deg: FloatArray, dec_deg: FloatArray, pb_cutoff: float) -> FloatArray:
    """Return the share (n_tiles, n) of each tile in the result of `coadd` at positions (n,) ICRS [deg]; columns sum to 1, or to 0 where
    there is no tile.

    Shares are from the nearest pixel of each primary beam, so they are accurate to the beam's change over half a pixel (10^-3 at half
    power). They use the tiles' original noise, even where tiles were convolved to a common beam. A tile whose files are missing has NaN,
    and the others have the shares that they would have without it.
    """
    weight = np.zeros((len(tiles), ra_deg.size))
    for row, tile in zip(weight, tiles, strict=True):
        try:
            response = map_image(tile.primary_beam_path)
        except NotFoundError:
            row[:] = np.nan
            continue
        x, y = WCS(response.header).celestial.wcs_world2pix(ra_deg, dec_deg, 0)
        ny, nx = response.data.shape
        with np.errstate(invalid="ignore"):
            inside = (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
        column, line = np.rint(x[inside]).astype(int), np.rint(y[inside]).astype(int)
        beam_value = np.asarray(response.data[line, column], np.float64)
        row[inside] = np.where(beam_value >= pb_cutoff, (beam_value * tile.scale / tile.rms_jy) ** 2, 0.0)
    total = np.nansum(weight, axis=0)
    return np.asarray(weight / np.where(total > 0, total, 1.0))
