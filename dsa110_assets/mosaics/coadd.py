"""Weighted coadds of tiles.

Each tile D (not corrected for its primary beam PB) measures PB * sky with noise sigma, so the
least-squares sky is M = sum(PB D / sigma^2) / sum(PB^2 / sigma^2), with noise (sum PB^2 / sigma^2)^(-1/2).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numba import njit, prange
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.fits import FitsImage, read_header, read_image
from dsa110_assets.imaging.geometry import set_beam
from dsa110_assets.imaging.restoring import Beam
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.mosaics.beams import common_beam, spread, to_beam
from dsa110_assets.mosaics.grid import common_header
from dsa110_assets.mosaics.options import CoaddOptions
from dsa110_assets.mosaics.resample import resample, resample_smooth, source_coordinates, spline_coefficients
from dsa110_assets.mosaics.window import covered


@dataclass(frozen=True)
class TileInput:
    """A tile on disk: its image (not PB-corrected), its primary beam on the same pixels, its noise
    [Jy/beam]."""

    image_path: Path
    primary_beam_path: Path
    rms_jy: float
    product_id: str
    mjd: float


@dataclass(frozen=True)
class Mosaic:
    """`image` [Jy/beam], corrected for the primary beam, and its `noise` map, (ny, nx) float32, NaN where
    no tile is.

    `tiles` are those that contributed, in time order, each once. `figures`: tiles, area_deg2 (with any tile),
    rms_jy (lowest 5 % of the noise map), median_noise_jy, measured_over_noise (robust sigma of image /
    noise: 1 if the noise map is honest), beam_major_arcsec, beam_minor_arcsec, beam_spread, convolved (0
    or 1), peak_jy.
    """

    image: NDArray[np.float32]
    noise: NDArray[np.float32]
    header: Header
    tiles: tuple[TileInput, ...]
    figures: dict[str, float]

    @property
    def weights(self) -> NDArray[np.float32]:
        """sum(PB^2 / sigma^2) [1/Jy^2], 0 where no tile is."""
        return np.nan_to_num(self.noise**-2, nan=0.0)


def coadd(
    tiles: Sequence[TileInput], header: Header | None = None, options: CoaddOptions | None = None
) -> Mosaic:
    """Coadd tiles on a grid (that of `common_header` unless given); one tile is in memory at a time.

    Tiles given twice count once. Beams that differ by more than `beam_tolerance` are convolved to a common
    one and the tile's noise is scaled as measured. Raises BadDataError without tiles, for a tile that
    cannot be read, is 0 everywhere, has no positive noise, or whose primary beam does not match it, and if no tile reaches
    the grid.
    """
    options = options or CoaddOptions()
    threads = options.threads or len(os.sched_getaffinity(0))
    unique = tuple(sorted({tile.product_id: tile for tile in tiles}.values(), key=lambda tile: tile.mjd))
    if not unique:
        raise BadDataError("a mosaic needs at least one tile")
    images = [_read_header(tile) for tile in unique]
    beams = [beam for _, beam in images]
    if header is None:
        header = common_header(
            [found for found, _ in images], options.pixel_arcsec / 3600 or None, options.max_pixels
        )
    differ = spread(beams)
    target = common_beam(beams) if differ > options.beam_tolerance else None
    shape = int(header["NAXIS2"]), int(header["NAXIS1"])
    top, bottom = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    used = tuple(tile for tile in unique if _add(tile, header, target, options, threads, top, bottom))
    if not used:
        raise BadDataError("no tile has a pixel inside the mosaic's grid above the primary-beam cutoff")
    _finish(top, bottom)
    complete = _complete_header(header, target or _mean_beam(beams), used, [found for found, _ in images])
    figures = _figures(top, bottom, complete)
    figures.update(tiles=float(len(used)), beam_spread=differ, convolved=float(target is not None))
    return Mosaic(top, bottom, complete, used, figures)


def _read_header(tile: TileInput) -> tuple[Header, Beam]:
    if not (np.isfinite(tile.rms_jy) and tile.rms_jy > 0):
        raise BadDataError(f"{tile.product_id}: noise {tile.rms_jy} Jy is no weight; image the tile again")
    return read_header(tile.image_path)


def _add(
    tile: TileInput,
    grid: Header,
    target: Beam | None,
    options: CoaddOptions,
    threads: int,
    top: NDArray[np.float32],
    bottom: NDArray[np.float32],
) -> bool:
    image, beam = read_image(tile.image_path), read_image(tile.primary_beam_path)
    if image.data.shape != beam.data.shape:
        raise BadDataError(
            f"{tile.primary_beam_path}: {beam.data.shape} pixels, but its image has {image.data.shape}; "
            "image it again"
        )
    window = covered(image.header, grid)
    if window is None:
        return False
    if not image.data.any():
        raise BadDataError(f"{tile.image_path}: every pixel is 0, which no sky is; image it again")
    data, response, sigma = _prepared(image, beam.data, tile.rms_jy, target, threads)
    x, y = source_coordinates(WCS(image.header).celestial, WCS(grid).celestial, window)
    values = resample(spline_coefficients(data), x, y, window)
    responses = resample_smooth(response, x, y, window)
    view = window.slices
    return bool(
        _accumulate(
            values, responses, np.float32(sigma), np.float32(options.pb_cutoff), top[view], bottom[view]
        )
    )


def _prepared(
    image: FitsImage, response: NDArray[np.float32], rms_jy: float, target: Beam | None, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Finite data, response (NaN where the data are blank) and noise, at the common beam.

    Blank pixels count for nothing, but the spline reaches into them: from the nearest pixel's value it gets a flux
    beside them about right, from 0 it would swing by an eighth of it.
    """
    blank = ~np.isfinite(image.data) | ~np.isfinite(response)
    data = image.data
    if blank.any():
        data = data[tuple(distance_transform_edt(blank, return_distances=False, return_indices=True))]
    sigma = rms_jy
    if target is not None:
        smooth = to_beam(data, image.beam, target, float(image.header["CDELT2"]), threads)
        sigma *= robust_rms(smooth) / robust_rms(data)
        data = smooth
    return data, np.where(blank, np.float32(np.nan), response), sigma


