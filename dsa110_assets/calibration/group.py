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
_EXPECTED, _EFFICIENCY = 0.778, 0.964
"""Of a normal distribution: the mean square of pulls that count as 1.5 at most, and the estimate's efficiency."""
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
    """Huber's estimate of location of values with errors, and its error.

    Where values scatter by more than their errors say, all errors grow by as much in quadrature as brings the mean of their
    pulls' squares, none counted as more than Huber's limit, to what it is for a normal distribution (Huber 1964, proposal
    2): catalogues have errors of their own. Errors never shrink.
    """
    centre, excess = _huber(values, sigma)
    total = sigma
    if excess > 0:
        low, high = 0.0, 2 * float(np.ptp(values))
        for _ in range(_TURNS):
            middle = (low + high) / 2
            low, high = (middle, high) if _huber(values, np.hypot(sigma, middle))[1] > 0 else (low, middle)
        total = np.hypot(sigma, high)
        centre, _ = _huber(values, total)
    return centre, 1 / math.sqrt(float(np.sum(total**-2.0)) * _EFFICIENCY)


def _huber(values: Float, sigma: Float) -> tuple[float, float]:
    """Huber's location for these errors, and by how much its limited pulls' squares exceed what they are of normal values."""
    centre = float(np.median(values))
    for _ in range(_TURNS):
        weight = np.minimum(1.0, _HUBER / np.maximum(np.abs(values - centre) / sigma, 1e-9)) / sigma**2
        before, centre = centre, float(weight @ values / weight.sum())
        if abs(centre - before) <= 1e-9 * float(sigma.min()):
            break
    pulls = np.minimum(np.abs(values - centre) / sigma, _HUBER)
    return centre, float(pulls @ pulls) - (values.size - 1) * _EXPECTED


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
