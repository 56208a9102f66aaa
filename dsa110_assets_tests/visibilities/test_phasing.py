"""From meridian phase centres to a common one: against direct computation, and without loss."""

import numpy as np
import pytest

from dsa110_assets.visibilities import phasing, reader

C_M_S = 299792458.0


@pytest.fixture
def vis_and_source(observe, meridian_radec, tmp_path):  # type: ignore[no-untyped-def]
    """One 1.5 Jy source 0.7 degrees from the track's middle, 24 integrations."""
    observation = observe(n_times=24, n_antennas=6)
    ra, dec = meridian_radec(observation, observation.times_mjd().mean())
    observation.sources = [(ra + 0.009, dec + 0.006, 1.5)]
    return reader.read_group(observation.write_all(tmp_path), 2), observation


def test_source_at_the_common_centre_has_no_phase(vis_and_source) -> None:  # type: ignore[no-untyped-def]
    """A source phased to its ICRS position has no phase: complex64 data give 3e-7 of 1.5 Jy."""
    vis, observation = vis_and_source
    ra, dec, flux = observation.sources[0]
    phased = phasing.to_common_centre(vis, (ra, dec))
    np.testing.assert_allclose(phased.data, flux, atol=1e-6)
    assert phased.common_phase_centre
    assert not np.allclose(vis.data, flux, atol=0.1)


def test_source_is_at_its_lmn_in_the_middle_frame(vis_and_source) -> None:  # type: ignore[no-untyped-def]
    """Trap 21. V = S exp[2 pi i nu/c (ul + vm + w(n-1))] with ICRS l, m.

    Aberration scales offsets by up to 1e-4, which ICRS l, m do not include: 0.9 degrees x 1e-4 = 1.6e-6 rad, times
    |uvw| nu/c of 1.6 km = 8000 wavelengths: 0.08 radian; a sign error or a double rotation is radians.
    """
    vis, observation = vis_and_source
    ra, dec, flux = observation.sources[0]
    phased = phasing.to_common_centre(vis)
    ra0, dec0 = phased.phase_centres_rad[0]
    l = np.cos(dec) * np.sin(ra - ra0)
    m = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0)
    n = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0)
    path = phased.uvw_m @ np.array([l, m, n - 1])
    expected = flux * np.exp(2j * np.pi * path[..., None] * phased.frequencies_hz / C_M_S)
    assert np.max(np.abs(np.angle(phased.data[..., 0] / expected))) < 0.09
    assert np.std(np.angle(vis.data[..., 0])) > 1


def test_default_centre_is_the_meridian_at_mid_time(vis_and_source, meridian_radec) -> None:  # type: ignore[no-untyped-def]
    vis, observation = vis_and_source
    phased = phasing.to_common_centre(vis)
    np.testing.assert_allclose(phased.phase_centres_rad[0], meridian_radec(observation, vis.mid_mjd), atol=1e-9)


def test_lengths_and_amplitudes_are_invariant(vis_and_source) -> None:  # type: ignore[no-untyped-def]
    """Trap 21: a doubled rotation would double |uvw|; flags and weights are not touched."""
    vis, _ = vis_and_source
    phased = phasing.to_common_centre(vis)
    np.testing.assert_allclose(np.linalg.norm(phased.uvw_m, axis=-1), np.linalg.norm(vis.uvw_m, axis=-1), atol=1e-6)
    np.testing.assert_allclose(np.abs(phased.data), np.abs(vis.data), rtol=3e-7)
    assert phased.flags is vis.flags
    assert phased.weights is vis.weights


def test_there_and_back_is_the_identity(vis_and_source) -> None:  # type: ignore[no-untyped-def]
    vis, _ = vis_and_source
    first = phasing.to_common_centre(vis, (1.0, 0.3))
    once = phasing.to_common_centre(first)
    direct = phasing.to_common_centre(vis)
    np.testing.assert_allclose(once.data, direct.data, atol=1e-6)
    np.testing.assert_allclose(once.uvw_m, direct.uvw_m, atol=1e-9)


@pytest.mark.parametrize("ra_deg", [0.0, 359.9, 0.1])
def test_track_across_zero_hours(observe, meridian_radec, tmp_path, ra_deg: float) -> None:  # type: ignore[no-untyped-def]
    """Trap 27: an observation whose meridian crosses 0 h is phased to its middle, not to 12 h."""
    observation = observe(n_times=24, n_antennas=3)
    for _ in range(3):  # move the start to where the middle of the track has this right ascension
        ra, _ = meridian_radec(observation, observation.times_mjd().mean())
        observation.mjd_start += ((np.radians(ra_deg) - ra + np.pi) % (2 * np.pi) - np.pi) / (2 * np.pi) / 1.0027379
    vis = reader.read_group(observation.write_all(tmp_path), 2)
    assert np.ptp(vis.phase_centres_rad[:, 0]) > 6
    ra, _ = phasing.to_common_centre(vis).phase_centres_rad[0]
    assert abs((ra - np.radians(ra_deg) + np.pi) % (2 * np.pi) - np.pi) < 1e-7


def test_rotation_is_the_exponential_per_channel() -> None:
    """The recurrence over channels against the direct exponential, 768 channels, 9 microseconds of delay."""
    rng = np.random.default_rng(5)
    frequencies = 1.311e9 + np.arange(768) * 244140.625
    delay = rng.uniform(-9e-6, 9e-6, (2, 3))
    data = (rng.normal(size=(2, 3, 768, 2)) + 1j * rng.normal(size=(2, 3, 768, 2))).astype(np.complex64)
    expected = data * np.exp(2j * np.pi * delay[..., None, None] * frequencies[:, None])
    # 9e-6 s x 1.5 GHz = 13500 turns: double precision keeps 1e-11; the product is rounded to complex64.
    np.testing.assert_allclose(phasing.rotate(data, delay, frequencies), expected, rtol=3e-7)


def test_uneven_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="evenly"):
        phasing.rotate(np.zeros((1, 1, 3, 2), np.complex64), np.zeros((1, 1)), np.array([1e9, 1.1e9, 1.3e9]))
