"""The components of an island of bright pixels: points, ellipses wider than the beam, or both, fitted together.

Peaks are first assumed to be points. A resolved source whose deconvolution left a ripple has many peaks that points do not
explain; it is fitted with few ellipses (`smoothfit`). A fit that does not converge is repeated with fewer components, and an
island without any converged fit keeps its brightest pixel.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dsa110_assets.photometry import gaussfit
from dsa110_assets.photometry.forced import Scene, beam_coordinates, local_rms
from dsa110_assets.photometry.islandfit import MISFIT, Component, brightest, fit_points, pixels_near, roam_of
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.smoothfit import ellipses

FloatArray = NDArray[np.float64]
_MAX_JOINT = 12
"""The largest number of components fitted together; of a larger complex the brightest are fitted first, then the others in what
they leave."""
_PEAK_DISTANCE_BEAMS = 0.5
_LEFT_BY_POINTS = 0.05
"""The root of the share of an island's power that points may leave. Of true points, blended or not, CLEAN leaves a tenth of that."""


@njit(cache=True)
def _peaks(island: FloatArray, threshold: float) -> FloatArray:
    """Return local maxima (8 neighbours) above a threshold, brightest first: rows of (value, x, y)."""
    found = np.empty((island.size, 3))
    count = 0
    for j in range(island.shape[0]):
        for i in range(island.shape[1]):
            value = island[j, i]
            if not value > threshold:
                continue
            is_peak = True
            for v in range(max(j - 1, 0), min(j + 2, island.shape[0])):
                for u in range(max(i - 1, 0), min(i + 2, island.shape[1])):
                    if (v, u) != (j, i) and (island[v, u] > value or (island[v, u] == value and (v, u) < (j, i))):
                        is_peak = False
            if is_peak:
                found[count, 0], found[count, 1], found[count, 2] = value, i, j
                count += 1
    out = found[:count]
    return out[np.argsort(-out[:, 0])]


def _seeds(island: FloatArray, corner: tuple[int, int], form: FloatArray, threshold: float) -> FloatArray:
    """Return starting positions (n, 2) as (x, y): peaks above the threshold, at least half a beam from brighter ones."""
    peaks = _peaks(island, threshold)
    points = beam_coordinates(peaks[:, 1], peaks[:, 2], form)
    kept: list[int] = []
    for n in range(len(peaks)):
        if all(np.hypot(*(points[n] - points[k])) >= _PEAK_DISTANCE_BEAMS for k in kept):
            kept.append(n)
    return np.asarray(peaks[kept, 1:] + np.array([corner[1], corner[0]]))


def _points(scene: Scene, places: FloatArray, form: FloatArray, rms: FloatArray) -> FloatArray:
    """Return beams (k, 6) at positions (k, 2), as high as their pixels."""
    pixels = np.rint(places).astype(np.int64)
    peaks = np.maximum(scene.image[pixels[:, 1], pixels[:, 0]], rms).astype(np.float64)
    return np.column_stack([peaks, places, np.tile(form, (len(places), 1))])


def _moments(scene: Scene, island: FloatArray, corner: tuple[int, int], form: FloatArray) -> FloatArray:
    """Return the ellipse (1, 6) of an island's first and second moments, no smaller than the beam."""
    j, i = np.nonzero(np.isfinite(island))
    y, x = j + corner[0], i + corner[1]
    value = np.maximum(scene.image[y, x].astype(np.float64), 0)
    centre = np.array([np.average(x, weights=value), np.average(y, weights=value)])
    spread = np.cov(np.stack([x, y]), aweights=value, ddof=0)
    beam = np.linalg.inv([[form[0], form[1]], [form[1], form[2]]])
    values, vectors = np.linalg.eigh(np.linalg.solve(np.linalg.cholesky(beam), np.linalg.solve(np.linalg.cholesky(beam), spread).T))
    root = np.linalg.cholesky(beam) @ vectors
    shape = np.linalg.inv(root @ np.diag(np.maximum(values, 1.0)) @ root.T)
    return np.array([[value.max(), *centre, shape[0, 0], shape[0, 1], shape[1, 1]]])


def _are_points(scene: Scene, points: FloatArray, moments: FloatArray, rms: FloatArray, options: PhotometryOptions) -> bool:
    """Whether points (k, 6) leave no more of an island than noise does, or deconvolution leaves of bright points, and no more than
    one ellipse leaves."""
    pixels = pixels_near(scene, points, options.fit_radius_beams, [])
    joint = points[:_MAX_JOINT]
    fixed, _ = gaussfit.fit(pixels.x, pixels.y, pixels.data, joint, np.zeros(len(joint), np.bool_), roam_of(joint))
    allowed = max(MISFIT * pixels.data.size * float(np.mean(rms**2)), _LEFT_BY_POINTS**2 * float(np.sum(pixels.data**2)))
    cost = float(gaussfit.cost(*pixels, fixed))
    if cost > allowed:
        return False
    ellipse, converged = gaussfit.fit(*pixels, moments, np.ones(1, np.bool_), roam_of(moments))
    return not converged or float(gaussfit.cost(*pixels, ellipse)) >= cost


def _unexplained(points: FloatArray, found: list[Component]) -> NDArray[np.bool_]:
    """Return which points (k, 6) are separate sources beside ellipses: those with less than half of their height in the ellipses,
    because ripples are lower."""
    model = np.sum([gaussfit.model(points[:, 1].copy(), points[:, 2].copy(), component.best[None]) for component in found], axis=0)
    return np.asarray(model < points[:, 0] / 2)


def components(scene: Scene, island: FloatArray, corner: tuple[int, int], form: FloatArray, options: PhotometryOptions) -> list[Component]:
    """Return all sources of an island, at least one.

    `island` is the signal-to-noise of its bounding box, NaN off it; `corner` is (row, column). `form` (3,) is the beam's
    quadratic form there, in pixels.
    """
    seeds = _seeds(island, corner, form, options.detect_sigma)
    _, rms = local_rms(scene, seeds[:, 0], seeds[:, 1])
    pending = _points(scene, seeds, form, rms)
    taken: list[Component] = []
    if len(pending) > 1:
        moments = _moments(scene, island, corner, form)
        wide = None if _are_points(scene, pending, moments, rms, options) else ellipses(scene, moments, form, len(pending) // 2, options)
        if wide is not None:
            taken, pending = wide, pending[_unexplained(pending, wide)]
    while len(pending):
        number, fitted = min(len(pending), _MAX_JOINT), None
        while fitted is None and number:
            fitted = fit_points(scene, pending[:number], options, taken, len(seeds) > 1)
            number = number if fitted is not None else number // 2
        if fitted is None:
            number, fitted = 1, [brightest(scene, pending[0, 1:3], form, taken)]
        taken, pending = taken + fitted, pending[number:]
    return taken
