"""Sizes on the sky: convolution of an ellipse with the beam, deconvolution of a fitted ellipse, and the errors of both.

An ellipse is represented by the covariance matrix (east, north) [rad^2] of its Gaussian: convolving adds the beam's,
deconvolving subtracts it (Condon 1997, PASP 109, 166, section 4; the closed form of Wild 1970, Aust. J. Phys. 23, 113, is the
same).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.photometry.condon import PA_UNKNOWN_DEG
from dsa110_assets.photometry.geometry import FWHM_PER_SIGMA, Geometry, form_axes_sky

FloatArray = NDArray[np.float64]
ARCSEC_PER_RAD = float(np.rad2deg(1) * 3600)


@dataclass(frozen=True)
class Size:
    """FWHM major and minor [arcsec] and position angle [deg, 0..180, north through east], each with its error."""

    major_arcsec: float
    minor_arcsec: float
    pa_deg: float
    major_err_arcsec: float
    minor_err_arcsec: float
    pa_err_deg: float


def sky_covariance(major_arcsec: ArrayLike, minor_arcsec: ArrayLike, pa_deg: ArrayLike) -> FloatArray:
    """Return covariances (n, 2, 2) [rad^2] of ellipses given by their FWHMs; NaN in gives NaN out."""
    major, minor, pa = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, np.float64)) for v in (major_arcsec, minor_arcsec, pa_deg)))
    angle = np.deg2rad(pa)
    along, across = np.stack([np.sin(angle), np.cos(angle)], -1), np.stack([np.cos(angle), -np.sin(angle)], -1)
    axes = np.stack([along, across], axis=-1)
    squares = (np.stack([major, minor], axis=-1) / ARCSEC_PER_RAD / FWHM_PER_SIGMA) ** 2
    return np.asarray((axes * squares[:, None, :]) @ axes.transpose(0, 2, 1))


def seen_forms(geometry: Geometry, jacobians: FloatArray, sizes: FloatArray) -> FloatArray:
    """Return quadratic forms (n, 3) in pixels of ellipses (n, 2, 2) [rad^2] convolved with the beam."""
    beam = sky_covariance(geometry.bmaj_deg * 3600, geometry.bmin_deg * 3600, geometry.bpa_deg)
    form = np.linalg.inv(jacobians @ (sizes + beam) @ jacobians.transpose(0, 2, 1))
    return np.ascontiguousarray(form[:, [0, 0, 1], [0, 1, 1]])


def area_ratio(form: FloatArray, beam_form: FloatArray) -> FloatArray:
    """Return the solid angles of Gaussians over the beam's, by their forms (..., 3): the factors that convert a peak to a flux."""
    inverse_squares = [f[..., 0] * f[..., 2] - f[..., 1] ** 2 for f in (beam_form, form)]
    return np.asarray(np.sqrt(inverse_squares[0] / inverse_squares[1]))


def shape_errors(free: FloatArray, covariance: FloatArray, jacobian: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (peak times major times minor [Jy/beam rad^2], major, minor [rad], pa [deg]) of a free fit (6,) and their errors.

    `covariance` (6, 6) is propagated linearly; `jacobian` (2, 2) is d(x, y)/d(east, north) [pixel/rad].
    """

    def figures(params: FloatArray) -> FloatArray:
        major, minor, pa = form_axes_sky(params[None, 3:], jacobian[None])
        return np.array([params[0] * major[0] * minor[0], major[0], minor[0], pa[0]])

    centre = figures(free)
    gradient = np.zeros((4, 6))
    for n in (0, 3, 4, 5):
        step = np.zeros(6)
        step[n] = 1e-4 * (free[0] if n == 0 else np.sqrt(free[3] * free[5] - free[4] ** 2))
        up, down = figures(free + step), figures(free - step)
        gradient[:, n] = (up - down) / (2 * step[n])
        gradient[3, n] = ((up[3] - down[3] + 90) % 180 - 90) / (2 * step[n])
    return centre, np.sqrt(np.diag(gradient @ covariance @ gradient.T))


def deconvolved(geometry: Geometry, form: FloatArray, covariance: FloatArray, jacobian: FloatArray) -> Size:
    """Return the source's intrinsic size, from a fitted form (3,) in pixels with its covariance (3, 3).

    An axis not wider than the beam's is 0, and its error is the size for one standard deviation more: sqrt(l + s) - sqrt(l) for
    the square l of an axis and its error s, which far from 0 is the usual s / (2 sqrt(l)).
    """

    def intrinsic(form: FloatArray) -> FloatArray:
        inverse = np.linalg.inv(jacobian)
        beam = sky_covariance(geometry.bmaj_deg * 3600, geometry.bmin_deg * 3600, geometry.bpa_deg)[0]
        return np.asarray(inverse @ np.linalg.inv([[form[0], form[1]], [form[1], form[2]]]) @ inverse.T - beam)

    centre = intrinsic(form)
    squares, vectors = np.linalg.eigh(centre)
    gradient = np.empty((3, 3))  # derivatives by the form: of the two squares, and of the off-axis element that rotates the ellipse
    for n in range(3):
        step = np.zeros(3)
        step[n] = 1e-4 * np.sqrt(form[0] * form[2] - form[1] ** 2)
        change = vectors.T @ (intrinsic(form + step) - intrinsic(form - step)) @ vectors / (2 * step[n])
        gradient[:, n] = change[1, 1], change[0, 0], change[0, 1]
    error = np.sqrt(np.maximum(np.diag(gradient @ covariance @ gradient.T), 0.0))
    square = np.maximum(squares[::-1], 0.0)
    axis = np.sqrt(square)
    axis_error = np.sqrt(square + error[:2]) - axis
    scale = FWHM_PER_SIGMA * ARCSEC_PER_RAD
    pa_error = np.rad2deg(error[2] / (squares[1] - squares[0])) if squares[1] > squares[0] else PA_UNKNOWN_DEG
    return Size(
        major_arcsec=float(axis[0] * scale),
        minor_arcsec=float(axis[1] * scale),
        pa_deg=float(np.rad2deg(np.arctan2(vectors[0, 1], vectors[1, 1])) % 180.0),
        major_err_arcsec=float(axis_error[0] * scale),
        minor_err_arcsec=float(axis_error[1] * scale),
        pa_err_deg=float(min(pa_error, PA_UNKNOWN_DEG)),
    )
