"""Least-squares fits of elliptical Gaussians to pixels, and their errors in correlated noise (numba).

A component is peak * exp(-(a dx^2 + 2 b dx dy + c dy^2)/2); its parameters are (peak, x, y) when the shape is
held at the beam's, or (peak, x, y, a, b, c). All components of an island are fitted together by
Levenberg-Marquardt. The covariance is H^-1 J^T C J H^-1, H = J^T J, with C the noise covariance of the fitted
pixels: least squares is not the best estimator in correlated noise, but this is its true scatter to first
order.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_MAX_STEPS = 60
_CONVERGED = 1e-7


@njit(cache=True)
def _model(x: FloatArray, y: FloatArray, params: FloatArray, free: bool, jacobian: FloatArray) -> FloatArray:
    """Model at pixels (n,), with its derivatives by the fitted parameters in `jacobian` (n, n_components * 3
    or 6).
    """
    per = 6 if free else 3
    out = np.zeros(x.size)
    for k in range(params.shape[0]):
        peak, x0, y0, a, b, c = params[k]
        for n in range(x.size):
            dx, dy = x[n] - x0, y[n] - y0
            shape = np.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
            value = peak * shape
            out[n] += value
            jacobian[n, k * per] = shape
            jacobian[n, k * per + 1] = value * (a * dx + b * dy)
            jacobian[n, k * per + 2] = value * (b * dx + c * dy)
            if free:
                jacobian[n, k * per + 3] = -0.5 * value * dx * dx
                jacobian[n, k * per + 4] = -value * dx * dy
                jacobian[n, k * per + 5] = -0.5 * value * dy * dy
    return out


@njit(cache=True)
def _sound(params: FloatArray, start: FloatArray, roam: float) -> bool:
    """Whether every component still is a positive, finite ellipse near where it began."""
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
def fit(
    x: FloatArray, y: FloatArray, data: FloatArray, start: FloatArray, free: bool, roam: float
) -> tuple[FloatArray, bool]:
    """Fit pixels (n,) with components (k, 6) from `start`; positions may move `roam` pixels.

    Returns the parameters and whether the fit converged; without convergence the last sound parameters.
    """
    per = 6 if free else 3
    size = per * start.shape[0]
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
        trial[:, :per] += step.reshape(start.shape[0], per)
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
def covariance(
    x: FloatArray, y: FloatArray, params: FloatArray, free: bool, correlation: FloatArray
) -> FloatArray:
    """Covariance (n_parameters, n_parameters) of a fit in noise of unit rms and the given correlation at
    pixel lags.
    """
    size = (6 if free else 3) * params.shape[0]
    jacobian = np.zeros((x.size, size))
    _model(x, y, params, free, jacobian)
    middle_x, middle_y = correlation.shape[1] // 2, correlation.shape[0] // 2
    spread = np.zeros((size, size))
    smeared = np.empty(size)
    for n in range(x.size):
        smeared[:] = 0.0
        for m in range(x.size):
            i, j = int(x[n] - x[m]) + middle_x, int(y[n] - y[m]) + middle_y
            if 0 <= i < correlation.shape[1] and 0 <= j < correlation.shape[0]:
                for q in range(size):
                    smeared[q] += correlation[j, i] * jacobian[m, q]
        for p in range(size):
            for q in range(size):
                spread[p, q] += jacobian[n, p] * smeared[q]
    inverse = np.linalg.inv(np.ascontiguousarray(jacobian.T) @ jacobian)
    return inverse @ spread @ inverse
