"""A mosaic for sky browsers: its coverage as a MOC, and HiPS tiles (IVOA HiPS 1.0) that Aladin, ESASky and
others open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from astropy_healpix import lonlat_to_healpix  # type: ignore[import-untyped]
from mocpy import MOC
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dsa110_assets.imaging.fits import FitsImage, read_image
from dsa110_assets.imaging.preview import encode_png, shades
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.mosaics import hips
from dsa110_assets.mosaics.hips import LOWEST_ORDER, ORDER_0_DEG, SIDE

_STEP = 16
_HIGHEST_ORDER = 10
_MOC_LEVELS = 4
"""Coverage is kept in cells of 1/16 of a tile: 6.9 arcmin at order 5."""
SPHERE_DEG2 = 41252.96125


def write_sky_tiles(mosaic_path: Path, directory: Path, name: str = "continuum") -> dict[str, float]:
    """Write `coverage.moc.fits` and the HiPS directory `hips` beside it; both must be new.

    Each tile is written as FITS [Jy/beam], NaN where there is no data, and as PNG in units of the mosaic's robust noise,
    transparent where there is no data. Orders run from one whose pixels resolve the mosaic's to order 3. Returns sky_area_deg2,
    hips_order, hips_tiles.
    """
    mosaic = read_image(mosaic_path)
    order = order_of(mosaic.header)
    tiles = {index: tile for index in touched(mosaic, order) if np.isfinite(tile := tile_of(mosaic, order, index)).any()}
    coverage = coverage_of(tiles, order)
    coverage.save(directory / "coverage.moc.fits", format="fits")
    root = directory / "hips"
    root.mkdir()
    rms = robust_rms(mosaic.data)
    cards = {key: mosaic.header[key] for key in ("BUNIT", "BMAJ", "BMIN", "BPA", "RESTFRQ") if key in mosaic.header}
    described = hips.HipsDescription(
        name=name,
        description="DSA-110 continuum mosaic, corrected for the primary beam",
        formats="png fits",
        unit=str(mosaic.header.get("BUNIT", "Jy/beam")),
        order=order,
        sky_fraction=float(coverage.sky_fraction),
        cuts=(-3 * rms, 20 * rms),
        at_deg=fullest_deg(tiles, order),
    )
    written = size = 0
    for level in range(order, LOWEST_ORDER - 1, -1):
        if level < order:
            tiles = _parents(tiles)
        for index, tile in tiles.items():
            size += hips.write_tile(tile, root, level, index, cards).stat().st_size
            # FITS rows run upwards, PNG rows downwards
            size += hips.tile_path(root, level, index, "png").write_bytes(encode_png(shades(tile[::-1], rms), transparent=True))
            written += 1
    hips.write_properties(root, described, [mosaic.header], size)
    coverage.save(root / "Moc.fits", format="fits")
    return {"sky_area_deg2": described.sky_fraction * SPHERE_DEG2, "hips_order": float(order), "hips_tiles": float(written)}


def order_of(header: Header) -> int:
    """Return the lowest order whose pixels are at most 1.5 mosaic pixels (a beam has 4 or more of these)."""
    pixel_deg = float(WCS(header).celestial.proj_plane_pixel_scales()[1].to_value("deg"))
    required = int(np.ceil(np.log2(ORDER_0_DEG / (SIDE * 1.5 * pixel_deg))))
    return min(max(required, LOWEST_ORDER), _HIGHEST_ORDER)


def touched(mosaic: FitsImage, order: int) -> list[int]:
    """Return the tiles at `order` with data at any of the sampled pixels (every 16th along both axes)."""
    rows, columns = np.nonzero(np.isfinite(mosaic.data[::_STEP, ::_STEP]))
    ra, dec = WCS(mosaic.header).celestial.wcs_pix2world(columns * _STEP, rows * _STEP, 0)
    return [int(i) for i in np.unique(lonlat_to_healpix(ra * u.deg, dec * u.deg, 2**order, order="nested"))]


def tile_of(mosaic: FitsImage, order: int, index: int) -> NDArray[np.float32]:
    """Return one tile (512, 512), NaN where the mosaic has no data."""
    inside = (np.arange(SIDE) + 0.5) / SIDE
    ra, dec = hips.tile_deg(order, index, *np.meshgrid(inside, inside))
    x, y = WCS(mosaic.header).celestial.wcs_world2pix(ra, dec, 0)
    return np.asarray(map_coordinates(mosaic.data, [y, x], order=1, cval=np.nan), dtype=np.float32)


def fullest_deg(tiles: Mapping[int, NDArray[np.float32]], order: int) -> tuple[float, float]:
    """Return ICRS (ra, dec) [deg] of a pixel with data, in the middle of the fullest tile's data, as a starting point for viewers."""
    index = max(sorted(tiles), key=lambda candidate: int(np.isfinite(tiles[candidate]).sum()))
    filled = np.flatnonzero(np.isfinite(tiles[index]))
    row, column = np.divmod(filled[filled.size // 2], SIDE)
    ra, dec = hips.tile_deg(order, index, (np.array([column]) + 0.5) / SIDE, (np.array([row]) + 0.5) / SIDE)
    return float(ra[0]), float(dec[0])


def _parents(tiles: dict[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
    """Return the tiles of the next coarser order."""
    families: dict[int, dict[int, NDArray[np.float32]]] = {}
    for index, tile in tiles.items():
        families.setdefault(index // 4, {})[index] = tile
    return {index: hips.parent_of(children) for index, children in families.items()}


def coverage_of(tiles: dict[int, NDArray[np.float32]], order: int) -> MOC:
    """Return the coverage: the cells, `_MOC_LEVELS` orders finer than the tiles, with data in more than half of their area."""
    per_side = 2**_MOC_LEVELS
    width = SIDE // per_side
    cells = []
    for index, tile in tiles.items():
        filled = np.isfinite(tile).reshape(per_side, width, per_side, width).mean(axis=(1, 3)) > 0.5
        rows, columns = np.nonzero(filled)
        cells.append(index * per_side**2 + _interleaved(per_side - 1 - rows, columns))
    all_cells = np.concatenate(cells).astype(np.uint64)
    depth = order + _MOC_LEVELS
    return MOC.from_healpix_cells(all_cells, np.full(all_cells.size, depth, dtype=np.uint8), max_depth=depth)


def _interleaved(x: NDArray[np.intp], y: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the nested sub-indices of HEALPix (x, y) within a tile."""
    total = np.zeros_like(x)
    for bit in range(_MOC_LEVELS):
        total |= (x >> bit & 1) << (2 * bit) | (y >> bit & 1) << (2 * bit + 1)
    return total
