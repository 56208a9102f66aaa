"""Ellipses fitted to an island after smoothing, for sources so wide that deconvolution into points left a ripple on them.

CLEAN breaks up wide brightness into points a beam apart or so: their sum is right, their pattern is not, and may be a
third of the brightness. Smoothing by one and a half beams, or three, takes the pattern away and leaves the sum; what was
fitted is then sharpened again, exactly, as Gaussians convolve into Gaussians.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.photometry import gaussfit
from dsa110_assets.photometry.forced import Scene, local_rms
from dsa110_assets.photometry.geometry import form_reach
from dsa110_assets.photometry.islandfit import MISFIT, Component, Pixels, pixels_near, roam_of
from dsa110_assets.photometry.noise import convolved, gaussian_kernel
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.shapes import area_ratio

FloatArray = NDArray[np.float64]
_SMOOTHING_BEAMS = (1.5, 3.0)
_LEFT = 0.1
"""Root of the share of the smoothed island's power that few enough ellipses may leave."""
_MARGIN_BEAMS = 3.0


def _matrix(form: FloatArray) -> FloatArray:
    return np.array([[form[0], form[1]], [form[1], form[2]]])


def _widened(form: FloatArray, by: FloatArray) -> FloatArray:
    """The form (3,) of a Gaussian convolved with that of form `by`."""
    both = np.linalg.inv(np.linalg.inv(_matrix(form)) + np.linalg.inv(_matrix(by)))
    return np.array([both[0, 0], both[0, 1], both[1, 1]])


def _sharpened(ellipse: FloatArray, by: FloatArray) -> FloatArray | None:
    """The ellipse (6,) that the Gaussian of form `by` (3,), of unit sum, turns into `ellipse`; None if there is none."""
    own = np.linalg.inv(_matrix(ellipse[3:])) - np.linalg.inv(_matrix(by))
    if own[0, 0] <= 0 or np.linalg.det(own) <= 0:
        return None
    sharp = np.linalg.inv(own)
    form = np.array([sharp[0, 0], sharp[0, 1], sharp[1, 1]])
    return np.array([ellipse[0] / area_ratio(form, ellipse[3:]), *ellipse[1:3], *form])


def _smoothed(scene: Scene, start: FloatArray, kernel: FloatArray) -> Scene:
    """The scene with its image, where it is around the ellipses (k, 6), smoothed by a kernel of unit sum; missing data left out."""
    reach = np.array([form_reach(ellipse[3:], 1.0) for ellipse in start]).max(axis=0) * _MARGIN_BEAMS + np.array(kernel.shape[::-1])
    low, high = start[:, 1:3].min(axis=0) - reach, start[:, 1:3].max(axis=0) + reach
    rows = slice(max(int(low[1]), 0), min(int(high[1]) + 2, scene.image.shape[0]))
    columns = slice(max(int(low[0]), 0), min(int(high[0]) + 2, scene.image.shape[1]))
    window = scene.image[rows, columns].astype(np.float64)
    y, x = np.indices(window.shape)
    background, _ = scene.local.at((x + columns.start).ravel().astype(np.float64), (y + rows.start).ravel().astype(np.float64))
    level = background.reshape(window.shape)
    there = np.isfinite(window)
    margin = kernel.shape[0] // 2, kernel.shape[1] // 2
    inner = tuple(slice(m, m + n) for m, n in zip(margin, window.shape, strict=True))
    total = convolved(np.where(there, window - level, 0.0), kernel)[inner]
    share = convolved(there.astype(np.float64), kernel)[inner]
    image = np.full_like(scene.image, np.nan)
    image[rows, columns] = np.where(there, total / np.maximum(share, 1e-3) + level, np.nan)
    return scene._replace(image=image)


def ellipses(scene: Scene, start: FloatArray, form: FloatArray, most: int, options: PhotometryOptions) -> list[Component] | None:
    """The fewest ellipses, at most `most`, that explain an island smoothed, from one to begin with, `start` (1, 6).

    None if none do. `form` (3,) is the beam's; all in pixels.
    """
    for beams in _SMOOTHING_BEAMS:
        by = form / beams**2
        half = form_reach(by, 1.5)
        kernel = gaussian_kernel(by, (int(half[0]) + 1, int(half[1]) + 1))
        kernel /= kernel.sum()
        smooth = _smoothed(scene, start, kernel)
        correlation = scene.local.kernel_covariance(kernel)
        found = _few(smooth, start, form, by, most, correlation.max(), options)
        whole = None if found is None else _components(scene, smooth, found, form, by, correlation, options)
        if whole is not None:
            return whole
    return None


