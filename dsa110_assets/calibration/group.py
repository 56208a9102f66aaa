"""The field's sources taken together: a second standard beside the calibrator.

Gains rest on the calibrator. If it is brighter than its model by a factor, every source of the field appears fainter by
that factor; if it is displaced, every source is displaced the other way. One source may have changed since its catalogue was
made, but not all of them together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

LEAST_SOURCES = 5
"""Fewer sources make no group, because two variable ones would dominate it."""
_CLEAR = 0.2
"""Largest relative flux error of sources that count."""
_HUBER = 1.5
_EXPECTED, _EFFICIENCY = 0.778, 0.964
"""For a normal distribution: the mean square of pulls clipped at 1.5, and the estimate's efficiency."""
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
    """Return the group of sources with fitted over catalogue flux `ratio` +- `sigma` (n,), and shifts `shift_rad` (2, n) east and
    north with errors `shift_sigma_rad` (2, n). Sources with NaN, or with too large a flux error, do not count."""
    clear = np.isfinite(ratio) & (sigma > 0) & (sigma < _CLEAR)
    count = int(clear.sum())
    if count < LEAST_SOURCES:
        return Group(count)
    common, error = robust_mean(ratio[clear], sigma[clear])
    east, north = (robust_mean(shift[clear], shift_sigma[clear]) for shift, shift_sigma in zip(shift_rad, shift_sigma_rad, strict=True))
    return Group(count, common, error, east[0], north[0], max(east[1], north[1]))


def robust_mean(values: Float, sigma: Float) -> tuple[float, float]:
    """Return Huber's estimate of location of values with errors, and its error.

    Where values scatter by more than their errors, one amount is added to all errors in quadrature, such that the mean square of
    their pulls, clipped at Huber's limit, is that of a normal distribution (Huber 1964, proposal 2), because catalogue fluxes
    have errors too. Errors never shrink.
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
    """Return Huber's location for these errors, and by how much the sum of the squares of its clipped pulls exceeds that of normal
    values."""
    centre = float(np.median(values))
    for _ in range(_TURNS):
        weight = np.minimum(1.0, _HUBER / np.maximum(np.abs(values - centre) / sigma, 1e-9)) / sigma**2
        before, centre = centre, float(weight @ values / weight.sum())
        if abs(centre - before) <= 1e-9 * float(sigma.min()):
            break
    pulls = np.minimum(np.abs(values - centre) / sigma, _HUBER)
    return centre, float(pulls @ pulls) - (values.size - 1) * _EXPECTED


def coarse_shift(correlated: NDArray[np.complex128], u: Float, v: Float) -> tuple[float, float, float]:
    """Return the shift east and north [rad] within 48 arcsec at which a field fits best, and the improvement over no shift.

    `correlated`: sum w V conj(M) of data V less the calibrator and the field's model M, at (u, v) [wavelengths], all (n,).
    The improvement is that of the sum's real part, which is half of that in chi-squared. It is meant for shifts many times larger
    than a linear fit can determine, and accurate to half a step of 3 arcsec.
    """
    steps = np.arange(-_WIDEST_RAD, _WIDEST_RAD + _STEP_RAD / 2, _STEP_RAD)
    east = np.exp(-2j * np.pi * steps[:, None] * u) * correlated
    north = np.exp(-2j * np.pi * steps[:, None] * v)
    fit = np.einsum("en,mn->em", east, north).real  # not by BLAS, whose threads spin while other processes work
    best = np.unravel_index(int(np.argmax(fit)), fit.shape)
    return float(steps[best[0]]), float(steps[best[1]]), float(fit[best] - correlated.sum().real)
