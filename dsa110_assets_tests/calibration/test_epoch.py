"""Gain changes since the tables were solved, from sums made with known gains, model and noise."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.calibration import scatter
from dsa110_assets.calibration.comparison import Comparison
from dsa110_assets.calibration.delays import phasor
from dsa110_assets.calibration.epoch import solve_epoch
from dsa110_assets.calibration.epoch_options import EpochOptions

N_ANT, N_BLOCKS, N_INTERVALS = 16, 16, 4
SAMPLES = 24
"""Samples of a baseline in a slot and block; the noise of either part is 1 Jy at weight 1."""
BLOCK_HZ = 1.405e9 + 11.71875e6 * (np.arange(N_BLOCKS) - 7.5)
ANT1, ANT2 = (a.astype(np.int32) for a in np.triu_indices(N_ANT, 1))


def sums(gains: np.ndarray, seed: int = 1, flux_jy: float = 1.0, noise: np.ndarray | None = None) -> Comparison:
    """Sums of gains (interval, antenna, block, pol) on a source of flux_jy; `noise` (antenna, pol): each receptor's share of sigma^2."""
    rng = np.random.default_rng(seed)
    g = np.broadcast_to(gains, (N_INTERVALS, N_ANT, N_BLOCKS, 2)).transpose(0, 3, 2, 1)[:, None]
    z = np.broadcast_to(g[..., ANT1] * np.conj(g[..., ANT2]), (N_INTERVALS, 2, 2, N_BLOCKS, ANT1.size))
    shares = np.ones((N_ANT, 2)) if noise is None else noise
    variance = np.broadcast_to((shares[ANT1] * shares[ANT2]).T[:, None], z.shape)
    d = np.full(z.shape, SAMPLES * flux_jy**2)
    e = flux_jy * np.sqrt(SAMPLES * variance) * (rng.normal(size=z.shape) + 1j * rng.normal(size=z.shape))
    power = rng.gamma(SAMPLES, 2, z.shape) * variance
    energy = np.abs(z) ** 2 * d + 2 * (np.conj(z) * e).real + power
    bounds = np.arange(N_BLOCKS + 1), np.arange(N_INTERVALS + 1) * 6
    return Comparison(z * d + e, d, energy, np.full(z.shape, float(SAMPLES)), ANT1, ANT2, N_ANT, BLOCK_HZ, *bounds)


SIGMA = 1 / np.sqrt((N_ANT - 1) * N_BLOCKS * N_INTERVALS * 2 * SAMPLES)
"""Error of either part of a gain of 1 on 1 Jy: 0.0047."""


def truth(spread: float, seed: int) -> np.ndarray:
    """Gains (1, antenna, 1, pol) with a normal `spread` of ln|g| and phase about their common amplitude and phase."""
    rng = np.random.default_rng([seed, 7])
    logs = spread * (rng.normal(size=(1, N_ANT, 1, 2)) + 1j * rng.normal(size=(1, N_ANT, 1, 2)))
    return np.exp(logs)


def error(applied: np.ndarray, true: np.ndarray) -> float:
    """Root mean square of ln(applied / true), less the common amplitude and the common phase of each time."""
    logs = np.log(applied / true)
    return float(np.sqrt(np.mean((logs.real - logs.real.mean()) ** 2 + (logs.imag - logs.imag.mean(axis=(1, 2), keepdims=True)) ** 2)))


@pytest.mark.parametrize("times_sigma", [0.0, 0.3, 1.0, 3.0, 20.0])
def test_gains_are_never_worse_than_before(times_sigma: float) -> None:
    """Over 20 observations. Shrinking by v / (v + sigma^2) leaves a variance of v sigma^2 / (v + sigma^2) in either part, always
    below v. v is estimated from 32 receptors, and its error costs a few per cent: 1.1 times that is allowed. For v = 0, a tenth of sigma
    allows for noise that exceeds three sigma by chance."""
    before, after = [], []
    for seed in range(20):
        true = truth(times_sigma * SIGMA, seed)
        solution = solve_epoch(sums(true, seed), EpochOptions())
        before.append(error(np.ones_like(true), true))
        after.append(error(solution.gains, true))
    v = (times_sigma * SIGMA) ** 2
    expected = np.sqrt(2 * v * SIGMA**2 / (v + SIGMA**2))
    assert np.mean(after) <= max(1.1 * expected, min(np.mean(before), np.sqrt(2 * v))) + 0.1 * SIGMA
    assert np.mean(after) <= np.mean(before) + 0.1 * SIGMA
    if times_sigma >= 3:
        assert np.mean(after) < 1.1 * expected