def _few(
    smooth: Scene, start: FloatArray, form: FloatArray, by: FloatArray, most: int, variance: float, options: PhotometryOptions
) -> FloatArray | None:
    """The fewest ellipses (k, 6) that explain the smoothed image, whose noise has that `variance` per rms^2, or None."""
    _, rms = local_rms(smooth, start[:, 1], start[:, 2])
    trial = np.array([[*start[0, :3], *_widened(start[0, 3:], by)]])
    for _ in range(most):
        pixels = pixels_near(smooth, trial, 1.0, [])
        found, converged = _fitted(smooth, pixels, trial, options)
        if not converged:
            return None
        left = pixels.data - gaussfit.model(pixels.x, pixels.y, found)
        allowed = np.fmax(MISFIT * left.size * variance * rms[0] ** 2, _LEFT**2 * np.sum(pixels.data**2))
        if np.sum(left**2) <= allowed:
            return found
        worst = int(np.argmax(left))
        trial = np.vstack([found, [left[worst], pixels.x[worst], pixels.y[worst], *_widened(form, by)]])
    return None


def _fitted(smooth: Scene, pixels: Pixels, trial: FloatArray, options: PhotometryOptions) -> tuple[FloatArray, bool]:
    """Ellipses fitted to the pixels given, and again to those of their own size."""
    free = np.ones(len(trial), np.bool_)
    found, converged = gaussfit.fit(*pixels, trial, free, roam_of(trial))
    if not converged:
        return found, False
    again = gaussfit.fit(*pixels_near(smooth, found, options.fit_radius_beams, []), found, free, roam_of(found))
    return again if again[1] else (found, True)


def _components(
    scene: Scene,
    smooth: Scene,
    found: FloatArray,
    form: FloatArray,
    by: FloatArray,
    correlation: FloatArray,
    options: PhotometryOptions,
) -> list[Component] | None:
    """Fitted ellipses (k, 6) as they are before smoothing; None if one is narrower than the smoothing."""
    pixels = pixels_near(smooth, found, options.fit_radius_beams, [])
    _, rms = local_rms(scene, found[:, 1], found[:, 2])
    if not np.isfinite(rms).all():
        return None
    try:
        covariance = gaussfit.covariance(pixels.x, pixels.y, found, np.ones(len(found), np.bool_), correlation)
    except np.linalg.LinAlgError:
        return None
    middle = correlation[correlation.shape[0] // 2, correlation.shape[1] // 2]
    chi2 = gaussfit.cost(*pixels, found) / pixels.data.size / (float(np.mean(rms**2)) * middle)
    out = []
    for k, ellipse in enumerate(found):
        own = slice(6 * k, 6 * k + 6)
        sharp = _with_covariance(ellipse, covariance[own, own] * rms[k] ** 2 * (chi2 if chi2 > MISFIT else 1.0), by)
        if sharp is None:
            return None
        free, free_covariance = sharp
        excess = float(free[0] * area_ratio(free[3:], form) - free[0])
        out.append(
            Component(
                fixed=np.array([*free[:3], *form]),
                fixed_covariance=free_covariance[:3, :3],
                free=free,
                free_covariance=free_covariance,
                rms=float(rms[k]),
                extent_jy=excess,
                extent_err_jy=float(np.sqrt(free_covariance[0, 0])),
                blended=len(found) > 1,
                fitted=True,
            )
        )
    return out


def _with_covariance(ellipse: FloatArray, covariance: FloatArray, by: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """`_sharpened` with its covariance, by linear propagation."""
    sharp = _sharpened(ellipse, by)
    if sharp is None:
        return None
    gradient = np.empty((6, 6))
    for n in range(6):
        step = np.zeros(6)
        step[n] = 1e-5 * (ellipse[0] if n == 0 else 1.0 if n < 3 else np.sqrt(np.linalg.det(_matrix(ellipse[3:]))))
        up, down = _sharpened(ellipse + step, by), _sharpened(ellipse - step, by)
        if up is None or down is None:
            return None
        gradient[:, n] = (up - down) / (2 * step[n])
    return sharp, gradient @ covariance @ gradient.T
