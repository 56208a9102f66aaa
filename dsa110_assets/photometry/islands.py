"""What an island of bright pixels is made of: points, ellipses wider than the beam, or both, fitted together.

Peaks are taken for points. A resolved source whose deconvolution left a ripple on it has many peaks that points do not
explain; it is fitted with few ellipses (`smoothfit`). Whatever does not converge is tried with fewer components, and an
island that nothing fits keeps its brightest pixel.
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
"""Components fitted together at most; of a larger complex the brightest, then what they leave."""
_PEAK_DISTANCE_BEAMS = 0.5
_POINTS_LEAVE = 0.05
"""Root of the share of an island's power that points may leave: of true ones, blended or not, CLEAN leaves a tenth of that."""


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
                    if (v, u) != (j, i) and (island[v, u] > value or (island[v, u] == value and (v, u) < (j, i))):
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


def _points(scene: Scene, places: FloatArray, form: FloatArray, rms: FloatArray) -> FloatArray:
    """Beams (k, 6) at places (k, 2), as high as their pixels."""
    pixels = np.rint(places).astype(np.int64)
    peaks = np.maximum(scene.image[pixels[:, 1], pixels[:, 0]], rms).astype(np.float64)
    return np.column_stack([peaks, places, np.tile(form, (len(places), 1))])


def _moments(scene: Scene, island: FloatArray, corner: tuple[int, int], form: FloatArray) -> FloatArray:
    """The ellipse (1, 6) of an island's first and second moments, no smaller than the beam."""
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


def _are_points(scene: Scene, points: FloatArray, one: FloatArray, rms: FloatArray, options: PhotometryOptions) -> bool:
    """Whether points (k, 6) leave no more of an island than noise, or than deconvolution leaves of bright points, and than one
    ellipse.
    """
    pixels = pixels_near(scene, points, options.fit_radius_beams, [])
    joint = points[:_MAX_JOINT]
    fixed, _ = gaussfit.fit(pixels.x, pixels.y, pixels.data, joint, np.zeros(len(joint), np.bool_), roam_of(joint))
    allowed = max(MISFIT * pixels.data.size * float(np.mean(rms**2)), _POINTS_LEAVE**2 * float(np.sum(pixels.data**2)))
    cost = float(gaussfit.cost(*pixels, fixed))
    if cost > allowed:
        return False
    ellipse, converged = gaussfit.fit(*pixels, one, np.ones(1, np.bool_), roam_of(one))
    return not converged or float(gaussfit.cost(*pixels, ellipse)) >= cost


def _unexplained(points: FloatArray, found: list[Component]) -> NDArray[np.bool_]:
    """Which points (k, 6) are another source beside ellipses: those of which less than half is theirs, ripples being less."""
    model = np.sum([gaussfit.model(points[:, 1].copy(), points[:, 2].copy(), one.best[None]) for one in found], axis=0)
    return np.asarray(model < points[:, 0] / 2)


def components(scene: Scene, island: FloatArray, corner: tuple[int, int], form: FloatArray, options: PhotometryOptions) -> list[Component]:
    """All sources of an island, at least one: signal-to-noise of its bounding box, NaN off it, `corner` (row, column).

    `form` (3,) is the beam's quadratic form there, in pixels.
    """
    seeds = _seeds(island, corner, form, options.detect_sigma)
    _, rms = local_rms(scene, seeds[:, 0], seeds[:, 1])
    pending = _points(scene, seeds, form, rms)
    taken: list[Component] = []
    if len(pending) > 1:
        one = _moments(scene, island, corner, form)
        wide = None if _are_points(scene, pending, one, rms, options) else ellipses(scene, one, form, len(pending) // 2, options)
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
