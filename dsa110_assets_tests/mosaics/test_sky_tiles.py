"""Coverage and HiPS tiles against the mosaic they show and against reproject's reading of the standard."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import ICRS
from astropy.wcs import WCS
from mocpy import MOC
from PIL import Image

from dsa110_assets.imaging.fits import write_image
from dsa110_assets.mosaics import sky_tiles
from dsa110_assets.mosaics.coadd import coadd
from dsa110_assets.mosaics.write import write_mosaic
from dsa110_assets_tests.mosaics.tiles import gaussians, make_tiles, tile_header

SOURCES = [(359.9, 16.1, 1.0), (0.15, 15.9, 2.0)]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    directory = tmp_path_factory.mktemp("night")
    tiles = make_tiles(directory, [(359.8, 16.0), (0.3, 16.0)], SOURCES, noise_jy=[0.02, 0.02])
    mosaic = coadd(tiles)
    write_mosaic(mosaic, directory)
    figures = sky_tiles.write_sky_tiles(directory / "mosaic.fits", directory)
    return directory, {**figures, "area_deg2": mosaic.figures["area_deg2"]}


def test_coverage_is_where_the_mosaic_is(night: tuple[Path, dict[str, float]]) -> None:
    directory, figures = night
    moc = MOC.from_fits(directory / "coverage.moc.fits")
    assert np.all(moc.contains_lonlat([359.9, 0.15, 0.0] * u.deg, [16.1, 15.9, 16.0] * u.deg))
    assert not np.any(moc.contains_lonlat([0.3, 3.0, 180.0] * u.deg, [19.0, 16.0, 16.0] * u.deg))
    # cells count when half full; the rim loses slivers of tiles that hold none of every 16th pixel
    assert figures["sky_area_deg2"] == pytest.approx(figures["area_deg2"], rel=0.05)


def test_tiles_are_where_the_standard_puts_them(night: tuple[Path, dict[str, float]]) -> None:
    """The brightest pixel of each source's tile lies where reproject's HiPS header says the source is."""
    from astropy_healpix import lonlat_to_healpix
    from reproject.hips._utils import tile_header as hips_header

    directory, figures = night
    order = int(figures["hips_order"])
    for ra, dec, _ in SOURCES:
        index = int(lonlat_to_healpix(ra * u.deg, dec * u.deg, 2**order, order="nested"))
        path = directory / "hips" / f"Norder{order}" / f"Dir{index // 10000 * 10000}" / f"Npix{index}.png"
        with Image.open(path) as picture:
            rgba = np.asarray(picture.convert("RGBA"))
        assert rgba.shape == (512, 512, 4)
        grey = np.where(rgba[..., 3] > 0, rgba[..., 0], 0).astype(float)[::-1]
        header = hips_header(level=order, index=index, frame=ICRS(), tile_dims=512)
        x, y = WCS(header).wcs_world2pix(ra, dec, 0)
        near = grey[int(y) - 6 : int(y) + 8, int(x) - 6 : int(x) + 8]
        assert near.max() == 255
        rows, columns = np.nonzero(grey == 255)
        close = np.hypot(rows - y, columns - x) < 12
        assert abs(columns[close].mean() - x) < 1.5
        assert abs(rows[close].mean() - y) < 1.5


def test_parents_show_the_same_sky(tmp_path: Path) -> None:
    header = tile_header(45.0, 20.0, 512)
    image = gaussians(header, 512, [(45.0, 20.0, 1.0)]) + 5.0
    write_image(image, header, tmp_path / "m.fits")
    from dsa110_assets.imaging.fits import read_image

    mosaic = read_image(tmp_path / "m.fits")
    order = sky_tiles._order(mosaic)
    fine = {index: sky_tiles._tile(mosaic, order, index) for index in sky_tiles._touched(mosaic, order)}
    parents = sky_tiles._parents(fine)
    for index, tile in parents.items():
        direct = sky_tiles._tile(mosaic, order - 1, index)
        both = np.isfinite(tile) & np.isfinite(direct)
        # a mean over 2 x 2 pixels against a sample, at the peak of a source 3 such pixels wide
        np.testing.assert_allclose(tile[both], direct[both], atol=0.15)


def test_all_orders_and_the_description_are_there(night: tuple[Path, dict[str, float]]) -> None:
    directory, figures = night
    orders = sorted(int(p.name[6:]) for p in (directory / "hips").glob("Norder*"))
    assert orders == list(range(3, int(figures["hips_order"]) + 1))
    assert len(list((directory / "hips").rglob("*.png"))) == figures["hips_tiles"]
    text = (directory / "hips" / "properties").read_text()
    assert "hips_tile_format     = png" in text
    assert f"hips_order           = {orders[-1]}" in text
