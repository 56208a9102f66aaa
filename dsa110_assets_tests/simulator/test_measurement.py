"""The measurement equation against independent computations: vectors in the Earth's frame, brute-force
averages."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import erfa
import h5py
import numpy as np
import pytest
from astropy.coordinates import CIRS, ICRS, EarthLocation, SkyCoord
from astropy.time import Time
from numpy.typing import NDArray

from dsa110_assets.simulator import array, measurement, schedule
from dsa110_assets.simulator.options import FixedSource, SimulationOptions, perfect
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.simulator.sky import build_sky
from dsa110_assets.telescope import astrometry, band, beam, timegrid

C = 299792458.0
START = "2026-01-25T22:25:00"
# offsets up to 1.5 deg in both directions from the pointing at 22:25:00 (ICRS about 343.0, 16.13)
SOURCES = (
    FixedSource("centre", 343.3, 16.1, 1.0, 0.0),
    FixedSource("north-west", 342.2, 17.2, 2.0, -0.7),
    FixedSource("south-east", 344.6, 15.0, 0.5, 1.2),
)


def earth_fixed(times_mjd: NDArray[np.float64], ra_deg: float, dec_deg: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(longitude east, declination) [rad] in the rotating Earth's frame, from CIRS and the Earth rotation angle,
    without TETE or LST."""
    site = EarthLocation.from_geodetic(-118.2830 * u.deg, 37.2334051 * u.deg, 1188.0519 * u.m)
    time = Time(times_mjd, format="mjd", scale="utc", location=site)
    place = SkyCoord(ra_deg * u.deg, dec_deg * u.deg, frame=ICRS()).transform_to(CIRS(obstime=time, location=site))
    rotation = erfa.era00(time.ut1.jd1, time.ut1.jd2)
    return place.ra.to_value(u.rad) - rotation, place.dec.to_value(u.rad)


def unit(longitude: NDArray[np.float64] | float, dec: NDArray[np.float64] | float) -> NDArray[np.float64]:
    longitude, dec = np.broadcast_arrays(longitude, dec)
    return np.stack([np.cos(dec) * np.cos(longitude), np.cos(dec) * np.sin(longitude), np.sin(dec)], axis=-1)


def slow_visibilities(
    o: SimulationOptions, telescope: array.Array, times: NDArray[np.float64],
    frequencies: NDArray[np.float64], rows: list[int],
    smear: bool,
) -> NDArray[np.complex128]:  # fmt: skip
    """Visibilities (time, row, channel) from baseline . (s - s0) summed in ITRF; with `smear`, averages over 41 x 41 points."""
    dec0 = np.deg2rad(o.dec_deg)
    site_longitude = np.deg2rad(-118.2830)
    ant1, ant2 = telescope.baselines
    baselines = telescope.relative_m[ant2[rows]] - telescope.relative_m[ant1[rows]]
    steps = (np.arange(41) - 20) / 41
    ticks = steps * 96 * 0.134217728 * 2 * np.pi * 1.002737909350795 / 86400 if smear else np.zeros(1)
    offsets = steps * band.channel_width_hz(o.channels) if smear else np.zeros(1)
    total = np.zeros((times.size, len(rows), frequencies.size), dtype=np.complex128)
    for source in o.fixed_sources:
        longitude, dec = earth_fixed(times, source.ra_deg, source.dec_deg)
        cos_separation = unit(longitude, dec) @ unit(site_longitude, dec0)
        response = beam.power(np.rad2deg(np.arccos(cos_separation))[:, None], frequencies)
        flux = source.flux_jy * (frequencies / 1.4e9) ** source.spectral_index * response
        # the correlator follows the direction that is on the meridian at mid-integration: both turn together
        follow = unit(longitude[:, None] - ticks, dec[:, None]) - unit(site_longitude - ticks, dec0)
        delay = np.einsum("tkx,bx->tbk", follow, baselines) / C
        for channel, frequency in enumerate(frequencies):
            phase = 2 * np.pi * delay[..., None] * (frequency + offsets)
            total[:, :, channel] += flux[:, channel, None] * np.mean(np.exp(1j * phase), axis=(2, 3))
    return total


def simulated(o: SimulationOptions, subband: int) -> tuple[array.Array, NDArray[np.float64], NDArray[np.float64], NDArray[np.complex128]]:
    telescope, group = array.build(o), schedule.schedule(o)[0]
    frequencies = band.subband_frequencies_hz(subband, o.channels)
    sky = build_sky(o, [group])
    apparent = measurement.apparent_sky(sky, group.times_mjd, np.deg2rad(o.dec_deg), 1e-3)
    width = band.channel_width_hz(o.channels)
    true = measurement.visibilities(telescope, apparent, np.deg2rad(o.dec_deg), frequencies, width)
    return telescope, group.times_mjd, frequencies, true


