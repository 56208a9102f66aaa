"""Least-squares fits of elliptical Gaussians to pixels, and their errors in correlated noise (numba).

A component is peak * exp(-(a dx^2 + 2 b dx dy + c dy^2)/2); its parameters are (peak, x, y) when the shape is held at the
beam's, or (peak, x, y, a, b, c). All components of an island are fitted together by Levenberg-Marquardt. The covariance is H^-1
J^T C J H^-1, H = J^T J, with C the noise covariance of the fitted pixels: least squares is not the best estimator in correlated
noise, but this is its true scatter to first order.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_MAX_STEPS = 60
_CONVERGED = 1e-7


@njit(cache=True)
def _columns(free: NDArray[np.bool_]) -> IntArray:
    """Return the first column of each component's parameters, and their total number."""
    out = np.zeros(free.size + 1, np.int64)
    for k in range(free.size):
        out[k + 1] = out[k] + (6 if free[k] else 3)
    return out


@njit(cache=True)
def _model(x: FloatArray, y: FloatArray, params: FloatArray, free: NDArray[np.bool_], jacobian: FloatArray) -> FloatArray:
    """Return the model at pixels (n,), and write its derivatives by the fitted parameters into `jacobian` (n, n_parameters)."""
    first = _columns(free)
    out = np.zeros(x.size)
    for k in range(params.shape[0]):
        peak, x0, y0, a, b, c = params[k]
        at = first[k]
        for n in range(x.size):
            dx, dy = x[n] - x0, y[n] - y0
            shape = np.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
            value = peak * shape
            out[n] += value
            jacobian[n, at] = shape
            jacobian[n, at + 1] = value * (a * dx + b * dy)
            jacobian[n, at + 2] = value * (b * dx + c * dy)
            if free[k]:
                jacobian[n, at + 3] = -0.5 * value * dx * dx
                jacobian[n, at + 4] = -value * dx * dy
                jacobian[n, at + 5] = -0.5 * value * dy * dy
    return out


@njit(cache=True)
def _sound(params: FloatArray, start: FloatArray, roam: float) -> bool:
    """Whether every component is still a positive, finite ellipse near where it began."""
    for k in range(params.shape[0]):
        peak, x0, y0, a, b, c = params[k]
        dx, dy = x0 - start[k, 1], y0 - start[k, 2]
        if not (np.isfinite(peak) and peak > 0 and a > 0 and c > 0 and a * c - b * b > 0):
            return False
        if not dx * dx + dy * dy < roam * roam:
            return False
        if a * c - b * b < 1e-4 * (start[k, 3] * start[k, 5] - start[k, 4] ** 2):
            return False
    return True


@njit(cache=True)
def fit(x: FloatArray, y: FloatArray, data: FloatArray, start: FloatArray, free: NDArray[np.bool_], roam: float) -> tuple[FloatArray, bool]:
    """Fit pixels (n,) with components (k, 6) from `start`, with free shapes only where `free` (k,); positions may move `roam`
    pixels.

    Returns the parameters and whether the fit converged; without convergence the last valid parameters.
    """
    first = _columns(free)
    size = first[-1]
    params, damping = start.copy(), 1e-3
    jacobian, trial_jacobian = np.zeros((x.size, size)), np.zeros((x.size, size))
    residual = data - _model(x, y, params, free, jacobian)
    cost = np.sum(residual**2)
    for _ in range(_MAX_STEPS):
        hessian = np.ascontiguousarray(jacobian.T) @ jacobian
        gradient = np.ascontiguousarray(jacobian.T) @ residual
        for n in range(size):
            hessian[n, n] *= 1 + damping
            if hessian[n, n] <= 0:
                return params, False
        step = np.linalg.solve(hessian, gradient)
        trial = params.copy()
        for k in range(start.shape[0]):
            for q in range(first[k + 1] - first[k]):
                trial[k, q] += step[first[k] + q]
        if _sound(trial, start, roam):
            trial_residual = data - _model(x, y, trial, free, trial_jacobian)
            trial_cost = np.sum(trial_residual**2)
            if trial_cost <= cost:
                done = cost - trial_cost <= _CONVERGED * cost
                params, residual, cost = trial, trial_residual, trial_cost
                jacobian[:] = trial_jacobian
                damping = max(damping / 10, 1e-12)
                if done:
                    return params, True
                continue
        damping *= 10
        if damping > 1e10:
            return params, False
    return params, False


