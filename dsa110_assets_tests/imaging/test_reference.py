"""Flux scale and astrometry of an image against the sky model it was made from, and against a different one."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.imaging.reference import reference_figures, robust_mean
from dsa110_assets.imaging.restoring import convolve, set_beam
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.sky.model import SkyModel
from dsa110_assets_tests.mosaics.tiles import BEAM, PIXEL_DEG, gaussians, response, tile_header

N_PIXELS = 512
SOURCES = [(0.1, 16.1, 1.0), (359.8, 15.8, 2.0), (359.9, 16.3, 0.5)]


def _sky(scale: float = 1.0, shift_deg: float = 0.0) -> SkyModel:
    ra, dec, flux = np.array(SOURCES).T
    return SkyModel(("a", "b", "c"), np.deg2rad(ra), np.deg2rad(dec + shift_deg), flux * scale, np.zeros(3), 1.4e9)


@pytest.mark.parametrize(("scale", "shift_deg"), [(1.0, 0.0), (0.8, 0.0), (1.0, 5 / 3600)])
def test_scale_and_shift_are_measured(scale: float, shift_deg: float) -> None:
    header = tile_header(0.0, 16.0, N_PIXELS)
    set_beam(header, BEAM)
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


@pytest.mark.parametrize(("n", "own", "common"), [(1, 0.02, 0.03), (3, 0.02, 0.03), (15, 0.02, 0.01), (15, 0.05, 0.0), (200, 0.02, 0.05)])
def test_a_robust_means_error_is_its_scatter(n: int, own: float, common: float) -> None:
    """1000 draws of n values with unequal errors and a common scatter; from ten values on, one in ten is 30 % off.

    Pulls have an sd of 1, measured to 2 %: not above 1.25 (three to six values give their scatter to a third or worse), and not
    below 0.85 (the prior's 3 % count as one value, which for 15 exact ones adds 0.8 % to their 5 and 2 %). Their mean is measured
    to 0.03, and is shifted by the outliers that are taken for scatter.
    """
    rng = np.random.default_rng(n)
    errors = own * rng.uniform(0.5, 1.5, (1000, n))
    values = 1 + errors * rng.standard_normal((1000, n)) + common * rng.standard_normal((1000, n))
    values[:, : n // 10] += 0.3
    means = [robust_mean(v, e, 0.03) for v, e in zip(values, errors, strict=True)]
    pulls = np.array([(f.value - 1) / f.error for f in means])
    assert abs(pulls.mean()) < 0.2
    assert 0.85 < pulls.std() < 1.25


def test_errors_match_the_noise_and_peaks_are_unbiased() -> None:
    """60 images of three sources at 30 to 100 sigma, in noise correlated like the beam: pulls of flux and position about the truth.

    The prior's 3 % dominate the flux's error, so that its pulls are below 1; the mean of 60 ratios is good to 0.3 %.
    """
    header = tile_header(0.0, 16.0, N_PIXELS)
    set_beam(header, BEAM)
    pb, clean = response(header, N_PIXELS, 0.0, 16.0).astype(np.float32), gaussians(header, N_PIXELS, SOURCES)
    rng = np.random.default_rng(2)
    results = []
    for _ in range(60):
        white = convolve(rng.standard_normal(pb.shape), BEAM.covariance, PIXEL_DEG)
        noise = 0.01 * white / robust_rms(white)
        results.append(reference_figures((pb * clean + noise).astype(np.float32), pb, header, 0.01, _sky()))
    assert np.mean([f["flux_ratio"] for f in results]) == pytest.approx(1, abs=0.003)
    assert np.std([(f["flux_ratio"] - 1) / f["flux_ratio_error"] for f in results]) < 1
    for axis in ("ra", "dec"):
        pulls = [f[f"astrometry_{axis}_arcsec"] / f[f"astrometry_{axis}_error_arcsec"] for f in results]
        assert abs(np.mean(pulls)) < 3 / np.sqrt(60)
        assert np.std(pulls) < 1


def test_missing_reference_sources_are_counted() -> None:
    header = tile_header(0.0, 16.0, N_PIXELS)
    ones = np.ones((N_PIXELS, N_PIXELS), dtype=np.float32)
    figures = reference_figures(0 * ones, ones, header, 0.001, _sky())
    assert figures["reference_missing"] == 3
    assert np.isnan(figures["flux_ratio"])
