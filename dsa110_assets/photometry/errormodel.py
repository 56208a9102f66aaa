"""Realistic errors: a scale for the noise and a fractional term, measured on sources that do not vary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc

from dsa110_assets.photometry.association import NEW_PREFIX

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_BRIGHT_SNR, _FAINT_SNR, _FAINT_AT_MOST = 20.0, 10.0, 50.0
_SCALE_FREEDOM = 100
"""Degrees of freedom of faint sources below which their scatter is not trusted to rescale the noise."""
_SCALE_RANGE = (0.7, 2.0)
STEADY_P = 1e-3
"""The chance of a source's chi^2 below which it is not called steady."""
_PRIOR_FREEDOM = 1.0
_LARGEST_FRACTION = 0.3


@dataclass(frozen=True)
class ErrorModel:
    """sigma'^2 = (scale sigma)^2 + F^2 (sigma_C^2 + fraction^2)."""

    scale: float
    fraction: float

    def apply(self, flux: FloatArray, error: FloatArray, correction_error: FloatArray) -> FloatArray:
        """Return the total errors of corrected fluxes; `correction_error` is relative. NaN stays NaN."""
        return np.sqrt((self.scale * error) ** 2 + flux**2 * (correction_error**2 + self.fraction**2))


def group_starts(code: IntArray) -> IntArray:
    """Return where each run of equal codes begins, and the end: rows of group g are starts[g]:starts[g + 1]."""
    if code.size == 0:
        return np.zeros(1, np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(code)) + 1, [code.size]]).astype(np.int64)


