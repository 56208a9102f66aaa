"""The direct sum against the measurement equation and against the gridder, through a drifting beam."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.imaging import components, measurement
from dsa110_assets.imaging.attenuation import Attenuation
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.measurement import Measurement
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


def test_the_predicted_sum_follows_the_measurement_equation() -> None:
    vis = observe([], n_antennas=8, n_times=3, n_subbands=5)
    stokes = stokes_i(vis)
    ((pattern, ratio),) = _attenuation(3, 5).terms
    model = _model()
    rows, columns = np.nonzero(model)
    lmn = components.lmn_of_pixels(rows, columns, N_PIXELS, PIXEL_RAD)
    ours = components.predict(stokes.uvw, lmn, model[rows, columns], stokes.cell_means(pattern), ratio[None, rows, columns])
    literal = np.zeros(ours.shape, dtype=np.complex128)
    times, channels = stokes.bounds[:, 0], stokes.bounds[:, 2]
    for row, column in zip(rows, columns, strict=True):
        l, m = (64 - column) * PIXEL_RAD, (row - 64) * PIXEL_RAD
        path = vis.uvw_m[times, stokes.baselines] @ np.array([l, m, np.sqrt(1 - l * l - m * m) - 1])
        phase = 2 * np.pi * path * vis.frequencies_hz[channels] / speed_of_light
        literal += model[row, column] * (1 + pattern[times, channels] * ratio[row, column]) * np.exp(1j * phase)
    # complex64 out of sums of 4 components
    np.testing.assert_allclose(ours, literal, atol=2e-6)


def test_spectra_and_their_slopes_are_the_measurement_equation() -> None:
    """A point of another index equals its literal sum, to third order of index times log frequency. After a typical point is
    subtracted, the residual gives the index, by least squares on the literal columns."""
    vis = observe([], n_antennas=8, n_times=3, n_subbands=5)
    stokes = stokes_i(vis)
    ((pattern, ratio),) = _attenuation(3, 5).terms
    rows, columns, flux, index = np.array([20.3, 90.0]), np.array([30.8, 100.0]), np.array([2.0, 0.5]), np.array([0.6, -0.4])
    lmn = components.lmn_of_pixels(rows, columns, N_PIXELS, PIXEL_RAD)
    patterns, ratios = stokes.cell_means(pattern), ratio[None, rows.astype(int), columns.astype(int)]
    channels = stokes.bounds[:, 2]
    x = np.log(vis.frequencies_hz / 1.4e9)[channels].astype(np.float32)
    ours = components.predict(stokes.uvw, lmn, flux, patterns, ratios, components.Spectra(x, index))
    typical = components.predict(stokes.uvw, lmn, flux, patterns, ratios)
    fringes = np.exp(2j * np.pi * stokes.uvw @ lmn) * (1 + patterns.T @ ratios)
    literal = (fringes * flux * np.exp(x[:, None] * index)) @ np.ones(2)
    third = float(np.sum(flux * np.abs(index * np.abs(x).max()) ** 3)) / 6
    np.testing.assert_allclose(ours, literal, atol=2 * third + 3e-6)
    weights = np.random.default_rng(4).uniform(0.5, 2, x.size).astype(np.float32)
    moments = components.beam_moments(patterns, x, weights)
    index_offsets = components.steeper(stokes.uvw, lmn, flux, patterns, ratios, x, (ours - typical) * weights, moments)
    residual = ((ours - typical) * np.sqrt(weights)).astype(complex).view(np.float64)
    for p in range(2):
        column = (fringes[:, p] * np.sqrt(weights)).view(np.float64)
        slope = (fringes[:, p] * np.sqrt(weights) * x).view(np.float64)
        change, *_ = np.linalg.lstsq(np.stack([column, slope], axis=-1), residual, rcond=None)
        assert index_offsets[p] == pytest.approx(change[1] / flux[p], abs=1e-4)
    assert index_offsets[0] == pytest.approx(index[0], abs=0.15)  # the other point has a quarter of the flux, and sidelobes of a third
    flat = components.beam_moments(patterns, 0 * x, weights)
    assert np.isnan(components.steeper(stokes.uvw, lmn, flux, patterns, ratios, 0 * x, ours * weights, flat)).all()


def test_summed_and_gridded_residuals_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summing the brightest and gridding the rest equals summing all, in one step and in two."""
    stokes = stokes_i(observe([(0.2, 0.1, 1.0)], n_antennas=8, n_times=3, n_subbands=5))
    weighted = imaging_weights(stokes, "natural", 0, np.deg2rad(3.0))
    gridder = Gridder(stokes.uvw, N_PIXELS, PIXEL_RAD, 1e-4)

    def measured(model: NDArray[np.float32], *before: NDArray[np.float32]) -> NDArray[np.float32]:
        dimming = _attenuation(3, 5)
        flat = np.zeros(stokes.weights.size, np.float32)
        measurement = Measurement(stokes, weighted, gridder, dimming, stokes.cell_means(*(pattern for pattern, _ in dimming.terms)), flat)
        for earlier in before:
            measurement.residual_of(earlier)
        return measurement.residual_of(model)

    direct = measured(_model())
    # both are gridded in the same way; they differ by rounding of complex64 in sums of up to 2 Jy
    np.testing.assert_allclose(measured(_model(), _model() * (np.arange(N_PIXELS) < 64)), direct, atol=1e-5)
    monkeypatch.setattr(measurement, "_DIRECT", 2 * stokes.weights.size)
    monkeypatch.setattr(measurement, "_POINTS_PER_TRANSFORM", 0)
    mixed = measured(_model())
    # 0.5 and -0.3 Jy are gridded: 1e-4 of them, and 5e-2 of their terms, 0.3 of them with a pattern of unit rms
    np.testing.assert_allclose(mixed, direct, atol=5e-2 * 0.3 * 0.6)
    assert np.abs(mixed - direct).max() > 1e-7  # it was computed in another way


def test_an_array_on_flat_ground_needs_no_w() -> None:
    """The slanted coordinates reproduce every phase of a source anywhere in the field to the stated error."""
    stokes = stokes_i(observe([], n_antennas=24, n_times=24, n_subbands=2, core_only=False, dec_deg=16.27))
    flat, slant = flattened(stokes, np.deg2rad(4.0))
    assert np.abs(flat.uvw[:, 2]).max() < 0.05 * np.abs(stokes.uvw[:, 2]).max()
    np.testing.assert_array_equal(flat.uvw[:, :2], stokes.uvw[:, :2])
    for l, m in ((0.03, -0.03), (-0.02, 0.01)):
        n = np.sqrt(1 - l * l - m * m)
        slanted = np.array([l + slant.a * (n - 1), m + slant.b * (n - 1)])
        n_slanted = np.sqrt(1 - slanted @ slanted)
        path = stokes.uvw @ np.array([l, m, n - 1])
        path_slanted = flat.uvw @ np.array([*slanted, n_slanted - 1])
        assert np.abs(path - path_slanted).max() < 0.01