@njit(cache=True, parallel=True)
def _accumulate(values, responses, sigma, cutoff, top, bottom):  # type: ignore[no-untyped-def]
    used = 0
    for row in prange(values.shape[0]):
        for column in range(values.shape[1]):
            response = responses[row, column]
            if response >= cutoff:  # False for NaN
                used += 1
                top[row, column] += response * values[row, column] / sigma**2
                bottom[row, column] += response**2 / sigma**2
    return used


@njit(cache=True, parallel=True)
def _finish(top, bottom):  # type: ignore[no-untyped-def]
    for row in prange(top.shape[0]):
        for column in range(top.shape[1]):
            weight = bottom[row, column]
            top[row, column] = top[row, column] / weight if weight > 0 else np.nan
            bottom[row, column] = 1 / np.sqrt(weight) if weight > 0 else np.nan


def _mean_beam(beams: Sequence[Beam]) -> Beam:
    return Beam.from_covariance(np.mean([beam.covariance for beam in beams], axis=0))


def _complete_header(
    grid: Header, beam: Beam, tiles: tuple[TileInput, ...], sources: Sequence[Header]
) -> Header:
    header = grid.copy()
    header["BUNIT"] = ("Jy/beam", "brightness unit")
    set_beam(header, beam)
    frequencies = [float(source["RESTFRQ"]) for source in sources if "RESTFRQ" in source]
    if frequencies:
        header["RESTFRQ"] = (float(np.mean(frequencies)), "[Hz] mean of the tiles")
    first, last = sources[0], sources[-1]
    for keyword, source in (
        ("TELESCOP", first),
        ("DATE-OBS", first),
        ("MJD-OBS", first),
        ("DATE-END", last),
        ("MJD-END", last),
    ):
        if keyword in source:
            header[keyword] = source[keyword]
    header["TIMESYS"] = "UTC"
    header["NTILES"] = (len(tiles), "tiles coadded")
    for number, tile in enumerate(tiles, start=1):
        header[f"TILE{number:04d}"] = tile.product_id
    return header


def _figures(image: NDArray[np.float32], noise: NDArray[np.float32], header: Header) -> dict[str, float]:
    valid = np.isfinite(noise)
    scales = WCS(header).celestial.proj_plane_pixel_scales()
    pixel_deg2 = float(scales[0].to_value("deg") * scales[1].to_value("deg"))
    return {
        "area_deg2": float(np.count_nonzero(valid)) * pixel_deg2,
        "rms_jy": float(np.quantile(noise[valid], 0.05)),
        "median_noise_jy": float(np.median(noise[valid])),
        "measured_over_noise": robust_rms(image / noise),
        "beam_major_arcsec": 3600 * float(header["BMAJ"]),
        "beam_minor_arcsec": 3600 * float(header["BMIN"]),
        "peak_jy": float(np.nanmax(image)),
    }
