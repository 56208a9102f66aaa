"""A mosaic for sky browsers: its coverage as a MOC, and HiPS tiles (IVOA HiPS 1.0) that Aladin and
CARTA-likes open."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.wcs import WCS
from astropy_healpix import (  # type: ignore[import-untyped]
    healpix_to_lonlat,
    lonlat_to_healpix,
)
from mocpy import MOC
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dsa110_assets.imaging.fits import FitsImage, read_image
from dsa110_assets.imaging.preview import encode_png, shades
from dsa110_assets.imaging.statistics import robust_rms

_SIDE = 512
_STEP = 16
_LOWEST_ORDER, _HIGHEST_ORDER = 3, 10
_MOC_LEVELS = 4
"""Coverage is kept in cells of 1/16 of a tile: 6.9 arcmin at order 5."""
_PROPERTIES = """\
creator_did          = ivo://dsa110/P/{name}
obs_title            = DSA-110 {name}
dataproduct_type     = image
hips_version         = 1.4
hips_order           = {order}
hips_order_min       = {lowest}
hips_tile_width      = 512
hips_tile_format     = png
hips_frame           = equatorial
hips_status          = public master clonableOnce
em_min               = 0.2000
em_max               = 0.2287
moc_sky_fraction     = {fraction:.9f}
"""


def write_sky_tiles(mosaic_path: Path, directory: Path, name: str = "continuum") -> dict[str, float]:
    """Write `coverage.moc.fits` and the HiPS directory `hips` beside it; both must be new.

    Tiles are PNG in units of the mosaic's robust noise, see-through where there is no data, from an order
    whose pixels resolve the mosaic's up to order 3. Returns sky_area_deg2, hips_order, hips_tiles.
    """
    mosaic = read_image(mosaic_path)
    order = _order(mosaic)
    tiles = {
        index: tile
        for index in _touched(mosaic, order)
        if np.isfinite(tile := _tile(mosaic, order, index)).any()
    }
    moc = _coverage(tiles, order)
    moc.save(directory / "coverage.moc.fits", format="fits")
    hips = directory / "hips"
    hips.mkdir()
    rms = robust_rms(mosaic.data)
    written = 0
    for level in range(order, _LOWEST_ORDER - 1, -1):
        if level < order:
            tiles = _parents(tiles)
        for index, tile in tiles.items():
            path = hips / f"Norder{level}" / f"Dir{index // 10000 * 10000}" / f"Npix{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # FITS rows run upwards, those of a PNG downwards
            path.write_bytes(encode_png(shades(tile[::-1], rms), transparent=True))
            written += 1
    fraction = float(moc.sky_fraction)
    text = _PROPERTIES.format(name=name, order=order, lowest=_LOWEST_ORDER, fraction=fraction)
    (hips / "properties").write_text(text)
    moc.save(hips / "Moc.fits", format="fits")
    return {"sky_area_deg2": fraction * 41252.96125, "hips_order": float(order), "hips_tiles": float(written)}


def _order(mosaic: FitsImage) -> int:
    """The lowest order whose pixels are at most 1.5 mosaic pixels (a beam has 4 or more of them)."""
    pixel_deg = float(WCS(mosaic.header).celestial.proj_plane_pixel_scales()[1].to_value("deg"))
    wanted = int(np.ceil(np.log2(58.6323 / (_SIDE * 1.5 * pixel_deg))))
    return min(max(wanted, _LOWEST_ORDER), _HIGHEST_ORDER)


def _touched(mosaic: FitsImage, order: int) -> list[int]:
    """Tiles at `order` with data at any of the sampled pixels (every 16th along both axes)."""
    rows, columns = np.nonzero(np.isfinite(mosaic.data[::_STEP, ::_STEP]))
    ra, dec = WCS(mosaic.header).celestial.wcs_pix2world(columns * _STEP, rows * _STEP, 0)
    return [int(i) for i in np.unique(lonlat_to_healpix(ra * u.deg, dec * u.deg, 2**order, order="nested"))]


def _tile(mosaic: FitsImage, order: int, index: int) -> NDArray[np.float32]:
    """One tile (512, 512): columns run along HEALPix y (north-west), rows against its x (north-east)."""
    inside = (np.arange(_SIDE) + 0.5) / _SIDE
    column, row = np.meshgrid(inside, inside)
    lon, lat = healpix_to_lonlat(np.full(row.shape, index), 2**order, dx=1 - row, dy=column, order="nested")
    x, y = WCS(mosaic.header).celestial.wcs_world2pix(lon.to_value(u.deg), lat.to_value(u.deg), 0)
    return np.asarray(map_coordinates(mosaic.data, [y, x], order=1, cval=np.nan), dtype=np.float32)


def _parents(tiles: dict[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
    """The next coarser order: each tile the means of 2 x 2 pixels of its up to four children."""
    parents: dict[int, NDArray[np.float32]] = {}
    half = _SIDE // 2
    for index, tile in tiles.items():
        parent = parents.setdefault(index // 4, np.full((_SIDE, _SIDE), np.nan, dtype=np.float32))
        # bit 0 of a nested index is HEALPix x (towards row 0), bit 1 is y (towards the last column)
        top, left = half * (1 - index % 2), half * (index // 2 % 2)
        parent[top : top + half, left : left + half] = _halved(tile)
    return parents


def _halved(tile: NDArray[np.float32]) -> NDArray[np.float32]:
    quads = tile.reshape(_SIDE // 2, 2, _SIDE // 2, 2)
    count = np.isfinite(quads).sum(axis=(1, 3))
    total = np.nan_to_num(quads).sum(axis=(1, 3))
    blank = np.full(total.shape, np.nan, dtype=np.float32)
    return np.asarray(np.divide(total, count, out=blank, where=count > 0))


def _coverage(tiles: dict[int, NDArray[np.float32]], order: int) -> MOC:
    """The cells, `_MOC_LEVELS` orders below the tiles', of which more than half has data."""
    per_side = 2**_MOC_LEVELS
    width = _SIDE // per_side
    cells = []
    for index, tile in tiles.items():
        seen = np.isfinite(tile).reshape(per_side, width, per_side, width).mean(axis=(1, 3)) > 0.5
        rows, columns = np.nonzero(seen)
        cells.append(index * per_side**2 + _interleaved(per_side - 1 - rows, columns))
    found = np.concatenate(cells).astype(np.uint64)
    depth = order + _MOC_LEVELS
    return MOC.from_healpix_cells(found, np.full(found.size, depth, dtype=np.uint8), max_depth=depth)


def _interleaved(x: NDArray[np.intp], y: NDArray[np.intp]) -> NDArray[np.intp]:
    """Nested sub-indices of HEALPix (x, y) within a tile."""
    total = np.zeros_like(x)
    for bit in range(_MOC_LEVELS):
        total |= (x >> bit & 1) << (2 * bit) | (y >> bit & 1) << (2 * bit + 1)
    return total