@pytest.mark.parametrize("antenna_order", ["ascending", "scrambled"])
def test_visibilities_agree_with_vectors_in_the_earths_frame(antenna_order: str) -> None:
    o = perfect(start=START, groups=1, antennas=96, channels=48, fixed_sources=SOURCES, antenna_order=antenna_order)
    telescope, times, frequencies, true = simulated(o, 5)
    ant1, ant2 = telescope.baselines
    length = np.linalg.norm(telescope.relative_m[ant2] - telescope.relative_m[ant1], axis=1)
    by_length = np.argsort(length)
    rows = [int(by_length[i]) for i in (0, 200, 1500, 2500, 4000, 4655)]  # an auto, core, and the longest, 2.6 km
    pick, channels = [0, 11, 23], [0, 20, 47]
    expected = slow_visibilities(o, telescope, times[pick], frequencies[channels], rows, smear=False)
    ours = true[np.ix_(pick, rows, channels)]
    # smearing cannot be removed per source, so the comparison uses a kernel without it (a zero-width channel and
    # no integration); see the next test for the averages themselves
    bare = np.zeros((24, true.shape[1], 48), dtype=np.complex128)
    group = schedule.schedule(o)[0]
    apparent = measurement.apparent_sky(build_sky(o, [group]), group.times_mjd, np.deg2rad(o.dec_deg), 1e-3)
    uvw = telescope.static_uvw_m(np.deg2rad(o.dec_deg)) / C
    step = frequencies[1] - frequencies[0]
    measurement._accumulate(uvw, 0 * uvw, apparent.lmn, apparent.amplitudes(frequencies), frequencies[0], step, 0.0, 0.0, bare)
    # 1e-5 of 3 Jy: 30 microarcsec between TETE and CIRS + rotation angle would show on 2.6 km
    np.testing.assert_allclose(bare[np.ix_(pick, rows, channels)], expected, atol=3e-5)
    # and smearing at 48 channels is small but present
    assert 1e-4 < np.max(np.abs(ours - expected)) < 0.2


def test_smearing_is_the_average_over_channel_and_integration() -> None:
    # 4 channels per subband are 2.9 MHz wide: bandwidth smearing is 20 % and more on the longer baselines here
    o = perfect(start=START, groups=1, antennas=96, channels=4, fixed_sources=SOURCES[1:2])
    telescope, times, frequencies, true = simulated(o, 15)
    ant1, ant2 = telescope.baselines
    length = np.linalg.norm(telescope.relative_m[ant2] - telescope.relative_m[ant1], axis=1)
    by_length = np.argsort(length)
    rows = [int(by_length[i]) for i in (300, 2000, 3800, 4300, 4655)]
    expected = slow_visibilities(o, telescope, times[[0, 23]], frequencies, rows, smear=True)
    unsmeared = slow_visibilities(o, telescope, times[[0, 23]], frequencies, rows, smear=False)
    ours = true[np.ix_([0, 23], rows, np.arange(4))]
    # 41-point midpoint averages are good to (pi x / 41)^2 / 6 of sinc x, x < 1: 1e-3 of the loss; the curvature of
    # the fringe within an integration, which the first-order factor neglects, is 1e-4 at 2.6 km
    assert np.max(np.abs(unsmeared)) > 0.5
    np.testing.assert_allclose(ours, expected, atol=1e-3 * np.max(np.abs(unsmeared)))
    assert np.max(np.abs(ours - unsmeared)) > 0.1 * np.max(np.abs(unsmeared))


def test_published_smearing_figures() -> None:
    # Bridle & Schwab (1999): 2.6 km, 1.5 deg: one 244 kHz channel 0.995, eight of them 0.707
    delay = 2600 * np.deg2rad(1.5) / C
    assert measurement._sinc(band.channel_width_hz(48) * delay) == pytest.approx(0.995, abs=6e-4)
    assert measurement._sinc(band.channel_width_hz(6) * delay) == pytest.approx(0.707, abs=6e-3)
    for x in np.linspace(-3, 3, 61):
        assert measurement._sinc(x) == pytest.approx(float(np.sinc(x)), abs=1e-12)


