"""The field's sources as one: a second standard beside the calibrator.

Gains rest on the calibrator. If it is brighter than its model by a factor, every source of the field comes out fainter by
it; if it is displaced, every source is displaced the other way. One source may have changed since its catalogue was made,
all of them together have not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

LEAST_SOURCES = 5
"""Fewer sources are no group: two that vary would be most of it."""
_CLEAR = 0.2
"""Sources whose flux is known to this part of itself count."""
_HUBER = 1.5
_MAD_TO_SIGMA = 1.4826
_TURNS = 30
_WIDEST_RAD, _STEP_RAD = np.deg2rad(48 / 3600), np.deg2rad(3 / 3600)


@dataclass(frozen=True)
class Group:
    """`count` sources, their common flux over the catalogue's, relative to the calibrator's over its model, with its
    error; and their common shift east and north [rad], with its error. NaN where fewer than LEAST_SOURCES are clear."""

    count: int
    ratio: float = math.nan
    ratio_error: float = math.nan
    east_rad: float = math.nan
    north_rad: float = math.nan
    shift_error_rad: float = math.nan

    @property
    def known(self) -> bool:
        return self.count >= LEAST_SOURCES and math.isfinite(self.ratio)


def of_sources(ratio: Float, sigma: Float, shift_rad: Float, shift_sigma_rad: Float) -> Group:
    """The group of sources with fitted over catalogue flux `ratio` +- `sigma` (n,), shifted by `shift_rad` (2, n) east and
    north, each known to `shift_sigma_rad` (2, n). NaN and unclear ones do not count."""
    clear = np.isfinite(ratio) & (sigma > 0) & (sigma < _CLEAR)
    count = int(clear.sum())
    if count < LEAST_SOURCES:
        return Group(count)
    common, error = robust_mean(ratio[clear], sigma[clear])
    east, north = (robust_mean(one[clear], its[clear]) for one, its in zip(shift_rad, shift_sigma_rad, strict=True))
    return Group(count, common, error, east[0], north[0], max(east[1], north[1]))


def robust_mean(values: Float, sigma: Float) -> tuple[float, float]:
    """Huber's estimate of location (Huber 1964) of values with errors, and its error.

    Where values scatter by more than their errors say, by the median of their deviations, all errors grow by as much in
    quadrature: catalogues have errors of their own. The error is never less than that of the errors given.
    """
    centre, more = float(np.median(values)), 0.0
    for _ in range(_TURNS):
        spread = _MAD_TO_SIGMA * float(np.median(np.abs(values - centre)))
        more = math.sqrt(max(spread**2 - float(np.median(sigma)) ** 2, 0.0))
        total = np.hypot(sigma, more)
        weight = np.minimum(1.0, _HUBER / np.maximum(np.abs(values - centre) / total, 1e-9)) / total**2
        before, centre = centre, float(weight @ values / weight.sum())
        if abs(centre - before) <= 1e-9 * float(total.min()):
            break
    pulls = np.minimum(np.abs(values - centre) / total, _HUBER)
    scatter = math.sqrt(max(float(pulls @ pulls) / max(values.size - 1, 1), 1.0))
    return centre, scatter / math.sqrt(float(np.sum(total**-2.0)))


def coarse_shift(correlated: NDArray[np.complex128], u: Float, v: Float) -> tuple[float, float, float]:
    """The shift east and north [rad] within 48 arcsec at which a field fits best, and by how much better than unshifted.

    `correlated`: sum w V conj(M) of data V less the calibrator and the field's model M, at (u, v) [wavelengths], all (n,).
    The gain is in its real part's sum, half of that in chi-squared. For shifts that are many times those a linear fit can
    tell; good to half a step of 3 arcsec.
    """
    steps = np.arange(-_WIDEST_RAD, _WIDEST_RAD + _STEP_RAD / 2, _STEP_RAD)
    east = np.exp(-2j * np.pi * steps[:, None] * u) * correlated
    north = np.exp(-2j * np.pi * steps[:, None] * v)
    fit = np.einsum("en,mn->em", east, north).real  # not by BLAS, whose threads spin while others work
    best = np.unravel_index(int(np.argmax(fit)), fit.shape)
    return float(steps[best[0]]), float(steps[best[1]]), float(fit[best] - correlated.sum().real)