def test_the_spread_of_drifting_gains_is_measured() -> None:
    """32 receptors give a standard deviation to 1/sqrt(2 x 31), 13 %: three times that is allowed."""
    solution = solve_epoch(sums(truth(0.05, 3)), EpochOptions())
    assert solution.drift_amplitude == pytest.approx(0.05, rel=0.4)
    assert solution.drift_phase_rad == pytest.approx(0.05, rel=0.4)
    assert solution.applied == "phase+amplitude"


def test_a_healthy_array_is_left_alone() -> None:
    solution = solve_epoch(sums(np.ones((1, 1, 1, 1), complex)), EpochOptions())
    assert solution.judged
    assert solution.common == pytest.approx(1, abs=4 * 1.2533 * SIGMA / np.sqrt(2 * N_ANT))  # the error of a median
    assert solution.applied == "none"
    assert not solution.lost.any()
    np.testing.assert_allclose(solution.error, SIGMA, rtol=0.05)


@pytest.mark.parametrize("sky", [0.0, 0.05, 0.2])
def test_a_receptor_without_sky_is_lost(sky: float) -> None:
    gains = np.ones((1, N_ANT, 1, 2), complex)
    gains[0, 5, 0, 1] = sky
    solution = solve_epoch(sums(gains), EpochOptions())
    assert list(zip(*np.nonzero(solution.lost), strict=True)) == [(5, 1)]
    assert solution.common == pytest.approx(1, abs=6 * SIGMA)
    assert abs(solution.measured[5, 1]) == pytest.approx(sky, abs=6 * SIGMA)
    assert solution.applied == "none"


def test_an_antenna_that_lost_half_its_amplitude_is_corrected() -> None:
    gains = np.ones((1, N_ANT, 1, 2), complex)
    gains[0, 5] = 0.5 * np.exp(0.4j)
    solution = solve_epoch(sums(gains), EpochOptions())
    assert not solution.lost.any()
    np.testing.assert_allclose(
        solution.gains[0, 5], np.broadcast_to(gains[0, 5], (N_BLOCKS, 2)), atol=5 * SIGMA
    )  # applied without shrinking
    assert solution.stand_out[5].all()
    assert solution.stand_out.sum() == 2


def test_delays_that_jumped_are_found() -> None:
    """A delay's error is the phase's error over 2 pi times the root of the sum of squared frequencies: 0.02 ns here."""
    jumped_ns = np.zeros((N_ANT, 2))
    jumped_ns[[2, 9]], jumped_ns[4, 0] = [[4.0], [-3.0]], 2.0
    gains = phasor(jumped_ns, BLOCK_HZ, float(BLOCK_HZ.mean())).transpose(0, 2, 1)[None]
    solution = solve_epoch(sums(gains), EpochOptions())
    block_sigma = SIGMA * np.sqrt(N_BLOCKS)
    sigma_ns = 1e9 * block_sigma / (2 * np.pi * np.sqrt(np.sum((BLOCK_HZ - BLOCK_HZ.mean()) ** 2)))
    np.testing.assert_allclose(solution.delay_ns, jumped_ns, atol=6 * sigma_ns)
    assert (solution.delay_ns != 0).sum() == 5
    assert not solution.lost.any()


def test_a_changed_bandpass_is_corrected_where_it_changed() -> None:
    gains = np.ones((1, N_ANT, N_BLOCKS, 2), complex)
    gains[0, 3, :, 0] = np.exp(0.3 * np.cos(2 * np.pi * np.arange(N_BLOCKS) / 8))
    solution = solve_epoch(sums(gains), EpochOptions())
    assert list(zip(*np.nonzero(solution.changed), strict=True)) == [(3, 0)]
    block_sigma = SIGMA * np.sqrt(N_BLOCKS)
    shape = solution.gains[0, 3, :, 0] / solution.gains[0, 3, :, 0].mean()
    np.testing.assert_allclose(shape, gains[0, 3, :, 0] / gains[0, 3, :, 0].mean(), atol=5 * block_sigma)