def test_uvw_rate_is_the_derivative_of_uvw_for_a_followed_direction() -> None:
    telescope = array.build(perfect(antennas=8))
    dec = 0.3
    ant1, ant2 = telescope.baselines
    angle = timegrid.EARTH_RATE_RAD_S * 0.5
    ends = astrometry.apparent_uvw_m(telescope.relative_m, [-angle, angle], dec)
    difference = (ends[1] - ends[0])[ant2] - (ends[1] - ends[0])[ant1]
    np.testing.assert_allclose(measurement.uvw_rate_m_s(telescope.static_uvw_m(dec), dec), difference, atol=1e-9)


def test_one_jansky_on_axis_is_one_jansky() -> None:
    o = perfect(start=START, groups=1, antennas=4, channels=4)
    group = schedule.schedule(o)[0]
    ra, dec = np.rad2deg(astrometry.meridian_icrs_rad([group.times_mjd[12]], np.deg2rad(o.dec_deg))[0])
    o = perfect(
        start=START,
        groups=1,
        antennas=4,
        channels=4,
        fixed_sources=(FixedSource("on", float(ra), float(dec), 1.0, 0.0),),
    )
    _, _, _, true = simulated(o, 0)
    # at the phase and pointing centre: unit amplitude and no phase on every baseline, to the 40 us of a float64 JD
    np.testing.assert_allclose(true[12], 1.0, atol=1e-4)
    # five minutes earlier the same source is 0.6 deg away: the beam takes 10 %
    assert np.all(np.abs(true[0]) < 0.95)


def test_a_source_is_recovered_from_a_file_alone(tmp_path: Path) -> None:
    # the whole path: file header and data, the truth's gains, and directions in the Earth's frame
    source = FixedSource("s", 342.2, 16.9, 5.0, -0.7)
    o = perfect(
        start=START, groups=1, antennas=12, channels=8, subbands=8, integrations=6, fixed_sources=(source,),
        gain_amplitude=0.068, gain_scatter=1.0, gain_night_scatter=0.03, noise_scale=1.0,
    )  # fmt: skip
    truth = simulate(tmp_path, o)
    night_gains = truth["gains"]["nights"]["2026-01-25"]
    gains = np.array(night_gains["real"]) + 1j * np.array(night_gains["imag"])
    (path,) = tmp_path.glob("*_sb03.hdf5")
    with h5py.File(path) as file:
        head, data = (
            {k: file["Header"][k][()] for k in file["Header"] if k != "extra_keywords"},
            file["Data/visdata"][:, 0],
        )
    frequencies, times = head["freq_array"][0], head["time_array"] - 2400000.5
    longitude, dec = earth_fixed(times, source.ra_deg, source.dec_deg)
    centre = unit(np.deg2rad(-118.2830), head["phase_center_app_dec"])
    direction = unit(longitude, dec)
    ant1, ant2 = head["ant_1_array"], head["ant_2_array"]
    baselines = head["antenna_positions"][ant2] - head["antenna_positions"][ant1]
    delay = np.einsum("rx,rx->r", baselines, direction - centre) / C
    index = [np.searchsorted(np.array(truth["antennas"]) - 1, a) for a in (ant1, ant2)]
    # gains are listed at subband centres, ascending: subband 3 of 8 is entry 4; across it they turn by 0.1 at most
    corrected = data / (gains[index[0], 4] * np.conj(gains[index[1], 4]))[:, None, :]
    stopped = corrected * np.exp(-2j * np.pi * delay[:, None] * frequencies)[..., None]
    expected = source.flux_jy * np.mean((frequencies / 1.4e9) ** -0.7) * np.mean(
        beam.power(np.rad2deg(np.arccos(direction @ centre))[:, None], frequencies)
    )  # fmt: skip
    cross = ant1 != ant2
    n = np.sum(cross) * frequencies.size * 2
    noise = 6500 / np.sqrt(2 * 11.71875e6 / 8 * 12.884901888) / np.sqrt(n)
    measured = complex(np.mean(stopped[cross]))
    # 4 sigma of noise, 1.5 % for smearing over 1.5 MHz channels and the gains' turn within the subband
    assert measured.real == pytest.approx(expected, abs=4 * noise + 0.015 * expected)
    assert abs(measured.imag) < 4 * noise + 0.015 * expected
    assert expected > 2.5
    # the conjugate sky, which a wrong sign of uvw or phase would give, is absent
    mirrored = corrected * np.exp(2j * np.pi * delay[:, None] * frequencies)[..., None]
    assert abs(np.mean(mirrored[cross])) < 0.2 * expected
