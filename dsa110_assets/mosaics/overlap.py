"""Compare overlapping tiles: the same sources, measured in pairs of tiles through different parts of the
beam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dsa110_assets.imaging.fits import read_image
from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.imaging.reference import Factor, robust_mean
from dsa110_assets.imaging.statistics import SIGMA_PER_MAD
from dsa110_assets.mosaics.coadd import TileInput
from dsa110_assets.telescope import astrometry

FloatArray = NDArray[np.float64]
PAIR_SCATTER = 0.01
"""Relative flux difference of one source in two healthy tiles beyond noise: primary beam and CLEAN are good to about 1 %."""
_LEAST_SOURCES = 3


@dataclass(frozen=True)
class Pair:
    """Two consecutive tiles by product id, and the sources that both contain: flux ratios (later over earlier), their errors from
    noise, distances [deg]; all (n,).
    """

    first: str
    second: str
    ratio: FloatArray
    error: FloatArray
    offset_deg: FloatArray

    @property
    def factor(self) -> Factor:
        """The tiles' flux ratio, with its error."""
        return robust_mean(self.ratio, self.error, PAIR_SCATTER)


def compared_pairs(tiles: Sequence[TileInput], min_snr: float = 20.0, min_response: float = 0.3, most_sources: int = 50) -> list[Pair]:
    """Match bright sources in consecutive tiles, both corrected for the primary beam; one tile is in memory at a time."""
    unique = sorted({tile.product_id: tile for tile in tiles}.values(), key=lambda tile: tile.mjd)
    pairs = []
    previous: tuple[str, FloatArray] | None = None
    for tile in unique:
        sources, beam_deg = _bright(tile, min_snr, min_response, most_sources)
        if previous is not None:
            pairs.append(Pair(previous[0], tile.product_id, *_matched(previous[1], sources, beam_deg / 2)))
        previous = tile.product_id, sources
    return pairs


def agreement(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return figures of how well neighbours agree on the sources they share.

    overlap_pairs; overlap_flux_ratio (median of later over earlier; 1 if the primary beam is right),
    overlap_flux_scatter (robust sigma of the ratios), overlap_offset_arcsec (median distance). Of the two tiles that
    disagree most significantly, among those with at least 3 sources in common: overlap_flux_worst (|ratio - 1|),
    overlap_worst_error, overlap_worst_sigma, overlap_worst_tiles (their ids). NaN, and no tiles, if no source counts.
    """
    ratio, offset = (np.concatenate([np.empty(0), *parts]) for parts in ([p.ratio for p in pairs], [p.offset_deg for p in pairs]))
    unknown = float("nan")
    median = float(np.median(ratio)) if ratio.size else unknown
    comparable = [(pair, pair.factor) for pair in pairs if pair.ratio.size >= _LEAST_SOURCES]
    figures: dict[str, Any] = {
        "overlap_pairs": float(ratio.size),
        "overlap_flux_ratio": median,
        "overlap_flux_scatter": SIGMA_PER_MAD * float(np.median(np.abs(ratio - median))) if ratio.size else unknown,
        "overlap_offset_arcsec": float(np.median(offset)) * 3600 if offset.size else unknown,
        "overlap_flux_worst": unknown,
        "overlap_worst_error": unknown,
        "overlap_worst_sigma": unknown,
        "overlap_worst_tiles": [],
    }
    if comparable:
        pair, factor = max(comparable, key=lambda pair_and_factor: abs(pair_and_factor[1].value - 1) / pair_and_factor[1].error)
        figures["overlap_flux_worst"], figures["overlap_worst_error"] = abs(factor.value - 1), factor.error
        figures["overlap_worst_sigma"] = abs(factor.value - 1) / factor.error
        figures["overlap_worst_tiles"] = [pair.first, pair.second]
    return figures


def odd_ones_out(pairs: Sequence[Pair], limit: float) -> dict[str, str]:
    """Return the tiles, by product id, that no neighbour agrees with, and the reason: |ratio - 1| is beyond `limit` plus 3 errors.

    A tile that disagrees with both neighbours is odd itself, which is no reason to doubt those. A tile at an end is odd if the
    neighbour it disagrees with is not. If scales change from one half of a mosaic to the other, no tile is odd.
    """
    comparable = [(pair, pair.factor) for pair in pairs if pair.ratio.size >= _LEAST_SOURCES]
    disagrees: dict[str, list[bool]] = {}
    for pair, factor in comparable:
        for tile in (pair.first, pair.second):
            disagrees.setdefault(tile, []).append(abs(factor.value - 1) > limit + 3 * factor.error)
    odd_inside = {tile for tile, verdicts in disagrees.items() if len(verdicts) > 1 and all(verdicts)}
    odd: dict[str, str] = {}
    for pair, factor in comparable:
        for tile, other in ((pair.first, pair.second), (pair.second, pair.first)):
            if tile in odd_inside or (disagrees[tile] == [True] and other not in odd_inside):
                odd[tile] = f"neighbours: fluxes are {factor.value:.3f} +- {factor.error:.3f} from {pair.first} to {pair.second}"
    return odd


def _bright(tile: TileInput, min_snr: float, min_response: float, most: int) -> tuple[FloatArray, float]:
    """Return (n, 4) ra, dec [rad], corrected flux [Jy] and relative error of a tile's brightest peaks, and the beam's minor axis
    [deg]."""
    image, response = read_image(tile.image_path), read_image(tile.primary_beam_path)
    beam_pixels = max(1, round(image.beam.bmaj_deg / float(image.header["CDELT2"])))
    peaks = find_peaks(image.data, min_snr * tile.rms_jy, distance=beam_pixels)
    at_peak = map_coordinates(response.data, [peaks.y, peaks.x], order=1) if peaks.x.size else np.empty(0)
    good = np.flatnonzero(at_peak >= min_response)[:most]
    ra, dec = _world_rad(image.header, peaks.x[good], peaks.y[good])
    relative = tile.rms_jy / peaks.value[good]
    return np.stack([ra, dec, peaks.value[good] / at_peak[good] / tile.scale, relative], axis=-1), image.beam.bmin_deg


def _world_rad(header: Header, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    ra, dec = WCS(header).celestial.wcs_pix2world(x, y, 0)
    return np.deg2rad(ra), np.deg2rad(dec)


def _matched(first: FloatArray, second: FloatArray, radius_deg: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    rows = []
    for ra, dec, flux, relative in second:
        if first.size == 0:
            break
        distance_deg = astrometry.separation_deg(first[:, 0], first[:, 1], ra, dec)
        nearest = int(np.argmin(distance_deg))
        if distance_deg[nearest] < radius_deg:
            ratio = flux / first[nearest, 2]
            rows.append((ratio, ratio * np.hypot(relative, first[nearest, 3]), distance_deg[nearest]))
    ratio, error, offset = np.array(rows, np.float64).reshape(-1, 3).T
    return ratio, error, offset
