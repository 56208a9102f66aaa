"""A HiPS (IVOA HiPS 1.0) on disk: the paths of its tiles, FITS tiles with WCS headers, and its properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from astropy_healpix import healpix_to_lonlat  # type: ignore[import-untyped]
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets import __version__
from dsa110_assets.imaging.fits import Cards
from dsa110_assets.imaging.fitsbytes import write_plane
from dsa110_assets.telescope import timegrid

SIDE = 512
LOWEST_ORDER = 3
ORDER_0_DEG = 58.6323
"""Side of a tile of order 0: the square root of a twelfth of the sphere's area."""


@dataclass(frozen=True)
class HipsDescription:
    """Description of a HiPS. `cuts` are the pixel-value limits, `at_deg` the (ra, dec), with which a viewer starts."""

    name: str
    description: str
    formats: str
    unit: str
    order: int
    sky_fraction: float
    cuts: tuple[float, float]
    at_deg: tuple[float, float]


def tile_path(root: Path, order: int, index: int, suffix: str) -> Path:
    """Return the path of a tile's file, as the standard defines it."""
    return root / f"Norder{order}" / f"Dir{index // 10000 * 10000}" / f"Npix{index}.{suffix}"


def tile_deg(order: int, index: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ICRS (ra, dec) [deg] of positions in a tile, columns `x` and rows `y` as fractions of its side.

    Columns run along HEALPix y (north-west), rows against its x (north-east).
    """
    lon, lat = healpix_to_lonlat(np.full(x.shape, index), 2**order, dx=1 - y, dy=x, order="nested")
    return lon.to_value(u.deg), lat.to_value(u.deg)


def tile_header(order: int, index: int) -> Header:
    """Return the FITS header of a tile: HPX about the nearest multiple of 90 degrees, so that no tile crosses the map's edge."""
    middle = np.array([0.5])
    ra, dec = (float(value[0]) for value in tile_deg(order, index, middle, middle))
    step = 45 / SIDE / 2**order
    header = Header()
    for axis, kind, value in ((1, "RA---HPX", 90.0 * round(ra / 90) % 360), (2, "DEC--HPX", 0.0)):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CRPIX{axis}"], header[f"CUNIT{axis}"] = kind, value, 0.0, "deg"
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -step, -step, step, -step
    header["PV2_1"], header["PV2_2"] = 4.0, 3.0
    header["RADESYS"] = "ICRS"
    x, y = WCS(header).wcs_world2pix(ra, dec, 0)
    header["CRPIX1"], header["CRPIX2"] = float((SIDE - 1) / 2 - x), float((SIDE - 1) / 2 - y)
    header["ORDER"], header["NPIX"] = (order, "HiPS order"), (index, "HEALPix index of the tile, nested")
    return header


def write_tile(tile: NDArray[np.float32], root: Path, order: int, index: int, cards: Cards) -> Path:
    """Write a tile (512, 512), NaN where blank, as FITS with two axes; an existing file of this tile is replaced atomically."""
    path = tile_path(root, order, index, "fits")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = tile_header(order, index)
    for keyword, value in cards.items():
        header[keyword] = value
    partial = path.with_suffix(".part")
    partial.unlink(missing_ok=True)
    write_plane(tile, header, partial)
    return partial.replace(path)


def parent_of(children: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the tile of the next coarser order from up to four children by nested index: means of their 2 x 2 pixels."""
    parent = np.full((SIDE, SIDE), np.nan, dtype=np.float32)
    half = SIDE // 2
    for index, tile in children.items():
        # bit 0 of a nested index is HEALPix x (towards row 0), bit 1 is y (towards the last column)
        top, left = half * (1 - index % 2), half * (index // 2 % 2)
        parent[top : top + half, left : left + half] = _halved(tile)
    return parent


def _halved(tile: NDArray[np.float32]) -> NDArray[np.float32]:
    quads = tile.reshape(SIDE // 2, 2, SIDE // 2, 2)
    count = np.isfinite(quads).sum(axis=(1, 3))
    total = np.nan_to_num(quads).sum(axis=(1, 3))
    blank = np.full(total.shape, np.nan, dtype=np.float32)
    return np.asarray(np.divide(total, count, out=blank, where=count > 0))


def write_properties(root: Path, of: HipsDescription, images: list[Header], tiles_bytes: int) -> None:
    """Write `properties`: all required keywords, and the recommended ones that image headers provide.

    `images` are the headers of the resampled images. A HiPS made again from the same images has the same bytes, so
    its release date is the end of its newest observation (now, if no image gives its time).
    """
    pixel_deg = ORDER_0_DEG / SIDE / 2**of.order
    text = {
        "creator_did": f"ivo://dsa110/P/{of.name}",
        "obs_collection": "DSA-110",
        "obs_title": f"DSA-110 {of.name}",
        "obs_description": of.description,
        "obs_regime": "Radio",
        "dataproduct_type": "image",
        "client_category": "Image/Radio/DSA-110",
        "prov_progenitor": " ".join(str(header["PRODUCT"]) for header in images if "PRODUCT" in header),
        "hips_version": "1.4",
        "hips_release_date": _released(images),
        "hips_builder": f"dsa110_assets {__version__}",
        "hips_status": "public master clonableOnce",
        "hips_frame": "equatorial",
        "hips_order": str(of.order),
        "hips_order_min": str(LOWEST_ORDER),
        "hips_tile_width": str(SIDE),
        "hips_tile_format": of.formats,
        "hips_pixel_scale": f"{pixel_deg:.9f}",
        "hips_pixel_bitpix": "-32",
        "hips_pixel_unit": of.unit,
        "hips_pixel_cut": f"{of.cuts[0]:.6g} {of.cuts[1]:.6g}",
        "hips_hierarchy": "mean",
        "hips_sampling": "bilinear",
        "hips_estsize": str(-(-tiles_bytes // 1024)),
        "hips_initial_ra": f"{of.at_deg[0]:.5f}",
        "hips_initial_dec": f"{of.at_deg[1]:.5f}",
        "hips_initial_fov": "5.0",
        "s_pixel_scale": f"{_pixel_deg(images):.9f}",
        "moc_sky_fraction": f"{of.sky_fraction:.9f}",
        **_times(images),
        **_wavelengths(images),
    }
    lines = [f"{key:<20} = {value}\n" for key, value in text.items() if value]
    (root / "properties").write_text("".join(lines), encoding="utf-8")


def _pixel_deg(images: list[Header]) -> float:
    return min(float(WCS(header).celestial.proj_plane_pixel_scales()[1].to_value("deg")) for header in images)


def _times(images: list[Header]) -> dict[str, str]:
    starts, ends = ([float(header[key]) for header in images if key in header] for key in ("MJD-OBS", "MJD-END"))
    return {"t_min": f"{min(starts):.6f}", "t_max": f"{max(ends):.6f}"} if starts and ends else {}


def _released(images: list[Header]) -> str:
    ends = [float(header["MJD-END"]) for header in images if "MJD-END" in header]
    moment = timegrid.mjd_to_datetime(max(ends)) if ends else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%MZ")


def _wavelengths(images: list[Header]) -> dict[str, str]:
    """Return the band's edges [m]."""
    bands = [(float(header["RESTFRQ"]), float(header.get("BANDWID", 0))) for header in images if "RESTFRQ" in header]
    if not bands:
        return {}
    low, high = min(middle - width / 2 for middle, width in bands), max(middle + width / 2 for middle, width in bands)
    return {"em_min": f"{speed_of_light / high:.6f}", "em_max": f"{speed_of_light / low:.6f}"}
