"""Sizes: convolving and deconvolving ellipses, and the errors of deconvolved sizes, against analytic cases and injected noise."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.photometry import gaussfit
from dsa110_assets.photometry.geometry import Geometry, form_axes_sky
from dsa110_assets.photometry.shapes import ARCSEC_PER_RAD, area_ratio, deconvolved, seen_forms, sky_covariance


@pytest.fixture
def geometry(make_sky) -> Geometry:
    sky = make_sky((256, 256))
    return Geometry.from_header(sky.header, sky.shape)


def test_aligned_ellipses_add_in_squares(geometry) -> None:
    """Along the beam's own axes widths add as squares: 45 and 24 arcsec give 51, 20 and 21 give 29."""
    jacobians = geometry.pixels_per_rad(150.0, 16.0)
    form = seen_forms(geometry, jacobians, sky_covariance(24.0, 21.0, 30.0))
    major, minor, pa = form_axes_sky(form, jacobians)
    np.testing.assert_allclose([major[0] * ARCSEC_PER_RAD, minor[0] * ARCSEC_PER_RAD, pa[0]], [51.0, 29.0, 30.0], rtol=1e-6)
    assert area_ratio(form[0], geometry.beam_forms(jacobians)[0]) == pytest.approx(51 * 29 / 900, rel=1e-6)


@pytest.mark.parametrize("size", [(60.0, 30.0, 20.0), (25.0, 10.0, 140.0), (8.0, 7.0, 90.0)])
def test_deconvolving_undoes_convolving(geometry, size) -> None:
    jacobians = geometry.pixels_per_rad(150.1, 15.9)
    form = seen_forms(geometry, jacobians, sky_covariance(*size))[0]
    size_found = deconvolved(geometry, form, np.zeros((3, 3)), jacobians[0])
    np.testing.assert_allclose([size_found.major_arcsec, size_found.minor_arcsec, size_found.pa_deg], size, rtol=1e-6)
    assert size_found.major_err_arcsec == size_found.minor_err_arcsec == size_found.pa_err_deg == 0


def test_an_axis_narrower_than_the_beam_is_zero_with_a_limit(geometry) -> None:
    """A fitted minor axis equal to the beam's deconvolves to 0, with the error sqrt(s), where s is the error of its square."""
    jacobians = geometry.pixels_per_rad(150.0, 16.0)
    form = seen_forms(geometry, jacobians, sky_covariance(40.0, 0.0, 30.0))[0]
    size = deconvolved(geometry, form * 1.0001, np.diag(form[[0, 0, 2]] ** 2) * 1e-4, jacobians[0])
    assert size.minor_arcsec == 0
    assert 1 < size.minor_err_arcsec < 10
    assert size.major_arcsec == pytest.approx(40, rel=1e-3)


def test_size_errors_match_the_scatter_of_noisy_shapes(geometry) -> None:
    """Axes and angle of 4,000 forms scattered by their covariance: the scatter is the error within 5 % (4/sqrt(8000) is 4.5)."""
    rng = np.random.default_rng(3)
    jacobian = geometry.pixels_per_rad(150.0, 16.0)[0]
    form = seen_forms(geometry, jacobian[None], sky_covariance(60.0, 30.0, 80.0))[0]
    root = rng.standard_normal((3, 3)) * 0.005 * np.sqrt(form[0] * form[2])
    covariance = root @ root.T
    noisy = form + rng.standard_normal((4000, 3)) @ root.T
    sizes = [deconvolved(geometry, one, covariance, jacobian) for one in noisy]
    table = np.array([[s.major_arcsec, s.minor_arcsec, s.pa_deg] for s in sizes])
    expected = deconvolved(geometry, form, covariance, jacobian)
    errors = [expected.major_err_arcsec, expected.minor_err_arcsec, expected.pa_err_deg]
    np.testing.assert_allclose(table.std(axis=0), errors, rtol=0.05)


def test_extension_is_one_step_towards_the_free_fit() -> None:
    """Noise-free, a Gaussian 1 % wider than the beam in area: one linear step finds the flux it adds, to second order."""
    y, x = (grid.ravel().astype(float) for grid in np.mgrid[-12:13, -12:13])
    beam = np.array([[1.0, 0.0, 0.0, 0.1, 0.02, 0.15]])
    wide = beam.copy()
    wide[0, 3:] *= 0.99
    none = np.zeros(1, np.bool_)
    data = gaussfit.model(x, y, wide)
    fixed, _ = gaussfit.fit(x, y, data, beam, none, 3.0)
    added, error = gaussfit.extension(x, y, data, fixed, np.ones((1, 1)))
    assert added[0] == pytest.approx(1 / 0.99 - fixed[0, 0], rel=0.02)
    # Independent pixels: the variance of the same combination of two textbook least-squares estimates.
    steps = 1e-6 * np.eye(6)[:, None, :]
    shapes = [(gaussfit.model(x, y, fixed + step) - gaussfit.model(x, y, fixed - step)) / 2e-6 for step in steps]
    point, free = (np.linalg.pinv(np.array(rows).T) for rows in (shapes[:3], shapes))
    peak, _, _, a, b, c = fixed[0]
    weights = free[0] - point[0] + peak / (a * c - b * b) * (b * free[4] - 0.5 * (c * free[3] + a * free[5]))
    assert error[0] == pytest.approx(np.sqrt(np.sum(weights**2)), rel=1e-6)
