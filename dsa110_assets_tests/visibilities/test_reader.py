"""Reading a group: band, baselines, phase frame and gaps, against visibilities computed by ERFA in
conftest.
"""

import h5py
import numpy as np
import pytest

from dsa110_assets.errors import BadDataError
from dsa110_assets.telescope import band
from dsa110_assets.visibilities import reader

SOURCES = [(5.9, 0.28, 2.0), (5.88, 0.3, 1.0)]


@pytest.fixture
def near(observe, meridian_radec):  # type: ignore[no-untyped-def]
    """An observation with two sources about a degree from its meridian track."""

    def make(**changes):  # type: ignore[no-untyped-def]
        observation = observe(**changes)
        ra, dec = meridian_radec(observation, observation.mjd_start)
        observation.sources = [(ra + 0.012, dec - 0.005, 2.0), (ra - 0.008, dec + 0.011, 1.0)]
        return observation

    return make


def expected(observation, n_subbands: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(time, sorted baseline, ascending channel) from the file-order truth, by explicit loops."""
    ant1, ant2 = observation.baselines()
    order = sorted(range(ant1.size), key=lambda row: (min(ant1[row], ant2[row]), max(ant1[row], ant2[row])))
    out = np.zeros((observation.n_times, ant1.size, n_subbands * observation.n_channels), complex)
    for subband in observation.subbands:
        values = observation.visibilities(subband)
        for k in range(observation.n_channels):
            channel = out.shape[2] - 1 - (subband * observation.n_channels + k)
            for to, row in enumerate(order):
                value = values[:, row, k]
                out[:, to, channel] = value.conj() if ant1[row] > ant2[row] else value
    return out


@pytest.mark.parametrize("order", [None, [5, 3, 8, 1, 2, 7, 4, 6]])
@pytest.mark.parametrize("engine", ["direct", "pyuvdata"])
def test_data_are_assigned_to_baselines_and_channels(near, tmp_path, order, engine) -> None:  # type: ignore[no-untyped-def]
    """Traps 3 and 9. complex64 rounds to 6e-8 of 3 Jy."""
    observation = near(antenna_order=order, noise=0.1, yy_over_xx=0.5)
    vis = reader.read_group(observation.write_all(tmp_path), 2, engine=engine)
    truth = expected(observation, 2)
    np.testing.assert_allclose(vis.data[..., 0], truth, atol=4e-7)
    np.testing.assert_allclose(vis.data[..., 1], 0.5 * truth, atol=2e-7)
    assert np.all(vis.ant1 <= vis.ant2)
    assert [*zip(vis.ant1, vis.ant2, strict=True)] == sorted({*zip(vis.ant1, vis.ant2, strict=True)})
    assert not vis.flags.any()
    assert np.all(vis.weights == 1)
    assert (vis.data.dtype, vis.flags.dtype, vis.weights.dtype) == (np.complex64, np.bool_, np.float32)


def test_a_tone_in_sb00_is_in_the_highest_channels(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 3: the band descends within a file and from subband to subband."""
    files = observe(subbands=(0, 1, 2)).write_all(tmp_path)
    with h5py.File(files[0], "r+") as file:
        file["Data/visdata"][:, 0, 0, :] = 7  # first in the file: the highest frequency of the band
    vis = reader.read_group(files, 3)
    hot = np.flatnonzero(np.all(vis.data[..., 0] == 7, axis=(0, 1)))
    np.testing.assert_array_equal(hot, [11])
    assert vis.frequencies_hz[11] == vis.frequencies_hz.max() == band.subband_frequencies_hz(0, 4)[0]
    np.testing.assert_array_equal(vis.frequencies_hz, band.band_frequencies_hz(3, 4))
    assert vis.channel_width_hz == np.diff(vis.frequencies_hz)[0]


def test_scrambled_antennas_give_the_same_visibilities(near, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 9: everything but the file's row order is equal, bit for bit."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    plain = reader.read_group(near(noise=0.3).write_all(tmp_path / "a"), 2)
    shuffled = reader.read_group(near(noise=0.3, antenna_order=[5, 3, 8, 1, 2, 7, 4, 6]).write_all(tmp_path / "b"), 2)
    np.testing.assert_array_equal(plain.ant1, shuffled.ant1)
    np.testing.assert_array_equal(plain.ant2, shuffled.ant2)
    np.testing.assert_array_equal(plain.uvw_m, shuffled.uvw_m)
    # conj(a - b) is the same number, but the fringe's sine was computed from the negated angle.
    np.testing.assert_allclose(plain.data, shuffled.data, atol=1e-6)


def test_both_engines_agree_exactly(near, tmp_path) -> None:  # type: ignore[no-untyped-def]
    files = near(noise=0.2, antenna_order=[3, 1, 2, 4], n_antennas=4, pols=(-5, -7, -8, -6), yy_over_xx=2.0).write_all(tmp_path)
    with h5py.File(files[1], "r+") as file:
        file["Data/visdata"][7, 0, 1, 0] = np.nan
        file["Data/flags"][9, 0, 2, 3] = True
    direct, peer = (reader.read_group(files, 2, engine=engine) for engine in ("direct", "pyuvdata"))
    for name in ("data", "flags", "weights", "uvw_m", "frequencies_hz", "times_mjd", "ant1", "ant2"):
        np.testing.assert_array_equal(getattr(direct, name), getattr(peer, name))
    assert direct.flags.sum() == 2
    assert (direct.weights == 0).sum() == 1


def test_missing_subbands_are_flagged_placeholders_on_the_exact_grid(near, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 11: the placeholder of a missing subband is on the true grid, flagged, with weight 0."""
    vis = reader.read_group(near(subbands=(0, 2)).write_all(tmp_path), 4)
    assert vis.subbands_missing == (1, 3)
    np.testing.assert_array_equal(vis.frequencies_hz, band.band_frequencies_hz(4, 4))
    absent = np.isin(np.arange(16), [*range(4), *range(8, 12)])  # sb03 is the lowest, sb01 the third from below
    assert vis.flags[:, :, absent].all()
    assert not vis.flags[:, :, ~absent].any()
    assert np.all(vis.weights[:, :, absent] == 0)
    assert np.all(vis.data[:, :, absent] == 0)
    assert np.all(vis.data[:, :, ~absent] != 0)


def test_nan_becomes_a_flagged_zero(near, tmp_path) -> None:  # type: ignore[no-untyped-def]
    files = near().write_all(tmp_path)
    with h5py.File(files[0], "r+") as file:
        file["Data/visdata"][3, 0, 1, 1] = np.nan
        file["Data/visdata"][4, 0, 1, 1] = complex(0, np.inf)
    vis = reader.read_group(files, 2)
    assert np.isfinite(vis.data).all()
    assert vis.flags.sum() == 2
    assert np.all(vis.data[vis.flags] == 0)
    assert np.all(vis.weights[vis.flags] == 0)


def test_phase_centres_are_the_meridian_of_date(near, tmp_path, meridian_radec) -> None:  # type: ignore[no-untyped-def]
    """Traps 4 and 5, against ERFA: 1e-9 rad is 0.2 milliarcsecond."""
    observation = near()
    vis = reader.read_group(observation.write_all(tmp_path), 2)
    truth = [meridian_radec(observation, mjd) for mjd in vis.times_mjd]
    np.testing.assert_allclose(vis.phase_centres_rad, truth, atol=1e-9)
    assert not vis.common_phase_centre
    assert vis.pointing_dec_rad == np.radians(16.27)


def test_uvw_are_baseline_vectors_of_date(near, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 8: lengths to 1 micrometre, and w by ERFA's direction to 10 micrometres."""
    observation = near()
    vis = reader.read_group(observation.write_all(tmp_path), 2)
    vector = vis.antennas.relative_m[vis.ant2] - vis.antennas.relative_m[vis.ant1]
    np.testing.assert_allclose(np.linalg.norm(vis.uvw_m, axis=-1), np.tile(np.linalg.norm(vector, axis=1), (3, 1)), atol=1e-6)
    lon, dec = np.radians(-118.2830), np.radians(16.27)
    towards = np.array([np.cos(dec) * np.cos(lon), np.cos(dec) * np.sin(lon), np.sin(dec)])
    np.testing.assert_allclose(vis.uvw_m[..., 2], np.tile(vector @ towards, (3, 1)), atol=1e-5)


def test_wrong_requests_are_refused(near, tmp_path) -> None:  # type: ignore[no-untyped-def]
    files = near().write_all(tmp_path)
    with pytest.raises(BadDataError, match="no subband files"):
        reader.read_group({}, 2)
    with pytest.raises(BadDataError, match="holds subband 0, expected 1"):
        reader.read_group({1: files[0]}, 2)
    with pytest.raises(BadDataError, match="expected 1 of 1"):
        reader.read_group(files, 1)
    later = near(mjd_start=61065.94).write(tmp_path, 1)
    with pytest.raises(BadDataError, match="differ from"):
        reader.read_group({0: files[0], 1: later}, 2)
