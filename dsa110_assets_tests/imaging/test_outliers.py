"""Bright sources beyond the image are subtracted, whatever flux the catalogue gives them."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.imaging import outliers, unlisted
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.tile import TileImage, make_tile
from dsa110_assets.sky.model import SkyModel
from dsa110_assets_tests.imaging.synthetic import observe, position_rad

FIELD = ImagingOptions(field_deg=2.0, threads=1, spectral_index=0.0)
WITHIN, BEYOND = (0.2, 0.1, 1.0), (1.9, -0.3, 20.0)
NOISE_JY = 2.0


def image(sources: list[tuple[float, float, float]], listed: list[tuple[float, float, float]]) -> TileImage:
    vis = observe(sources, dec_deg=16.27, primary_beam=True, noise_jy=NOISE_JY, n_times=12, n_subbands=8, n_channels=24)
    places = np.array([position_rad(vis.phase_centres_rad[0], east, north) for east, north, _ in listed])
    flux = np.array([jy for *_, jy in listed])
    names = tuple(f"s{i}" for i in range(len(listed)))
    sky = SkyModel(names, places[:, 0], places[:, 1], flux, np.zeros(flux.size), 1.4e9)
    return make_tile(vis, FIELD, sky)


@pytest.mark.parametrize("catalogue_jy", [20.0, 12.0])
def test_sidelobes_from_beyond_the_image_are_removed(catalogue_jy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the source subtracted the noise is that of a sky without it; otherwise it is far higher.

    Both images have the same noise samples, so the two rms differ only by the residual of the source. The data here
    are not smeared while the prediction is, by up to 1 % on the longest baseline (12.9 s, 1.9 degrees, 480 m), 0.3 % on
    average: 12 mJy of an apparent 4 Jy, a fiftieth of it in the sidelobes, 0.25 mJy against an rms of 2 mJy. Added in
    squares that is 1 %; 5 % allows for differences in the course of CLEAN.
    """
    monkeypatch.setattr(unlisted, "EXCESS", np.inf)  # switches off the search that finds it without a catalogue
    without = image([WITHIN], [WITHIN])
    left_in = image([WITHIN, BEYOND], [WITHIN])
    taken_out = image([WITHIN, BEYOND], [WITHIN, (*BEYOND[:2], catalogue_jy)])
    assert without.figures["outliers"] == 0
    assert taken_out.figures["outliers"] == 1
    assert left_in.rms_jy > 1.5 * without.rms_jy
    assert taken_out.rms_jy == pytest.approx(without.rms_jy, rel=0.05)
    assert taken_out.figures["flux_ratio"] == pytest.approx(1.0, abs=0.02)


def test_many_faint_sources_beyond_the_image_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty sources of 0.1 Jy together equal the noise. With each catalogue flux wrong by 10 %, a tenth of that remains:
    0.6 % in squares, and as much again for differences in the course of CLEAN.
    """
    monkeypatch.setattr(unlisted, "EXCESS", np.inf)  # switches off the search that finds some of them without a catalogue
    rng = np.random.default_rng(4)
    angle, radius = rng.uniform(0, 2 * np.pi, 40), rng.uniform(1.5, 2.2, 40)
    faint = [(float(r * np.cos(a)), float(r * np.sin(a)), 0.1) for r, a in zip(radius, angle, strict=True)]
    listed = [(east, north, jy * float(error)) for (east, north, jy), error in zip(faint, rng.normal(1, 0.1, 40), strict=True)]
    without = image([WITHIN], [WITHIN])
    left_in = image([WITHIN, *faint], [WITHIN])
    taken_out = image([WITHIN, *faint], [WITHIN, *listed])
    assert taken_out.figures["outliers"] > outliers.ALONE
    assert left_in.rms_jy > 1.3 * without.rms_jy
    assert taken_out.rms_jy == pytest.approx(without.rms_jy, rel=0.012)


def test_a_listed_source_missing_from_the_sky_is_not_subtracted() -> None:
    """Noise alone gives a factor above 5 sigma once in 3e6 cases."""
    without = image([WITHIN], [WITHIN])
    imagined = image([WITHIN], [WITHIN, BEYOND])
    assert imagined.figures["outliers"] == 0
    np.testing.assert_array_equal(imagined.image, without.image)


def test_listed_far_sources_absorb_no_flux_of_a_bright_unlisted_one() -> None:
    """Far sources are fitted along with the catalogue's model of the field. If that model lacks a source of 20 Jy, each far
    source's factor would be that source's sidelobe there, many times the factor's noise, and would be subtracted over the whole image.
    """
    unlisted_one = (-0.3, 0.25, 20.0)
    far = [(1.9, -0.3, 1.0), (-1.8, 0.5, 1.0), (0.4, 2.1, 1.0), (-0.6, -1.9, 1.0)]
    without = image([WITHIN, unlisted_one], [WITHIN])
    imagined = image([WITHIN, unlisted_one], [WITHIN, *far])
    assert imagined.figures["outliers"] == 0
    np.testing.assert_array_equal(imagined.image, without.image)
