"""Forced fluxes: the beam-weighted sum at given positions, neighbours solved together, errors for correlated noise.

F = sum(d K / s^2) / sum(K^2 / s^2) with K the unit-peak beam at the sub-pixel position, d image minus local background and s
the noise. Neighbours extend this to the linear system M F = r with M_pq = sum_p(K_p K_q / s^2). Its covariance M^-1 G M^-T uses
the measured noise correlation; with independent pixels it would be the textbook 1/sqrt(sum(K^2/s^2)), which does not apply to
the noise of a restored image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from astropy.io.fits import Header
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from dsa110_assets.errors import BadDataError
from dsa110_assets.photometry.forcedkernel import MIN_APERTURE, any_missing, solve_groups
from dsa110_assets.photometry.geometry import FWHM_PER_SIGMA, Geometry, form_reach
from dsa110_assets.photometry.noise import LocalNoise, gaussian_kernel, measure_noise
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.shaped import clusters, solve_cluster
from dsa110_assets.photometry.shapes import area_ratio, seen_forms, sky_covariance

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ImageArray = NDArray[np.float32]
_LARGEST_GROUP = 64
SIZES = ("deconvolved_major_arcsec", "deconvolved_minor_arcsec", "deconvolved_pa_deg")
SIZE = SIZES[0]
OFFSETS = ("ra_offset_arcsec", "dec_offset_arcsec")
_KERNEL_REACH = 1.0
"""Beams beyond the joint radius within which a member's flux is still subtracted from another of its group."""


class Scene(NamedTuple):
    """An image ready to be measured: pixels, geometry, noise. Forced and blind photometry share one."""

    image: ImageArray
    noise: ImageArray
    geometry: Geometry
    local: LocalNoise


def prepare(image: NDArray[np.floating], noise: NDArray[np.floating], header: Header, options: PhotometryOptions) -> Scene:
    """Check an image and its noise map (2-D, one shape, Jy/beam, NaN outside) and measure its noise."""
    data, sigma = np.asarray(image, np.float32), np.asarray(noise, np.float32)
    if data.ndim != 2 or data.shape != sigma.shape:
        raise BadDataError(f"image {data.shape} and noise map {sigma.shape} must be two-dimensional and of one shape")
    geometry = Geometry.from_header(header, (data.shape[0], data.shape[1]))
    lag_beams = 2 * options.fit_radius_beams + options.joint_beams
    local = measure_noise(data, sigma, geometry.central_form(), options.box_beams, lag_beams, options.subtract_background)
    return Scene(data, sigma, geometry, local)


def _whitener(form: FloatArray) -> FloatArray:
    """Return the matrix that converts pixel offsets to offsets in beam FWHMs."""
    matrix = np.array([[form[0], form[1]], [form[1], form[2]]])
    return np.asarray(np.linalg.cholesky(matrix).T / FWHM_PER_SIGMA)


def beam_coordinates(x: FloatArray, y: FloatArray, form: FloatArray) -> FloatArray:
    """Return positions (n, 2) in units of the beam's FWHM along its own axes."""
    return np.stack([x, y], axis=-1) @ _whitener(form).T


def _groups(points: FloatArray, radius: float) -> IntArray:
    """Return the group number of each point: chains of neighbours closer than `radius`, divided by a smaller radius where they
    grow too long."""
    label = np.zeros(len(points), np.int64)
    pending, next_label = [(np.arange(len(points)), radius)], 0
    while pending:
        members, reach = pending.pop()
        pairs = cKDTree(points[members]).query_pairs(reach, output_type="ndarray")
        graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(members),) * 2)
        _, component = connected_components(graph, directed=False)
        sizes = np.bincount(component)
        small = sizes[component] <= _LARGEST_GROUP
        label[members[small]] = next_label + component[small]
        next_label += sizes.size
        for group in np.flatnonzero(sizes > _LARGEST_GROUP):
            pending.append((members[component == group], 0.8 * reach))
    return label


