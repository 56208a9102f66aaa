"""Views of a HiPS on disk: the window of sky that a sky browser would show, made from the tiles that it needs."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.wcs import WCS
from astropy_healpix import lonlat_to_healpix  # type: ignore[import-untyped]
from mocpy import MOC
from numpy.typing import NDArray

from dsa110_assets.mosaics import hips
from dsa110_assets.mosaics.hips import LOWEST_ORDER, ORDER_0_DEG, SIDE

BLANK = 0
WHOLE_DEG = 360.0
ALLSKY_SIDE = 64
_BITS = 9
"""A tile has 2^9 pixels per side."""


def described(root: Path) -> dict[str, str]:
    """Return the `properties` of a HiPS by name; {} if the file is missing."""
    try:
        lines = (root / "properties").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def window_wcs(ra_deg: float, dec_deg: float, fov_deg: float, width: int, height: int) -> WCS:
    """Return the WCS of a window centred on an ICRS position, `fov_deg` of sky across its width, east to the left, row 0 at the southern
    edge.

    The projection is zenithal equal-area: the only one that is true at the centre, holds the whole sky, and preserves areas. `fov_deg`
    is measured along the great circle through the centre; the pixel size accounts for the chord 2 sin(fov / 4) that it is drawn with.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra_deg, dec_deg], [(width + 1) / 2, (height + 1) / 2]
    step = np.rad2deg(4 * np.sin(np.deg2rad(min(fov_deg, WHOLE_DEG)) / 4)) / width
    wcs.wcs.cdelt, wcs.wcs.cunit = [-step, step], ["deg", "deg"]
    wcs.wcs.set()
    return wcs


def order_for(pixel_deg: float, highest: int) -> int:
    """Return the lowest order whose pixels are no larger than the window's, within the available orders."""
    required = int(np.ceil(np.log2(ORDER_0_DEG / SIDE / pixel_deg)))
    return min(max(required, LOWEST_ORDER), highest)


def shades_in(root: Path, wcs: WCS, width: int, height: int, order: int) -> NDArray[np.uint8]:
    """Return the levels (height, width) of the PNG tiles of an order at the window's pixels, row 0 in the south; 0 where there is no data.

    Each pixel takes the value of the tile pixel that contains its centre. Missing tiles are blank.
    """
    ra, dec, inside = _positions(wcs, width, height)
    out = np.zeros(width * height, np.uint8)
    fine = np.asarray(lonlat_to_healpix(ra * u.deg, dec * u.deg, 2 ** (order + _BITS), order="nested"), np.int64)
    of_tile = fine >> (2 * _BITS)
    values = np.zeros(fine.size, np.uint8)
    for index in np.unique(of_tile):
        tile = _tile(hips.tile_path(root, order, int(index), "png"))
        if tile is None:
            continue
        in_tile = of_tile == index
        within = fine[in_tile] & ((1 << 2 * _BITS) - 1)
        values[in_tile] = tile[_every_other_bit(within), _every_other_bit(within >> 1)]  # rows of a PNG run along HEALPix x
    out[inside] = values
    return out.reshape(height, width)


def allsky(root: Path) -> NDArray[np.uint8]:
    """Return the 768 tiles of order 3 as one picture's levels, 27 per row, each of 64 by 64 pixels: browsers load it first."""
    number, side, columns = 12 * 4**LOWEST_ORDER, ALLSKY_SIDE, int(np.sqrt(12 * 4**LOWEST_ORDER))
    out = np.full((-(-number // columns) * side, columns * side), BLANK, np.uint8)
    for path in (root / f"Norder{LOWEST_ORDER}").glob("Dir*/Npix*.png"):
        tile, index = _tile(path), int(path.stem.removeprefix("Npix"))
        if tile is not None and index < number:
            row, column = side * (index // columns), side * (index % columns)
            out[row : row + side, column : column + side] = tile[SIDE // side // 2 :: SIDE // side, SIDE // side // 2 :: SIDE // side]
    return out


def outline(coverage: MOC, wcs: WCS, width: int, height: int) -> NDArray[np.bool_]:
    """Return the mask (height, width) of the window's pixels at the inner edge of a coverage."""
    ra, dec, inside = _positions(wcs, width, height)
    covered = np.zeros(width * height, bool)
    covered[inside] = coverage.contains_lonlat(ra * u.deg, dec * u.deg)
    mask = covered.reshape(height, width)
    framed = np.pad(mask, 1, mode="edge")
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return np.asarray(mask & ~inner)


def _positions(wcs: WCS, width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return ICRS (ra, dec) [deg] of the pixels that lie on the sky, and the mask of these among all pixels."""
    x, y = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    ra, dec = wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)
    inside = np.isfinite(ra) & np.isfinite(dec)
    return np.asarray(ra[inside] % 360), np.asarray(dec[inside]), inside


def _tile(path: Path) -> NDArray[np.uint8] | None:
    """Return the palette indices of a tile; None if there is no such tile."""
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as picture:
        levels = np.asarray(picture)
    return levels if levels.shape == (SIDE, SIDE) and levels.dtype == np.uint8 else None


def _every_other_bit(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return bits 0, 2, 4 ... of each number, packed together."""
    packed = np.zeros_like(numbers)
    for bit in range(_BITS):
        packed |= (numbers >> (2 * bit) & 1) << bit
    return packed
