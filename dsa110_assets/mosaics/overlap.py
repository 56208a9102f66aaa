"""Do overlapping tiles agree? The same sources, measured in pairs of tiles through different parts of the
beam."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dsa110_assets.imaging.fits import read_image
from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.imaging.statistics import SIGMA_PER_MAD
from dsa110_assets.mosaics.coadd import TileInput
from dsa110_assets.telescope import astrometry


def overlap_agreement(
    tiles: Sequence[TileInput], min_snr: float = 20.0, min_response: float = 0.3, most_sources: int = 50
) -> dict[str, float]:
    """Flux ratios and offsets of bright sources seen in consecutive tiles, both corrected for the primary
    beam.

    overlap_pairs; overlap_flux_ratio (median of later over earlier; 1 if the primary beam is right),
    overlap_flux_scatter (robust sigma of the ratios), overlap_flux_worst (largest |median - 1| of any pair
    of tiles with at least 3 sources), overlap_offset_arcsec (median distance). NaN where no source counts.
    """
    unique = sorted({tile.product_id: tile for tile in tiles}.values(), key=lambda tile: tile.mjd)
    ratios: list[float] = []
    offsets: list[float] = []
    worst = []
    before: NDArray[np.float64] | None = None
    for tile in unique:
        found, beam_deg = _bright(tile, min_snr, min_response, most_sources)
        if before is not None:
            ratio, offset = _matched(before, found, beam_deg / 2)
            ratios += ratio
            offsets += offset
            if len(ratio) >= 3:
                worst.append(abs(float(np.median(ratio)) - 1))
        before = found
    nothing = float("nan")
    middle = float(np.median(ratios)) if ratios else nothing
    return {
        "overlap_pairs": float(len(ratios)),
        "overlap_flux_ratio": middle,
        "overlap_flux_scatter": SIGMA_PER_MAD * float(np.median(np.abs(np.array(ratios) - middle)))
        if ratios
        else nothing,
        "overlap_flux_worst": max(worst) if worst else nothing,
        "overlap_offset_arcsec": float(np.median(offsets)) * 3600 if offsets else nothing,
    }


def _bright(
    tile: TileInput, min_snr: float, min_response: float, most: int
) -> tuple[NDArray[np.float64], float]:
    """(n, 3) ra, dec [rad] and corrected flux [Jy] of a tile's brightest peaks; the beam's minor axis
    [deg]."""
    image, response = read_image(tile.image_path), read_image(tile.primary_beam_path)
    beam_pixels = max(1, round(image.beam.bmaj_deg / float(image.header["CDELT2"])))
    peaks = find_peaks(image.data, min_snr * tile.rms_jy, distance=beam_pixels)
    at_peak = map_coordinates(response.data, [peaks.y, peaks.x], order=1) if peaks.x.size else np.empty(0)
    good = np.flatnonzero(at_peak >= min_response)[:most]
    ra, dec = _world_rad(image.header, peaks.x[good], peaks.y[good])
    return np.stack([ra, dec, peaks.value[good] / at_peak[good]], axis=-1), image.beam.bmin_deg


def _world_rad(
    header: Header, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ra, dec = WCS(header).celestial.wcs_pix2world(x, y, 0)
    return np.deg2rad(ra), np.deg2rad(dec)


def _matched(
    first: NDArray[np.float64], second: NDArray[np.float64], radius_deg: float
) -> tuple[list[float], list[float]]:
    ratios, offsets = [], []
    for ra, dec, flux in second:
        if first.size == 0:
            break
        away = astrometry.separation_deg(first[:, 0], first[:, 1], ra, dec)
        nearest = int(np.argmin(away))
        if away[nearest] < radius_deg:
            ratios.append(float(flux / first[nearest, 2]))
            offsets.append(float(away[nearest]))
    return ratios, offsets
