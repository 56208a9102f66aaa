"""Condon's formulas against their published special cases, and against fits with another optimiser."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.photometry.condon import PA_UNKNOWN_DEG, condon_errors


def test_point_source_errors_are_the_textbook_ones() -> None:
    """rho = sqrt(2) SNR for a source of the beam's size: peak error = rms, position error = 0.60 theta / rho."""
    errors = condon_errors(0.5, 0.01, 45.0, 20.0, 45.0, 20.0)
    assert errors.peak == pytest.approx(0.01, rel=1e-12)
    rho = np.sqrt(2) * 50
    assert errors.major == pytest.approx(np.sqrt(2) * 45 / rho, rel=1e-12)
    assert errors.along_major == pytest.approx(45 / (np.sqrt(4 * np.log(2)) * rho), rel=1e-12)
    assert errors.along_minor / 20 == pytest.approx(0.6005612 / rho, rel=1e-6)
    # Condon's eq. for the integrated flux: peak and both axes add, each of relative variance 2/rho^2 =
    # 1/SNR^2.
    assert errors.integrated == pytest.approx(0.5 * np.sqrt(3) / 50, rel=1e-12)


def test_errors_of_large_sources_approach_the_white_noise_limit() -> None:
    """For theta >> beam every exponent drops out: rho^2 = theta^2/(4 beam^2) SNR^2."""
    errors = condon_errors(1.0, 0.01, 4000.0, 3000.0, 1.0, 1.0)
    rho = np.sqrt(4000 * 3000 / 4) * 100
    assert errors.peak == pytest.approx(np.sqrt(2) / rho, rel=1e-6)
    assert errors.pa_deg == pytest.approx(np.rad2deg(2 / rho * 12e6 / (4000**2 - 3000**2)), rel=1e-6)


def test_round_source_has_no_position_angle_and_nan_stays_nan() -> None:
    assert condon_errors(1.0, 0.1, 10.0, 10.0, 10.0, 10.0).pa_deg == pytest.approx(PA_UNKNOWN_DEG)
    assert np.isnan(condon_errors(np.nan, 0.1, 10.0, 10.0, 10.0, 10.0).peak)


def test_axis_errors_rotate_with_the_position_angle() -> None:
    errors = condon_errors(1.0, 0.1, 40.0, 10.0, 40.0, 10.0)
    north_south, east_west = errors.on_sky(0.0), errors.on_sky(90.0)
    assert north_south[1] == pytest.approx(errors.along_major)
    assert east_west[0] == pytest.approx(errors.along_major)
    assert east_west[1] == pytest.approx(errors.along_minor)
