"""Faults of the instrument against their definitions, in the written files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator import array, instrument, instrument_faults
from dsa110_assets.simulator.options import FixedSource, SimulationOptions, parse_fault, perfect
from dsa110_assets.telescope import band
from dsa110_assets_tests.simulator.conftest import Run, Written

SOURCE = FixedSource("s", 343.3, 16.1, 40.0, -0.7)
NOISY = perfect(
    start="2026-01-25T22:25:00", groups=2, antennas=6, channels=2, subbands=3, integrations=3, fixed_sources=(SOURCE,),
    gain_amplitude=0.068, gain_scatter=1.0, noise_scale=1.0,
)  # fmt: skip
"""Stations 2, 12, 48, 87, 102 and 103, with the usual gains and noise."""
SILENT = replace(NOISY, noise_scale=0.0)
ROUNDING = 5e-7
"""Tolerance of a ratio of two complex64 values: in both, each part is rounded to at most 2^-24 of the modulus; times 4."""


def factors(run: Run, values: dict[int, np.ndarray]) -> np.ndarray:
    """h_1 conj(h_2) (row, channel, pol) of factors (channel, pol) by station, 1 for the others."""
    unity = np.ones((run.frequencies_hz.size, 2))
    ends = [np.array([values.get(int(s), unity) for s in side]) for side in (run.station1, run.station2)]
    return ends[0] * np.conj(ends[1])


def gains(options: SimulationOptions, run: Run) -> dict[int, np.ndarray]:
    """The healthy instrument's gains (channel, pol) at the first time, by station."""
    box = instrument.build(options, array.build(options))
    values = box.gains(run.truth["groups"][0]["night"], run.times_mjd[:1], run.frequencies_hz)[0]
    return {int(number) + 1: values[i] for i, number in enumerate(box.array.numbers)}


@pytest.mark.parametrize(
    "fault",
    [
        "deaf_antenna:1:antenna=12", "quiet_antenna:1:antenna=12", "power_loss:1-:antenna=12", "noise_up:1:antenna=12",
        "delay_jump:1-1:antenna=12", "swapped_feeds:1:antenna=12", "swapped_feeds:1:antenna=12,how=labels",
        "swapped_feeds:1:antenna=12,how=gains", "power_down:1", "gain_drift:1", "receptor_noise:1",
    ],
)  # fmt: skip
def test_only_the_faulty_groups_and_antennas_differ(written: Written, fault: str) -> None:
    """Where a fault does not act, noise and everything else are the same bit by bit; where it acts, all data change."""
    clean, faulty = written(NOISY), written(NOISY, fault)
    np.testing.assert_array_equal(faulty.data[0], clean.data[0])
    everywhere = fault.startswith(("gain", "power_down", "receptor"))
    rows = clean.with_any(12) | everywhere
    np.testing.assert_array_equal(faulty.data[1][:, ~rows], clean.data[1][:, ~rows])
    products = slice(1, None) if fault.startswith("receptor") else slice(None)
    if fault.startswith(("delay", "deaf")):
        rows = rows & ~clean.auto  # autocorrelations have no phase, and their sky is 40 Jy beside 6500
    assert np.all(faulty.data[1][:, rows][..., products] != clean.data[1][:, rows][..., products])
    observations = [g["observation"] for g in faulty.truth["groups"]]
    assert {tuple(f["observations"]) for f in faulty.truth["faults"]} == {(observations[1],)}
    assert clean.truth["faults"] == []


def test_power_is_lost_by_db(written: Written) -> None:
    clean, faulty = written(NOISY), written(NOISY, "power_loss:*:antenna=12+48,db=3", "power_down:1:factor=0.5")
    half = np.full((clean.frequencies_hz.size, 2), 10 ** (-3 / 20))
    expected = factors(clean, {12: half, 48: half})
    ratio = faulty.data / clean.data
    np.testing.assert_allclose(ratio[0], np.broadcast_to(expected, ratio[0].shape), rtol=ROUNDING)
    # two faults in one group multiply; every product is proportional to the power of sky and noise
    np.testing.assert_allclose(ratio[1], np.broadcast_to(0.5 * expected, ratio[1].shape), rtol=ROUNDING)
    autos = np.flatnonzero(clean.auto & (clean.station1 == 12))
    np.testing.assert_allclose(ratio[0][:, autos].real, 10 ** (-3 / 10), rtol=ROUNDING)


