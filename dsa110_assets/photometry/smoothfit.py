"""Ellipses fitted to an island after smoothing, for sources so wide that their deconvolution into points left a ripple.

CLEAN divides wide brightness into points about a beam apart: their sum is right, but their pattern is not, and may be a third
of the brightness. Smoothing by one and a half beams, or three, removes the pattern and preserves the sum. The fitted ellipses
are then sharpened again, which is exact because Gaussians convolve into Gaussians.
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
_UNEXPLAINED_SHARE = 0.1
"""The root of the share of the smoothed island's power that ellipses may leave."""
_MARGIN_BEAMS = 3.0


def _matrix(form: FloatArray) -> FloatArray:
    return np.array([[form[0], form[1]], [form[1], form[2]]])


def _widened(form: FloatArray, kernel_form: FloatArray) -> FloatArray:
    """Return the form (3,) of a Gaussian convolved with that of form `kernel_form`."""
    widened = np.linalg.inv(np.linalg.inv(_matrix(form)) + np.linalg.inv(_matrix(kernel_form)))
    return np.array([widened[0, 0], widened[0, 1], widened[1, 1]])


def _sharpened(ellipse: FloatArray, kernel_form: FloatArray) -> FloatArray | None:
    """Return the ellipse (6,) that becomes `ellipse` by convolution with a unit-sum Gaussian of form `kernel_form` (3,); None if
    there is none."""
    intrinsic = np.linalg.inv(_matrix(ellipse[3:])) - np.linalg.inv(_matrix(kernel_form))
    if intrinsic[0, 0] <= 0 or np.linalg.det(intrinsic) <= 0:
        return None
    inverse = np.linalg.inv(intrinsic)
    form = np.array([inverse[0, 0], inverse[0, 1], inverse[1, 1]])
    return np.array([ellipse[0] / area_ratio(form, ellipse[3:]), *ellipse[1:3], *form])


def _smoothed(scene: Scene, start: FloatArray, kernel: FloatArray) -> Scene:
    """Return the scene with its image around the ellipses (k, 6) smoothed by a kernel of unit sum; missing data are ignored."""
    reach = np.array([form_reach(ellipse[3:], 1.0) for ellipse in start]).max(axis=0) * _MARGIN_BEAMS + np.array(kernel.shape[::-1])
    low, high = start[:, 1:3].min(axis=0) - reach, start[:, 1:3].max(axis=0) + reach
    rows = slice(max(int(low[1]), 0), min(int(high[1]) + 2, scene.image.shape[0]))
    columns = slice(max(int(low[0]), 0), min(int(high[0]) + 2, scene.image.shape[1]))
    window = scene.image[rows, columns].astype(np.float64)
    y, x = np.indices(window.shape)
    background, _ = scene.local.at((x + columns.start).ravel().astype(np.float64), (y + rows.start).ravel().astype(np.float64))
    level = background.reshape(window.shape)
    has_data = np.isfinite(window)
    margin = kernel.shape[0] // 2, kernel.shape[1] // 2
    inner = tuple(slice(m, m + n) for m, n in zip(margin, window.shape, strict=True))
    total = convolved(np.where(has_data, window - level, 0.0), kernel)[inner]
    share = convolved(has_data.astype(np.float64), kernel)[inner]
    image = np.full_like(scene.image, np.nan)
    image[rows, columns] = np.where(has_data, total / np.maximum(share, 1e-3) + level, np.nan)
    return scene._replace(image=image)


def ellipses(scene: Scene, start: FloatArray, form: FloatArray, most: int, options: PhotometryOptions) -> list[Component] | None:
    """Return the fewest ellipses, at most `most`, that explain a smoothed island, beginning with one, `start` (1, 6).

    None if no such ellipses exist. `form` (3,) is the beam's; all in pixels.
    """
    for beams in _SMOOTHING_BEAMS:
        kernel_form = form / beams**2
        half = form_reach(kernel_form, 1.5)
        kernel = gaussian_kernel(kernel_form, (int(half[0]) + 1, int(half[1]) + 1))
        kernel /= kernel.sum()
        smooth = _smoothed(scene, start, kernel)
        correlation = scene.local.kernel_covariance(kernel)
        fitted = _fewest(smooth, start, form, kernel_form, most, correlation.max(), options)
        sharpened = None if fitted is None else _components(scene, smooth, fitted, form, kernel_form, correlation, options)
        if sharpened is not None:
            return sharpened
    return None


