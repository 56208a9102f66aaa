"""Stokes I and Q of polarised sources seen by receptors of unequal noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS

from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.polarisation import stokes_q
from dsa110_assets.imaging.stokes import stokes_i
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities.types import Visibilities
from dsa110_assets_tests.imaging.synthetic import observe, position_rad

PLAIN = ImagingOptions(field_deg=2.0, threads=1, drift_terms=0, spectral_index=0.0)
"""`observe` makes flat spectra and, unless requested, no primary beam."""
SOURCES = [(0.3, 0.2, 2.0, 0.05), (-0.5, 0.4, 1.0, -0.05)]
"""East, north [deg], I [Jy], Q / I."""
SIGMA_JY = 0.2
WEIGHTS = (1.0, 0.4)


def polarised(sources: list[tuple[float, float, float, float]], sigma_jy: float, **more: int) -> Visibilities:
    """XX = I + Q and YY = I - Q, with noise of `sigma_jy` over the root of WEIGHTS."""
    total = observe([source[:3] for source in sources], **more)
    linear = observe([(east, north, flux * share) for east, north, flux, share in sources], **more).data
    rng = np.random.default_rng(5)
    noise = sigma_jy * (rng.standard_normal(linear.shape) + 1j * rng.standard_normal(linear.shape)) / np.sqrt(WEIGHTS)
    data = (total.data + linear * np.array([1, -1]) + noise).astype(np.complex64)
    return replace(total, data=data, weights=np.broadcast_to(np.float32(WEIGHTS), data.shape).copy())


def test_polarised_sources_have_their_stokes_i() -> None:
    """With weights of 1 and 0.4, 5 % of Q would change I by 2.1 %. Fluxes are right within the noise (4 rms) and 0.3 % for pixels."""
    vis = polarised(SOURCES, SIGMA_JY, n_times=8)
    tile = make_tile(vis, PLAIN)
    wcs = WCS(tile.header).celestial
    for east, north, flux, _ in SOURCES:
        x, y = wcs.wcs_world2pix(*np.rad2deg(position_rad(vis.phase_centres_rad[0], east, north)), 0)
        column, row = int(np.rint(x)), int(np.rint(y))
        peak = float(tile.image[row - 1 : row + 2, column - 1 : column + 2].max())
        # a peak between pixels is lower, by up to 2 % at six pixels to a beam, computed from the restored Gaussian
        beam_pixels = np.array([tile.beam.bmin_deg, tile.beam.bmaj_deg]) / tile.header["CDELT2"]
        pixel_loss = 1 - np.exp(-4 * np.log(2) * 0.25 * np.sum(1 / beam_pixels**2))
        assert -pixel_loss * flux - 4 * tile.rms_jy < peak - flux < 4 * tile.rms_jy + 0.003 * flux
    assert 4 * tile.rms_jy < 0.01 * SOURCES[1][2]  # so that a bias of 2 % would be seen
    # the sum of weights is 1.4, and that of Stokes I 4 / (1 + 2.5)
    assert tile.figures["sensitivity_loss"] == pytest.approx(np.sqrt(1.4 * 3.5 / 4) - 1, abs=1e-6)
    assert tile.figures["rms_over_radiometer"] == pytest.approx(1, abs=0.05)
    assert tile.figures["q_sources"] == 2
    # Q of the 2 Jy source; the other source's 5 % enter through a sidelobe of 0.1
    assert tile.figures["q_peak_jy"] == pytest.approx(0.1, abs=0.02)
    assert tile.figures["q_over_i_median"] == pytest.approx(0, abs=0.01)


def test_equal_receptors_give_the_plain_mean_bit_for_bit() -> None:
    """With equal weights (XX + YY) / 2 is the weighted mean: the samples have the same bits."""
    vis = observe([(0.3, 0.2, 2.0)], n_times=4, noise_jy=1.0)
    stokes = stokes_i(vis)
    data = vis.data[stokes.bounds[:, 0], stokes.baselines, stokes.bounds[:, 2]]
    literal = data.astype(np.complex128).sum(axis=-1) / 2
    np.testing.assert_array_equal(stokes.data, literal.astype(np.complex64))
    assert np.all(stokes.weights == 2)
    assert stokes.sensitivity_loss == 0


@pytest.mark.parametrize("place", [(0.05, 0.02), (0.8, -0.6)])
def test_a_polarised_source_does_not_count_as_noise(place: tuple[float, float]) -> None:
    """5 % of 8 Jy in XX - YY, 0.8 Jy, would add a third to differences of 1 Jy noise in each part; 0.98 MHz channels."""
    vis = polarised([(*place, 8.0, 0.05)], 0.7, n_times=8, n_subbands=2, n_channels=12)
    # 2e5 differences give the variance to 0.3 %, the source at a degree turns by 0.2 on 485 m: another 1 %
    assert stokes_i(vis).variance_scale == pytest.approx(0.7**2, rel=0.02)


def test_stokes_q_is_what_a_literal_sum_gives() -> None:
    """Also with flagged polarisations, which are left out; the error of Q is the radiometer's."""
    vis = polarised([(0.1, -0.2, 1.0, 0.1)], SIGMA_JY, n_times=3, n_antennas=8)
    flags = np.random.default_rng(2).uniform(size=vis.flags.shape) < 0.2
    vis = replace(vis, flags=flags, data=np.where(flags, np.complex64(1e6), vis.data))
    ra, dec = position_rad(vis.phase_centres_rad[0], 0.1, -0.2)
    lmn = np.array(astrometry.lmn(ra, dec, vis.phase_centres_rad[0]))[:, None]
    q, error = stokes_q(vis, lmn, SIGMA_JY**2)
    phase = np.exp(-2j * np.pi * (vis.uvw_m @ (lmn[:, 0] - [0, 0, 1]))[..., None] * vis.frequencies_hz / 299792458.0)
    usable = ~flags.any(axis=-1) & ~vis.is_auto[None, :, None]
    halves = (vis.data[..., 0] - vis.data[..., 1]) / 2 * phase
    assert q[0] == pytest.approx(float(halves[usable].real.mean()), rel=1e-6)
    weight = 4 / (1 / WEIGHTS[0] + 1 / WEIGHTS[1])
    assert error == pytest.approx(SIGMA_JY / np.sqrt(weight * usable.sum()), rel=1e-6)
    assert abs(q[0] - 0.1) < 5 * error