def test_a_delay_turns_phases_about_the_bands_centre(written: Written) -> None:
    options = replace(NOISY, groups=1, antennas=4, subbands=16, integrations=1)  # stations 2, 12, 102, 103
    clean, faulty = written(options), written(options, "delay_jump:*:antenna=12+102,ns=2+-4")
    frequencies = clean.frequencies_hz
    offset = frequencies - (frequencies.min() + frequencies.max()) / 2
    slopes = {s: np.exp(2j * np.pi * t * offset)[:, None].repeat(2, 1) for s, t in ((12, 2e-9), (102, -4e-9))}
    ratio = faulty.data[0, 0] / clean.data[0, 0]
    np.testing.assert_allclose(ratio, factors(clean, slopes), rtol=ROUNDING)
    # between a faulty and a healthy antenna: over 187.5 MHz, here less one channel of 5.9 MHz, 2 ns turn the phase by 131 degrees
    row = int(np.flatnonzero((clean.station1 == 12) & (clean.station2 == 103))[0])
    turn = np.unwrap(np.angle(ratio[row, :, 0]))
    assert np.rad2deg(turn[0] - turn[-1]) == pytest.approx(360 * 2e-9 * (187.5e6 - 5.859375e6), abs=1e-3)
    everyone = written(options, "delay_jump:*:antenna=12+102")
    assert [f["ns"] for f in everyone.truth["faults"]] == [2.0, 2.0]
    assert [(f["antenna"], f["ns"]) for f in faulty.truth["faults"]] == [(12, 2.0), (102, -4.0)]


def test_drifted_gains_are_those_of_the_truth_and_normal(written: Written) -> None:
    clean, faulty = written(NOISY), written(NOISY, "gain_drift:*:amplitude=0.1,phase_deg=30")
    (fault,) = faulty.truth["faults"]
    n = clean.frequencies_hz.size
    drift = {e["antenna"]: np.tile(np.exp(np.array(e["ln_amplitude"]) + 1j * np.deg2rad(e["phase_deg"])), (n, 1)) for e in fault["errors"]}
    expected = factors(clean, drift)
    for group in range(2):  # one draw for all its groups
        ratio = faulty.data[group] / clean.data[group]
        np.testing.assert_allclose(ratio, np.broadcast_to(expected, ratio.shape), rtol=ROUNDING)
    full_array = SimulationOptions(antennas=96)
    for text in ("gain_drift:*", "gain_drift:1-"):
        errors = instrument_faults.truth_details(parse_fault(text), full_array, array.build(full_array))["errors"]
        for name, size in (("ln_amplitude", 0.1), ("phase_deg", 30.0)):
            drawn = np.ravel([e[name] for e in errors])
            # 192 draws: 4 standard errors of a mean, and of a standard deviation
            assert abs(np.mean(drawn)) < 4 * size / np.sqrt(192)
            assert np.std(drawn) == pytest.approx(size, rel=4 / np.sqrt(2 * 192))
    assert errors[0] != fault["errors"][0]


@pytest.mark.parametrize(("receptor", "products"), [("both", [0, 1]), ("x", [0]), ("y", [1])])
def test_a_deaf_antenna_has_its_noise_and_no_sky(written: Written, receptor: str, products: list[int]) -> None:
    deaf = written(NOISY, f"deaf_antenna:*:antenna=12+48,receptor={receptor}")
    clean, empty = written(NOISY), written(NOISY, fixed_sources=())
    rows = clean.with_any(12, 48)
    for p in range(2):
        like = empty if p in products else clean
        np.testing.assert_array_equal(deaf.data[:, :, rows, :, p], like.data[:, :, rows, :, p])
    assert [(f["antenna"], f["receptor"]) for f in deaf.truth["faults"]] == [(12, receptor), (48, receptor)]


def test_a_quiet_antenna_is_deaf_and_has_less_noise(written: Written) -> None:
    quiet, empty = written(NOISY, "quiet_antenna:*:antenna=12,db=10"), written(NOISY, fixed_sources=())
    rows = quiet.with_any(12)
    ratio = quiet.data[:, :, rows] / empty.data[:, :, rows]
    # its power is down by 10 dB; its products with healthy antennas, as products of voltages, are down by 5 dB
    expected = np.where(quiet.auto[rows], 10**-1.0, 10**-0.5)[:, None, None]
    np.testing.assert_allclose(ratio, np.broadcast_to(expected, ratio.shape), rtol=ROUNDING)


@pytest.mark.parametrize("fault", ["noise_up:*:antenna=12+48,factor=4", "receptor_noise:*:ratio=4"])
def test_noise_rises_and_the_sky_stays(written: Written, fault: str) -> None:
    noisier, clean, silent = written(NOISY, fault), written(NOISY), written(SILENT)
    power = np.ones((silent.station1.size, 1, 2))
    for side in (clean.station1, clean.station2):
        if fault.startswith("noise_up"):
            power[np.isin(side, (12, 48))] *= 2  # sqrt 4 per end, so 4 for both and for the autocorrelation
        else:
            power[..., 1] *= 2
    cross = ~clean.auto
    g = gains(NOISY, clean)
    scale = np.abs(factors(clean, g))  # raw units per Jy
    noise, more = ((run.data - silent.data) / scale for run in (clean, noisier))
    # the difference of complex64 values of up to 55 Jy: 4 x 2^-24 x 55 Jy
    np.testing.assert_allclose(more[:, :, cross], (noise * power)[:, :, cross], atol=1.4e-5)
    # sigma itself, from 12 to 15 rows x 2 groups x 3 times x 6 channels, two parts: 4 / sqrt(2 n)
    raised = cross & (power[:, 0, 1] == 4)
    sigma = 4 * 6500 / np.sqrt(2 * 5.859375e6 * 12.884901888)
    sample = np.concatenate([more[:, :, raised, :, 1].real.ravel(), more[:, :, raised, :, 1].imag.ravel()])
    assert np.std(sample) == pytest.approx(sigma, rel=4 / np.sqrt(2 * sample.size))
    # autocorrelations: the system's power and its fluctuation are higher, 6500 Jy in complex64
    autos = (noisier.data - silent.data)[:, :, clean.auto] / scale[clean.auto]
    was = (clean.data - silent.data)[:, :, clean.auto] / scale[clean.auto]
    expected = was * power[clean.auto] + 6500 * (power[clean.auto] - 1)
    np.testing.assert_allclose(autos, expected, atol=4 * 2**-24 * 4 * 6600)


