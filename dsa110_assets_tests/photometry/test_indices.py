"""Spectral indices of sources from the bright points of several images."""

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.photometry.indices import source_indices


def points(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["ra_deg", "dec_deg", "spectral_index", "spectral_index_err"]).assign(apparent_jy=1.0)


def test_source_indices_are_weighted_means_over_images() -> None:
    """Weights 1 and 4: (-0.6 + 4 * -0.7) / 5 = -0.68 with error 1 / sqrt(25 + 100). The third position has no point, and the
    fourth has one without an index; the second lies across 0 hours."""
    first = points((10.0, 20.0, -0.6, 0.2), (359.9999, 0.0, 0.3, 0.1), (50.0, 0.0, np.nan, np.nan))
    second = points((10.0001, 20.0, -0.7, 0.1))
    ra, dec = np.array([10.0, 0.0001, 30.0, 50.0]), np.array([20.0, 0.0, 0.0, 0.0])
    index, error = source_indices([first, second], ra, dec, 0.001)
    assert index[:2] == pytest.approx([-0.68, 0.3])
    assert error[:2] == pytest.approx([1 / np.sqrt(125), 0.1])
    assert np.isnan(index[2:]).all()
    assert np.isnan(error[2:]).all()


def test_images_that_contradict_one_another_have_a_larger_error() -> None:
    """-1 and 0 with errors of 0.1: mean -0.5 +- 0.071, chi-squared 50 for one degree of freedom, so the error is
    0.071 * sqrt(50) = 0.5."""
    index, error = source_indices(
        [points((10.0, 20.0, -1.0, 0.1)), points((10.0, 20.0, 0.0, 0.1))], np.array([10.0]), np.array([20.0]), 0.001
    )
    assert index[0] == pytest.approx(-0.5)
    assert error[0] == pytest.approx(0.5)


def test_without_points_or_sources_there_is_no_index() -> None:
    assert np.isnan(source_indices([points()], np.array([10.0]), np.array([20.0]), 0.001)[0]).all()
    assert source_indices([points((1.0, 2.0, 0.0, 0.1))], np.empty(0), np.empty(0), 0.001)[0].shape == (0,)
