"""Blind source finding: islands above the local noise, split at their peaks, fitted with the beam and freely.

A fixed-beam fit gives the peak flux and the position (the right ones for a point source); a free fit of the
same pixels gives the shape and the integrated flux. Fitted pixels are chosen by distance from the peaks, not
by their brightness, because cutting at a brightness would bias faint fluxes and sizes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from astropy.io.fits import Header
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from dsa110_assets.photometry import gaussfit
from dsa110_assets.photometry.condon import PA_UNKNOWN_DEG, condon_errors
from dsa110_assets.photometry.forced import Scene, beam_coordinates, local_rms, near_missing, prepare
from dsa110_assets.photometry.geometry import FWHM_PER_SIGMA, form_axes_sky, form_reach
from dsa110_assets.photometry.noise import normalised_image
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.float32]
ARCSEC_PER_RAD = float(np.rad2deg(1) * 3600)
_MAX_JOINT = 12
"""Components fitted together at most; a larger complex is fitted by its brightest ones, then residuals."""
_PEAK_DISTANCE_BEAMS = 0.5
_EXTENDED_SIGMA, _EXTENDED_RATIO = 3.0, 1.1

COLUMNS = (
    "ra_deg",
    "dec_deg",
    "ra_err_arcsec",
    "dec_err_arcsec",
    "flux_jy",
    "flux_err_jy",
    "rms_jy",
    "snr",
    "integrated_jy",
    "integrated_err_jy",
    "major_arcsec",
    "minor_arcsec",
    "pa_deg",
    "pa_err_deg",
    "quality",
)


def _islands(scene: Scene, options: PhotometryOptions) -> Iterator[tuple[FloatArray, tuple[int, int]]]:
    """Signal-to-noise of each island's bounding box (NaN off the island) and its corner (row, column)."""
    everything = (slice(0, scene.image.shape[0]), slice(0, scene.image.shape[1]))
    snr = normalised_image(scene.image, scene.noise, scene.local, *everything)
    labels, _ = label(snr > options.flood_sigma)
    for number, box in enumerate(find_objects(labels), start=1):
        own = labels[box] == number
        if box is not None and snr[box][own].max() > options.detect_sigma:
            yield np.where(own, snr[box], np.nan).astype(np.float64), (box[0].start, box[1].start)


@njit(cache=True)
def _peaks(island: FloatArray, threshold: float) -> FloatArray:
    """Local maxima (8 neighbours) above a threshold, brightest first: rows of (value, x, y)."""
    found = np.empty((island.size, 3))
    count = 0
    for j in range(island.shape[0]):
        for i in range(island.shape[1]):
            value = island[j, i]
            if not value > threshold:
                continue
            top = True
            for v in range(max(j - 1, 0), min(j + 2, island.shape[0])):
                for u in range(max(i - 1, 0), min(i + 2, island.shape[1])):
                    if (v, u) != (j, i) and (
                        island[v, u] > value or (island[v, u] == value and (v, u) < (j, i))
                    ):
                        top = False
            if top:
                found[count, 0], found[count, 1], found[count, 2] = value, i, j
                count += 1
    out = found[:count]
    return out[np.argsort(-out[:, 0])]


def _seeds(island: FloatArray, corner: tuple[int, int], form: FloatArray, threshold: float) -> FloatArray:
    """Starting positions (n, 2) as (x, y): peaks above the threshold, at least half a beam from brighter
    ones.
    """
    peaks = _peaks(island, threshold)
    points = beam_coordinates(peaks[:, 1], peaks[:, 2], form)
    kept: list[int] = []
    for n in range(len(peaks)):
        if all(np.hypot(*(points[n] - points[k])) >= _PEAK_DISTANCE_BEAMS for k in kept):
            kept.append(n)
    return np.asarray(peaks[kept, 1:] + np.array([corner[1], corner[0]]))


