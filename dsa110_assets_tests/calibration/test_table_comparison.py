"""Two sets of tables compared: the reported differences are those that were put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.calibration.delays import phasor
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.table_comparison import compare
from dsa110_assets.errors import BadDataError

NAMES, FREQUENCIES_HZ = ("1", "5", "12", "103"), 1.311e9 + 244140.625 * np.arange(768)
RATIO = np.array([[1.1, 0.9], [1.0, 1.02], [0.5, 1.0], [1.0, 1.0]])
PHASE_DEG = np.array([[12.0, -30.0], [0.5, 170.0], [-5.0, 0.0], [0.0, 0.0]])
DELAY_NS = np.array([[0.0, 0.4], [-2.0, 7.0], [0.0, 0.0], [0.0, 0.0]])


def table(kind, values, frequencies_hz, names=NAMES):
    shape = (values.shape[0], len(names), frequencies_hz.size, 2)
    values = np.broadcast_to(values, shape).astype(np.complex128)
    times = 61065.0 + np.arange(shape[0]) / 1440
    flags, snr = np.zeros(shape, np.bool_), np.full(shape, 100.0, np.float32)
    return Gains(kind, values, flags, snr, times, 60.0, frequencies_hz, tuple(names), len(names) - 1, "3C138")


def pair():
    """A second set, and a first that differs from it by RATIO, PHASE_DEG at the band's middle, and DELAY_NS."""
    rng = np.random.default_rng(8)
    shape = (1, 4, FREQUENCIES_HZ.size, 2)
    bandpass = 0.07 * np.exp(0.1 * rng.normal(size=shape) + 2j * np.pi * rng.random(shape))
    gains = np.exp(0.02 * rng.normal(size=(5, 4, 1, 2)))
    between = RATIO[:, None] * np.exp(1j * np.radians(PHASE_DEG))[:, None]
    between = between * np.moveaxis(phasor(DELAY_NS, FREQUENCIES_HZ, FREQUENCIES_HZ.mean()), -1, 1)
    second = [table("B", bandpass, FREQUENCIES_HZ), table("G", gains, FREQUENCIES_HZ[384:385])]
    return [table("B", bandpass * between, FREQUENCIES_HZ), second[1]], second


def test_ratio_phase_and_delay_are_recovered():
    """Without noise they agree to rounding. The delay is measured over the whole band; the phase is that at its middle."""
    comparison = compare(*pair())
    assert comparison.reference == "103"
    for k, name in enumerate(NAMES):
        for p in range(2):
            difference = comparison.differences[2 * k + p]
            assert (difference.antenna, difference.receptor) == (name, "XY"[p])
            assert difference.ratio == pytest.approx(RATIO[k, p], rel=1e-12)
            assert difference.phase_deg == pytest.approx(PHASE_DEG[k, p], abs=1e-9)
            assert difference.delay_ns == pytest.approx(DELAY_NS[k, p], abs=1e-9)
            assert difference.scatter_deg == pytest.approx(0.0, abs=1e-5)


def test_a_phase_common_to_all_antennas_is_no_difference():
    """Another reference antenna turns every receptor of one polarisation by the same phase, which is no difference."""
    first, second = pair()
    turned = [replace(first[0], values=first[0].values * np.exp(1j * np.array([0.7, -1.9]))), first[1]]
    for turned_difference, original in zip(compare(turned, second).differences, compare(first, second).differences, strict=True):
        assert turned_difference.phase_deg == pytest.approx(original.phase_deg, abs=1e-9)


def test_noise_is_reported_as_scatter():
    """Phases scattered by 0.1 rad are reported as 5.73 deg: with 768 phases to 2.6 % (1 sigma of a standard deviation, 1/sqrt(2 n));
    4 sigma are allowed."""
    first, second = pair()
    noise = np.random.default_rng(9).normal(scale=0.1, size=first[0].values.shape)
    noisy = [replace(first[0], values=first[0].values * np.exp(1j * noise)), first[1]]
    noisy[0].values[:, 3] = first[0].values[:, 3]
    for difference in compare(noisy, second).differences[:6]:
        assert difference.scatter_deg == pytest.approx(np.degrees(0.1), rel=0.1)


def test_differences_of_receptors_without_two_solutions_are_nan():
    first, second = pair()
    first[0].flags[:, 1, :, 0] = True
    differences = compare(first, second).differences
    assert [np.isnan(one.ratio) for one in differences] == [False, False, True, False, False, False, False, False]


def test_a_delay_in_a_separate_table_is_included():
    first, second = pair()
    delays = table("K", np.where(np.arange(4) == 0, 3.0, 0.0)[None, :, None, None], FREQUENCIES_HZ[:1])
    assert compare([delays, *first], second).differences[0].delay_ns == pytest.approx(3.0, abs=1e-9)


def test_sets_that_cannot_be_compared_are_refused():
    first, _ = pair()
    with pytest.raises(BadDataError, match="no antenna in common"):
        compare(first, [table("G", np.ones((1, 4, 1, 2)), FREQUENCIES_HZ[:1], "abcd")])
    with pytest.raises(BadDataError, match="other channels"):
        compare(first, [table("B", np.ones((1, 4, 10, 2)), FREQUENCIES_HZ[:10])])
