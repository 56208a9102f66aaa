"""Gains between two transits against gains that drift linearly, with delays that wrap the phase over the band."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dsa110_assets.calibration import apply, delays
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.interpolation import interpolate
from dsa110_assets.telescope import band
from dsa110_assets.visibilities.types import Antennas, Visibilities

NAMES = ("102", "7", "20", "35", "48", "87")
FREQUENCIES_HZ = band.band_frequencies_hz(16, 8)
MIDS = (61066.1, 61066.6)
TIMES = 61066.25 + np.arange(24) * 12.885 / 86400
EXACT = 1e-9
"""Phases of some ten turns are rounded to 1e-14 rad; delays are fitted to 1e-12 of a turn in three rounds."""


@dataclass(frozen=True)
class Drift:
    """Amplitude and phase of every receptor (antenna, pol), delays [ns], ripples over the band, all linear in the fraction of the time
    between the transits."""

    amplitude: NDArray[np.float64]
    phase: NDArray[np.float64]
    delay_ns: NDArray[np.float64]
    ripple: NDArray[np.float64]

    def at(self, share: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return gains (time, antenna, channel, pol). Each of the four fields is (2, antenna, pol): the value at the first transit, and its
        change."""
        x = np.linspace(-1, 1, FREQUENCIES_HZ.size)
        turns = 2e-9 * np.pi * (FREQUENCIES_HZ - FREQUENCIES_HZ.mean())

        def now(part):  # type: ignore[no-untyped-def]
            return (part[0] + share[:, None, None] * part[1])[:, :, None]

        wave = np.sin(9 * x)[:, None]
        shape = 1 + 0.2 * np.cos(5 * x)[:, None]
        return now(self.amplitude) * shape * np.exp(1j * (now(self.phase) + now(self.delay_ns) * turns[:, None] + now(self.ripple) * wave))


@pytest.fixture
def drift() -> Drift:
    """Amplitudes change by up to 30 %, phases by 60 degrees (120 between two antennas), and delays by 8 ns, 1.5 turns over the band.
    The delays are up to 20 ns, 3.7 turns."""
    rng = np.random.default_rng(110)

    def drawn(start: float, change: float) -> NDArray[np.float64]:
        return np.stack([rng.uniform(-limit, limit, (len(NAMES), 2)) for limit in (start, change)])

    size = 0.068 * (1 + drawn(0.3, 0.3))
    return Drift(np.stack([size[0], size[1] - 0.068]), drawn(np.pi, np.deg2rad(60)), drawn(20, 8), drawn(0.5, 0.2))


@pytest.fixture
def frame() -> Visibilities:
    """An observation a third of the way between the transits, of which only the axes are used."""
    ant1, ant2 = (a.astype(np.int32) for a in np.triu_indices(len(NAMES)))
    shape = (TIMES.size, ant1.size, FREQUENCIES_HZ.size, 2)
    empty = [np.broadcast_to(np.zeros((), kind), shape) for kind in (np.complex64, np.bool_, np.float32)]
    antennas = Antennas(NAMES, np.zeros((len(NAMES), 3)), np.full(len(NAMES), 4.65))
    uvw = np.zeros((*shape[:2], 3))
    return Visibilities(*empty, ant1, ant2, TIMES, 12.885, FREQUENCIES_HZ, 1.46e6, uvw, np.zeros((TIMES.size, 2)), 0.28, antennas)  # type: ignore[arg-type]


def tables(drift: Drift, share: float, refant: int) -> list[Gains]:
    """Delays, bandpass and three gains about a transit, which drift as well; in every channel the phase of `refant` is zero."""
    mid = MIDS[0] + share * (MIDS[1] - MIDS[0])
    values = drift.at(np.array([share]))
    values = values * np.exp(-1j * np.angle(values[:, refant : refant + 1]))
    snr = np.full(values.shape, 50, np.float32)
    bandpass = Gains("B", values, np.zeros(values.shape, bool), snr, np.array([mid]), 300.0, FREQUENCIES_HZ, NAMES, refant, "3C138")
    slopes = np.exp(0.02j * np.arange(len(NAMES)))[None, :, None, None] ** np.array([-1, 0, 1])[:, None, None, None]
    slopes = np.broadcast_to(slopes, (3, len(NAMES), 1, 2))
    times = mid + np.array([-1, 0, 1]) * 1e-3
    centre = FREQUENCIES_HZ.mean(keepdims=True)
    flat = np.full(slopes.shape, 20, np.float32)
    gains = Gains("G", slopes, np.zeros(slopes.shape, bool), flat, times, 86.4, centre, NAMES, refant, "3C138")
    return [*delays.split(bandpass), gains]


def seen(frame: Visibilities, made: Gains) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """Products of the applied gains of all pairs of antennas (time, antenna, antenna, channel, pol), which do not depend on the reference
    antenna, and where both gains are good."""
    gains, good = apply.total_gains(frame, [made])
    return gains[:, :, None] * gains[:, None].conj(), good[:, :, None] & good[:, None]


def pairs(gains: NDArray[np.complex128]) -> NDArray[np.complex128]:
    return gains[:, :, None] * gains[:, None].conj()


