"""Imaging weights against slow, literal implementations of their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.errors import BadDataError, SilentWrongnessError
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.restoring import fit_beam
from dsa110_assets.imaging.stokes import stokes_i
from dsa110_assets.imaging.weighting import curvature_fwhm_rad, imaging_weights, synthesised_beam
from dsa110_assets.visibilities.types import Visibilities
from dsa110_assets_tests.imaging.synthetic import observe

FIELD_RAD = np.deg2rad(4.0)


@pytest.fixture(scope="module")
def noise() -> Visibilities:
    vis = observe([], n_antennas=8, n_times=3, n_subbands=3, noise_jy=1.0)
    rng = np.random.default_rng(4)
    weights = rng.uniform(0.2, 3, vis.weights.shape).astype(np.float32)
    return replace(vis, weights=weights, flags=rng.uniform(size=vis.flags.shape) < 0.2)


def _literal(vis: Visibilities, scheme: str, robust: float) -> np.ndarray:
    stokes = stokes_i(vis)
    cells: dict[tuple[int, int], float] = {}
    keys = []
    for (u, v), weight in zip(stokes.uvw[:, :2] * FIELD_RAD, stokes.weights, strict=True):
        if v < 0:
            u, v = -u, -v
        keys.append((int(np.floor(u + 0.5)), int(np.floor(v + 0.5))))
        cells[keys[-1]] = cells.get(keys[-1], 0.0) + float(weight)
    f2 = (5 * 10**-robust) ** 2 / (sum(w * w for w in cells.values()) / sum(cells.values()))
    factor = {key: {"natural": 1.0, "uniform": 1 / weight, "briggs": 1 / (1 + weight * f2)}[scheme] for key, weight in cells.items()}
    return np.array([weight * factor[key] for weight, key in zip(stokes.weights, keys, strict=True)])


@pytest.mark.parametrize(("scheme", "robust"), [("natural", 0), ("uniform", 0), ("briggs", 0.5), ("briggs", -1)])
def test_weights_follow_the_definition(noise: Visibilities, scheme: str, robust: float) -> None:
    ours = imaging_weights(stokes_i(noise), scheme, robust, FIELD_RAD).weights  # type: ignore[arg-type]
    # float32 weights: relative rounding of a few 1e-7 in each factor
    np.testing.assert_allclose(ours, _literal(noise, scheme, robust), rtol=1e-5)


@pytest.mark.parametrize("scheme", ["natural", "uniform", "briggs"])
def test_a_scaling_of_all_weights_changes_nothing(noise: Visibilities, scheme: str) -> None:
    original = imaging_weights(stokes_i(noise), scheme, 0.5, FIELD_RAD)  # type: ignore[arg-type]
    scaled = replace(noise, weights=noise.weights * np.float32(1e4))
    rescaled = imaging_weights(stokes_i(scaled), scheme, 0.5, FIELD_RAD)  # type: ignore[arg-type]
    np.testing.assert_allclose(rescaled.weights / rescaled.weights.sum(), original.weights / original.weights.sum(), rtol=1e-5)
    assert rescaled.noise_jy == pytest.approx(original.noise_jy, rel=1e-5)


def test_robust_runs_from_natural_to_uniform(noise: Visibilities) -> None:
    stokes = stokes_i(noise)
    for robust, scheme, tolerance in ((4.0, "natural", 1e-3), (-5.0, "uniform", 1e-3)):
        briggs = imaging_weights(stokes, "briggs", robust, FIELD_RAD).weights
        limit = imaging_weights(stokes, scheme, 0, FIELD_RAD).weights  # type: ignore[arg-type]
        np.testing.assert_allclose(briggs / briggs.sum(), limit / limit.sum(), rtol=tolerance)


def test_the_beam_from_cells_is_the_gridded_beam() -> None:
    stokes = stokes_i(observe([], n_antennas=20, n_times=4, n_subbands=4))
    weighted = imaging_weights(stokes, "briggs", 0.5, FIELD_RAD)
    pixel = curvature_fwhm_rad(weighted) / 5
    quick = fit_beam(synthesised_beam(weighted, pixel, 129), np.rad2deg(pixel))
    image = Gridder(stokes.uvw, 512, pixel, 1e-4).to_image(np.ones_like(stokes.data), weighted.weights)
    exact = fit_beam(image / weighted.weights.sum(), np.rad2deg(pixel))
    # cells are 1/field wide, so the quick beam differs by the field's taper: well below 1 % near the centre
    assert quick.bmaj_deg == pytest.approx(exact.bmaj_deg, rel=0.01)
    assert quick.bmin_deg == pytest.approx(exact.bmin_deg, rel=0.01)
    assert quick.bpa_deg == pytest.approx(exact.bpa_deg, abs=1.0)


def test_the_restoring_beam_fits_the_peak_not_the_plateau() -> None:
    """A dense core puts a plateau under the narrow peak of the outriggers. The fitted width is the dirty beam's width at half maximum
    to 10 % (a Gaussian on a plateau is no Gaussian: 8 % here); a fit down to 0.35 would include the plateau."""
    offset = np.arange(-64, 64.0)
    squared = offset**2 + offset[:, None] ** 2
    psf = 0.6 * np.exp(-4 * np.log(2) * squared / 5**2) + 0.4 * np.exp(-4 * np.log(2) * squared / 60**2)
    half = 2 * np.interp(-0.5, -psf[64, 64:], offset[64:])
    assert fit_beam(psf, 1.0).bmin_deg == pytest.approx(half, rel=0.1)
    assert fit_beam(psf, 1.0, 0.35).bmin_deg > 1.5 * half


def test_short_baselines_can_be_left_out(noise: Visibilities) -> None:
    stokes = stokes_i(noise)
    weighted = imaging_weights(stokes, "natural", 0, FIELD_RAD, min_uv_lambda=500)
    length = np.hypot(*stokes.uvw[:, :2].T)
    assert np.all((weighted.weights > 0) == ((length >= 500) & (stokes.weights > 0)))
    with pytest.raises(BadDataError, match="min_uv_lambda"):
        imaging_weights(stokes, "natural", 0, FIELD_RAD, min_uv_lambda=1e6)


def test_stokes_i_uses_the_unflagged_receptors(noise: Visibilities) -> None:
    vis = observe([(0, 0, 3.0)], n_antennas=4, n_times=2, n_subbands=2)
    data, flags, weights = vis.data.copy(), vis.flags.copy(), vis.weights.copy()
    data[..., 0] *= 1.2
    data[..., 1] *= 0.8
    weights[..., 1] = 3
    data[0, :, 0, 0], flags[0, :, 0, 0] = 1e6, True
    flags[1, :, 1, :] = True
    stokes = stokes_i(replace(vis, data=data, flags=flags, weights=weights))
    cross = int((~vis.is_auto).sum())
    assert stokes.weights.size == 3 * cross  # of 2 integrations x 2 channels, one is all flagged
    assert stokes.n_visibilities == 3 * cross
    first, second, third = ((stokes.bounds[:, 0] == time) & (stokes.bounds[:, 2] == channel) for time, channel in ((0, 0), (0, 1), (1, 0)))
    np.testing.assert_allclose(stokes.data[first], 0.8 * 3, rtol=1e-6)  # YY only
    np.testing.assert_allclose(stokes.data[second], (1.2 + 0.8) / 2 * 3, rtol=1e-6)  # the mean, whatever the weights
    assert np.all(stokes.weights[first] == 3)
    np.testing.assert_allclose(stokes.weights[second | third], 4 / (1 / 1 + 1 / 3), rtol=1e-6)


def test_data_that_cannot_be_imaged_are_refused(noise: Visibilities) -> None:
    centres = noise.phase_centres_rad.copy()
    centres[0, 0] += 1e-3
    with pytest.raises(SilentWrongnessError, match="common phase centre"):
        stokes_i(replace(noise, phase_centres_rad=centres))
    with pytest.raises(BadDataError, match="nothing to image"):
        stokes_i(replace(noise, flags=np.ones_like(noise.flags)))
