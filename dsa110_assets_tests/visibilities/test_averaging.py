"""Averages against numpy's, and the effect of averaging on a source."""

import dataclasses

import numpy as np
import pytest

from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities import averaging, phasing, predict, reader


@pytest.fixture
def vis(observe, meridian_radec, tmp_path):  # type: ignore[no-untyped-def]
    observation = observe(n_times=7, noise=0.3, n_channels=8)
    ra, dec = meridian_radec(observation, observation.times_mjd().mean())
    observation.sources = [(ra + 0.004, dec, 3.0)]
    got = reader.read_group(observation.write_all(tmp_path), 2)
    rng = np.random.default_rng(8)
    flags = rng.random(got.flags.shape) < 0.3
    flags[:3, 5] = True
    weights = rng.uniform(0.1, 3, flags.shape).astype(np.float32)
    return phasing.to_common_centre(dataclasses.replace(got, flags=flags, weights=weights))


@pytest.mark.parametrize(("n_channels", "width_hz", "expected"), [(768, 244140.625, 4), (128, 1.46e6, 1), (16, 1e5, 8), (7, 2e5, 1)])
def test_channels_are_averaged_up_to_a_width(n_channels: int, width_hz: float, expected: int) -> None:
    assert averaging.channels_up_to(1e6, n_channels, width_hz) == expected


@pytest.mark.parametrize(("channels", "times"), [(1, 1), (4, 1), (1, 3), (8, 3), (16, 7), (2, 100)])
def test_averages_are_weighted_means_of_unflagged_samples(vis, channels: int, times: int) -> None:  # type: ignore[no-untyped-def]
    """numpy.average bin by bin; float32 weights and complex64 data: 1e-6."""
    got = averaging.average(vis, channels, times)
    w = np.where(vis.flags, 0, vis.weights).astype(float)
    for i, start in enumerate(range(0, 7, times)):
        for j in range(16 // channels):
            part = np.s_[start : start + times, :, j * channels : (j + 1) * channels]
            total = w[part].sum(axis=(0, 2))
            mean = (w[part] * vis.data[part]).sum(axis=(0, 2)) / np.where(total > 0, total, 1)
            np.testing.assert_allclose(got.data[i, :, j], mean, atol=3e-6)
            np.testing.assert_allclose(got.weights[i, :, j], total, rtol=1e-5)
            np.testing.assert_array_equal(got.flags[i, :, j], total == 0)
    assert np.all(got.data[got.flags] == 0)
    assert got.channel_width_hz == vis.channel_width_hz * channels
    np.testing.assert_allclose(got.frequencies_hz, vis.frequencies_hz.reshape(-1, channels).mean(axis=1))


def test_times_and_uvw_are_of_the_bins(vis) -> None:  # type: ignore[no-untyped-def]
    """The mean of uvw over a bin differs from uvw at its middle by the baseline's curvature: (w t)^2/24 of
    1.6 km.
    """
    got = averaging.average(vis, 1, 3)
    np.testing.assert_allclose(got.times_mjd[:2], [vis.times_mjd[:3].mean(), vis.times_mjd[3:6].mean()], atol=1e-12)
    assert got.times_mjd[2] == vis.times_mjd[6]
    np.testing.assert_allclose(got.uvw_m[0], vis.uvw_m[1], atol=1e-6)
    np.testing.assert_allclose(got.uvw_m[0], vis.uvw_m[:3].mean(axis=0), atol=0.02)
    assert got.interval_s == 3 * vis.interval_s
    assert got.common_phase_centre


def test_averaged_model_matches_averaged_data(observe, meridian_radec, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The prediction is averaged after it is made, so the smearing of the average is exact."""
    observation = observe(n_times=6, n_channels=8)
    ra, dec = meridian_radec(observation, observation.times_mjd().mean())
    observation.sources = [(ra + 0.02, dec - 0.01, 1.0)]
    vis = phasing.to_common_centre(reader.read_group(observation.write_all(tmp_path), 2))
    sky = SkyModel(("s",), np.array([ra + 0.02]), np.array([dec - 0.01]), np.array([1.0]), np.zeros(1))
    model = predict.predict(vis, sky, primary_beam=False, smearing=False)
    averaged = averaging.average(vis, 8, 3)
    np.testing.assert_allclose(model.reshape(2, 3, -1, 2, 8).mean(axis=(1, 4)), averaged.data[..., 0], atol=1e-6)
    assert np.abs(averaged.data[:, ~vis.is_auto]).min() < 0.9


def test_wrong_requests_are_refused(vis) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="divide"):
        averaging.average(vis, 5)
    with pytest.raises(ValueError, match="common phase centre"):
        averaging.average(dataclasses.replace(vis, phase_centres_rad=vis.phase_centres_rad + np.arange(7)[:, None]), 1, 2)
