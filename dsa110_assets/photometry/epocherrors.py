"""Epochs in which constant sources scatter more than the error model of all epochs predicts: an error of one night belongs to that
night, and must not become a discovery."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.photometry.errormodel import ErrorModel, Sample, bright_rows, faint_limit, robust, solve

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_LEAST_ROWS = 5
_SIGNIFICANT = 4.0
"""Standard errors by which an epoch's scatter must exceed 1: among thousands of epochs none does by chance."""
_ROUNDS = 20
_MARGIN = 2.0
"""Standard errors of an epoch's scatter that are added to it, because no discovery should come from a bad night."""
_LARGEST_SCALE, _LARGEST_FRACTION = 30.0, 1.0


def epoch_errors(sample: Sample, epochs: IntArray, model: ErrorModel) -> tuple[FloatArray, FloatArray]:
    """Return for each epoch (0..n-1 in `epochs`, the sample's rows) a factor on the noise, at least 1, and a fractional error to
    be added in quadrature, at least 0; 1 and 0 where the epoch is consistent with the model.

    A row's deviation is from the weighted mean of its source's other rows, in its own standard errors. The robust scatter of an
    epoch's deviations is 1 +- 1.17/sqrt(n) if errors are right (the median absolute deviation's efficiency is 0.37). Epochs
    that exceed it most are corrected first, because they shift the means that others are compared with. The fraction is raised
    for bright rows, on which the model's fraction is measured, and the factor for fainter rows. Both are raised if either
    scatter is too large, by as much as the scatter may be within its error.
    """
    n = int(epochs.max(initial=-1)) + 1
    scale, fraction = np.ones(n), np.zeros(n)
    bright = bright_rows(sample, faint_limit(sample))
    faint = sample.known & ~bright
    for _ in range(_ROUNDS):
        deviation = _deviations(sample, _total(sample, epochs, model, scale, fraction))
        excess = np.maximum(*(_excess(deviation, epochs, part, n) for part in (faint, bright)))
        worst = float(np.max(excess, initial=0.0))
        if worst <= _SIGNIFICANT:
            break
        for epoch in np.flatnonzero(excess > max(worst / 2, _SIGNIFICANT)):
            for part, values, most in ((bright, fraction, _LARGEST_FRACTION), (faint, scale, _LARGEST_SCALE)):
                if np.count_nonzero(part & (epochs == epoch)) >= _LEAST_ROWS:
                    trial = _scatter(sample, epochs, model, (scale, fraction), values, int(epoch), part)
                    values[epoch] = solve(trial, values[epoch], most)
    return scale, fraction


def typical_model(sample: Sample, epochs: IntArray, model: ErrorModel) -> ErrorModel:
    """Return the model with the errors of the median epoch where those are smaller: among few epochs, bad nights raise the model of all."""
    n = int(epochs.max(initial=-1)) + 1
    deviation = _deviations(sample, _total(sample, epochs, model, np.ones(n), np.zeros(n)))
    bright = bright_rows(sample, faint_limit(sample))
    factors = []
    for part in (sample.known & ~bright, bright):
        scatter = np.array([robust(deviation[part & (epochs == e)]) for e in np.unique(epochs[part])])
        factors.append(min(float(np.median(scatter)), 1.0) if scatter.size else 1.0)
    return ErrorModel(model.scale * factors[0], model.fraction * factors[1])


def _scatter(
    sample: Sample, epochs: IntArray, model: ErrorModel, both: tuple[FloatArray, FloatArray], values: FloatArray, epoch: int,
    part: NDArray[np.bool_],
) -> Callable[[float], float]:  # fmt: skip
    """Return the robust scatter of an epoch's rows of `part` as a function of the epoch's element of `values`, one of `both`."""
    same_sources = np.isin(sample.source, np.unique(sample.source[part & (epochs == epoch)]))
    part_sample, part_epochs = sample.part(same_sources), epochs[same_sources]
    rows = part[same_sources] & (part_epochs == epoch)

    margin = 1 + _MARGIN * 1.17 / float(np.sqrt(np.count_nonzero(rows)))

    def scatter(value: float) -> float:
        values[epoch] = value
        return margin * robust(_deviations(part_sample, _total(part_sample, part_epochs, model, *both))[rows])

    return scatter


def _total(sample: Sample, epochs: IntArray, model: ErrorModel, scale: FloatArray, fraction: FloatArray) -> FloatArray:
    return model.apply(sample.flux, sample.error * scale[epochs], np.hypot(sample.relative, fraction[epochs]))


def _deviations(sample: Sample, error: FloatArray) -> FloatArray:
    """Return the deviation of each row from its source's other rows, in standard errors."""
    weight = 1 / error**2
    others = np.bincount(sample.source, weight)[sample.source] - weight
    mean = (np.bincount(sample.source, weight * sample.flux)[sample.source] - weight * sample.flux) / others
    return np.asarray((sample.flux - mean) / np.sqrt(error**2 + 1 / others))


def _excess(deviation: FloatArray, epochs: IntArray, part: NDArray[np.bool_], n: int) -> FloatArray:
    """Return the number of standard errors by which each epoch's scatter exceeds 1; 0 where there are too few rows."""
    table = pd.DataFrame({"epoch": epochs[part], "size": np.abs(deviation[part])}).groupby("epoch")["size"]
    count, middle = (values.reindex(range(n)).fillna(0).to_numpy(np.float64) for values in (table.size(), table.median()))
    return np.where(count >= _LEAST_ROWS, (1.482602 * middle - 1) * np.sqrt(count) / 1.17, 0.0)
