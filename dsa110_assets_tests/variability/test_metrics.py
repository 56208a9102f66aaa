"""Metrics against direct sums, and their significance against Monte Carlo and published anchors (traps
31).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import studentized_range

from dsa110_assets.variability import significance
from dsa110_assets.variability.metrics import curve_metrics, dense_metrics, ragged_metrics


def test_eta_is_reduced_chi_square_by_both_formulas() -> None:
    """The VAST form N/(N-1)(<wF^2> - <wF>^2/<w>) equals sum (F - Fw)^2/sigma^2/(N-1), to 1e-12 where terms cancel."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 10, 200):
        flux, error = 1 + 0.1 * rng.standard_normal(n), rng.uniform(0.05, 0.2, n)
        weight = error**-2
        vast = n / (n - 1) * ((weight * flux**2).mean() - (weight * flux).mean() ** 2 / weight.mean())
        mean = (weight * flux).sum() / weight.sum()
        direct = (((flux - mean) / error) ** 2).sum() / (n - 1)
        out = ragged_metrics(flux, error, np.array([0, n]))
        assert out.eta[0] == pytest.approx(direct, rel=1e-14)
        # <wF^2> is (1/0.1)^2 = 100 times larger than the difference: 1e-16 * 100 * a few.
        assert out.eta[0] == pytest.approx(vast, rel=1e-12)
        assert out.v[0] == pytest.approx(np.std(flux, ddof=1) / flux.mean(), rel=1e-13)
        assert out.weighted_mean[0] == pytest.approx(mean, rel=1e-14)


@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_largest_pair_and_deviation_equal_the_exhaustive_search(n) -> None:
    rng = np.random.default_rng(n)
    for _ in range(50):
        flux, error = rng.normal(1, 0.1, n), rng.uniform(0.01, 0.3, n)
        a, b = np.triu_indices(n, 1)
        difference = flux[a] - flux[b]
        vs, m = difference / np.hypot(error[a], error[b]), 2 * difference / (flux[a] + flux[b])
        best = np.argmax(np.abs(vs))
        others = [np.delete(np.arange(n), k) for k in range(n)]
        means = [np.average(flux[k], weights=error[k] ** -2) for k in others]
        spread = [np.sum(error[k] ** -2) ** -0.5 for k in others]
        deviation = (flux - means) / np.hypot(error, spread)
        out = ragged_metrics(flux, error, np.array([0, n]))
        assert out.vs_max[0] == pytest.approx(abs(vs[best]), rel=1e-12)
        assert out.m_max[0] == pytest.approx(abs(m[best]), rel=1e-12)
        assert abs(out.deviation[0]) == pytest.approx(np.abs(deviation).max(), rel=1e-9)


def test_missing_points_are_left_out_and_short_curves_are_nan() -> None:
    flux = np.array([[1.0, np.nan, 2.0, 5.0], [1.0, np.nan, np.nan, np.nan], [np.nan] * 4])
    error = np.array([[0.1, 0.1, 0.2, np.nan], [0.1] * 4, [0.1] * 4])
    out = dense_metrics(flux, error)
    expected = ragged_metrics(np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.array([0, 2]))
    assert list(out.n) == [2, 1, 0]
    assert out.eta[0] == expected.eta[0]
    assert out.vs_max[0] == expected.vs_max[0]
    assert np.isnan(out.eta[1:]).all()
    assert np.isnan(out.vs_max[1:]).all()
    assert out.mean[1] == 1.0
    assert np.isnan(out.mean[2])
    assert list(out.deviation_row[1:]) == [-1, -1]


@pytest.mark.parametrize("flux", [[1.0, np.nan, 2.0, 5.0, 0.5], [1.0, np.nan], [np.nan], []])
def test_metrics_of_one_curve_equal_those_of_many(flux: list[float]) -> None:
    error = np.linspace(0.1, 0.3, len(flux))
    single, ragged = curve_metrics(np.array(flux), error), ragged_metrics(np.array(flux), error, np.array([0, len(flux)]))
    for of_single, of_ragged in zip(single, ragged, strict=True):
        np.testing.assert_array_equal(of_single, of_ragged)


