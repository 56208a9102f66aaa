"""Least-squares fits of the components of an island together: as points, with free shapes, and resolved ones over their own size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.photometry import gaussfit
from dsa110_assets.photometry.forced import Scene, local_rms
from dsa110_assets.photometry.geometry import FWHM_PER_SIGMA, form_reach
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.shapes import area_ratio

FloatArray = NDArray[np.float64]
_ROAM_BEAMS = 0.5
_MOST_PIXELS = 2500
"""Pixels of a wide source's fit: more are thinned out, because neighbouring pixels are not independent."""
MISFIT = 4.0
"""The reduced chi squared above which a fit is not good: noise alone, with a few beams in a fit, stays below."""


@dataclass(frozen=True)
class Component:
    """One source of an island; parameters (peak [Jy/beam], x, y, a, b, c) in pixels, covariances in the same units.

    `fixed` (6,) with its (3, 3) has the beam's shape; `free` (6,) with its (6, 6) has a fitted shape (None: not converged).
    `extent_jy` is the flux that a free shape adds to a point's, by one linear step; `extent_err_jy` is its error for a point.
    """

    fixed: FloatArray
    fixed_covariance: FloatArray
    free: FloatArray | None
    free_covariance: FloatArray | None
    rms: float
    extent_jy: float
    extent_err_jy: float
    blended: bool
    fitted: bool

    def is_resolved(self, options: PhotometryOptions) -> bool:
        """Whether the source is wider than the beam, beyond noise and the uncertainty of the beam, so that its shape is free."""
        if self.free is None:
            return False
        excess = self.free[0] * area_ratio(self.free[3:], self.fixed[3:]) - self.fixed[0]
        return bool(self.extent_jy > options.resolved_sigma * self.extent_err_jy and excess > options.resolved_excess * self.fixed[0])

    @property
    def best(self) -> FloatArray:
        return self.fixed if self.free is None else self.free


class Pixels(NamedTuple):
    """Coordinates and background-free values (n,) of the pixels a fit uses."""

    x: FloatArray
    y: FloatArray
    data: FloatArray


def pixels_near(scene: Scene, around: FloatArray, beams: float | FloatArray, taken: list[Component]) -> Pixels:
    """Return the pixels with data near ellipses (k, 6), without the components `taken`.

    They lie within `beams` FWHMs of the ellipses, a single value or one for each.
    """
    radii = np.broadcast_to(np.asarray(beams, np.float64), (len(around),))
    reach = np.array([form_reach(ellipse[3:], float(radius)) for ellipse, radius in zip(around, radii, strict=True)])
    low, high = np.floor((around[:, 1:3] - reach).min(axis=0)), np.ceil((around[:, 1:3] + reach).max(axis=0))
    rows = np.arange(max(int(low[1]), 0), min(int(high[1]) + 1, scene.image.shape[0]))
    columns = np.arange(max(int(low[0]), 0), min(int(high[0]) + 1, scene.image.shape[1]))
    y, x = (grid.ravel().astype(np.float64) for grid in np.meshgrid(rows, columns, indexing="ij"))
    values = scene.image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].ravel().astype(np.float64)
    near = np.zeros(x.size, np.bool_)
    for (_, x0, y0, a, b, c), radius in zip(around, radii, strict=True):
        dx, dy = x - x0, y - y0
        near |= a * dx**2 + 2 * b * dx * dy + c * dy**2 <= (radius * FWHM_PER_SIGMA) ** 2
    stride = int(np.ceil(np.sqrt(near.sum() / _MOST_PIXELS)))
    if stride > 1:
        near &= (x % stride == 0) & (y % stride == 0)
    near &= np.isfinite(values)
    x, y, values = x[near], y[near], values[near]
    background, _ = scene.local.at(x, y)
    values = values - background
    for component in taken:
        values -= gaussfit.model(x, y, component.best[None])
    return Pixels(x, y, values)


def roam_of(start: FloatArray) -> float:
    """Return how far [pixel] the centres of ellipses (k, 6) may move."""
    return max(max(form_reach(ellipse[3:], _ROAM_BEAMS)) for ellipse in start)


