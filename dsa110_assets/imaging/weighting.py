"""Imaging weights: natural, uniform and Briggs, applied to the visibilities' own weights.

Briggs (1995), as CASA and WSClean define it: with W_k the sum of visibility weights in uv cell k, f^2 = (5 * 10^-R)^2 / (sum
W_k^2 / sum w_i), a visibility's weight is w_i / (1 + W_k f^2); uniform is w_i / W_k. Cells are 1/field wide, and a visibility
and its conjugate share one cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.stokes import StokesI

Scheme = Literal["natural", "uniform", "briggs"]


@dataclass(frozen=True)
class ImagingWeights:
    """`weights` (sample,) float32; `cells` (v, u) float64: their sum in each uv cell of `cell_lambda`.

    `cells` covers the half plane v >= 0 in its rows; column n_u // 2 is u = 0. `noise_jy`: expected thermal rms of the image;
    NaN if the visibilities cannot determine it.
    """

    weights: NDArray[np.float32]
    cells: NDArray[np.float64]
    cell_lambda: float
    noise_jy: float


def imaging_weights(stokes: StokesI, scheme: Scheme, robust: float, field_rad: float, min_uv_lambda: float = 0.0) -> ImagingWeights:
    """Return the imaging weights of Stokes I samples for a square field [rad]. Scaling all visibility weights changes them by at
    most a common factor.

    Raises BadDataError when `min_uv_lambda` leaves nothing.
    """
    cell = 1 / field_rad
    kept = stokes.weights
    if min_uv_lambda > 0:
        length = np.hypot(stokes.uvw[:, 0], stokes.uvw[:, 1])
        kept = np.where(length >= min_uv_lambda, kept, np.float32(0))
        if not np.any(kept > 0):
            raise BadDataError(f"no visibility is longer than min_uv_lambda = {min_uv_lambda:g} wavelengths")
    half = math.ceil(float(np.abs(stokes.uvw[:, :2]).max()) / cell) + 1
    density = np.zeros((half + 1, 2 * half + 1))
    _accumulate(stokes.uvw, 1 / cell, kept, density)
    if scheme == "natural":
        factor = np.ones_like(density)
    elif scheme == "uniform":
        factor = np.divide(1.0, density, out=np.zeros_like(density), where=density > 0)
    else:
        strength = (5 * 10**-robust) ** 2 / (np.sum(density**2) / np.sum(density))
        factor = 1 / (1 + density * strength)
    weights = np.empty_like(kept)
    _apply(stokes.uvw, 1 / cell, kept, factor, weights)
    noise = math.sqrt(stokes.variance_scale * float(np.sum(density * factor**2))) / float(np.sum(density * factor))
    return ImagingWeights(weights, density * factor, cell, noise)


@njit(inline="always")
def _cell(u, v, half):  # type: ignore[no-untyped-def]
    if v < 0 or (v == 0 and u < 0):
        u, v = -u, -v
    row, column = int(np.floor(v + 0.5)), int(np.floor(u + 0.5))
    return row, column + half


@njit(cache=True)
def _accumulate(uvw, scale, weights, density):  # type: ignore[no-untyped-def]
    half = density.shape[0] - 1
    for k in range(weights.size):
        if weights[k] > 0:
            i, j = _cell(uvw[k, 0] * scale, uvw[k, 1] * scale, half)
            density[i, j] += weights[k]


@njit(cache=True, parallel=True)
def _apply(uvw, scale, weights, factor, out):  # type: ignore[no-untyped-def]
    half = factor.shape[0] - 1
    for k in prange(weights.size):
        if weights[k] > 0:
            i, j = _cell(uvw[k, 0] * scale, uvw[k, 1] * scale, half)
            out[k] = weights[k] * factor[i, j]
        else:
            out[k] = 0


def synthesised_beam(weighted: ImagingWeights, pixel_rad: float, n_pixels: int) -> NDArray[np.float64]:
    """Return the dirty beam's core, (n, n) with its centre at pixel n // 2, from the weights' cells alone.

    Rows are north, columns west as in a FITS image. Direct sum over cells; w is neglected, which is exact near the centre.
    """
    offset = (np.arange(n_pixels) - n_pixels // 2) * pixel_rad
    v = np.arange(weighted.cells.shape[0]) * weighted.cell_lambda
    u = (np.arange(weighted.cells.shape[1]) - weighted.cells.shape[0] + 1) * weighted.cell_lambda
    along_v = np.exp(2j * np.pi * np.outer(offset, v))
    along_u = np.exp(-2j * np.pi * np.outer(u, offset))
    return np.asarray((along_v @ weighted.cells @ along_u).real / weighted.cells.sum())


def curvature_fwhm_rad(weighted: ImagingWeights) -> float:
    """Return the smallest full width [rad] of the Gaussian with the dirty beam's curvature at its peak: a lower bound of the beam."""
    v, u = np.indices(weighted.cells.shape)
    u = u - (weighted.cells.shape[0] - 1)
    total = weighted.cells.sum()
    uu, vv, uv = (float(np.sum(weighted.cells * term)) / total for term in (u * u, v * v, u * v))
    largest = (uu + vv) / 2 + math.hypot((uu - vv) / 2, uv)
    return math.sqrt(2 * math.log(2) / largest) / (np.pi * weighted.cell_lambda)
