"""Solving and applying against gains that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.calibration.apply import apply, total_gains
from dsa110_assets.calibration.solve import SolveOptions, solve
from dsa110_assets.errors import BadDataError

PER_INTEGRATION = SolveOptions(gain_solint_s=12.9)
FIELD = ((0.3, 0.2, 12.0), (-0.8, 0.5, 3.0), (0.1, -0.9, 1.5))


def referenced(gains, refant):
    """Gains with the reference antenna's phase subtracted, per time, channel and polarisation."""
    return gains * np.exp(-1j * np.angle(gains[:, refant : refant + 1]))


def product(vis, solution):
    """Solved gains on the grid of `vis`, for the antennas in the data only."""
    gains, good = total_gains(vis, solution.tables)
    shape = (vis.times_mjd.size, gains.shape[1], vis.frequencies_hz.size, 2)
    return np.broadcast_to(gains, shape), np.broadcast_to(good, shape)


def worst_error(obs, solution):
    """Largest relative error of reference-normalised gains over the antennas in the data."""
    ants = obs.vis.active_antennas
    solved_gains, good = product(obs.vis, solution)
    assert good[:, ants].all()
    truth = referenced(obs.gains, solution.bandpass.refant)[:, ants]
    return np.max(np.abs(referenced(solved_gains, solution.bandpass.refant)[:, ants] - truth) / np.abs(truth))


@pytest.mark.parametrize(("drift", "options"), [(0.0, SolveOptions()), (0.05, PER_INTEGRATION), (0.6, PER_INTEGRATION)])
@pytest.mark.parametrize("sources", [((0.0, 0.0, 10.0),), FIELD])
def test_noise_free_gains_and_residual(observation, drift, options, sources):
    """Gains to 1e-6 and DATA/applied = MODEL to 1e-5, without noise. complex64 data limit both to about 3e-7."""
    obs = observation(drift=drift, sources=sources)
    solution = solve(obs.vis, obs.model, options)
    assert worst_error(obs, solution) < 1e-6
    corrected = apply(obs.vis, solution.tables)
    assert not corrected.flags.any()
    scale = np.abs(obs.model).max()
    cross = ~obs.vis.is_auto
    assert np.abs(corrected.data - obs.model[..., None])[:, cross].max() < 1e-5 * scale
    assert solution.report["unconverged_fits"] == 0


def test_samples_that_do_not_count_may_hold_anything(observation):
    """NaN in samples that are flagged or have a weight of 0 or below, as in other telescopes' sets, changes no bit of the solution."""
    obs = observation(sources=FIELD)
    flags, weights = obs.vis.flags.copy(), obs.vis.weights.copy()
    flags[0, ::7, 1], weights[1, ::5, 2, 0], weights[1, ::5, 2, 1] = True, 0, -1
    clean = solve(replace(obs.vis, flags=flags, weights=np.maximum(weights, 0)), obs.model, SolveOptions())
    data = np.where(flags | (weights <= 0), np.complex64(np.nan), obs.vis.data)
    wrong = solve(replace(obs.vis, data=data, flags=flags, weights=weights), obs.model, SolveOptions())
    for ours, theirs in zip(wrong.tables, clean.tables, strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)
        np.testing.assert_array_equal(ours.flags, theirs.flags)


def test_flux_scale_transfers(observation):
    """Trap 14: amplitudes of 0.068 are solved, not normalised away; another source's flux holds."""
    obs = observation()
    target = observation(sources=((0.2, -0.4, 3.21),))  # the same seed: the same gains
    solution = solve(obs.vis, obs.model, SolveOptions())
    amplitude = np.abs(solution.bandpass.values[~solution.bandpass.flags])
    assert 0.03 < np.median(amplitude) < 0.12
    corrected = apply(target.vis, solution.tables)
    np.testing.assert_allclose(corrected.data, np.broadcast_to(target.model[..., None], corrected.data.shape), rtol=2e-5)


def test_gains_average_to_one(observation):
    """B carries the scale: every receptor's G has mean amplitude 1 over the transit."""
    obs = observation(drift=0.1)
    solution = solve(obs.vis, obs.model, PER_INTEGRATION)
    ants = obs.vis.active_antennas
    np.testing.assert_allclose(np.abs(solution.gains.values[:, ants]).mean(axis=0), 1, atol=1e-6)


