"""Figures of solutions: receptor-aware, on data whose faults are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.calibration import quality
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.solve import SolveOptions, solve, sums_for
from dsa110_assets.thresholds import Thresholds

LIMITS = Thresholds()


def like_the_real_bandpass():
    """The flags of the real B table of 2026-01-25: 63 dead receptors on 35 antennas, 27.7 % flagged."""
    rng = np.random.default_rng(1)
    flags = rng.random((1, 117, 768, 2)) < 0.0104
    both = rng.permutation(117)[:35]
    flags[0, both[:28]] = True
    flags[0, both[28:], :, 0] = True
    values = np.where(flags, 1, 0.068 * np.exp(1j * rng.uniform(-np.pi, np.pi, flags.shape)))
    snr = np.where(flags, 0, 97.7).astype(np.float32)
    frequencies = np.linspace(1.311e9, 1.499e9, 768)
    names = tuple(str(n) for n in range(1, 118))
    return Gains("B", values, flags, snr, np.array([61065.9]), 300.0, frequencies, names, 102, "3C454.3")


def test_dead_receptors_do_not_dilute_the_flag_fraction():
    """Trap 19: 27.7 % raw is a good table; 63 dead receptors explain all but 1.04 % of it."""
    table = like_the_real_bandpass()
    figures = quality.table_figures("bandpass", table)
    assert table.dead_receptors.sum() == 63
    assert figures["bandpass_flag_fraction_raw"] == pytest.approx(0.277, abs=0.002)
    assert figures["bandpass_flag_fraction"] == pytest.approx(0.0104, abs=0.0005)
    assert figures["bandpass_snr"] == pytest.approx(97.7, rel=1e-5)


def test_a_missing_subband_is_not_a_flag_fraction():
    table = like_the_real_bandpass()
    flags = table.flags.copy()
    flags[:, :, 96:144] = True
    figures = quality.table_figures("bandpass", replace(table, flags=flags))
    assert figures["bandpass_flag_fraction"] == pytest.approx(0.0104, abs=0.0005)


def assessed(obs, options=SolveOptions(gain_solint_s=25.0), model=None):  # noqa: B008  frozen
    model = obs.model if model is None else model
    solution = solve(obs.vis, model, options)
    return quality.assess(solution, obs.vis, sums_for(obs.vis, model, options))


def test_a_good_solution_passes(observation):
    """Noise of 0.002 on amplitudes of 0.068^2 x 10 Jy: every figure has its expected value."""
    obs = observation(noise=0.002, drift=0.02, n_subbands=4)
    figures = assessed(obs)
    assert quality.problems(figures, LIMITS) == []
    assert figures["flux_ratio"] == pytest.approx(1, abs=1e-3)
    assert figures["closure_phase_deg"] < 1
    assert figures["closure_amplitude"] < 0.02
    assert figures["dead_receptors"] == 0
    assert figures["n_antennas"] == 12
    assert figures["gain_amplitude"] == pytest.approx(0.068, rel=0.3)
    # two parts of the noise of 8e-6 per complex sample of unit weight
    assert figures["reduced_chi2"] == pytest.approx(8e-6, rel=0.05)


def test_phase_scatter_ignores_absolute_phase(observation):
    """Absolute phases are uniform on the circle; only their changes within the transit count."""
    still = assessed(observation(noise=0.001))["gain_phase_scatter_deg"]
    turning = assessed(observation(noise=0.001, drift=0.3), SolveOptions(gain_solint_s=12.9))["gain_phase_scatter_deg"]
    assert still < 1
    # turning by N(0, 0.3) rad per integration and receptor, less the reference's: sqrt 2 x 0.3 x 1.7 steps
    assert 20 < turning < 70


def test_each_fault_is_named(observation):
    """A wrong model, no signal, a huge and a tiny gain: each is found by a different rule."""
    obs = observation(noise=0.002, n_subbands=4)
    wrong = observation(sources=((0.0, 0.0, 10.0), (0.3, 0.4, 8.0))).model
    with_wrong_model = assessed(observation(noise=0.002), model=wrong)
    assert any("closure" in p for p in quality.problems(with_wrong_model, LIMITS))
    faint = assessed(observation(noise=0.3, n_subbands=4), SolveOptions(min_snr_bandpass=0, min_snr_gain=0))
    assert any("SNR" in p for p in quality.problems(faint, LIMITS))
    flagged = assessed(observation(noise=0.05, n_subbands=4), SolveOptions(min_snr_bandpass=5.0))
    assert any("flagged" in p for p in quality.problems(flagged, LIMITS))
    odd = obs.vis.antennas.names.index("35")
    for factor, word in ((0.05, "of the median"), (30.0, "times the median")):
        data = obs.vis.data.copy()
        for ant in (obs.vis.ant1, obs.vis.ant2):
            data[:, ant == odd] *= factor
        options = SolveOptions(min_snr_bandpass=0, min_snr_gain=0)
        problems = quality.problems(assessed(replace(obs, vis=replace(obs.vis, data=data)), options), LIMITS)
        assert any(word in p for p in problems)


def test_undefined_quality_figures_are_problems(observation):
    """NaN figures are problems, not passes."""
    obs = observation(n_times=2, n_subbands=1)
    figures = assessed(obs)
    for name in ("closure_phase_deg", "gain_amplitude_min", "bandpass_snr", "gain_flag_fraction"):
        assert quality.problems({**figures, name: float("nan")}, LIMITS)


def test_swapped_receptor_gains_reduce_the_response_to_the_model(observation):
    """The response is 1 by the normal equation of least squares, to the solver's tolerance; random phases leave at most 1 / sqrt(11)."""
    obs = observation(noise=0.05, n_subbands=4)
    options = SolveOptions(gain_solint_s=np.inf, min_snr_bandpass=0, min_snr_gain=0)
    sums = sums_for(obs.vis, obs.model, options)
    good = solve(obs.vis, obs.model, options)
    assert quality.assess(good, obs.vis, sums)["receptor_flux_ratio_min"] == pytest.approx(1, abs=0.02)
    alive = np.flatnonzero(~good.bandpass.dead_receptors.any(axis=1))[[1, 5]]
    order = np.arange(len(good.bandpass.antenna_names))
    order[alive] = alive[::-1]
    bad = replace(good, bandpass=replace(good.bandpass, values=good.bandpass.values[:, order]))
    figures = quality.assess(bad, obs.vis, sums)
    assert figures["receptor_flux_ratio_min"] < 0.4
    assert any("belong to another receptor" in p for p in quality.problems(figures, LIMITS))
