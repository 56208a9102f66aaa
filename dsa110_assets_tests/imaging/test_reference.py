"""Flux scale and astrometry of an image against a sky model it was made from, and one it was not."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.imaging.reference import reference_figures
from dsa110_assets.imaging.restoring import Beam, set_beam
from dsa110_assets.sky.model import SkyModel
from dsa110_assets_tests.mosaics.tiles import gaussians, response, tile_header

N_PIXELS = 512
SOURCES = [(0.1, 16.1, 1.0), (359.8, 15.8, 2.0), (359.9, 16.3, 0.5)]


def _sky(scale: float = 1.0, shift_deg: float = 0.0) -> SkyModel:
    ra, dec, flux = np.array(SOURCES).T
    return SkyModel(
        ("a", "b", "c"), np.deg2rad(ra), np.deg2rad(dec + shift_deg), flux * scale, np.zeros(3), 1.4e9
    )


@pytest.mark.parametrize(("scale", "shift_deg"), [(1.0, 0.0), (0.8, 0.0), (1.0, 5 / 3600)])
def test_scale_and_shift_are_measured(scale: float, shift_deg: float) -> None:
    header = tile_header(0.0, 16.0, N_PIXELS)
    set_beam(header, Beam(60 / 3600, 40 / 3600, 30.0))
    pb = response(header, N_PIXELS, 0.0, 16.0).astype(np.float32)
    rng = np.random.default_rng(1)
    noise = 0.001 * rng.standard_normal(pb.shape)
    image = (pb * gaussians(header, N_PIXELS, SOURCES) + noise).astype(np.float32)
    figures = reference_figures(image, pb, header, 0.001, _sky(scale, shift_deg))
    assert figures["reference_count"] == 3
    assert figures["reference_missing"] == 0
    assert figures["flux_ratio"] == pytest.approx(1 / scale, rel=0.01)
    assert figures["astrometry_ra_arcsec"] == pytest.approx(0, abs=0.3)
    assert figures["astrometry_dec_arcsec"] == pytest.approx(-shift_deg * 3600, abs=0.3)


def test_sources_that_are_not_there_are_counted() -> None:
    header = tile_header(0.0, 16.0, N_PIXELS)
    ones = np.ones((N_PIXELS, N_PIXELS), dtype=np.float32)
    figures = reference_figures(0 * ones, ones, header, 0.001, _sky())
    assert figures["reference_missing"] == 3
    assert np.isnan(figures["flux_ratio"])