def closures(data, ant1, ant2, ants):
    """Closure phase of (a, b, c) and closure amplitude of (a, b, c, d) for consecutive antennas."""
    index = {(i, j): k for k, (i, j) in enumerate(zip(ant1, ant2, strict=True))}

    def v(i, j):
        return data[:, index[i, j]] if (i, j) in index else data[:, index[j, i]].conj()

    phases, amplitudes = [], []
    for a, b, c, d in zip(ants, ants[1:], ants[2:], ants[3:], strict=False):
        phases.append(v(a, b) * v(b, c) * v(c, a))
        amplitudes.append(np.abs(v(a, b) * v(c, d)) / np.abs(v(a, c) * v(b, d)))
    return np.angle(phases), np.array(amplitudes)


def test_apply_leaves_closure_alone(observation):
    """Antenna gains cannot change closure phase or amplitude (complex64: 4 x 6e-8)."""
    obs = observation(sources=FIELD, noise=0.002, drift=0.05)
    solution = solve(obs.vis, obs.model, PER_INTEGRATION)
    after = apply(obs.vis, solution.tables)
    ants = list(obs.vis.active_antennas)
    before = closures(obs.vis.data.astype(complex), obs.vis.ant1, obs.vis.ant2, ants)
    corrected = closures(after.data.astype(complex), obs.vis.ant1, obs.vis.ant2, ants)
    assert np.abs(np.exp(1j * before[0]) - np.exp(1j * corrected[0])).max() < 1e-6
    np.testing.assert_allclose(corrected[1], before[1], rtol=2e-6)


def cramer_rao(obs, refant, sigma):
    """Standard deviation (antenna in data) of B per channel and pol, from the Jacobian.

    Parameters: real and imaginary parts of every gain, the reference antenna's phase fixed; one unknown set
    per channel and polarisation, constant over all integrations. Returns rms complex error per antenna.
    """
    vis, ants = obs.vis, list(obs.vis.active_antennas)
    cross = np.flatnonzero(~vis.is_auto)
    errors = np.zeros((len(ants), vis.frequencies_hz.size, 2))
    ref = ants.index(refant)
    for c in range(vis.frequencies_hz.size):
        for p in range(2):
            rows = []
            g = referenced(obs.gains, refant)[0, :, c, p]
            for t in range(vis.times_mjd.size):
                for b in cross:
                    i, j = vis.ant1[b], vis.ant2[b]
                    m = obs.model[t, b, c]
                    row = np.zeros((2, 2 * len(ants)))
                    for k, derivative in (
                        (ants.index(i), g[j].conj() * m), (len(ants) + ants.index(i), 1j * g[j].conj() * m),
                        (ants.index(j), g[i] * m), (len(ants) + ants.index(j), -1j * g[i] * m),
                    ):  # fmt: skip
                        row[:, k] += [derivative.real, derivative.imag]
                    rows.append(row)
            jacobian = np.delete(np.concatenate(rows), len(ants) + ref, axis=1)
            covariance = np.linalg.inv(jacobian.T @ jacobian) * sigma**2
            variance = np.insert(np.diag(covariance), len(ants) + ref, 0.0)
            errors[:, c, p] = np.sqrt(variance[: len(ants)] + variance[len(ants) :])
    return errors


def test_error_is_the_noise_limit(observation):
    """Gain errors are within 5 % of the Cramer-Rao bound, and the reported SNR is the actual one."""
    sigma = 0.005
    squares, amplitudes, bound, claimed = [], [], None, []
    for seed in range(40):
        clean = observation(seed=3, n_times=4, n_subbands=1)
        rng = np.random.default_rng(100 + seed)
        noise = sigma * (rng.normal(size=clean.vis.data.shape) + 1j * rng.normal(size=clean.vis.data.shape))
        obs = replace(clean, vis=replace(clean.vis, data=(clean.vis.data + noise).astype(np.complex64)))
        solution = solve(obs.vis, obs.model, SolveOptions(gain_solint_s=np.inf))
        refant, ants = solution.bandpass.refant, obs.vis.active_antennas
        if bound is None:
            bound = cramer_rao(clean, refant, sigma)
        solved_gains = solution.bandpass.values[0][ants]
        squares.append(np.abs(solved_gains - referenced(clean.gains, refant)[0][ants]) ** 2)
        amplitudes.append(np.abs(solved_gains) - np.abs(clean.gains[0][ants]))
        claimed.append(np.abs(solved_gains) / solution.bandpass.snr[0][ants])
    # 40 runs x 12 antennas x 4 channels x 2 polarisations of 2 degrees of freedom: the rms is known to 1 %
    measured = np.sqrt(np.mean(squares) / np.mean(bound**2))
    assert 0.95 < measured < 1.05
    # amplitudes do not depend on the reference; the claimed error ignores the covariance between antennas,
    # which for N = 12 makes it sqrt((1 - 1/22) 11/10) = 2.5 % too small; the scatter is known to 1 %
    scatter = np.sqrt(np.mean(np.square(amplitudes)))
    assert np.sqrt(np.mean(np.square(claimed)) / 2) == pytest.approx(scatter / 1.025, rel=0.04)


