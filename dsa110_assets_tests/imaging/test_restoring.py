"""The restoring beam is the same everywhere on the sky, although the projection distorts it in pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io.fits import Header

from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.points import Points
from dsa110_assets.imaging.restoring import Beam, add_points, convolve, slope_on_sky
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets.photometry.forced import measure_forced
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets_tests.imaging import synthetic

BEAM = Beam(0.029, 0.0165, 80.0)
N_PIXELS, PIXEL_DEG, DEC_DEG = 900, 0.003, 16.0


def slanted(b: float) -> Header:
    """Header with a tile's projection plane, for an array at a zenith distance of arctan(b)."""
    header = Header({"NAXIS": 2, "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 80.0, "CRVAL2": DEC_DEG})
    header.update({"CDELT1": -PIXEL_DEG, "CDELT2": PIXEL_DEG, "CRPIX1": N_PIXELS // 2 + 1.0, "CRPIX2": N_PIXELS // 2 + 1.0})
    header.update({"CUNIT1": "deg", "CUNIT2": "deg", "PV2_1": 0.0, "PV2_2": -b})
    return header


@pytest.mark.parametrize("b", [0.0, 0.38, 1.5])
def test_slope_is_that_of_the_slanted_projection(b: float) -> None:
    """With l = x + b y y, m = y - b (1 - n) to second order, d(east, north in the plane)/d(sky) is 1 + T, T = -b y in (north, north),
    -b x in (north, east), and the meridians converge by x tan(dec). So C changes by T C + C T'; third orders are 1 - n = 3e-4 of it."""
    slope = slope_on_sky(BEAM, slanted(b), N_PIXELS)
    per_pixel = np.deg2rad(PIXEL_DEG)
    north = np.array([[0.0, 0.0], [0.0, -b]])
    # one column further is west: x = -1 pixel; north leans by -x tan(dec) to the east, and east by as much to the south
    turn = np.tan(np.deg2rad(DEC_DEG))
    west = -np.array([[0.0, -turn], [turn - b, 0.0]])
    for measured, change in ((slope.by_row, north), (slope.by_column, west)):
        expected = per_pixel * (change @ BEAM.covariance + BEAM.covariance @ change.T)
        np.testing.assert_allclose(measured, expected, atol=2e-3 * per_pixel * (1 + b) * BEAM.covariance.max())


def test_convolved_pixels_are_gaussians_of_their_place() -> None:
    """A convolved pixel equals the Gaussian that `add_points` draws there: unit peak, 4 % wider at the edge, to second order of that."""
    slope = slope_on_sky(BEAM, slanted(1.5), N_PIXELS)
    model, drawn = np.zeros((2, N_PIXELS, N_PIXELS), np.float32)
    rows, columns = np.array([60, 450, 840, 450]), np.array([450, 450, 450, 60])
    model[rows, columns] = 1.0
    points = Points.unresolved(rows.astype(float), columns.astype(float), np.ones(4))
    add_points(drawn, points, BEAM, PIXEL_DEG, slope)
    per_beam = BEAM.area_sr / np.deg2rad(PIXEL_DEG) ** 2
    smooth = per_beam * convolve(model, BEAM.covariance, PIXEL_DEG, 1, slope)
    np.testing.assert_allclose(drawn[rows, columns], 1.0, atol=1e-6)
    # widths differ by e = 1.5 * 1.17 deg = 3 %: terms of second order in e are at most 2 e^2 of the peak
    assert np.abs(smooth - drawn).max() < 2 * 0.03**2
    flat = per_beam * convolve(model, BEAM.covariance, PIXEL_DEG, 1)
    assert np.abs(flat - drawn).max() > 5 * np.abs(smooth - drawn).max()


def test_fluxes_north_and_south_of_the_middle_are_alike() -> None:
    """A source of 1 Jy 1.3 degrees off, measured with the header's beam, has 1 Jy to 0.2 % for epsilon, smearing and drift. These are the
    same on both sides, and fluxes there differ by the second order of 0.9 % in the beam's width. If the beam were the same in pixels,
    they would differ by 0.7 %."""
    north, south = (_flux_at(0.02, north_deg) for north_deg in (1.3, -1.3))
    assert north == pytest.approx(1.0, abs=2e-3)
    assert north == pytest.approx(south, abs=2e-4)


def _flux_at(east_deg: float, north_deg: float) -> float:
    """Forced flux [Jy] in a tile of a point of 1 Jy at these offsets."""
    vis = synthetic.observe([(east_deg, north_deg, 1.0)], dec_deg=16.27, n_times=8, n_subbands=4, n_channels=8, primary_beam=True)
    tile = make_tile(vis, ImagingOptions(field_deg=3.0, spectral_index=0.0, threads=1))
    at = np.rad2deg([synthetic.position_rad(vis.phase_centres_rad[0], east_deg, north_deg)])
    noise = np.where(tile.primary_beam >= tile.pblimit, np.float32(1e-3), np.nan)
    positions = pd.DataFrame(at, columns=["ra_deg", "dec_deg"])
    return float(measure_forced(tile.pbcor, noise, tile.header, positions, PhotometryOptions())["flux_jy"].item())