def pulls(flux: FloatArray, error: FloatArray, source: IntArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return residuals from each source's weighted mean in units of their own standard deviation, and chi^2 and N - 1 per source.

    The mean contains the point, so its residual's variance is sigma^2 - 1/sum(w). `source` numbers are 0..n-1. NaN for points
    without a flux, and for sources with one point; their chi^2 is 0.
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


def robust(pull: FloatArray) -> float:
    """Return the robust standard deviation about zero of the finite pulls."""
    return float(1.482602 * np.median(np.abs(pull[np.isfinite(pull)])))


def _rms(pull: FloatArray) -> float:
    """Return the root mean square of the finite pulls."""
    return float(np.sqrt(np.mean(pull[np.isfinite(pull)] ** 2)))


def solve(scatter_of: Callable[[float], float], low: float, high: float) -> float:
    """Return the parameter at which a falling scatter reaches 1, by bisection; an end of the range if there is none."""
    if scatter_of(low) <= 1:
        return low
    if scatter_of(high) >= 1:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if scatter_of(middle) > 1 else (low, middle)
    return (low + high) / 2


def calibrate_errors(sample: Sample, prior_fraction: float) -> ErrorModel:
    """Fit the noise scale to faint sources and the fractional term to bright ones, so that steady pulls scatter by 1.

    `sample`: corrected fluxes with statistical errors. The first fit uses the robust scatter of all sources, which a few
    variables do not disturb; the second uses the rms of those that are steady under that model, which is as precise with half
    the points. Where too few sources are faint, the next brighter ones count as faint: noise that is the same every night
    (confusion, sidelobes) is in a flux's error but not in a light curve's scatter. The fraction is averaged in quadrature with
    `prior_fraction`, worth one degree of freedom: with hardly any bright epochs the prior dominates, with many the data do.
    """
    first = _fit_model(sample, robust)
    _, total, freedom = pulls(sample.flux, first.apply(sample.flux, sample.error, sample.relative), sample.source)
    steady = chdtrc(np.maximum(freedom, 1), total) > STEADY_P
    sample = sample.part(steady[sample.source])
    model = _fit_model(sample, _rms)
    weight = sample.freedom(bright_rows(sample, faint_limit(sample)))
    combined = (weight * model.fraction**2 + _PRIOR_FREEDOM * prior_fraction**2) / (weight + _PRIOR_FREEDOM)
    return ErrorModel(model.scale, float(np.sqrt(combined)))


def absolute_fraction(sample: Sample, catalogue_jy: FloatArray, scale: float, prior_fraction: float) -> float:
    """Return the fractional error about the catalogue's flux [Jy] (NaN where none), for the rows of a `Sample`.

    It includes errors that are the same every night (beam, deconvolution, neighbours), which the scatter about a source's own
    mean cannot show. It is the fraction at which the robust scatter about the catalogue equals the errors, for rows above 20
    sigma, including sources seen once. The catalogue's own errors are included. Averaged in quadrature with `prior_fraction`,
    worth one source.
    """
    rows = (catalogue_jy > _BRIGHT_SNR * sample.error) & np.isfinite(catalogue_jy)
    offset, n = (sample.flux - catalogue_jy)[rows], np.unique(sample.source[rows]).size
    if not n:
        return prior_fraction

    def scatter(fraction: float) -> float:
        error = ErrorModel(max(scale, 1.0), fraction).apply(sample.flux, sample.error, sample.relative)
        return robust(offset / error[rows])

    measured = solve(scatter, 0.0, _LARGEST_FRACTION)
    return float(np.sqrt((n * measured**2 + _PRIOR_FREEDOM * prior_fraction**2) / (n + _PRIOR_FREEDOM)))


@dataclass(frozen=True)
class Sample:
    """Fluxes (n,) with statistical and relative correction errors; of their source: its number, number of points, median SNR, and
    whether it was known; and the index of each among the given rows.

    Discoveries are in the sample because noise was high once, so they cannot measure faint noise.
    """

    flux: FloatArray
    error: FloatArray
    relative: FloatArray
    source: IntArray
    count: IntArray
    snr: FloatArray
    known: NDArray[np.bool_]
    row: IntArray

    def part(self, rows: NDArray[np.bool_]) -> Sample:
        """Return the selected rows, with the counts that their sources have in the whole sample."""
        source = pd.factorize(self.source[rows])[0].astype(np.int64)
        return Sample(
            self.flux[rows], self.error[rows], self.relative[rows], source, self.count[rows], self.snr[rows], self.known[rows],
            self.row[rows],
        )  # fmt: skip

    def repeated(self, rows: NDArray[np.bool_]) -> Sample:
        """Return those of the selected rows whose sources have two or more of them, with counts among the selected rows."""
        source = pd.factorize(self.source[rows])[0].astype(np.int64)
        count = np.bincount(source)[source] if source.size else source
        return replace(self.part(rows), count=count).part(count > 1)

    def freedom(self, rows: NDArray[np.bool_]) -> float:
        """Return the degrees of freedom of the rows about their sources' means."""
        return float(np.sum(1 - 1 / self.count[rows]))


def sample_of(rows: pd.DataFrame, unfit_bits: int, least: int = 2) -> Sample:
    """Return the rows fit to judge errors by, of sources that have `least` or more of them."""
    flux = rows["flux_jy"].to_numpy(np.float64)
    correction = rows["correction"].to_numpy(np.float64)
    error = rows["raw_flux_err_jy"].to_numpy(np.float64) / correction
    relative = rows["correction_err"].to_numpy(np.float64) / correction
    good = np.isfinite(flux) & (error > 0) & ((rows["quality"].to_numpy(np.int64) & unfit_bits) == 0)
    source = pd.factorize(rows["source_id"].to_numpy()[good])[0].astype(np.int64)
    count = np.bincount(source)[source] if source.size else source
    snr = pd.Series(flux[good] / error[good]).groupby(source).transform("median").to_numpy(np.float64)
    known = ~rows["source_id"].astype(str).str.startswith(NEW_PREFIX).to_numpy()[good]
    return Sample(flux[good], error[good], relative[good], source, count, snr, known, np.flatnonzero(good)).part(count >= least)


def faint_limit(sample: Sample) -> float:
    """Return the signal-to-noise ratio up to which the known sources' rows have `_SCALE_FREEDOM` degrees of freedom, within fixed
    bounds."""
    snr, count = sample.snr[sample.known], sample.count[sample.known]
    order = np.argsort(snr, kind="stable")
    enough = int(np.searchsorted(np.cumsum(1 - 1 / count[order]), _SCALE_FREEDOM))
    limit = snr[order[enough]] if enough < order.size else _FAINT_AT_MOST
    return float(np.clip(limit, _FAINT_SNR, _FAINT_AT_MOST))


def bright_rows(sample: Sample, limit: float) -> NDArray[np.bool_]:
    """Return which rows the fractional error is measured on."""
    return np.asarray(sample.snr > max(limit, _BRIGHT_SNR))


def _fit_model(sample: Sample, measure: Callable[[FloatArray], float]) -> ErrorModel:
    """Return the scale and fraction at which `measure` of both faint and bright pulls is 1; 1 and 0 where there are too few rows."""
    limit = faint_limit(sample)
    bright, faint = bright_rows(sample, limit), sample.known & (sample.snr <= limit)
    enough_faint, faint_part, bright_part = sample.freedom(faint) >= _SCALE_FREEDOM, sample.part(faint), sample.part(bright)

    def scatter(part: Sample, fraction: float, scale: float) -> float:
        error = ErrorModel(scale, fraction).apply(part.flux, part.error, part.relative)
        return measure(pulls(part.flux, error, part.source)[0])

    scale, fraction = 1.0, 0.0
    for _ in range(3 if enough_faint else 1):
        if enough_faint:
            scale = solve(partial(scatter, faint_part, fraction), *_SCALE_RANGE)
        if bright_part.flux.size:
            fraction = solve(partial(scatter, bright_part, scale=scale), 0.0, _LARGEST_FRACTION)
    return ErrorModel(scale, fraction)
