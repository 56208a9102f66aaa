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

from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.fits import FitsImage, map_image, read_header
from dsa110_assets.imaging.restoring import Beam, set_beam
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.mosaics.beams import common_beam, spread, to_beam
from dsa110_assets.mosaics.grid import common_header
from dsa110_assets.mosaics.options import CoaddOptions
from dsa110_assets.mosaics.resample import Spline, accumulate, source_coordinates, spline, without_blanks
from dsa110_assets.mosaics.window import covered

_SAMPLES = 1_000_000


@dataclass(frozen=True)
class TileInput:
    """A tile on disk: its image (not PB-corrected), its primary beam on the same pixels, its noise
    [Jy/beam]. `scale`: the factor by which its fluxes are too high; image and noise are divided by it."""

    image_path: Path
    primary_beam_path: Path
    rms_jy: float
    product_id: str
    mjd: float
    scale: float = 1.0


@dataclass(frozen=True)
class Mosaic:
    """`image` [Jy/beam], corrected for the primary beam, and its `noise` map, (ny, nx) float32, NaN where
    there is no tile.

    `tiles` are those that contributed, in time order, each once. `figures`: tiles, area_deg2 (with any tile),
    rms_jy (5 % quantile of the noise map), median_noise_jy, measured_over_noise (robust sigma of image /
    noise: 1 if the noise map is right), beam_major_arcsec, beam_minor_arcsec, beam_spread, convolved (0
    or 1), peak_jy.
    """

    image: NDArray[np.float32]
    noise: NDArray[np.float32]
    header: Header
    tiles: tuple[TileInput, ...]
    figures: dict[str, float]