def test_a_wrong_spectral_index_is_not_taken_for_a_bandpass_change() -> None:
    """The source's index differs by 0.9 from its model's: 4 % of amplitude from the middle of the band to its edge, the same in all
    receptors. A receptor whose bandpass changed as well is still recognised, with the same errors."""
    spectrum = (BLOCK_HZ / BLOCK_HZ.mean())[:, None] ** 0.45 + 0j
    solution = solve_epoch(sums(np.broadcast_to(spectrum, (1, N_ANT, N_BLOCKS, 2))), EpochOptions())
    assert solution.judged
    assert solution.applied == "none"
    gains = np.ones((1, N_ANT, N_BLOCKS, 2), complex)
    gains[0, 3, :, 0] = np.exp(0.3 * np.cos(2 * np.pi * np.arange(N_BLOCKS) / 8))
    solution = solve_epoch(sums(gains * spectrum), EpochOptions())
    assert list(zip(*np.nonzero(solution.changed), strict=True)) == [(3, 0)]
    shape = solution.gains[0, 3, :, 0] / solution.gains[0, 3, :, 0].mean()
    np.testing.assert_allclose(shape, gains[0, 3, :, 0] / gains[0, 3, :, 0].mean(), atol=5 * SIGMA * np.sqrt(N_BLOCKS))


def test_gains_that_turn_within_the_observation_are_followed() -> None:
    rates = 0.2 * np.random.default_rng(2).normal(size=(1, N_ANT, 1, 2))
    turning = np.exp(1j * rates * np.linspace(-1, 1, N_INTERVALS)[:, None, None, None])
    solution = solve_epoch(sums(turning), EpochOptions())
    assert error(solution.gains, turning) < 1.5 * SIGMA * np.sqrt(N_INTERVALS)  # shrunk: below the noise of an interval's gains
    assert error(np.ones_like(turning), turning) > 0.1


def test_a_shift_of_the_sky_is_taken_out_of_the_phases() -> None:
    """Gain phases have a slope of 10 degrees along a kilometre, as from sky positions 6 arcsec off. With the slope removed the gains equal
    those of data without it, to the two fits' errors, and have no slope. A phase jump of a single antenna remains."""
    rng = np.random.default_rng(21)
    positions_m = np.concatenate([rng.normal(size=(N_ANT, 2)) * 500, np.zeros((N_ANT, 1))], axis=1)
    turn = np.exp(1j * np.deg2rad(10) * positions_m[:, 0] / 1000)[None, :, None, None]
    true = truth(0.02, 5)
    true[:, 3] *= np.exp(2j)
    plain, shifted = (solve_epoch(sums(gains), EpochOptions()).without_shift(positions_m) for gains in (true, true * turn))
    difference = np.angle(shifted.gains / plain.gains)
    assert np.std(difference - difference.mean(axis=1, keepdims=True)) < 3 * SIGMA
    assert np.abs(np.abs(shifted.gains) - np.abs(plain.gains)).max() < 3 * SIGMA
    others = np.setdiff1d(np.arange(N_ANT), np.unique(np.nonzero(shifted.stand_out)[0]))
    phases = np.angle(shifted.gains[0, others, 0, 0])
    slopes = np.linalg.lstsq(np.concatenate([positions_m[others, :2], np.ones((others.size, 1))], axis=1), phases, rcond=None)[0][:2]
    assert np.abs(slopes * 1000).max() < np.deg2rad(1)
    assert abs(np.angle(shifted.gains[0, 3, 0, 0] / np.median(shifted.gains[0, others, 0, 0]))) > 1.8
    assert plain.unjudged().without_shift(positions_m).applied == "none"


def test_a_faint_field_judges_no_receptor() -> None:
    gains = np.ones((1, N_ANT, 1, 2), complex)
    gains[0, 5] = 0
    solution = solve_epoch(sums(gains, flux_jy=0.03), EpochOptions())
    assert not solution.judged
    assert not solution.lost.any()
    assert solution.applied == "none"


def test_a_common_loss_of_power_is_the_common_amplitude() -> None:
    solution = solve_epoch(sums(np.full((1, 1, 1, 1), 0.85**0.5, complex)), EpochOptions())
    assert solution.common**2 == pytest.approx(0.85, abs=6 * SIGMA)
    assert solution.applied == "none"


def test_noise_factors_of_receptors_are_measured_separately() -> None:
    """A receptor's share is measured from 15 baselines x 24 samples in each of 8 slots, as a median over slots: 5 % per block."""
    shares = np.ones((N_ANT, 2))
    shares[3, 0], shares[7] = 4.0, 2.0
    comparison = sums(np.ones((1, 1, 1, 1), complex), noise=shares)
    factors = scatter.noise_factors(comparison, solve_epoch(comparison, EpochOptions()))
    np.testing.assert_allclose(np.median(factors, axis=1), shares, rtol=0.06)


