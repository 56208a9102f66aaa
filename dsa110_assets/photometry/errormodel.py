"""Errors that mean what they say: a scale for the noise and a fractional term, measured on sources that do
not vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_BRIGHT_SNR, _FAINT_SNR = 20.0, 10.0
_SCALE_FREEDOM = 100
"""Degrees of freedom of faint sources below which their scatter is not trusted to rescale the noise."""
_SCALE_RANGE = (0.7, 2.0)
_PRIOR_FREEDOM = 1.0
_LARGEST_FRACTION = 0.3


@dataclass(frozen=True)
class ErrorModel:
    """sigma'^2 = (scale sigma)^2 + F^2 (sigma_C^2 + fraction^2)."""

    scale: float
    fraction: float

    def apply(self, flux: FloatArray, error: FloatArray, correction_error: FloatArray) -> FloatArray:
        """Total errors of corrected fluxes; `correction_error` is relative. NaN stays NaN."""
        return np.sqrt((self.scale * error) ** 2 + flux**2 * (correction_error**2 + self.fraction**2))


def group_starts(code: IntArray) -> IntArray:
    """Where each run of equal codes begins, and the end: rows of group g are starts[g]:starts[g + 1]."""
    if code.size == 0:
        return np.zeros(1, np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(code)) + 1, [code.size]]).astype(np.int64)


def pulls(flux: FloatArray, error: FloatArray, source: IntArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Residuals from each source's weighted mean in units of their own standard deviation; chi^2 and N - 1
    per source.

    The mean contains the point, so its residual's variance is sigma^2 - 1/sum(w). `source` numbers are
    0..n-1. NaN for points without a flux, and for sources with one point; their chi^2 is 0.
    """
    good = np.isfinite(flux) & (error > 0)
    weight = np.where(good, 1 / np.where(good, error, 1.0) ** 2, 0.0)
    size = int(source.max()) + 1 if source.size else 0
    total = np.bincount(source, weight, minlength=size)
    count = np.bincount(source, good, minlength=size).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(source, weight * np.where(good, flux, 0.0), minlength=size) / total
        spread = np.sqrt(1 / weight - 1 / total[source])
        pull = np.where(good & (count[source] > 1), (flux - mean[source]) / spread, np.nan)
        chi2 = np.bincount(source, np.where(good, weight * (flux - mean[source]) ** 2, 0.0), minlength=size)
    return np.asarray(pull), np.asarray(chi2), np.maximum(count - 1, 0).astype(np.int64)


def _scatter(pull: FloatArray) -> float:
    """Robust standard deviation about zero of the pulls there are."""
    return float(1.482602 * np.median(np.abs(pull[np.isfinite(pull)])))


def _solve(scatter_of: Callable[[float], float], low: float, high: float) -> float:
    """The parameter at which a falling scatter reaches 1, by bisection; an end of the range if none."""
    if scatter_of(low) <= 1:
        return low
    if scatter_of(high) >= 1:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if scatter_of(middle) > 1 else (low, middle)
    return (low + high) / 2


def calibrate_errors(rows: pd.DataFrame, unfit_bits: int, prior_fraction: float) -> ErrorModel:
    """Noise scale from faint sources and fractional term from bright ones, so that steady pulls scatter by 1.

    `rows`: corrected light-curve rows with statistical errors. Robust scatter, so a few variables do not
    matter. The fraction is averaged in quadrature with `prior_fraction`, worth one degree of freedom: with
    hardly any bright epochs the prior speaks, with many the sky does.
    """
    flux = rows["flux_jy"].to_numpy(np.float64)
    error = rows["raw_flux_err_jy"].to_numpy(np.float64) / rows["correction"].to_numpy(np.float64)
    relative = rows["correction_err"].to_numpy(np.float64) / rows["correction"].to_numpy(np.float64)
    good = np.isfinite(flux) & (error > 0) & ((rows["quality"].to_numpy(np.int64) & unfit_bits) == 0)
    flux, error, relative = flux[good], error[good], relative[good]
    source = pd.factorize(rows["source_id"].to_numpy()[good])[0].astype(np.int64)
    snr = pd.Series(flux / error).groupby(source).transform("median").to_numpy(np.float64)
    count = np.bincount(source)[source] if source.size else source
    bright, faint = (snr >= _BRIGHT_SNR) & (count > 1), (snr < _FAINT_SNR) & (count > 1)

    def scatter(rows_: NDArray[np.bool_], fraction: float, scale: float) -> float:
        model = ErrorModel(scale, fraction)
        code = pd.factorize(source[rows_])[0].astype(np.int64)
        return _scatter(pulls(flux[rows_], model.apply(flux[rows_], error[rows_], relative[rows_]), code)[0])

    scale, fraction = 1.0, 0.0
    freedom = float(np.sum(1 - 1 / count[bright])) if bright.any() else 0.0
    enough_faint = bool(faint.any()) and np.sum(1 - 1 / count[faint]) >= _SCALE_FREEDOM
    for _ in range(3 if enough_faint else 1):
        if enough_faint:
            scale = _solve(partial(scatter, faint, fraction), *_SCALE_RANGE)
        if freedom > 0:
            fraction = _solve(partial(scatter, bright, scale=scale), 0.0, _LARGEST_FRACTION)
    blended = (freedom * fraction**2 + _PRIOR_FREEDOM * prior_fraction**2) / (freedom + _PRIOR_FREEDOM)
    return ErrorModel(scale, float(np.sqrt(blended)))
