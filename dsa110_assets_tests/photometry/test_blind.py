"""Blind detections against injected truth: completeness, pulls, shapes, blends, missing data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.photometry.association import associate, offsets_arcsec
from dsa110_assets.photometry.blind import COLUMNS, find_sources
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality

OPTIONS = PhotometryOptions()


def test_pulls_of_fluxes_positions_and_shapes(make_sky) -> None:
    """1,500 isolated sources at 8 to 50 sigma: pulls of flux, RA, Dec, integrated flux and PA have mean 0 and
    sd 1.

    Standard errors: 0.026 in the mean, 0.018 in sd. The noise's correlation, measured per image, adds 1 %, and
    at the lower end, 8 sigma, the linear error has a bias of under 0.02. 4 sigma: 0.1 in the mean, 0.08 in sd.
    """
    rng = np.random.default_rng(21)
    pulls, ratios = [], []
    for _ in range(7):
        sky = make_sky((1024, 1024))
        image = sky.correlated_noise(rng, 1e-3)
        x, y = (a.ravel() + rng.uniform(-0.5, 0.5, 225) for a in np.meshgrid(*[60 + 64 * np.arange(15)] * 2))
        flux = rng.uniform(0.008, 0.05, x.size)
        for place in zip(x, y, flux, strict=True):
            sky.add(image, *place)
        ra, dec = sky.world(x, y)
        out = find_sources(image, np.full(image.shape, 2e-3), sky.header, OPTIONS)
        assert tuple(out.columns) == COLUMNS
        match = associate(
            out,
            pd.DataFrame({"ra_deg": ra, "dec_deg": dec}),
            de_ruiter=8.0,
            systematic_arcsec=0.5,
            max_separation_arcsec=30.0,
        )
        # sources of 8 sigma, among 7 noise peaks above 5 sigma of ~8,000 beams each: all found, and hardly anything else.
        assert len(set(match[match >= 0])) == 225
        assert np.sum(match < 0) <= 1
        out, true = out[match >= 0], match[match >= 0]
        east, north = offsets_arcsec(ra[true], dec[true], out["ra_deg"], out["dec_deg"])
        pulls.append(
            np.column_stack(
                [
                    (out["flux_jy"] - flux[true]) / out["flux_err_jy"],
                    east / out["ra_err_arcsec"],
                    north / out["dec_err_arcsec"],
                    (out["integrated_jy"] - flux[true]) / out["integrated_err_jy"],
                    ((out["pa_deg"] - 30 + 90) % 180 - 90) / out["pa_err_deg"],
                ]
            )
        )
        ratios.append((out["flux_jy"] / flux[true])[flux[true] > 0.01])
    table = np.concatenate(pulls)
    assert np.abs(table.mean(axis=0)).max() < 0.1
    assert np.abs(table.std(axis=0) - 1).max() < 0.08
    assert abs(np.concatenate(ratios).mean() - 1) < 0.01


def test_shape_and_position_angle_of_a_resolved_source(make_sky) -> None:
    """A 90 x 40 arcsec source at PA 120 (north through east), noise-free: its shape, its integral, and
    EXTENDED.
    """
    sky = make_sky((256, 256), beam_arcsec=(30.0, 30.0), pa_deg=0.0)
    image = np.zeros(sky.shape)
    sky.add(image, 128.0, 128.0, 1.0, major_arcsec=90.0, minor_arcsec=40.0, pa_deg=120.0)
    image += sky.correlated_noise(np.random.default_rng(1), 1e-4)
    out = find_sources(image, np.full(image.shape, 1e-4), sky.header, OPTIONS).iloc[0]
    # SNR 10,000: noise is 1e-4; the rest is the background box, which is mostly empty.
    assert out["major_arcsec"] == pytest.approx(90, rel=2e-3)
    assert out["minor_arcsec"] == pytest.approx(40, rel=2e-3)
    assert out["pa_deg"] == pytest.approx(120, abs=0.2)
    assert out["integrated_jy"] == pytest.approx(90 * 40 / 900, rel=4e-3)
    assert int(out["quality"]) & Quality.EXTENDED


def test_point_sources_are_not_called_extended(make_sky) -> None:
    rng = np.random.default_rng(2)
    sky = make_sky((768, 768))
    image = sky.correlated_noise(rng, 1e-3)
    for x in range(60, 720, 64):
        for y in range(60, 720, 64):
            sky.add(image, x, y, 0.05)
    out = find_sources(image, np.full(image.shape, 1e-3), sky.header, OPTIONS)
    # 3 sigma and 10 %: at most one of 121 by chance.
    assert (out["quality"].to_numpy() & Quality.EXTENDED).astype(bool).sum() <= 1


def test_close_pair_is_split_and_flagged(make_sky) -> None:
    sky = make_sky((256, 256), beam_arcsec=(30.0, 30.0), pa_deg=0.0)
    image = sky.correlated_noise(np.random.default_rng(3), 1e-3)
    sky.add(image, 120.0, 128.0, 0.3)
    sky.add(image, 133.0, 128.0, 0.2)
    out = find_sources(image, np.full(image.shape, 1e-3), sky.header, OPTIONS)
    assert len(out) == 2
    # At 1.3 beams the pair's errors are about twice those of single sources, 2 mJy; four times that is allowed.
    np.testing.assert_allclose(out["flux_jy"], [0.3, 0.2], atol=0.008)
    assert all(q & Quality.BLENDED for q in out["quality"])


def test_noise_alone_gives_almost_no_detections(make_sky) -> None:
    """20 images of about 2,300 beams: peaks above 5 sigma are expected (Rice) 20 * 2300 * 1e-5, well below
    one.
    """
    rng = np.random.default_rng(4)
    detections = 0
    for _ in range(20):
        sky = make_sky((512, 512))
        detections += len(find_sources(sky.correlated_noise(rng, 1e-3), np.full(sky.shape, 1e-3), sky.header, OPTIONS))
    assert detections <= 3


def test_missing_pixels_and_an_empty_image(make_sky) -> None:
    sky = make_sky((256, 256))
    image = sky.correlated_noise(np.random.default_rng(5), 1e-3)
    sky.add(image, 128.0, 128.0, 0.5)
    sky.add(image, 30.0, 200.0, 0.5)
    image[:, :28] = np.nan
    noise = np.where(np.isfinite(image), 1e-3, np.nan)
    out = find_sources(image, noise, sky.header, OPTIONS)
    assert len(out) == 2
    edge = out["ra_deg"].to_numpy() > 150.05
    assert out["quality"][edge].iloc[0] & Quality.EDGE
    assert out["quality"][~edge].iloc[0] == 0
    empty = find_sources(np.full((64, 64), np.nan), np.full((64, 64), np.nan), make_sky((64, 64)).header, OPTIONS)
    assert empty.empty
    assert tuple(empty.columns) == COLUMNS


def test_condon_errors_are_selectable_and_agree_to_their_approximation(make_sky) -> None:
    """Condon's peak error is the rms; the propagated error of a fit over 0.75 beams is 10 % larger."""
    sky = make_sky((512, 512))
    image = sky.correlated_noise(np.random.default_rng(6), 1e-3)
    sky.add(image, 256.0, 256.0, 0.1)
    both = [
        find_sources(image, np.full(image.shape, 1e-3), sky.header, PhotometryOptions(error_model=m)).iloc[0]
        for m in ("correlated", "condon")
    ]
    assert both[1]["flux_err_jy"] == pytest.approx(both[1]["rms_jy"], rel=1e-9)
    assert 1.0 < both[0]["flux_err_jy"] / both[1]["flux_err_jy"] < 1.2
    for name in ("ra_err_arcsec", "dec_err_arcsec", "integrated_err_jy", "major_arcsec"):
        assert both[0][name] == pytest.approx(both[1][name], rel=0.45)
