"""New sources do not count as variable merely because noise was high when they were discovered."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest

from dsa110_assets.variability import significance
from dsa110_assets.variability.discovery import unselected
from dsa110_assets.variability.metrics import dense_metrics

EPOCHS, ERROR_JY = 15, 0.2


def discovered(rng: np.random.Generator, true_sigma: float, number: int) -> NDArray[np.float64]:
    """(number, EPOCHS) fluxes [Jy] of constant sources, whose first point is drawn until it is above 5 sigma."""
    first = np.empty(0)
    while first.size < number:
        drawn = true_sigma + rng.standard_normal(4_000_000)
        first = np.r_[first, drawn[drawn > 5]]
    rest = true_sigma + rng.standard_normal((number, EPOCHS - 1))
    return ERROR_JY * np.c_[first[:number], rest]


def corrected(flux: NDArray[np.float64], new: bool = True) -> NDArray[np.float64]:
    n = len(flux)
    starts = np.arange(n + 1) * flux.shape[1]
    return unselected(flux.ravel(), np.full(flux.size, ERROR_JY), starts, np.full(n, new)).reshape(flux.shape)


@pytest.mark.parametrize("true_sigma", [1.5, 3.0, 5.0, 30.0])
def test_p_values_of_constant_new_sources_are_uniform(true_sigma: float) -> None:
    """2000 sources: a uniform distribution's largest deviation is above 0.036 once in a hundred (1.63 / sqrt n)."""
    flux = discovered(np.random.default_rng(int(10 * true_sigma)), true_sigma, 2000)
    as_found, without = (dense_metrics(f, np.full(f.shape, ERROR_JY)) for f in (flux, corrected(flux)))
    p = significance.p_eta(without.eta, without.n)
    assert kstest(p, "uniform").statistic < 0.036
    if true_sigma < 4:  # the effect of the selection, where it has one
        assert kstest(significance.p_eta(as_found.eta, as_found.n), "uniform").statistic > 0.1


def test_a_source_far_above_the_limit_once_stays_variable() -> None:
    """10 sigma once and nothing later: the upper tail at (10 - 0) / 1.035 over that at 5 / 1.035 is 3.3e-16, that of 8.08 sigma."""
    flux = np.zeros((1, EPOCHS))
    flux[0, 0] = 10 * ERROR_JY
    metrics = dense_metrics(corrected(flux), np.full(flux.shape, ERROR_JY))
    assert metrics.deviation[0] == pytest.approx(8.08, abs=0.02)
    assert significance.p_deviation(metrics.deviation, metrics.n)[0] < 1e-14


def test_known_sources_and_single_points_are_not_corrected() -> None:
    rng = np.random.default_rng(1)
    flux = discovered(rng, 3.0, 20)
    np.testing.assert_array_equal(corrected(flux, new=False), flux)
    flux[:, 1:] = np.nan
    np.testing.assert_array_equal(corrected(flux), flux)


def test_a_first_flux_near_the_limit_is_replaced_and_a_lower_one_kept() -> None:
    flux = np.array([[4.5, 1.0, 2.0, 3.0], [3.5, 1.0, 2.0, 3.0]]) * ERROR_JY
    np.testing.assert_allclose(corrected(flux), np.array([[2.0, 1.0, 2.0, 3.0], [3.5, 1.0, 2.0, 3.0]]) * ERROR_JY)
