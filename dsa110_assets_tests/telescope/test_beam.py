"""Trap 25: the primary beam is the Airy pattern of 4.65 m, not 4.1 degrees wide, with J1 right."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from dsa110_assets.telescope import beam


@pytest.mark.parametrize(("frequency_hz", "fwhm_deg"), [(1.311e9, 2.90), (1.4e9, 2.72), (1.499e9, 2.54)])
def test_half_power_width(frequency_hz: float, fwhm_deg: float) -> None:
    half = brentq(lambda angle: float(beam.power(angle, frequency_hz)) - 0.5, 0.5, 2.5)
    assert abs(2 * half - fwhm_deg) < 0.01


def test_first_null() -> None:
    """x = 3.8317 = first zero of J1: sin(theta) = 1.2197 lambda/D, 3.220 degrees at 1.4 GHz."""
    null = np.rad2deg(np.arcsin(1.2196699 * 299792458 / 1.4e9 / 4.65))
    assert 3.15 < null < 3.30
    assert beam.power(null, 1.4e9) < 1e-13
    assert beam.power(null - 0.1, 1.4e9) > 1e-4 < beam.power(null + 0.1, 1.4e9)


@pytest.mark.parametrize("angle_deg", [0.0, 0.3, 1.0, 2.0, 4.0])
def test_power_is_the_aperture_integral(angle_deg: float) -> None:
    """The far field of a uniform disc of radius a, integrated over chords, without any Bessel function."""
    k_sin = 2 * np.pi * 1.4e9 / 299792458 * np.sin(np.deg2rad(angle_deg))
    a = 4.65 / 2
    # y = a sin(t) removes the square root's infinite slope from the integrand.
    field, _ = quad(
        lambda t: 2 * (a * np.cos(t)) ** 2 * np.cos(k_sin * a * np.sin(t)),
        -np.pi / 2,
        np.pi / 2,
        epsabs=1e-12,
    )
    assert abs(beam.power(angle_deg, 1.4e9) - (field / (np.pi * a**2)) ** 2) < 1e-10


def test_power_broadcasts_and_handles_edges() -> None:
    response = beam.power(np.array([[0.0], [1.0], [91.0], [np.nan]]), np.array([1.3e9, 1.5e9]))
    assert response.shape == (4, 2)
    np.testing.assert_array_equal(response[0], 1)
    assert response[1, 0] > response[1, 1]
    np.testing.assert_array_equal(response[2], 0)
    assert np.isnan(response[3]).all()