def test_flagged_samples_do_not_count(observation):
    """Garbage in samples that are flagged or have weight 0 changes nothing at all."""
    obs = observation(noise=0.003)
    rng = np.random.default_rng(7)
    bad = rng.random(obs.vis.data.shape) < 0.15
    flagged = replace(obs.vis, flags=bad)
    truth = solve(flagged, obs.model, SolveOptions())
    data = obs.vis.data.copy()
    data[bad] = 1e4 * (rng.normal(size=bad.sum()) + 1j)
    for corrupted in (
        replace(flagged, data=data),
        replace(obs.vis, data=data, weights=np.where(bad, 0, obs.vis.weights).astype(np.float32)),
    ):
        solution = solve(corrupted, obs.model, SolveOptions())
        np.testing.assert_array_equal(solution.bandpass.values, truth.bandpass.values)
        np.testing.assert_array_equal(solution.gains.values, truth.gains.values)


def test_solutions_use_the_weights(observation):
    """Samples with ten times the noise and a hundredth of the weight pull less than with equal weight."""
    obs = observation(n_times=4, n_subbands=1)
    rng = np.random.default_rng(3)
    loud = rng.random(obs.vis.data.shape) < 0.5
    noise = np.where(loud, 0.03, 0.003) * (rng.normal(size=loud.shape) + 1j * rng.normal(size=loud.shape))
    noisy = replace(obs.vis, data=(obs.vis.data + noise).astype(np.complex64))
    weighted = replace(noisy, weights=np.where(loud, 0.01, 1.0).astype(np.float32))
    options = SolveOptions(gain_solint_s=np.inf, min_snr_bandpass=0, min_snr_gain=0)
    errors = [worst_error(replace(obs, vis=v), solve(v, obs.model, options)) for v in (weighted, noisy)]
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize("options", [SolveOptions(), PER_INTEGRATION])
def test_baseline_order_does_not_matter(observation, shuffled, options):
    """Scrambled and reversed baselines (trap 9) give the same gains; only the summing order differs."""
    obs = observation(sources=FIELD, noise=0.002)
    reordered = shuffled(obs)
    straight, scrambled = (solve(o.vis, o.model, options) for o in (obs, reordered))
    np.testing.assert_allclose(scrambled.bandpass.values, straight.bandpass.values, atol=1e-7)
    np.testing.assert_allclose(scrambled.gains.values, straight.gains.values, atol=1e-6)
    assert np.array_equal(scrambled.bandpass.flags, straight.bandpass.flags)


def test_dead_refant_falls_through_the_chain(observation):
    """Trap 20: 10 is not connected, 103 is dead; 104 is taken, and the report says so."""
    obs = observation(noise=0.002)
    dead = obs.vis.antennas.names.index("103")
    flags = obs.vis.flags.copy()
    flags[:, (obs.vis.ant1 == dead) | (obs.vis.ant2 == dead)] = True
    solution = solve(replace(obs.vis, flags=flags), obs.model, SolveOptions(refant_chain=(10, 103, 104, 108)))
    assert solution.report["refant"] == "104"
    assert list(solution.report["refants_passed_over"]) == ["10", "103"]
    refant = solution.bandpass.refant
    assert solution.gains.refant == refant
    assert np.abs(np.angle(solution.bandpass.values[0, refant])).max() < 1e-12
    assert solution.bandpass.flags[0, dead].all()


def test_refant_with_half_its_band_gone_leaves_no_phase_jump(observation):
    """Channels in which the reference antenna has no solution agree in phase with their neighbours."""
    obs = observation(max_delay_ns=0.0, n_subbands=4)
    refant = obs.vis.antennas.names.index("103")
    flags = obs.vis.flags.copy()
    touched = (obs.vis.ant1 == refant) | (obs.vis.ant2 == refant)
    flags[:, touched, 5:9] = True
    solution = solve(replace(obs.vis, flags=flags), obs.model, SolveOptions())
    assert solution.bandpass.refant == refant
    ants = [a for a in obs.vis.active_antennas if a != refant]
    phases = np.unwrap(np.angle(solution.bandpass.values[0][ants]), axis=1)
    assert np.abs(np.diff(phases, axis=1)).max() < 1e-5