def test_the_deviation_statistic_is_not_bounded() -> None:
    """max|x - mean|/std of five points cannot exceed 4/sqrt(5) = 1.79 however large the flare (trap 31)."""
    flux, error = np.array([1.0, 1.01, 0.99, 1.0, 9.0]), np.full(5, 0.01)
    assert np.abs(flux - flux.mean()).max() / flux.std(ddof=1) < 1.79
    assert ragged_metrics(flux, error, np.array([0, 5])).deviation[0] > 100


@pytest.mark.parametrize(
    ("n", "threshold", "expected"),
    [
        (10, 4.3, 0.0006),
        (24, 4.3, 0.004),
        (100, 4.3, 0.05),
        (365, 4.3, 0.33),
        (1000, 4.3, 0.79),
        (365, 4.0, 0.63),
    ],
)
def test_pair_significance_anchors(n, threshold, expected) -> None:
    """Monte-Carlo values quoted to one or two digits: they agree to half a unit of the last, or 20 %."""
    value = float(significance.p_pair(threshold, n))
    assert value == pytest.approx(expected, rel=0.2 if expected < 0.01 else 0.02)


@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_pair_significance_is_the_range_distribution(n) -> None:
    """scipy's studentised range with infinite degrees of freedom integrates the same law in another way (with a tolerance of 1e-8)."""
    for vs in (0.5, 2.0, 4.3):
        expected = studentized_range.sf(vs * np.sqrt(2), n, np.inf)
        assert float(significance.p_pair(vs, n)) == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_tiny_probabilities_keep_their_precision() -> None:
    """For two points the largest pair is the only pair: erfc(v/sqrt 2), here down to 5e-89."""
    from scipy.special import erfc

    vs = np.array([0.0, 1.0, 8.0, 20.0])
    np.testing.assert_allclose(significance.p_pair(vs, 2), erfc(vs / np.sqrt(2)), rtol=1e-9)


def test_eta_has_known_probabilities() -> None:
    """Chi squared with N - 1 degrees of freedom: a constant source has eta > 2.5 in 8 % at N = 3, 0.7 % at 10, 0.009 % at 24."""
    np.testing.assert_allclose(significance.p_eta(2.5, [3, 10, 24]), [0.082, 0.0074, 8.7e-5], rtol=0.01)
    assert np.isnan(significance.p_eta(1.0, 1))


@pytest.mark.parametrize("n", [5, 12, 27, 50])
def test_p_values_are_uniform_for_constant_sources(n) -> None:
    """20,000 constant sources: the fraction with p < a is a within 5 binomial errors for exact statistics, and at most
    that for unequal errors (Tukey-Kramer) and the Sidak bound.
    """
    rng = np.random.default_rng(n)
    trials = 20000
    for errors in (np.full((trials, n), 0.1), rng.uniform(0.03, 0.3, (trials, n))):
        out = dense_metrics(1 + errors * rng.standard_normal((trials, n)), errors)
        for level in (0.05, 0.01):
            slack = 5 * np.sqrt(level * (1 - level) / trials)
            eta = np.mean(significance.p_eta(out.eta, out.n) < level)
            pair = np.mean(significance.p_pair(out.vs_max, out.n) < level)
            deviation = np.mean(significance.p_deviation(out.deviation, out.n) < level)
            assert abs(eta - level) < slack
            assert pair < level + slack
            assert deviation < level + slack
            # The Sidak bound loses little, because the deviations are nearly independent.
            assert deviation > 0.8 * level - slack
            if errors[0, 0] == errors[0, 1]:
                assert abs(pair - level) < slack


def test_benjamini_hochberg_by_hand_and_by_simulation() -> None:
    np.testing.assert_allclose(significance.q_values([0.01, 0.04, np.nan, 0.03, 0.5]), [0.04, 0.16 / 3, np.nan, 0.16 / 3, 0.5])
    rng = np.random.default_rng(7)
    false = []
    for _ in range(400):
        p = np.r_[rng.uniform(size=900), rng.uniform(size=100) * 1e-4]
        chosen = significance.q_values(p) <= 0.1
        false.append(chosen[:900].sum() / max(chosen.sum(), 1))
    # The expected fraction is 0.1 * 0.9 = 0.09; its standard error here is 0.03/sqrt(400).
    assert np.mean(false) == pytest.approx(0.09, abs=0.006)


def test_combined_p_ignores_tests_that_were_not_made() -> None:
    np.testing.assert_allclose(significance.combine([0.01, np.nan, np.nan], [0.5, 0.2, np.nan]), [0.02, 0.2, np.nan])