def test_exchanged_feeds_correlate_only_with_each_other(written: Written) -> None:
    clean = written(SILENT)
    swapped = written(SILENT, "swapped_feeds:*:antenna=12+48")
    exactly_one = clean.with_any(12) ^ clean.with_any(48)
    both = clean.with_any(12) & clean.with_any(48) | clean.auto & clean.with_any(12, 48)
    assert np.all(swapped.data[:, :, exactly_one & ~clean.auto] == 0)
    # X of one antenna is now X of the other: their product is the one of the other polarisation, with its gains
    np.testing.assert_array_equal(swapped.data[:, :, both], clean.data[:, :, both][..., ::-1])
    empty, noisy = written(NOISY, fixed_sources=()), written(NOISY, "swapped_feeds:*:antenna=12")
    g = gains(NOISY, clean)
    others = {12: g[12][:, ::-1] / g[12]}
    rows = clean.with_any(12) & ~clean.auto
    ratio = noisy.data[:, :, rows] / empty.data[:, :, rows]
    # only the noise is left there, with the other receptor's gains
    np.testing.assert_allclose(ratio, np.broadcast_to(factors(clean, others)[rows], ratio.shape), rtol=ROUNDING)


def test_exchanged_labels_and_gains_swap_the_right_receptors(written: Written) -> None:
    clean, labels = written(NOISY), written(NOISY, "swapped_feeds:*:antenna=12+48,how=labels")
    rows = clean.with_any(12, 48)
    np.testing.assert_array_equal(labels.data[:, :, rows], clean.data[:, :, rows][..., ::-1])
    only = written(NOISY, "swapped_feeds:*:antenna=12,how=gains")
    g = gains(NOISY, clean)
    ratio = only.data / clean.data
    expected = factors(clean, {12: g[12][:, ::-1] / g[12]})
    np.testing.assert_allclose(ratio, np.broadcast_to(expected, ratio.shape), rtol=ROUNDING)


def test_several_faults_of_one_group_act_together(written: Written) -> None:
    """Faults of a feed act first, in whatever order they are written, and exchanged cables last."""
    faults = ["power_loss:*:antenna=12,db=6", "deaf_antenna:*:antenna=12,receptor=x", "swapped_feeds:*:antenna=12+48"]
    clean = written(SILENT)
    for order in (faults, faults[::-1]):
        run = written(SILENT, *order)
        pair = np.flatnonzero(clean.with_any(12) & clean.with_any(48) & ~clean.auto)[0]
        assert np.all(run.data[:, :, pair, :, 1] == 0)  # the deaf X feed is on the Y input
        ratio = run.data[:, :, pair, :, 0] / clean.data[:, :, pair, :, 1]
        np.testing.assert_allclose(ratio, 10 ** (-6 / 20), rtol=ROUNDING)
        assert sorted(f["kind"] for f in run.truth["faults"]) == sorted(["power_loss", "deaf_antenna", "swapped_feeds", "swapped_feeds"])


def test_dead_antennas_stay_dead(written: Written) -> None:
    clean = written(NOISY, dead_antennas=1, dead_receptors=1)
    (dead,) = clean.truth["bad_antennas"]["dead_antennas"]
    run = written(NOISY, "power_down:*", "noise_up:*:antenna=103", dead_antennas=1, dead_receptors=1)
    assert np.all(run.data[:, :, run.with_any(dead)] == 0)


def test_an_antenna_that_is_not_there_is_refused(written: Written) -> None:
    with pytest.raises(ConfigurationError, match="antenna=35: the array has 2, 12, 48, 87, 102, 103"):
        written(NOISY, "power_loss:0:antenna=12+35")


def test_the_bands_centre_is_that_of_all_subbands() -> None:
    table = band.band_frequencies_hz(n_channels=2)
    disturbed = instrument_faults.disturbance(
        replace(NOISY, faults=(parse_fault("delay_jump:*:antenna=12"),)), array.build(NOISY), 0, table
    )
    turn = np.unwrap(np.angle(disturbed.gain[1, :, 0]))
    assert abs(np.mean(turn)) < 1e-6  # phases are within +-1.1 rad, frequencies are doubles: 1e-16 x 1.4e9 x 2 pi x 2e-9
    assert np.all(np.diff(turn) > 0)
