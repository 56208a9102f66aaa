"""The direct sum against the measurement equation and against the gridder, through a drifting beam."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.constants import speed_of_light

from dsa110_assets.imaging import components
from dsa110_assets.imaging.attenuation import Attenuation
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.measurement import residual_image
from dsa110_assets.imaging.slant import flattened
from dsa110_assets.imaging.stokes import stokes_i
from dsa110_assets.imaging.weighting import imaging_weights
from dsa110_assets_tests.imaging.synthetic import observe

N_PIXELS = 128
PIXEL_RAD = np.deg2rad(3.0) / N_PIXELS


def _attenuation(n_times: int, n_channels: int) -> Attenuation:
    rng = np.random.default_rng(2)
    mean = np.ones((N_PIXELS, N_PIXELS), dtype=np.float32)
    pattern = rng.standard_normal((n_times, n_channels)).astype(np.float32)
    return Attenuation(mean, ((pattern, rng.uniform(0, 0.3, mean.shape).astype(np.float32)),))


def _model() -> np.ndarray:
    model = np.zeros((N_PIXELS, N_PIXELS), dtype=np.float32)
    model[20, 30], model[64, 64], model[100, 90], model[0, 127] = 1.0, 2.0, -0.3, 0.5
    return model


def test_the_sum_is_the_measurement_equation() -> None:
    stokes = stokes_i(observe([], n_antennas=8, n_times=3, n_subbands=5))
    gridder = Gridder(stokes.uvw_m, stokes.frequencies_hz, N_PIXELS, PIXEL_RAD, 1e-4)
    attenuation = _attenuation(3, 5)
    ours = components.predict(_model(), gridder, attenuation, 3)
    literal = np.zeros(ours.shape, dtype=np.complex128)
    ((pattern, ratio),) = attenuation.terms
    for row, column in zip(*np.nonzero(_model()), strict=True):
        l, m = (64 - column) * PIXEL_RAD, (row - 64) * PIXEL_RAD
        path = stokes.uvw_m @ np.array([l, m, np.sqrt(1 - l * l - m * m) - 1])
        phase = 2 * np.pi * path[:, None] * stokes.frequencies_hz / speed_of_light
        dimming = np.repeat(1 + pattern * ratio[row, column], stokes.uvw_m.shape[0] // 3, axis=0)
        literal += _model()[row, column] * dimming * np.exp(1j * phase)
    # complex64 out of sums of 4 components
    np.testing.assert_allclose(ours, literal, atol=2e-6)


def test_both_ways_to_a_residual_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    stokes = stokes_i(observe([(0.2, 0.1, 1.0)], n_antennas=8, n_times=3, n_subbands=5))
    weighted = imaging_weights(stokes, "natural", 0, np.deg2rad(3.0))
    gridder = Gridder(stokes.uvw_m, stokes.frequencies_hz, N_PIXELS, PIXEL_RAD, 1e-5)
    residual_of = residual_image(stokes, weighted, gridder, _attenuation(3, 5))
    direct = residual_of(_model())
    monkeypatch.setattr(components, "_MOST_TERMS", 0)
    np.testing.assert_allclose(residual_of(_model()), direct, atol=2e-4)


def test_uneven_channels_are_left_to_the_gridder() -> None:
    stokes = stokes_i(observe([], n_antennas=4, n_times=2, n_subbands=5))
    gridder = Gridder(stokes.uvw_m, stokes.frequencies_hz, N_PIXELS, PIXEL_RAD, 1e-4)
    assert components.is_quicker(3, gridder)
    uneven = stokes.frequencies_hz.copy()
    uneven[2] += 1e5
    assert not components.is_quicker(3, replace(gridder, frequencies_hz=uneven))


def test_an_array_on_flat_ground_needs_no_w() -> None:
    """The slanted coordinates reproduce every phase of a source anywhere in the field to the stated error."""
    stokes = stokes_i(observe([], n_antennas=24, n_times=24, n_subbands=2, core_only=False, dec_deg=16.27))
    flat, slant = flattened(stokes, np.deg2rad(4.0))
    assert np.abs(flat.uvw_m[:, 2]).max() < 0.05 * np.abs(stokes.uvw_m[:, 2]).max()
    np.testing.assert_array_equal(flat.uvw_m[:, :2], stokes.uvw_m[:, :2])
    for l, m in ((0.03, -0.03), (-0.02, 0.01)):
        n = np.sqrt(1 - l * l - m * m)
        slanted = np.array([l + slant.a * (n - 1), m + slant.b * (n - 1)])
        n_slanted = np.sqrt(1 - slanted @ slanted)
        path = stokes.uvw_m @ np.array([l, m, n - 1])
        path_slanted = flat.uvw_m @ np.array([*slanted, n_slanted - 1])
        turns = (path - path_slanted) * stokes.frequencies_hz.max() / speed_of_light
        assert np.abs(turns).max() < 0.01
