"""Simulated interference against direct sums over its signal, and its record against the files."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.simulator import array as arrays
from dsa110_assets.simulator import fault_kinds, transmitters
from dsa110_assets.simulator.options import SimulationOptions, perfect
from dsa110_assets.telescope import astrometry, band, site, timegrid

C_M_S = 299792458.0
DEC_RAD = np.deg2rad(16.27)


def planted(text: str) -> transmitters.Transmitter:
    return transmitters.from_fault(fault_kinds.parse(text))


def test_directions_are_those_of_azimuth_and_elevation() -> None:
    """Zenith, the horizon's north and east, in (east, pole, equator); a track of 30 degrees ends 30 degrees away."""
    latitude = np.deg2rad(site.LATITUDE_DEG)
    for azimuth, elevation, expected in (
        (0, 90, (0, np.sin(latitude), np.cos(latitude))), (0, 0, (0, np.cos(latitude), -np.sin(latitude))), (90, 0, (1, 0, 0)),
    ):  # fmt: skip
        item = planted(f"wide_rfi:*:azimuth_deg={azimuth},elevation_deg={elevation}")
        np.testing.assert_allclose(transmitters.direction(item, 10.0)[0], expected, atol=1e-12)
    item = planted("satellite:*:elevation_deg=20,azimuth_deg=75,rate_deg_s=0.3,heading_deg=40")
    first, last = transmitters.direction(item, 50.0)[0], transmitters.direction(item, 150.0)[0]
    assert np.rad2deg(np.arccos(first @ last)) == pytest.approx(30)
    moved = (transmitters.direction(item, 100.01)[0] - transmitters.direction(item, 99.99)[0]) / 0.02
    np.testing.assert_allclose(transmitters.direction(item, 100.0)[1], moved, atol=1e-9)


@pytest.mark.parametrize(
    "text", ["wide_rfi:*:start_s=0", "satellite:*:start_s=0", "satellite:*:start_s=0,rate_deg_s=0.05,elevation_deg=70"]
)
def test_a_baselines_response_is_averaged_over_channel_and_time(text: str) -> None:
    """Against 400 x 400 phasors of the signal in one channel and integration, with the delay tracked as the sky turns.

    The closed form takes the delay's rate as constant and the same over the channel. Its change is below
    omega_E^2 b / c = 1.8e-14 / s on 500 m: over half an integration a phase of pi nu 1.8e-14 (6.4 s)^2 = 3e-3; the
    product nu tau' dt differs over the channel by dnu / nu = 1e-3 of up to 3 turns, 1e-2. Both bound the error of a
    phasor of size 1 (times the sidelobes, which are divided out).
    """
    options = SimulationOptions(antennas=24)
    array, item = arrays.build(options), planted(text)
    channel_hz, width_hz = np.array([1.4e9]), band.channel_width_hz(8)
    true = np.zeros((1, array.baselines[0].size, 1), complex)
    transmitters.add(true, array, item, DEC_RAD, channel_hz, width_hz, 1)
    lobe = transmitters.sidelobes(transmitters.direction(item, timegrid.INTEGRATION_S / 2)[0], len(array.relative_m), 1)
    ant1, ant2 = array.baselines
    got = true[0, :, 0] / (item.power_jy * lobe[ant1] * lobe[ant2])
    places = (np.arange(400) + 0.5) / 400 - 0.5
    seconds, nu = places * timegrid.INTEGRATION_S, channel_hz[0] + places * width_hz
    ground = astrometry.apparent_uvw_m(array.relative_m, 0.0, 0.0)[0]
    chosen = np.random.default_rng(1).choice(ant1.size, 12, replace=False)
    for row in chosen:
        b = ground[ant2[row]] - ground[ant1[row]]
        hour_angle = timegrid.EARTH_RATE_RAD_S * seconds  # of the direction that is on the meridian at mid-integration
        towards = np.stack([-np.cos(DEC_RAD) * np.sin(hour_angle), np.full(400, np.sin(DEC_RAD)), np.cos(DEC_RAD) * np.cos(hour_angle)])
        source = np.stack([transmitters.direction(item, timegrid.INTEGRATION_S / 2 + s)[0] for s in seconds])
        delay = (source @ b - b @ towards) / C_M_S
        expected = np.exp(2j * np.pi * np.outer(nu, delay)).mean()
        assert abs(got[row] - expected) < 1.3e-2


def test_spectra_have_their_width_time_and_places() -> None:
    """A raised cosine's integral is its width at half power; part of an integration is part of its power."""
    frequencies, width = band.band_frequencies_hz(16, 48), band.channel_width_hz(48)
    item = planted("satellite:*:start_s=12.885,duration_s=70")
    power = transmitters.spectra(item, 24, frequencies, width, 1)
    assert power[3].sum() * width == pytest.approx(100 * 35e6, rel=1e-3)
    assert power.sum() * width * timegrid.INTEGRATION_S == pytest.approx(100 * 35e6 * 70, rel=1e-3)
    assert not power[0].any()
    assert not power[8:].any()
    radar = transmitters.spectra(planted("radar:*"), 24, frequencies, width, 1)
    assert radar.max(axis=1).sum() * timegrid.INTEGRATION_S == pytest.approx(300 * 12 * 25)  # 25 whole turns in 309 s
    comb = transmitters.spectra(planted("comb:*"), 1, frequencies, width, 1)[0]
    assert np.all(np.abs((frequencies[comb > 0] / 10e6 + 0.5) % 1 - 0.5) * 10e6 <= width / 2)
    assert 14 <= np.count_nonzero(comb) <= 20
    assert comb.max() == pytest.approx(1e4 * 10e3 / width)
    hops = transmitters.spectra(planted("hopping:*:start_s=0"), 10, frequencies, width, 1)
    assert all(np.count_nonzero(hop) * width <= 4 * 5e6 * 1.35 + 4 * width for hop in hops)
    assert np.unique((hops > 0).sum(axis=0)).size > 1


def test_the_truth_marks_the_affected_samples(written) -> None:  # type: ignore[no-untyped-def]
    """The samples that differ between runs with and without the fault are those in `touched`, only in the fault's group."""
    options = perfect(groups=2, antennas=3, restart_every=0)
    text = "satellite:1:width_mhz=20,power_jy=5,rate_deg_s=0.02"
    clean, dirty = written(options), written(options, text)
    assert np.array_equal(clean.data[0], dirty.data[0])
    differs = np.any(dirty.data[1] != clean.data[1], axis=(1, 3))
    (fault,) = dirty.truth["faults"]
    assert fault["kind"] == "satellite"
    assert fault["width_mhz"] == 20
    touched = np.zeros_like(differs)
    for integration, low, high in fault["touched"]:
        touched[integration] |= (dirty.frequencies_hz / 1e6 > low) & (dirty.frequencies_hz / 1e6 < high)
    np.testing.assert_array_equal(touched, differs)
    assert dirty.truth["rfi"]["touched_fraction"] == pytest.approx(differs.mean() / 2)
    sidelobes = np.abs(dirty.data[1] - clean.data[1])[:, dirty.auto].max(axis=(0, 2, 3)) / 5
    largest = np.exp(2 * transmitters.SIDELOBE_SCATTER * np.sqrt(2 / 6) * 6)  # all six cosines of the sidelobes at 1
    assert np.all((sidelobes > 1 / largest) & (sidelobes < largest))
