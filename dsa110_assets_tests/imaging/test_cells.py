"""Baseline-dependent averaging against direct prediction: smearing at the edge, sums, flags."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.stokes import averaged, stokes_i
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities.types import Visibilities
from dsa110_assets_tests.imaging.synthetic import direct_phase, observe, position_rad

EDGE_DEG = 2.0
REACH_RAD = np.deg2rad(EDGE_DEG)


@pytest.fixture(scope="module")
def vis() -> Visibilities:
    """Core and outriggers, 2.6 km apart; channels of 0.98 MHz, each an average of four of the correlator's."""
    return observe([], n_antennas=24, n_times=24, n_subbands=2, n_channels=12, core_only=False, dec_deg=16.27, noise_jy=1.0)


@pytest.mark.parametrize("loss", [0.003, 0.01])
@pytest.mark.parametrize("direction_deg", range(0, 180, 30))
def test_the_edge_of_the_field_keeps_its_amplitude(vis: Visibilities, loss: float, direction_deg: float) -> None:
    """A point at the edge, predicted sample by sample and averaged, is within `loss` of the unaveraged amplitude on
    every baseline, and has the phase of the averaged uvw to a tenth of that loss (third order)."""
    east, north = EDGE_DEG * np.sin(np.deg2rad(direction_deg)), EDGE_DEG * np.cos(np.deg2rad(direction_deg))
    place = astrometry.lmn(*position_rad(vis.phase_centres_rad[0], east, north), vis.phase_centres_rad[0])
    stokes = stokes_i(vis, REACH_RAD, loss)
    smeared = averaged(vis, stokes, direct_phase(vis.uvw_m, vis.frequencies_hz, *place).astype(np.complex64)[:, None])[0]
    # w (n - 1) adds a fiftieth of the phase at 2 degrees, so a twenty-fifth of the loss
    assert np.abs(smeared).min() >= 1 - 1.04 * loss
    expected = np.exp(2j * np.pi * (stokes.uvw @ np.array([place[0], place[1], place[2] - 1])))
    assert np.abs(np.angle(smeared * expected.conj())).max() < 0.1 * loss + 1e-5


@pytest.mark.parametrize("direction_deg", range(0, 180, 30))
def test_a_source_at_the_edge_keeps_99_per_cent_of_its_flux(vis: Visibilities, direction_deg: float) -> None:
    """With the platform's default cells: the mean over all samples, which is the flux of a point at the edge of the field in a
    naturally weighted image. Robust weights favour long baselines, which are averaged less, so they leave no less of it."""
    east, north = EDGE_DEG * np.sin(np.deg2rad(direction_deg)), EDGE_DEG * np.cos(np.deg2rad(direction_deg))
    place = astrometry.lmn(*position_rad(vis.phase_centres_rad[0], east, north), vis.phase_centres_rad[0])
    stokes = stokes_i(vis, REACH_RAD, ImagingOptions().smearing)
    phases = direct_phase(vis.uvw_m, vis.frequencies_hz, *place).astype(np.complex64)
    smeared = averaged(vis, stokes, phases[:, None])[0]
    towards = np.exp(-2j * np.pi * (stokes.uvw @ np.array([place[0], place[1], place[2] - 1])))
    flux = float(np.average((smeared * towards).real, weights=stokes.weights))
    assert 0.99 <= flux < 0.999


def test_short_baselines_are_averaged_most_and_the_outriggers_not_at_all(vis: Visibilities) -> None:
    stokes = stokes_i(vis, REACH_RAD, 0.01)
    length_m = np.linalg.norm(vis.uvw_m[0], axis=-1)[stokes.baselines]
    size = (stokes.bounds[:, 1] - stokes.bounds[:, 0]) * (stokes.bounds[:, 3] - stokes.bounds[:, 2])
    assert np.all(size[length_m > 1000] == 1)
    assert size[length_m < 50].mean() > 50
    assert stokes.weights.size < 0.6 * stokes_i(vis).weights.size


def test_weights_and_weighted_data_keep_their_sums(vis: Visibilities) -> None:
    """Also with flagged samples, polarisations and a whole flagged channel. Flagged data are never used."""
    rng = np.random.default_rng(8)
    flags = rng.uniform(size=vis.flags.shape) < 0.3
    flags[:, :, 7] = True
    weights = rng.uniform(0.5, 2, vis.weights.shape).astype(np.float32)
    data = np.where(flags, np.complex64(1e9), vis.data)
    flagged = replace(vis, flags=flags, weights=weights, data=data)
    full, short = stokes_i(flagged), stokes_i(flagged, REACH_RAD, 0.01)
    assert short.n_visibilities == full.n_visibilities == full.weights.size
    assert short.weights.sum(dtype=np.float64) == pytest.approx(full.weights.sum(dtype=np.float64), rel=1e-6)
    sums = [np.sum(s.weights * s.data.astype(np.complex128)) for s in (full, short)]
    assert sums[1] == pytest.approx(sums[0], rel=1e-5)
    paths = [s.weights.astype(np.float64) @ s.uvw for s in (full, short)]
    np.testing.assert_allclose(paths[1], paths[0], rtol=1e-5)
    cross = ~vis.is_auto
    unflagged = np.where(flags, 0, weights)[:, cross].astype(np.float64)
    total, both = unflagged.sum(axis=-1), unflagged.all(axis=-1)
    of_i = np.where(both, 4 * unflagged.prod(axis=-1) / np.where(both, total, 1), total)  # 4 / (1/w_x + 1/w_y), or the only weight
    literal = of_i.sum(axis=1)
    assert short.sensitivity_loss == pytest.approx(np.sqrt(unflagged.sum() / of_i.sum()) - 1, rel=1e-5)
    np.testing.assert_allclose(short.by_time_channel, literal, rtol=1e-6)
    laid_out = short.spread(short.weights)
    assert np.all(laid_out[:, 7] == 0)
    # a tenth of a cell's weights is random, and a time and channel has 276 baselines: within 1/sqrt(276) of each
    np.testing.assert_allclose(laid_out, literal, rtol=0.1)
    assert laid_out.sum() == pytest.approx(literal.sum(), rel=1e-6)


def test_cell_means_follow_the_cells(vis: Visibilities) -> None:
    stokes = stokes_i(vis, REACH_RAD, 0.01)
    time, channel = np.meshgrid(np.arange(24.0), np.arange(24.0), indexing="ij")
    middle = (stokes.bounds[:, :2].sum(axis=1) - 1) / 2 + 100 * (stokes.bounds[:, 2:].sum(axis=1) - 1) / 2
    np.testing.assert_allclose(stokes.cell_means(time + 100 * channel)[0], middle, rtol=1e-5)


@pytest.mark.alone
def test_samples_do_not_depend_on_the_number_of_threads(vis: Visibilities) -> None:
    import numba

    n_threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        single_thread = stokes_i(vis, REACH_RAD, 0.01)
    finally:
        numba.set_num_threads(n_threads)
    several_threads = stokes_i(vis, REACH_RAD, 0.01)
    np.testing.assert_array_equal(single_thread.data, several_threads.data)
    np.testing.assert_array_equal(single_thread.uvw, several_threads.uvw)