def fit_points(
    scene: Scene, start: FloatArray, options: PhotometryOptions, taken: list[Component], blended: bool
) -> list[Component] | None:
    """Return the components of points (k, 6) fitted together: all as points, all free, then free where resolved; None if nothing
    converges."""
    pixels = pixels_near(scene, start, options.fit_radius_beams, taken)
    x, y, data = pixels.x, pixels.y, pixels.data
    _, rms = local_rms(scene, start[:, 1], start[:, 2])
    if data.size < 8 * len(start) or not np.isfinite(rms).all():
        return None
    no_shapes, all_shapes, roam = np.zeros(len(start), np.bool_), np.ones(len(start), np.bool_), roam_of(start)
    correlation = scene.local.correlation
    try:
        fixed, settled = gaussfit.fit(x, y, data, start, no_shapes, roam)
        free, converged = gaussfit.fit(x, y, data, fixed, all_shapes, roam)
        if not settled and not converged:
            return None
        if not settled:
            fixed = np.column_stack([free[:, :3], start[:, 3:]])
        fixed_covariance = gaussfit.covariance(x, y, fixed, no_shapes, correlation)
        free_covariance = gaussfit.covariance(x, y, free, all_shapes, correlation) if converged else None
        extent, extent_err = gaussfit.extension(x, y, data, fixed, correlation)
    except np.linalg.LinAlgError:
        return None
    out = []
    for k in range(len(start)):
        shape_block, point_block = slice(6 * k, 6 * k + 6), slice(3 * k, 3 * k + 3)
        out.append(
            Component(
                fixed=fixed[k],
                fixed_covariance=fixed_covariance[point_block, point_block] * rms[k] ** 2,
                free=free[k] if converged else None,
                free_covariance=None if free_covariance is None else free_covariance[shape_block, shape_block] * rms[k] ** 2,
                rms=float(rms[k]),
                extent_jy=float(extent[k]),
                extent_err_jy=float(extent_err[k] * rms[k]),
                blended=blended,
                fitted=True,
            )
        )
    return _with_wide(scene, out, options, taken)


def _with_wide(scene: Scene, found: list[Component], options: PhotometryOptions, taken: list[Component]) -> list[Component]:
    """Return the same components, with resolved sources fitted over their own size and the others as points beside them."""
    resolved = np.array([component.is_resolved(options) for component in found])
    if not resolved.any():
        return found
    start = np.array([component.best if wide else component.fixed for component, wide in zip(found, resolved, strict=True)])
    radii = np.where(resolved, options.resolved_radius_beams, options.fit_radius_beams)
    pixels = pixels_near(scene, start, radii, taken)
    x, y, data = pixels.x, pixels.y, pixels.data
    try:
        fitted, converged = gaussfit.fit(x, y, data, start, resolved, roam_of(start))
        if not converged:
            return found
        covariance = gaussfit.covariance(x, y, fitted, resolved, scene.local.correlation)
    except np.linalg.LinAlgError:
        return found
    rms = np.array([component.rms for component in found])
    chi2 = gaussfit.cost(x, y, data, fitted) / max(data.size, 1) / float(np.mean(rms**2))
    misfit = chi2 if chi2 > MISFIT else 1.0
    first = np.r_[0, np.cumsum(np.where(resolved, 6, 3))]
    out = []
    for k, component in enumerate(found):
        parameters = slice(first[k], first[k + 1])
        block = covariance[parameters, parameters] * rms[k] ** 2
        if resolved[k]:
            out.append(replace(component, free=fitted[k], free_covariance=block * misfit))
        else:
            out.append(replace(component, fixed=fitted[k], fixed_covariance=block))
    return out


def brightest(scene: Scene, place: FloatArray, form: FloatArray, taken: list[Component]) -> Component:
    """Return the pixel at a peak as a component without a fit: its flux error is that of one pixel, its position error half a beam."""
    x, y = place[None, 0], place[None, 1]
    background, rms = local_rms(scene, x, y)
    peak = float(scene.image[int(y[0]), int(x[0])] - background[0]) - sum(
        float(gaussfit.model(x, y, component.best[None])[0]) for component in taken
    )
    half = np.linalg.inv([[form[0], form[1]], [form[1], form[2]]]) * (FWHM_PER_SIGMA / 2) ** 2
    covariance = np.zeros((3, 3))
    covariance[0, 0], covariance[1:, 1:] = rms[0] ** 2, half
    fixed = np.array([peak, x[0], y[0], *form])
    return Component(fixed, covariance, None, None, float(rms[0]), 0.0, float(rms[0]), bool(taken), False)