def _representatives(points: FloatArray, radius: float, priority: FloatArray) -> IntArray:
    """Return for each point the index of the one that represents it: itself, or one of higher priority within `radius`."""
    representative = np.arange(len(points))
    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray") if len(points) else np.empty((0, 2), np.int64)
    if len(pairs) == 0:
        return representative
    rank = np.empty(len(points), np.int64)
    rank[np.argsort(-priority, kind="stable")] = np.arange(len(points))
    ordered = np.where((rank[pairs[:, 0]] < rank[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1])
    for first, second in ordered[np.lexsort((rank[ordered[:, 1]], rank[ordered[:, 0]]))]:
        if representative[first] == first and representative[second] == second:
            representative[second] = first
    return representative


def near_missing(scene: Scene, x: FloatArray, y: FloatArray, beams: float) -> NDArray[np.bool_]:
    """Return whether a missing pixel lies on the ellipse `beams` FWHMs around each position (16 points, and half-way)."""
    inverse = np.linalg.inv(_whitener(scene.geometry.central_form()))
    angles = np.arange(16) * np.pi / 8
    circle = np.array([radius * np.array([np.cos(angle), np.sin(angle)]) for angle in angles for radius in (beams, beams / 2)])
    return np.asarray(any_missing(scene.image, scene.noise, x, y, circle @ inverse.T))


def _pixel_valid(scene: Scene, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
    """Return whether the pixel that contains each position exists and has data."""
    return np.asarray(~any_missing(scene.image, scene.noise, x, y, np.zeros((1, 2))))


def local_rms(scene: Scene, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return background and rms [Jy/beam] at pixel positions: the noise map times its robust scale; NaN without data."""
    background, scale = scene.local.at(x, y)
    rms = np.full(x.size, np.nan)
    valid = _pixel_valid(scene, x, y)
    i, j = np.rint(x[valid]).astype(np.int64), np.rint(y[valid]).astype(np.int64)
    rms[valid] = scene.noise[j, i] * scale[valid]
    return background, rms


def covered(scene: Scene, ra_deg: FloatArray, dec_deg: FloatArray) -> NDArray[np.bool_]:
    """Return which directions [deg] fall on the image within a beam of pixels with data."""
    x, y = scene.geometry.to_pixels(ra_deg, dec_deg)
    covered_ = _pixel_valid(scene, x, y)
    inverse = np.linalg.inv(_whitener(scene.geometry.central_form()))
    inside = (x >= -0.5) & (y >= -0.5) & (x < scene.image.shape[1] - 0.5) & (y < scene.image.shape[0] - 0.5)
    for angle in np.arange(8) * np.pi / 4:
        dx, dy = inverse @ np.array([np.cos(angle), np.sin(angle)])
        covered_ |= inside & _pixel_valid(scene, x + dx, y + dy)
    return covered_


def measure_scene(scene: Scene, positions: pd.DataFrame, options: PhotometryOptions) -> pd.DataFrame:
    """Measure forced fluxes on a prepared image, like `measure_forced`."""
    ra, dec = (np.ascontiguousarray(positions[name], np.float64) for name in ("ra_deg", "dec_deg"))
    x, y = scene.geometry.to_pixels(ra, dec)
    out = pd.DataFrame({"ra_deg": ra, "dec_deg": dec, "x_pixel": x, "y_pixel": y}, index=positions.index)
    background, rms = local_rms(scene, x, y)
    flux, error, quality = (
        np.full(ra.size, np.nan),
        np.full(ra.size, np.nan),
        np.full(ra.size, int(Quality.NAN)),
    )
    used = np.flatnonzero(np.isfinite(x) & np.isfinite(rms))
    if used.size:
        flux[used], error[used], quality[used] = _measure_valid(scene, ra, dec, x, y, background, rms, used, options)
    out["rms_jy"], out["peak_jy"] = rms, flux
    wide = np.asarray(positions[SIZE], np.float64) > 0 if SIZE in positions else np.zeros(ra.size, np.bool_)
    wide[used] &= np.isfinite(flux[used])
    wide[np.isnan(flux)] = False
    if wide.any():
        flux, error = _with_sizes(scene, positions, x, y, flux, error, wide, options)
        quality = np.where(wide, quality | int(Quality.RESOLVED), quality)
        quality[np.isnan(flux)] |= int(Quality.NAN)
    set_fluxes(out, flux, error, options)
    out["quality"] = quality
    return out


def set_fluxes(out: pd.DataFrame, flux: FloatArray, error: FloatArray, options: PhotometryOptions) -> None:
    """Set the columns of fluxes and errors, and those derived from them: snr, detected, limit_jy."""
    detected = flux > options.detect_sigma * error
    out["flux_jy"], out["flux_err_jy"], out["snr"], out["detected"] = flux, error, flux / error, detected
    out["limit_jy"] = np.where(detected, np.nan, options.detect_sigma * error)


def _with_sizes(
    scene: Scene,
    positions: pd.DataFrame,
    x: FloatArray,
    y: FloatArray,
    flux: FloatArray,
    error: FloatArray,
    wide: NDArray[np.bool_],
    options: PhotometryOptions,
) -> tuple[FloatArray, FloatArray]:
    """Return fluxes and errors where sources with a size, and those around them, are solved again with it; points closer than
    `merge_beams` to a source with a size share its flux."""
    geometry = scene.geometry
    ra, dec = (np.ascontiguousarray(positions[source], np.float64) for source in ("ra_deg", "dec_deg"))
    valid = np.flatnonzero(np.isfinite(flux))
    jacobians = geometry.pixels_per_rad(ra[valid], dec[valid])
    beams = geometry.beam_forms(jacobians)
    forms, position = beams.copy(), np.stack([x, y], axis=-1)[valid]
    with_size = np.flatnonzero(wide[valid])
    sizes = sky_covariance(*(positions[source].to_numpy(np.float64)[valid[with_size]] for source in SIZES))
    forms[with_size] = seen_forms(geometry, jacobians[with_size], sizes)
    offset = positions.reindex(columns=list(OFFSETS)).to_numpy(np.float64, na_value=0.0)
    position[with_size] += (jacobians[with_size] @ np.deg2rad(np.nan_to_num(offset[valid[with_size]]) / 3600)[:, :, None])[:, :, 0]
    points = beam_coordinates(position[:, 0], position[:, 1], geometry.central_form())
    priority = np.where(wide[valid], 2.0, 1.0) * np.nanmax(np.abs(flux)) + flux[valid]
    representative = _representatives(points, options.merge_beams, priority)
    distinct = np.flatnonzero(representative == np.arange(valid.size))
    flux, error = flux.copy(), error.copy()
    for members in clusters(position[distinct, 0], position[distinct, 1], forms[distinct], wide[valid][distinct], options.joint_beams):
        group = distinct[members]
        radii = np.where(wide[valid[group]], options.resolved_radius_beams, options.fit_radius_beams)
        height, sigma = solve_cluster(scene.image, scene.noise, scene.local, position[group, 0], position[group, 1], forms[group], radii)
        area = area_ratio(forms[group], beams[group])
        for source, value, uncertainty in zip(group, height * area, sigma * area, strict=True):
            sharing = valid[representative == source]
            flux[sharing], error[sharing] = value, uncertainty
    return flux, error


def _measure_valid(
    scene: Scene,
    ra: FloatArray,
    dec: FloatArray,
    x: FloatArray,
    y: FloatArray,
    background: FloatArray,
    rms: FloatArray,
    used: IntArray,
    options: PhotometryOptions,
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return flux, error and quality of the positions `used`, all of them on pixels with data."""
    centre = scene.geometry.central_form()
    forms = scene.geometry.beam_forms(scene.geometry.pixels_per_rad(ra[used], dec[used]))
    points = beam_coordinates(x[used], y[used], centre)
    i, j = np.rint(x[used]).astype(np.int64), np.rint(y[used]).astype(np.int64)
    representative = _representatives(points, options.merge_beams, np.nan_to_num(scene.image[j, i], nan=-np.inf).astype(np.float64))
    distinct = np.flatnonzero(representative == np.arange(used.size))
    label = _groups(points[distinct], options.joint_beams)
    order = np.argsort(label, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(label[order])) + 1, distinct.size]
    reach = np.array(form_reach(centre, options.fit_radius_beams)) * 1.15 + 1
    cut = (options.fit_radius_beams * FWHM_PER_SIGMA) ** 2
    kernel = gaussian_kernel(centre, (int(reach[0]), int(reach[1])))
    kernel[kernel < np.exp(-0.5 * cut)] = 0.0
    flux, error, filled = solve_groups(
        scene.image,
        scene.noise,
        x[used][distinct],
        y[used][distinct],
        points[distinct],
        options.joint_beams + _KERNEL_REACH,
        forms[distinct],
        background[used][distinct],
        rms[used][distinct],
        order,
        starts,
        reach,
        cut,
        scene.local.kernel_covariance(kernel),
        float(np.sum(kernel**2)),
    )
    index = np.searchsorted(distinct, representative)
    quality = np.where(filled[index] < MIN_APERTURE, int(Quality.NAN), 0)
    pairs = cKDTree(points).query_pairs(options.blend_beams, output_type="ndarray")
    quality[np.unique(pairs)] |= int(Quality.BLENDED)
    quality[np.bincount(representative, minlength=used.size)[representative] > 1] |= int(Quality.CONFUSED)
    quality[near_missing(scene, x[used], y[used], options.edge_beams)] |= int(Quality.EDGE)
    return flux[index], error[index], quality


def measure_forced(
    image: NDArray[np.floating],
    noise: NDArray[np.floating],
    header: Header,
    positions: pd.DataFrame,
    options: PhotometryOptions,
) -> pd.DataFrame:
    """Return fluxes at given positions, one row per row of `positions` (columns ra_deg, dec_deg), in its order and index.

    `image` and `noise` are (ny, nx) Jy/beam with NaN outside; `header` has a celestial WCS and BMAJ, BMIN, BPA [deg]. Columns:
    ra_deg, dec_deg, x_pixel, y_pixel, rms_jy, peak_jy (the flux as a point), flux_jy, flux_err_jy, snr, detected, limit_jy
    (detect_sigma errors; NaN when detected), quality (bits of `Quality`). Where `positions` has a deconvolved size (SIZES; NaN:
    a point), flux_jy is the integrated flux of that ellipse, centred OFFSETS [arcsec] east and north of the position if given;
    its error assumes that the size is exact. Positions without data have NaN fluxes and the NAN bit, never zeros. The beam's
    position angle is relative to local north. Raises BadDataError for a header without a beam or arrays that do not match.
    """
    return measure_scene(prepare(image, noise, header, options), positions, options)