def _fit_pixels(
    scene: Scene, seeds: FloatArray, form: FloatArray, beams: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coordinates and background-free values of the pixels with data within `beams` of any seed."""
    reach_x, reach_y = form_reach(form, beams)
    reach = np.array([reach_x, reach_y])
    low, high = np.floor(seeds.min(axis=0) - reach), np.ceil(seeds.max(axis=0) + reach)
    rows = np.arange(max(int(low[1]), 0), min(int(high[1]) + 1, scene.image.shape[0]))
    columns = np.arange(max(int(low[0]), 0), min(int(high[0]) + 1, scene.image.shape[1]))
    y, x = (grid.ravel().astype(np.float64) for grid in np.meshgrid(rows, columns, indexing="ij"))
    values = scene.image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].ravel().astype(np.float64)
    near = np.zeros(x.size, np.bool_)
    for x0, y0 in seeds:
        dx, dy = x - x0, y - y0
        near |= form[0] * dx**2 + 2 * form[1] * dx * dy + form[2] * dy**2 <= (beams * FWHM_PER_SIGMA) ** 2
    near &= np.isfinite(values)
    background, _ = scene.local.at(x[near], y[near])
    return x[near], y[near], values[near] - background


def _fit_island(
    scene: Scene, seeds: FloatArray, form: FloatArray, options: PhotometryOptions
) -> list[dict[str, object]]:
    """Fixed and free fits of one island's components; each a dict of parameters and covariances in pixels."""
    out: list[dict[str, object]] = []
    x, y, data = _fit_pixels(scene, seeds, form, options.fit_radius_beams)
    _, rms = local_rms(scene, seeds[:, 0], seeds[:, 1])
    if data.size < 8 * len(seeds) or not np.isfinite(rms).all():
        return out
    pixels = np.rint(seeds).astype(np.int64)
    peaks = np.maximum(scene.image[pixels[:, 1], pixels[:, 0]], rms).astype(np.float64)
    start = np.column_stack([peaks, seeds, np.tile(form, (len(seeds), 1))])
    roam = max(form_reach(form, _PEAK_DISTANCE_BEAMS))
    fixed, settled = gaussfit.fit(x, y, data, start, False, roam)
    if not settled:
        return out
    fixed_covariance = gaussfit.covariance(x, y, fixed, False, scene.local.correlation)
    free, converged = gaussfit.fit(x, y, data, fixed, True, roam)
    free_covariance = gaussfit.covariance(x, y, free, True, scene.local.correlation) if converged else None
    for k in range(len(seeds)):
        own = slice(6 * k, 6 * k + 6)
        out.append(
            {
                "fixed": fixed[k],
                "fixed_covariance": fixed_covariance[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] * rms[k] ** 2,
                "free": free[k] if converged else None,
                "free_covariance": None
                if free_covariance is None
                else free_covariance[own, own] * rms[k] ** 2,
                "rms": rms[k],
                "blended": len(seeds) > 1,
            }
        )
    return out


def _shape_errors(
    free: FloatArray, covariance: FloatArray, jacobian: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(integrated per beam area, major, minor [rad], pa [deg]) of a free fit and their errors, by linear
    propagation.
    """

    def figures(params: FloatArray) -> FloatArray:
        major, minor, pa = form_axes_sky(params[None, 3:], jacobian[None])
        return np.array([params[0] * major[0] * minor[0], major[0], minor[0], pa[0]])

    centre = figures(free)
    gradient = np.zeros((4, 6))
    for n in (0, 3, 4, 5):
        step = np.zeros(6)
        step[n] = 1e-4 * (free[0] if n == 0 else np.sqrt(free[3] * free[5]))
        up, down = figures(free + step), figures(free - step)
        gradient[:, n] = (up - down) / (2 * step[n])
        gradient[3, n] = ((up[3] - down[3] + 90) % 180 - 90) / (2 * step[n])
    return centre, np.sqrt(np.diag(gradient @ covariance @ gradient.T))


def _row(scene: Scene, found: dict[str, object], options: PhotometryOptions) -> dict[str, float | int]:
    """One component as a row of sky quantities."""
    geometry = scene.geometry
    fixed, fixed_covariance = np.asarray(found["fixed"]), np.asarray(found["fixed_covariance"])
    rms = float(np.asarray(found["rms"]))
    ra, dec = (float(value[0]) for value in geometry.to_sky(fixed[1:2], fixed[2:3]))
    jacobian = geometry.pixels_per_rad(ra, dec)[0]
    inverse = np.linalg.inv(jacobian)
    position = inverse @ fixed_covariance[1:, 1:] @ inverse.T
    row: dict[str, float | int] = dict.fromkeys(COLUMNS, np.nan)
    quality = int(Quality.BLENDED) if found["blended"] else 0
    if near_missing(scene, fixed[1:2], fixed[2:3], options.edge_beams)[0]:
        quality |= int(Quality.EDGE)
    east, north = np.sqrt(np.diag(position)) * ARCSEC_PER_RAD
    error = float(np.sqrt(fixed_covariance[0, 0]))
    beam = np.deg2rad([geometry.bmaj_deg, geometry.bmin_deg])
    if options.error_model == "condon":
        point = condon_errors(fixed[0], rms, beam[0], beam[1], beam[0], beam[1])
        sky = point.on_sky(geometry.bpa_deg)
        error, east, north = float(point.peak), float(sky[0]) * ARCSEC_PER_RAD, float(sky[1]) * ARCSEC_PER_RAD
    row.update(
        ra_deg=ra, dec_deg=dec, ra_err_arcsec=east, dec_err_arcsec=north, flux_jy=fixed[0], flux_err_jy=error
    )
    row.update(rms_jy=rms, snr=fixed[0] / error)
    if found["free"] is None:
        quality |= int(Quality.BAD_FIT)
    else:
        free, free_covariance = np.asarray(found["free"]), np.asarray(found["free_covariance"])
        values, errors = _shape_errors(free, free_covariance, jacobian)
        if options.error_model == "condon":
            shape = condon_errors(free[0], rms, values[1], values[2], beam[0], beam[1])
            errors = np.array(
                [float(shape.integrated) * beam.prod(), shape.major, shape.minor, shape.pa_deg], np.float64
            )
        row.update(integrated_jy=values[0] / beam.prod(), integrated_err_jy=errors[0] / beam.prod())
        row.update(major_arcsec=values[1] * ARCSEC_PER_RAD, minor_arcsec=values[2] * ARCSEC_PER_RAD)
        row.update(pa_deg=values[3], pa_err_deg=min(errors[3], PA_UNKNOWN_DEG))
        excess = row["integrated_jy"] - _EXTENDED_RATIO * row["flux_jy"]
        if excess > _EXTENDED_SIGMA * row["integrated_err_jy"]:
            quality |= int(Quality.EXTENDED)
    row["quality"] = quality
    return row


def find_in_scene(scene: Scene, options: PhotometryOptions) -> pd.DataFrame:
    """`find_sources` on a prepared image."""
    rows: list[dict[str, float | int]] = []
    for island, corner in _islands(scene, options):
        y, x = np.unravel_index(int(np.nanargmax(island)), island.shape)
        ra, dec = scene.geometry.to_sky(np.array([x + corner[1]]), np.array([y + corner[0]]))
        form = scene.geometry.beam_forms(scene.geometry.pixels_per_rad(ra, dec))[0]
        seeds = _seeds(island, corner, form, options.detect_sigma)
        for first in range(0, len(seeds), _MAX_JOINT):
            chunk = seeds[first : first + _MAX_JOINT]
            rows.extend(_row(scene, found, options) for found in _fit_island(scene, chunk, form, options))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"quality": np.int64})
    kept = table[table["flux_jy"] > options.detect_sigma * table["rms_jy"]]
    return kept.sort_values("flux_jy", ascending=False, kind="stable").reset_index(drop=True)


def find_sources(
    image: NDArray[np.floating], noise: NDArray[np.floating], header: Header, options: PhotometryOptions
) -> pd.DataFrame:
    """Components above `detect_sigma` local rms on an image (ny, nx) [Jy/beam] with its noise map; brightest
    first.

    Columns `COLUMNS`: position [deg] with errors [arcsec] (fit only, without the systematic term), flux_jy:
    peak of the fixed-beam fit; integrated_jy, major/minor_arcsec (FWHM, not deconvolved) and pa_deg (north
    through east) of the free fit, NaN with the BAD_FIT bit where that failed; quality bits. NaN pixels are no
    data. Errors follow `options.error_model`. Raises BadDataError for a header without a beam.
    """
    return find_in_scene(prepare(image, noise, header, options), options)