def _fewest(
    smooth: Scene, start: FloatArray, form: FloatArray, kernel_form: FloatArray, most: int, variance: float, options: PhotometryOptions
) -> FloatArray | None:
    """Return the fewest ellipses (k, 6) that explain the smoothed image, whose noise has `variance` per rms^2, or None."""
    _, rms = local_rms(smooth, start[:, 1], start[:, 2])
    trial = np.array([[*start[0, :3], *_widened(start[0, 3:], kernel_form)]])
    for _ in range(most):
        pixels = pixels_near(smooth, trial, 1.0, [])
        fitted, converged = _fitted(smooth, pixels, trial, options)
        if not converged:
            return None
        residual = pixels.data - gaussfit.model(pixels.x, pixels.y, fitted)
        allowed = np.fmax(MISFIT * residual.size * variance * rms[0] ** 2, _UNEXPLAINED_SHARE**2 * np.sum(pixels.data**2))
        if np.sum(residual**2) <= allowed:
            return fitted
        worst = int(np.argmax(residual))
        trial = np.vstack([fitted, [residual[worst], pixels.x[worst], pixels.y[worst], *_widened(form, kernel_form)]])
    return None


def _fitted(smooth: Scene, pixels: Pixels, trial: FloatArray, options: PhotometryOptions) -> tuple[FloatArray, bool]:
    """Fit ellipses to the given pixels, and again to pixels within their own size."""
    free = np.ones(len(trial), np.bool_)
    fitted, converged = gaussfit.fit(*pixels, trial, free, roam_of(trial))
    if not converged:
        return fitted, False
    refitted = gaussfit.fit(*pixels_near(smooth, fitted, options.fit_radius_beams, []), fitted, free, roam_of(fitted))
    return refitted if refitted[1] else (fitted, True)


def _components(
    scene: Scene,
    smooth: Scene,
    fitted: FloatArray,
    form: FloatArray,
    kernel_form: FloatArray,
    correlation: FloatArray,
    options: PhotometryOptions,
) -> list[Component] | None:
    """Return the fitted ellipses (k, 6) as they are before smoothing; None if one is narrower than the smoothing."""
    pixels = pixels_near(smooth, fitted, options.fit_radius_beams, [])
    _, rms = local_rms(scene, fitted[:, 1], fitted[:, 2])
    if not np.isfinite(rms).all():
        return None
    try:
        covariance = gaussfit.covariance(pixels.x, pixels.y, fitted, np.ones(len(fitted), np.bool_), correlation)
    except np.linalg.LinAlgError:
        return None
    middle = correlation[correlation.shape[0] // 2, correlation.shape[1] // 2]
    chi2 = gaussfit.cost(*pixels, fitted) / pixels.data.size / (float(np.mean(rms**2)) * middle)
    out = []
    for k, ellipse in enumerate(fitted):
        block = slice(6 * k, 6 * k + 6)
        sharp = _with_covariance(ellipse, covariance[block, block] * rms[k] ** 2 * (chi2 if chi2 > MISFIT else 1.0), kernel_form)
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
                blended=len(fitted) > 1,
                fitted=True,
            )
        )
    return out


def _with_covariance(ellipse: FloatArray, covariance: FloatArray, kernel_form: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Return the result of `_sharpened` with its covariance, by linear propagation."""
    sharp = _sharpened(ellipse, kernel_form)
    if sharp is None:
        return None
    gradient = np.empty((6, 6))
    for n in range(6):
        step = np.zeros(6)
        step[n] = 1e-5 * (ellipse[0] if n == 0 else 1.0 if n < 3 else np.sqrt(np.linalg.det(_matrix(ellipse[3:]))))
        up, down = _sharpened(ellipse + step, kernel_form), _sharpened(ellipse - step, kernel_form)
        if up is None or down is None:
            return None
        gradient[:, n] = (up - down) / (2 * step[n])
    return sharp, gradient @ covariance @ gradient.T
