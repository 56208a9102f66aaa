"""A window of a HiPS against the mosaic that the HiPS was made from, and against astropy's projection."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from mocpy import MOC

from dsa110_assets.imaging.fits import read_image
from dsa110_assets.imaging.preview import shades
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.mosaics import hips_view, sky_tiles
from dsa110_assets.mosaics.coadd import coadd
from dsa110_assets.mosaics.write import write_mosaic
from dsa110_assets_tests.mosaics.tiles import make_tiles

SOURCES = [(359.9, 16.1, 1.0), (0.15, 15.9, 2.0)]
WIDTH, HEIGHT, FOV_DEG = 300, 200, 1.0


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("night")
    write_mosaic(coadd(make_tiles(directory, [(359.8, 16.0), (0.3, 16.0)], SOURCES, noise_jy=[0.02, 0.02])), directory)
    sky_tiles.write_sky_tiles(directory / "mosaic.fits", directory)
    return directory


def window(night: Path, ra_deg: float, dec_deg: float) -> tuple[WCS, np.ndarray]:
    root = night / "hips"
    wcs = hips_view.window_wcs(ra_deg, dec_deg, FOV_DEG, WIDTH, HEIGHT)
    order = int(hips_view.described(root)["hips_order"])
    return wcs, hips_view.shades_in(root, wcs, WIDTH, HEIGHT, order)


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(SOURCES[0][0], SOURCES[0][1]), (SOURCES[1][0], SOURCES[1][1]), (0.0, 16.0)])
def test_a_window_shows_the_mosaics_levels_where_they_are(night: Path, ra_deg: float, dec_deg: float) -> None:
    """Each pixel's level is that of the mosaic within one HiPS pixel, also across 0 h.

    The HiPS pixel used lies at most 0.71 of its side from the window's pixel. With bilinear resampling its value lies between those of
    the mosaic within that distance and one mosaic pixel more, so between the extremes of 5 by 5 mosaic pixels (order_of makes HiPS
    pixels at most 1.5 mosaic pixels).
    """
    wcs, levels = window(night, ra_deg, dec_deg)
    mosaic = read_image(night / "mosaic.fits")
    rows, columns = np.mgrid[5:HEIGHT:7, 5:WIDTH:7]
    ra, dec = wcs.wcs_pix2world(columns.ravel(), rows.ravel(), 0)
    x, y = WCS(mosaic.header).celestial.wcs_world2pix(ra, dec, 0)
    rms, checked = robust_rms(mosaic.data), 0
    for column, row, there_x, there_y in zip(columns.ravel(), rows.ravel(), np.rint(x).astype(int), np.rint(y).astype(int), strict=True):
        if not (3 <= there_x < mosaic.data.shape[1] - 3 and 3 <= there_y < mosaic.data.shape[0] - 3):
            continue
        around = mosaic.data[there_y - 2 : there_y + 3, there_x - 2 : there_x + 3]
        if np.isfinite(around).all():
            possible = shades(around.astype(np.float32), rms)
            assert possible.min() <= levels[row, column] <= possible.max()
            checked += 1
    assert checked > 500


def test_a_source_is_in_the_middle_of_its_window_and_east_is_to_the_left(night: Path) -> None:
    wcs, levels = window(night, *SOURCES[0][:2])
    assert levels[HEIGHT // 2, WIDTH // 2] == levels.max()
    x, _ = wcs.wcs_world2pix(SOURCES[0][0] + 0.1, SOURCES[0][1], 0)
    assert x < WIDTH / 2
    assert hips_view.shades_in(night / "hips", wcs, WIDTH, HEIGHT, 20).max() == hips_view.BLANK, "there are no tiles of that order"


@pytest.mark.parametrize("fov_deg", [0.5, 30.0, 180.0, 360.0])
def test_the_window_has_the_stated_width(fov_deg: float) -> None:
    """The outer edges of the first and last pixel of the middle row are half the width from the centre, by astropy's separation.

    The separation is measured a thousandth of a pixel inside these edges: for the whole sky the edge is the rim, beyond which there is
    nothing. A pixel is 1 / cos(fov / 4) times as long there as on average, without bound at the rim: 0.001 of 501 pixels is 0.3 % of the
    way around.
    """
    wcs, centre = hips_view.window_wcs(350.0, 16.0, fov_deg, 501, 301), SkyCoord(350.0, 16.0, unit="deg")
    for edge in (-0.499, 500.499):
        ra, dec = wcs.wcs_pix2world(edge, 150.0, 0)
        away = SkyCoord(float(ra), float(dec), unit="deg").separation(centre).deg
        assert away == pytest.approx(fov_deg / 2, abs=2e-3 * fov_deg / 501 if fov_deg < 300 else 0.02 * 180)


def test_the_outline_follows_the_edge_of_the_coverage(night: Path) -> None:
    coverage = MOC.from_fits(night / "coverage.moc.fits")
    wcs = hips_view.window_wcs(0.0, 16.0, 6.0, 240, 160)
    edge = hips_view.outline(coverage, wcs, 240, 160)
    x, y = np.meshgrid(np.arange(240), np.arange(160))
    ra, dec = wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)
    covered = np.asarray(coverage.contains_lonlat(ra * u.deg, dec * u.deg)).reshape(160, 240)
    assert edge.any()
    assert covered[edge].all()
    for row, column in np.argwhere(edge[1:-1, 1:-1]) + 1:
        beside = covered[[row - 1, row + 1, row, row], [column, column, column - 1, column + 1]]
        assert not beside.all()


def test_all_of_the_sky_in_one_picture_has_each_tile_in_its_place(night: Path) -> None:
    picture = hips_view.allsky(night / "hips")
    assert picture.shape == (29 * 64, 27 * 64)
    filled = {int(path.stem.removeprefix("Npix")) for path in (night / "hips" / "Norder3").rglob("Npix*.png")}
    blocks = picture.reshape(29, 64, 27, 64).max(axis=(1, 3)).ravel()
    assert set(np.flatnonzero(blocks)) == filled


def test_a_directory_without_a_hips_has_no_description(tmp_path: Path) -> None:
    assert hips_view.described(tmp_path) == {}
