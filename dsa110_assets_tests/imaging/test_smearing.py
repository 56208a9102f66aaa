"""The loss by averaging, against averages computed numerically."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from dsa110_assets.imaging.geometry import tile_header
from dsa110_assets.imaging.restoring import Beam
from dsa110_assets.imaging.smearing import smearing
from dsa110_assets.imaging.stokes import stokes_i
from dsa110_assets.telescope import astrometry
from dsa110_assets_tests.imaging.synthetic import observe, position_rad

N_PIXELS, PIXEL_RAD = 128, np.deg2rad(4.0 / 128)


@pytest.mark.parametrize(("east", "north"), [(0.0, 0.0), (1.4, 0.2), (-0.7, 1.1), (0.5, -1.5)])
@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_the_remaining_amplitude_agrees_with_numerical_averages(east: float, north: float, loss: float) -> None:
    """A source smeared by the correlator and then averaged in cells, against the same source unsmeared at the samples' own uvw.

    The loss is computed to second order: for a sample that loses x, x^2 times 0.3 is neglected. Samples here lose up to 14 %, 2 % in
    the mean: less than a thousandth is neglected. The integrations of a cell tracked slightly different directions and are treated as
    the middle one: as much again.
    """
    vis = observe([(east, north, 1.0)], n_antennas=16, n_times=24, n_channels=8, dec_deg=16.27, core_only=False, smeared=True)
    stokes = stokes_i(vis, np.deg2rad(2.0), loss)
    weights = np.random.default_rng(3).uniform(0.5, 1.5, stokes.weights.size).astype(np.float32) * stokes.weights
    header = tile_header(vis, N_PIXELS, PIXEL_RAD, Beam(0.01, 0.01, 0.0), stokes.spread(weights))
    ours = smearing(vis, stokes, weights, header, N_PIXELS)
    place = astrometry.lmn(*position_rad(vis.phase_centres_rad[0], east, north), vis.phase_centres_rad[0])
    expected = np.exp(2j * np.pi * (stokes.uvw @ (np.array(place) - [0, 0, 1])))
    literal = float(np.sum(weights * (stokes.data * expected.conj()).real) / np.sum(weights, dtype=np.float64))
    column, row = WCS(header).celestial.world_to_pixel_values(*np.rad2deg(position_rad(vis.phase_centres_rad[0], east, north)))
    at = ours[int(np.rint(row)), int(np.rint(column))]
    # a pixel is 1.9 minutes of arc: half of one moves a loss of 3 % at 1.4 degrees by a fiftieth of it
    tolerance = 2e-3
    assert at == pytest.approx(literal, abs=tolerance)
    if east or north:
        assert literal < 1 - 3 * tolerance  # there is a loss to measure
