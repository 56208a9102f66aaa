"""Tiles made directly from their definition: PB times a sky of Gaussians plus beam-shaped noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.imaging.fits import write_image
from dsa110_assets.imaging.restoring import Beam, convolve, set_beam
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.mosaics.coadd import TileInput
from dsa110_assets.telescope import astrometry
from dsa110_assets.telescope import beam as primary_beam

PIXEL_DEG = 10 / 3600
BEAM = Beam(60 / 3600, 40 / 3600, 30.0)
Source = tuple[float, float, float]


def tile_header(ra_deg: float, dec_deg: float, n_pixels: int, beam: Beam = BEAM) -> Header:
    header = Header()
    for axis, kind, value, step in (
        (1, "RA---SIN", ra_deg % 360, -PIXEL_DEG),
        (2, "DEC--SIN", dec_deg, PIXEL_DEG),
    ):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CDELT{axis}"] = kind, value, step
        header[f"CRPIX{axis}"], header[f"CUNIT{axis}"] = n_pixels // 2 + 1.0, "deg"
    header["RADESYS"] = "ICRS"
    header["RESTFRQ"] = 1.405e9
    header["BUNIT"] = "Jy/beam"
    set_beam(header, beam)
    return header


def gaussians(header: Header, n_pixels: int, sources: list[Source], beam: Beam = BEAM) -> NDArray[np.float64]:
    """Point sources (ra, dec [deg], Jy) seen by the beam, evaluated at pixel centres."""
    image = np.zeros((n_pixels, n_pixels))
    rows, columns = np.indices(image.shape)
    inverse = np.linalg.inv(beam.covariance)
    for ra, dec, flux in sources:
        x, y = WCS(header).wcs_world2pix(ra, dec, 0)
        if np.isfinite(x):
            east, north = (x - columns) * PIXEL_DEG, (rows - y) * PIXEL_DEG
            form = inverse[0, 0] * east**2 + 2 * inverse[0, 1] * east * north + inverse[1, 1] * north**2
            image += flux * np.exp(-form / 2)
    return image


def response(header: Header, n_pixels: int, ra_deg: float, dec_deg: float) -> NDArray[np.float64]:
    x, y = np.meshgrid(np.arange(n_pixels), np.arange(n_pixels))
    ra, dec = np.deg2rad(WCS(header).wcs_pix2world(x, y, 0))
    away = astrometry.separation_deg(ra, dec, math.radians(ra_deg), math.radians(dec_deg))
    return primary_beam.power(away, 1.405e9)


def make_tiles(
    directory: Path,
    centres_deg: list[tuple[float, float]],
    sources: list[Source],
    *,
    n_pixels: int = 512,
    noise_jy: list[float] | None = None,
    beams: list[Beam] | None = None,
    flat: bool = False,
    seed: int = 3,
) -> list[TileInput]:
    """One tile per centre; `noise_jy` per tile (default: none added, 1e-6 quoted); `flat`: primary beam of 1."""
    rng = np.random.default_rng(seed)
    tiles = []
    for number, (ra, dec) in enumerate(centres_deg):
        beam = beams[number] if beams else BEAM
        header = tile_header(ra, dec, n_pixels, beam)
        attenuation = np.ones((n_pixels, n_pixels)) if flat else response(header, n_pixels, ra, dec)
        image = attenuation * gaussians(header, n_pixels, sources, beam)
        sigma = 1e-6
        if noise_jy:
            sigma = noise_jy[number]
            white = convolve(rng.standard_normal(image.shape), beam.covariance, PIXEL_DEG)
            image += sigma * white / robust_rms(white[50:-50, 50:-50])
        tile = TileInput(
            directory / f"t{number}.fits",
            directory / f"p{number}.fits",
            sigma,
            f"tile-{number}",
            61000.0 + number,
        )
        write_image(image, header, tile.image_path)
        write_image(attenuation, header, tile.primary_beam_path)
        tiles.append(tile)
    return tiles