@pytest.mark.parametrize("how", ["zero", "noise", "flags"])
def test_dead_receptors_are_flagged(observation, how):
    """A receptor that gives zeros, noise or nothing is flagged; its antenna's other receptor is not."""
    obs = observation(noise=0.003, n_subbands=8)
    dead = obs.vis.antennas.names.index("35")
    touched = (obs.vis.ant1 == dead) | (obs.vis.ant2 == dead)
    data, flags = obs.vis.data.copy(), obs.vis.flags.copy()
    if how == "flags":
        flags[:, touched, :, 1] = True
    else:
        shape = data[:, touched, :, 1].shape
        rng = np.random.default_rng(2)
        data[:, touched, :, 1] = 0.003 * (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * (how == "noise")
    solution = solve(replace(obs.vis, data=data, flags=flags), obs.model, SolveOptions())
    assert solution.report["dead_receptor_names"] == ["35Y"]
    assert solution.bandpass.flags[0, dead, :, 1].all()
    assert solution.gains.flags[:, dead, :, 1].all()
    assert not solution.bandpass.flags[0, dead, :, 0].any()
    corrected = apply(replace(obs.vis, data=data, flags=flags), solution.tables)
    assert corrected.flags[:, touched, :, 1].all()
    assert not corrected.flags[:, ~touched].any()
    assert (corrected.weights[:, touched, :, 1] == 0).all()


def test_too_few_baselines(observation):
    """An antenna left with three baselines is not solved, with four it is."""
    obs = observation()
    lone = obs.vis.antennas.names.index("20")
    touched = np.flatnonzero(((obs.vis.ant1 == lone) | (obs.vis.ant2 == lone)) & ~obs.vis.is_auto)
    for n_baselines, solved in ((3, False), (4, True)):
        flags = obs.vis.flags.copy()
        flags[:, touched[n_baselines:]] = True
        solution = solve(replace(obs.vis, flags=flags), obs.model, SolveOptions())
        assert solution.bandpass.flags[0, lone].all() != solved


def test_baselines_outside_the_uv_range_are_not_used(observation):
    """Wrong short-baseline data (an extended source not in the model) are kept out by the uv range."""
    obs = observation()
    uv_s = np.hypot(obs.vis.uvw_m[..., 0], obs.vis.uvw_m[..., 1]) / 299792458.0
    short = uv_s[..., None] * obs.vis.frequencies_hz < 500
    data = obs.vis.data.copy()
    data[short] *= 1.5
    wrong = replace(obs, vis=replace(obs.vis, data=data))
    assert 0 < short[:, ~obs.vis.is_auto].mean() < 0.6
    assert worst_error(wrong, solve(wrong.vis, obs.model, SolveOptions(min_uv_wavelengths=500))) < 1e-6
    assert worst_error(wrong, solve(wrong.vis, obs.model, SolveOptions())) > 1e-3


def test_missing_subband_is_flagged_and_leaves_receptors_alive(observation):
    """Flagged channels have no solution; receptors stay alive."""
    obs = observation(n_subbands=2)
    flags = obs.vis.flags.copy()
    flags[:, :, :4] = True
    solution = solve(replace(obs.vis, flags=flags), obs.model, SolveOptions())
    assert solution.bandpass.flags[0, :, :4].all()
    assert solution.report["dead_receptor_names"] == []
    assert not solution.bandpass.dead_receptors[obs.vis.active_antennas].any()


def test_delays_split_off(observation):
    """K holds the delays put in (relative to the reference antenna), and K x B equals the B solved without K."""
    obs = observation(max_delay_ns=40.0, n_subbands=16)
    together = solve(obs.vis, obs.model, SolveOptions())
    split = solve(obs.vis, obs.model, SolveOptions(solve_delays=True))
    assert split.delays is not None
    assert split.delays.kind == "K"
    np.testing.assert_allclose(product(obs.vis, split)[0], product(obs.vis, together)[0], atol=1e-9)
    ants = obs.vis.active_antennas
    phase = np.unwrap(np.angle(referenced(obs.gains, split.bandpass.refant)[0, ants]), axis=1)
    span_hz = obs.vis.frequencies_hz[-1] - obs.vis.frequencies_hz[0]
    truth_ns = (phase[:, -1] - phase[:, 0]) / span_hz / (2 * np.pi) * 1e9
    np.testing.assert_allclose(split.delays.values[0, ants, 0].real, truth_ns, atol=1e-4)


def test_gains_between_solutions_are_interpolated(observation):
    """Linear interpolation follows amplitude and phase; outside the range the nearest holds."""
    obs = observation(drift=0.05, n_times=6)
    solution = solve(obs.vis, obs.model, PER_INTEGRATION)
    step = np.diff(obs.vis.times_mjd).mean()
    late = replace(obs.vis, times_mjd=obs.vis.times_mjd + step / 2)
    gains, _ = product(late, solution)
    at_solutions, _ = product(obs.vis, solution)
    ants = obs.vis.active_antennas
    np.testing.assert_allclose(np.abs(gains[:-1, ants]), (np.abs(at_solutions[:-1, ants]) + np.abs(at_solutions[1:, ants])) / 2, rtol=1e-9)
    turn = np.angle(at_solutions[1:, ants] * at_solutions[:-1, ants].conj())
    np.testing.assert_allclose(np.angle(gains[:-1, ants] * at_solutions[:-1, ants].conj()), turn / 2, atol=1e-9)
    np.testing.assert_allclose(gains[-1, ants], at_solutions[-1, ants], rtol=1e-12)


def test_apply_weights_by_the_noise_and_honours_in_place(observation):
    """(data - model) x sqrt(weight) has variance 1, for antennas of high and low sensitivity and of high and low gain.

    Noise is as from receivers: sigma^2 of a real part is P_i P_j / (2 dnu t), P the power of an autocorrelation. The variance of N
    samples has an error of sqrt(2 / N); four times that is allowed, and 0.1 % for the power of the sources.
    """
    obs = observation(noise=0.0)
    solution = solve(obs.vis, obs.model, SolveOptions())
    rng = np.random.default_rng(8)
    sefd_jy = 6500 * rng.uniform(0.5, 2, (1, len(obs.vis.antennas.names), 1, 2))
    power = np.abs(obs.gains) ** 2 * sefd_jy
    spread = np.sqrt(power[:, obs.vis.ant1] * power[:, obs.vis.ant2] / (2 * obs.vis.channel_width_hz * obs.vis.interval_s))
    noise = (rng.normal(size=spread.shape) + 1j * rng.normal(size=spread.shape)) * spread
    data = obs.vis.data + np.where(obs.vis.is_auto[:, None, None], power[:, obs.vis.ant1], noise)
    noisy = replace(obs.vis, data=data.astype(np.complex64))
    corrected = apply(noisy, solution.tables)
    pull = (corrected.data - obs.model[..., None]) * np.sqrt(corrected.weights)
    cross = ~obs.vis.is_auto
    product_jy = (sefd_jy[0, obs.vis.ant1, 0] * sefd_jy[0, obs.vis.ant2, 0]).mean(axis=-1)
    for part in (cross, cross & (product_jy < np.median(product_jy)), cross & (product_jy > np.median(product_jy))):
        variance = np.mean(np.abs(pull[:, part]) ** 2) / 2
        assert variance == pytest.approx(1, abs=4 * np.sqrt(2 / (2 * pull[:, part].size)) + 1e-3)
    deaf = replace(noisy, data=np.where(obs.vis.is_auto[:, None, None], 0, noisy.data))
    np.testing.assert_allclose(
        apply(deaf, solution.tables).weights[:, cross],
        np.abs((noisy.data / np.where(corrected.data == 0, 1, corrected.data))[:, cross]) ** 2,
        rtol=1e-4,
    )  # without autos: |g_i g_j|^2


def test_unsolvable_data_are_refused_with_the_reason(observation):
    obs = observation(n_times=2, n_subbands=1)
    with pytest.raises(BadDataError, match="no unflagged"):
        solve(replace(obs.vis, flags=np.ones_like(obs.vis.flags)), obs.model, SolveOptions())
    with pytest.raises(BadDataError, match="model has shape"):
        solve(obs.vis, obs.model[:1], SolveOptions())
    with pytest.raises(BadDataError, match="other channels"):
        apply(
            replace(obs.vis, frequencies_hz=obs.vis.frequencies_hz + 1e5),
            solve(obs.vis, obs.model, SolveOptions()).tables,
        )