def test_an_antenna_that_lost_signal_gains_no_weight() -> None:
    """An antenna has half the amplitude of sky and noise. After correction its noise equals the others', although uncorrected it is a
    quarter of theirs in power."""
    gains = np.ones((1, N_ANT, 1, 2), complex)
    gains[0, 5] = 0.5
    shares = np.ones((N_ANT, 2))
    shares[5] = 0.25
    comparison = sums(gains, noise=shares)
    factors = scatter.noise_factors(comparison, solve_epoch(comparison, EpochOptions()))
    np.testing.assert_allclose(np.median(factors[5], axis=0), 1.0, rtol=0.06)


def test_a_wrong_sky_model_changes_no_gains() -> None:
    """A resolved source: visibilities fall with the squared distance between antennas at positions x. Its part x_i^2 + x_j^2 looks like
    gains, but no gains can cause the rest, 2 x_i x_j. The rest is larger, so nothing is applied."""
    x = np.random.default_rng(4).normal(size=N_ANT) * 0.15
    comparison = sums(np.ones((1, 1, 1, 1), complex))
    factor = np.exp(-((x[ANT1] - x[ANT2]) ** 2))
    resolved = Comparison(comparison.r - (1 - factor) * comparison.d, *list(vars(comparison).values())[1:])
    solution = solve_epoch(resolved, EpochOptions())
    assert solution.applied == "none"
    assert solution.misfit > 0.01
    assert solve_epoch(comparison, EpochOptions()).misfit == 0


def test_gains_are_recovered_despite_unlisted_sources() -> None:
    """Unlisted sources change either part by 0.8 %, differently on every baseline and in both halves of the band: 0.6 % over the whole
    band, of which a gain absorbs the root of a fifteenth, 0.15 %. Gains that drifted by 0.8 % exceed twice that. They are right to
    0.15 %, to the noise of 0.09 % and, because 0.15 % is subtracted from their variance, to a fiftieth of themselves: 1.5 times that is
    allowed. 16 gains leave 104 of 120 parts of the changes' variance; 480 of them, with noise of 0.36 %, give its root to 5 %: three
    times that is allowed."""
    true = truth(0.008, 3)
    comparison = sums(true, flux_jy=5.0)
    rng = np.random.default_rng(9)
    halves = 0.0085 * (rng.normal(size=(2, 2, ANT1.size)) + 1j * rng.normal(size=(2, 2, ANT1.size)))
    unlisted = np.repeat(halves, N_BLOCKS // 2, axis=1)
    solution = solve_epoch(Comparison(comparison.r + unlisted * comparison.d, *list(vars(comparison).values())[1:]), EpochOptions())
    assert solution.misfit == pytest.approx(0.006 * np.sqrt(104 / 120), rel=0.15)
    assert solution.applied == "phase+amplitude"
    assert error(solution.gains, true) < 1.5 * np.sqrt(2) * np.hypot(0.0015, 0.0009)


def test_a_receptor_with_the_phases_of_another_is_flagged_as_lost() -> None:
    """Its products are another receptor's: the sky is present, with a different phase on every baseline. The mean of 15 such phases has
    an average length of a quarter, and more by chance."""
    rng = np.random.default_rng(6)
    comparison = sums(np.ones((1, 1, 1, 1), complex))
    turn = np.ones((2, ANT1.size), complex)
    of_receptor = (ANT1 == 5) | (ANT2 == 5)
    turn[:, of_receptor] = np.exp(2j * np.pi * rng.random((2, of_receptor.sum())))
    turned = Comparison(comparison.r + (turn[:, None] - 1) * comparison.d, *list(vars(comparison).values())[1:])
    solution = solve_epoch(turned, EpochOptions())
    assert list(zip(*np.nonzero(solution.lost), strict=True)) == [(5, 0), (5, 1)]


def test_a_sky_missing_from_the_model_flags_no_antenna() -> None:
    """Half of the signal is from sources the model lacks, with different phases on every baseline."""
    rng = np.random.default_rng(6)
    comparison = sums(np.ones((1, 1, 1, 1), complex))
    unknown = 0.5 * np.exp(2j * np.pi * rng.random((2, 1, ANT1.size)))
    solution = solve_epoch(Comparison(comparison.r + unknown * comparison.d, *list(vars(comparison).values())[1:]), EpochOptions())
    assert not solution.judged
    assert not solution.lost.any()
    assert solution.applied == "none"