@njit(cache=True)
def cost(x: FloatArray, y: FloatArray, data: FloatArray, params: FloatArray) -> float:
    """Return the sum of squared residuals of components (k, 6) at pixels (n,)."""
    return float(np.sum((data - model(x, y, params)) ** 2))


@njit(cache=True)
def model(x: FloatArray, y: FloatArray, params: FloatArray) -> FloatArray:
    """Return the values of components (k, 6) at pixels (n,)."""
    out: FloatArray = _model(x, y, params, np.zeros(params.shape[0], np.bool_), np.empty((x.size, 3 * params.shape[0])))
    return out


@njit(cache=True)
def _smeared(x: FloatArray, y: FloatArray, columns: FloatArray, correlation: FloatArray) -> FloatArray:
    """Return columns^T C columns for weights (n, size) on pixels with the correlation C at their lags."""
    size = columns.shape[1]
    middle_x, middle_y = correlation.shape[1] // 2, correlation.shape[0] // 2
    spread, smeared = np.zeros((size, size)), np.empty(size)
    for n in range(x.size):
        smeared[:] = 0.0
        for m in range(x.size):
            i, j = int(x[n] - x[m]) + middle_x, int(y[n] - y[m]) + middle_y
            if 0 <= i < correlation.shape[1] and 0 <= j < correlation.shape[0]:
                for q in range(size):
                    smeared[q] += correlation[j, i] * columns[m, q]
        for p in range(size):
            for q in range(size):
                spread[p, q] += columns[n, p] * smeared[q]
    return spread


@njit(cache=True)
def covariance(x: FloatArray, y: FloatArray, params: FloatArray, free: NDArray[np.bool_], correlation: FloatArray) -> FloatArray:
    """Return the covariance (n_parameters, n_parameters) of a fit in noise of unit rms and the given correlation at pixel lags."""
    jacobian = np.zeros((x.size, _columns(free)[-1]))
    _model(x, y, params, free, jacobian)
    inverse = np.linalg.inv(np.ascontiguousarray(jacobian.T) @ jacobian)
    spread: FloatArray = _smeared(x, y, jacobian, correlation)
    return inverse @ spread @ inverse


@njit(cache=True)
def extension(x: FloatArray, y: FloatArray, data: FloatArray, fixed: FloatArray, correlation: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the flux that a free shape would add to each component of a fixed-shape fit (k, 6), and its error per unit rms; both
    (k,).

    One Gauss-Newton step from the fixed fit is linear in the pixels, so for point sources in Gaussian noise it is Gaussian with
    mean 0 at any signal-to-noise; the difference of two converged fits is not. The flux of a component is its peak times its
    area, area ~ (ac - b^2)^(-1/2).
    """
    n_components = fixed.shape[0]
    point, shaped = np.zeros((x.size, 3 * n_components)), np.zeros((x.size, 6 * n_components))
    residual = data - _model(x, y, fixed, np.zeros(n_components, np.bool_), point)
    _model(x, y, fixed, np.ones(n_components, np.bool_), shaped)
    by_point = np.linalg.solve(np.ascontiguousarray(point.T) @ point, np.ascontiguousarray(point.T))
    by_shape = np.linalg.solve(np.ascontiguousarray(shaped.T) @ shaped, np.ascontiguousarray(shaped.T))
    weights = np.empty((x.size, n_components))
    for k in range(n_components):
        peak, _, _, a, b, c = fixed[k]
        determinant = a * c - b * b
        weights[:, k] = by_shape[6 * k] - by_point[3 * k]
        weights[:, k] += peak / determinant * (b * by_shape[6 * k + 4] - 0.5 * (c * by_shape[6 * k + 3] + a * by_shape[6 * k + 5]))
    variance = np.diag(_smeared(x, y, weights, correlation))
    return np.ascontiguousarray(weights.T) @ residual, np.sqrt(np.maximum(variance, 0.0))
