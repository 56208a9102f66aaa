"""The common grid of a mosaic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.telescope import astrometry

_AZIMUTHAL_LIMIT_DEG = 60.0
"""Beyond this extent no azimuthal projection keeps a strip's scale, but a conformal cylindrical one does."""


def common_header(headers: Sequence[Header], pixel_deg: float | None = None, max_pixels: int = 400_000_000) -> Header:
    """Return the FITS header (NAXIS1, NAXIS2, ICRS WCS) of a grid that covers all images.

    The centre is the circular mean, so that images may span 0 h. Up to an extent of 60 degrees the projection is ZEA about the centre
    (equal areas, and shapes within 1 % over an hour's strip). Beyond that it is MER (conformal, so beams stay round),
    true to scale at the strip's middle declination. Pixels are the finest of the images unless `pixel_deg` is given,
    and coarser if the grid would exceed `max_pixels`. Raises BadDataError without images, and for a wide strip too close to the
    pole for MER.
    """
    if not headers:
        raise BadDataError("a common grid needs at least one image")
    outlines = [_outline_rad(header) for header in headers]
    ra, dec = (np.concatenate([outline[axis] for outline in outlines]) for axis in (0, 1))
    centre_ra = astrometry.circular_mean_rad(ra)
    offset = (ra - centre_ra + np.pi) % (2 * np.pi) - np.pi
    centre_dec = float((dec.min() + dec.max()) / 2)
    pixel = pixel_deg or min(float(WCS(header).celestial.proj_plane_pixel_scales()[0].to_value("deg")) for header in headers)
    wide = math.degrees(float(np.ptp(offset))) * math.cos(centre_dec) > _AZIMUTHAL_LIMIT_DEG
    header = _mercator(centre_ra, centre_dec, pixel) if wide else _zenithal(centre_ra, centre_dec, pixel)
    if wide and abs(centre_dec) > math.radians(80):
        raise BadDataError(f"a strip at declination {math.degrees(centre_dec):.1f} deg is too close to the pole for one grid")
    x, y = WCS(header).wcs_world2pix(np.rad2deg(centre_ra + offset), np.rad2deg(dec), 0)
    low = np.floor([x.min(), y.min()]) - 1
    high = np.ceil([x.max(), y.max()]) + 1
    size = (high - low + 1).astype(int)
    if int(size[0]) * int(size[1]) > max_pixels:
        coarser = pixel * math.sqrt(int(size[0]) * int(size[1]) / max_pixels) * 1.01
        return common_header(headers, coarser, max_pixels)
    for axis in (1, 2):
        header[f"CRPIX{axis}"] = float(header[f"CRPIX{axis}"] - low[axis - 1])
        header[f"NAXIS{axis}"] = int(size[axis - 1])
    header["NAXIS"] = 2
    return header


def around(ra_deg: float, dec_deg: float, radius_deg: float, pixel_deg: float) -> Header:
    """Return the FITS header (NAXIS1, NAXIS2, ICRS WCS, ZEA) of a square grid that holds a circle about a direction."""
    half = math.ceil(radius_deg / pixel_deg)
    header = _header("ZEA", ra_deg, dec_deg, pixel_deg, float(half + 1))
    header["NAXIS"] = 2
    for axis in (1, 2):
        header[f"NAXIS{axis}"] = 2 * half + 1
    return header


def _outline_rad(header: Header) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points along an image's edge, ICRS [rad]."""
    width, height = int(header["NAXIS1"]), int(header["NAXIS2"])
    along_x, along_y = np.linspace(-0.5, width - 0.5, 17), np.linspace(-0.5, height - 0.5, 17)
    x = np.concatenate([along_x, along_x, np.full(17, -0.5), np.full(17, width - 0.5)])
    y = np.concatenate([np.full(17, -0.5), np.full(17, height - 0.5), along_y, along_y])
    ra, dec = WCS(header).celestial.wcs_pix2world(x, y, 0)
    return np.deg2rad(ra), np.deg2rad(dec)


def _zenithal(ra_rad: float, dec_rad: float, pixel_deg: float) -> Header:
    return _header("ZEA", math.degrees(ra_rad), math.degrees(dec_rad), pixel_deg, 1.0)


def _mercator(ra_rad: float, dec_rad: float, pixel_deg: float) -> Header:
    step = pixel_deg / math.cos(dec_rad)
    header = _header("MER", math.degrees(ra_rad), 0.0, step, 1.0)
    header["CRPIX2"] = 1.0 - math.degrees(math.log(math.tan(math.pi / 4 + dec_rad / 2))) / step
    return header


def _header(projection: str, ra_deg: float, dec_deg: float, pixel_deg: float, reference_pixel: float) -> Header:
    header = Header()
    for axis, kind, value, step in ((1, "RA--", ra_deg % 360, -pixel_deg), (2, "DEC-", dec_deg, pixel_deg)):
        header[f"CTYPE{axis}"] = f"{kind}-{projection}"
        header[f"CRVAL{axis}"] = value
        header[f"CDELT{axis}"] = step
        header[f"CRPIX{axis}"] = reference_pixel
        header[f"CUNIT{axis}"] = "deg"
    header["RADESYS"] = "ICRS"
    header["EQUINOX"] = 2000.0
    return header