def shares(frame: Visibilities) -> NDArray[np.float64]:
    return (frame.times_mjd - MIDS[0]) / (MIDS[1] - MIDS[0])


def test_a_steady_drift_is_recovered_at_every_time(frame: Visibilities, drift: Drift) -> None:
    """Recovered although the sets have different reference antennas, and phases differ by up to 1.5 turns over the band."""
    made = interpolate(frame, tables(drift, 0, 0), tables(drift, 1, 2), MIDS)
    measured, good = seen(frame, made.gains)
    assert good.all()
    assert (made.nearest, made.one_sided) == ((), ())
    truth = pairs(drift.at(shares(frame)))
    np.testing.assert_allclose(measured, truth, rtol=EXACT)
    nearest = pairs(drift.at(np.zeros(1)))
    assert np.abs(nearest / truth - 1).mean() > 0.3  # the error with the nearer set only: 0.42
    assert made.gains.refant == 0
    assert np.abs(np.angle(made.gains.values[:, 0])).max() < EXACT
    assert set(np.unique(made.gains.snr)) == {20}


def test_gains_that_only_one_set_has_are_taken_from_it(frame: Visibilities, drift: Drift) -> None:
    """A receptor is dead at the later transit, an antenna at the nearer one, a receptor at both, and a subband is flagged. Channels
    that one set lacks follow the receptor's other channels, which is exact if the ripple does not change."""
    steady = replace(drift, ripple=drift.ripple * np.array([1, 0])[:, None, None])
    before, after = tables(steady, 0, 0), tables(steady, 1, 0)
    for table, antenna, pol in ((after[1], 2, 0), (before[1], 3, slice(None)), (before[1], 4, 1), (after[1], 4, 1)):
        table.flags[:, antenna, :, pol] = True
    before[1].flags[:, :, 40:48] = True
    after[1].flags[:, 5, :24] = True
    made = interpolate(frame, before, after, MIDS)
    assert made.one_sided == ("20X", "35X", "35Y")
    assert made.nearest == ()
    gains, good = apply.total_gains(frame, [made.gains])
    expected_good = np.ones(gains.shape[1:], bool)
    expected_good[4, :, 1] = expected_good[2, 40:48, 0] = False
    np.testing.assert_array_equal(good, np.broadcast_to(expected_good, good.shape))
    truth = steady.at(shares(frame))
    truth = truth * np.exp(-1j * np.angle(truth[:, :1]))
    sound = np.ones(truth.shape, bool)
    sound[:, 2, :, 0] = sound[:, 3] = sound[:, 4, :, 1] = False
    np.testing.assert_allclose(gains[sound], truth[sound], rtol=EXACT)
    for share, antenna, pol in ((0, 2, 0), (1, 3, 0), (1, 3, 1)):
        held = steady.at(np.array([float(share)]))
        held = held * np.exp(-1j * np.angle(held[:, :1]))
        channels = good[0, antenna, :, pol]
        expected = np.broadcast_to(held[0, antenna, channels, pol], (TIMES.size, channels.sum()))
        np.testing.assert_allclose(gains[:, antenna, channels, pol], expected, rtol=EXACT)


@pytest.mark.parametrize(("nearer", "way"), [(0, 0.3), (1, 0.7)])
def test_the_nearer_set_is_used_where_the_phase_turn_is_ambiguous(frame: Visibilities, drift: Drift, nearer: int, way: float) -> None:
    """20X turns by 170 degrees, and 48Y has unrelated phases in every channel: the direction of their turn is unknown. In 87Y this holds
    for two channels only, which then follow the others."""
    rng = np.random.default_rng(7)
    reference = drift.phase.copy()
    reference[1, 0] = 0
    reference[1, 2, 0] = np.deg2rad(170)
    moved = replace(drift, phase=reference, ripple=drift.ripple * np.array([1, 0])[:, None, None])
    before, after = tables(moved, 0, 0), tables(moved, 1, 0)
    after[1].values[:, 4, :, 1] *= np.exp(1j * rng.uniform(-np.pi, np.pi, FREQUENCIES_HZ.size))
    (after, before)[nearer][1].values[:, 5, 50:52, 1] *= -1
    observation = replace(frame, times_mjd=frame.times_mjd - frame.mid_mjd + MIDS[0] + way * (MIDS[1] - MIDS[0]))
    made = interpolate(observation, before, after, MIDS)
    assert (made.nearest, made.one_sided) == (("20X", "48Y"), ())
    gains, good = apply.total_gains(observation, [made.gains])
    assert good.all()
    nearer_gains, _ = apply.total_gains(replace(observation, times_mjd=np.array([MIDS[nearer]])), (before, after)[nearer])
    for antenna, pol in ((2, 0), (4, 1)):
        np.testing.assert_allclose(gains[:, antenna, :, pol], np.broadcast_to(nearer_gains[0, antenna, :, pol], (24, 128)), rtol=EXACT)
    truth = moved.at(shares(observation))
    truth = truth * np.exp(-1j * np.angle(truth[:, :1]))
    np.testing.assert_allclose(gains[:, 5, :, 1], truth[:, 5, :, 1], rtol=EXACT)