def coadd(tiles: Sequence[TileInput], header: Header | None = None, options: CoaddOptions | None = None) -> Mosaic:
    """Coadd tiles on a grid (that of `common_header` unless given); one tile is in memory at a time.

    Tiles given twice count once. If beams differ by more than `beam_tolerance`, tiles are convolved to a common
    beam and their noise is scaled as measured. Raises BadDataError without tiles, for a tile that
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
        header = common_header([tile_header for tile_header, _ in images], options.pixel_arcsec / 3600 or None, options.max_pixels)
    differ = spread(beams)
    target = common_beam(beams) if differ > options.beam_tolerance else None
    shape = int(header["NAXIS2"]), int(header["NAXIS1"])
    top, bottom = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    used = [tile for tile in unique if _add(tile, header, target, options, threads, (top, bottom))]
    if not used:
        raise BadDataError("no tile has a pixel inside the mosaic's grid above the primary-beam cutoff")
    n_filled, peak_jy = _finish(top, bottom)
    complete = _complete_header(header, target or _mean_beam(beams), tuple(used), [tile_header for tile_header, _ in images])
    figures = {**_figures(top, bottom, complete, n_filled), "peak_jy": float(peak_jy)}
    figures.update(tiles=float(len(used)), beam_spread=differ, convolved=float(target is not None))
    return Mosaic(top, bottom, complete, tuple(used), figures)


def _read_header(tile: TileInput) -> tuple[Header, Beam]:
    if not (np.isfinite(tile.rms_jy) and tile.rms_jy > 0):
        raise BadDataError(f"{tile.product_id}: noise {tile.rms_jy} Jy gives no weight; image the tile again")
    return read_header(tile.image_path)


def _add(
    tile: TileInput,
    grid: Header,
    target: Beam | None,
    options: CoaddOptions,
    threads: int,
    sums: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> bool:
    """Add a tile to the sums. Return whether it contributed a pixel."""
    image, beam = map_image(tile.image_path), map_image(tile.primary_beam_path)
    if image.data.shape != beam.data.shape:
        raise BadDataError(f"{tile.primary_beam_path}: {beam.data.shape} pixels, but its image has {image.data.shape}; image it again")
    window = covered(image.header, grid)
    if window is None:
        return False
    if not any(row.any() for row in image.data):
        raise BadDataError(f"{tile.image_path}: every pixel is 0, as in no image of the sky; image it again")
    x, y = source_coordinates(WCS(image.header).celestial, WCS(grid).celestial, window)
    curve, sigma = _at_beam(image, tile.rms_jy, target, threads)
    if tile.scale != 1:
        np.divide(curve.coefficients, np.float32(tile.scale), out=curve.coefficients)
        sigma /= tile.scale
    response, unknown = without_blanks(beam.data)
    if unknown.size:
        curve = curve._replace(blank=unknown | curve.blank if curve.blank.size else unknown)
    top, bottom = (plane[window.slices] for plane in sums)
    return accumulate(curve, response, x, y, sigma, options.pb_cutoff, top, bottom)


def _at_beam(image: FitsImage, rms_jy: float, target: Beam | None, threads: int) -> tuple[Spline, float]:
    """Return the spline through a tile at the common beam (None: the tile's own), and its noise."""
    if target is None:
        return spline(image.data), rms_jy
    data, blank = without_blanks(image.data)
    smooth = to_beam(data, image.beam, target, float(image.header["CDELT2"]), threads)
    return spline(smooth)._replace(blank=blank), rms_jy * robust_rms(smooth) / robust_rms(data)


@njit(cache=True, parallel=True)
def _finish(top, bottom):  # type: ignore[no-untyped-def]
    """Turn sums into image and noise, in place, NaN where there is no tile. Return the number of pixels with a tile, and the peak."""
    n_filled, peaks = 0, np.full(top.shape[0], -np.inf, np.float32)
    for row in prange(top.shape[0]):
        for column in range(top.shape[1]):
            weight = bottom[row, column]
            if weight > 0:
                n_filled += 1
                top[row, column] /= weight
                bottom[row, column] = np.float32(1) / np.sqrt(weight)
                peaks[row] = max(peaks[row], top[row, column])
            else:
                top[row, column] = bottom[row, column] = np.nan
    return n_filled, peaks.max()


def weights(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sum(PB^2 / sigma^2) [1/Jy^2] of rows of a noise map (n, nx) [Jy], 0 where there is no tile."""
    return np.asarray(_weights(noise))


@njit(cache=True, nogil=True)
def _weights(noise):  # type: ignore[no-untyped-def]
    out = np.empty_like(noise)
    for row in range(noise.shape[0]):
        for column in range(noise.shape[1]):
            sigma = noise[row, column]
            out[row, column] = np.float32(1) / (sigma * sigma) if sigma > 0 else np.float32(0)
    return out


def _mean_beam(beams: Sequence[Beam]) -> Beam:
    return Beam.from_covariance(np.mean([beam.covariance for beam in beams], axis=0))


def _complete_header(grid: Header, beam: Beam, tiles: tuple[TileInput, ...], sources: Sequence[Header]) -> Header:
    header = grid.copy()
    header["BUNIT"] = ("Jy/beam", "brightness unit")
    set_beam(header, beam)
    for keyword in ("RESTFRQ", "BANDWID"):
        values = [float(source[keyword]) for source in sources if keyword in source]
        if values:
            header[keyword] = (float(np.mean(values)), "[Hz] mean of the tiles")
    first, last = sources[0], sources[-1]
    for keyword, source in (
        ("STOKES", first),
        ("TELESCOP", first),
        ("INSTRUME", first),
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


def _figures(image: NDArray[np.float32], noise: NDArray[np.float32], header: Header, n_filled: int) -> dict[str, float]:
    """Return the figures. Noise figures are quantiles of a million pixels on a regular stride, exact to 0.1 % for a smooth map."""
    stride = max(1, noise.size // _SAMPLES)
    values, sigma = (plane.reshape(-1)[::stride] for plane in (image, noise))
    finite = np.isfinite(sigma) if np.isfinite(sigma).any() else slice(None)
    scales = WCS(header).celestial.proj_plane_pixel_scales()
    pixel_deg2 = float(scales[0].to_value("deg") * scales[1].to_value("deg"))
    return {
        "area_deg2": float(n_filled) * pixel_deg2,
        "rms_jy": float(np.quantile(sigma[finite], 0.05)),
        "median_noise_jy": float(np.median(sigma[finite])),
        "measured_over_noise": robust_rms(values / sigma),
        "beam_major_arcsec": 3600 * float(header["BMAJ"]),
        "beam_minor_arcsec": 3600 * float(header["BMIN"]),
    }
