"""Coverage and HiPS tiles against the mosaic they show and against reproject's implementation of the standard."""

from __future__ import annotations

import re
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import ICRS
from astropy.io import fits
from astropy.wcs import WCS
from mocpy import MOC
from PIL import Image
from scipy.ndimage import map_coordinates

from dsa110_assets.imaging.fits import read_image, write_image
from dsa110_assets.mosaics import hips, sky_tiles
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
    # cells count when half full; at the rim, slivers of tiles that hold none of every 16th pixel are lost
    assert figures["sky_area_deg2"] == pytest.approx(figures["area_deg2"], rel=0.05)


def test_tiles_are_where_the_standard_puts_them(night: tuple[Path, dict[str, float]]) -> None:
    """The brightest pixel of each source's tile lies at the source's position in reproject's HiPS header."""
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
    mosaic = read_image(tmp_path / "m.fits")
    order = sky_tiles.order_of(mosaic.header)
    fine = {index: sky_tiles.tile_of(mosaic, order, index) for index in sky_tiles.touched(mosaic, order)}
    parents = sky_tiles._parents(fine)
    for index, tile in parents.items():
        direct = sky_tiles.tile_of(mosaic, order - 1, index)
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


REQUIRED = ("creator_did", "obs_title", "dataproduct_type", "hips_version", "hips_release_date", "hips_status", "hips_tile_format",
            "hips_order", "hips_tile_width", "hips_frame", "hips_order_min", "hips_pixel_scale", "hips_pixel_bitpix", "hips_initial_ra",
            "hips_initial_dec", "hips_initial_fov", "moc_sky_fraction", "em_min", "em_max", "s_pixel_scale", "client_category")  # fmt: skip
"""Keys that the standard requires or that clients use."""


def properties_of(root: Path) -> dict[str, str]:
    lines = (root / "properties").read_text().splitlines()
    return {key.strip(): value.strip() for key, value in (line.split("=", 1) for line in lines)}


def test_the_description_has_what_the_standard_asks_for(night: tuple[Path, dict[str, float]]) -> None:
    directory, figures = night
    fields = properties_of(directory / "hips")
    assert [key for key in REQUIRED if not fields.get(key)] == []
    assert fields["hips_tile_format"].split() == ["png", "fits"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", fields["hips_release_date"])
    assert float(fields["em_min"]) == pytest.approx(float(fields["em_max"]))  # these tiles name a frequency and no bandwidth
    assert float(fields["em_min"]) == pytest.approx(299792458 / 1.405e9, rel=1e-5)
    coverage = MOC.from_fits(directory / "hips" / "Moc.fits")
    assert coverage.contains_lonlat(float(fields["hips_initial_ra"]) * u.deg, float(fields["hips_initial_dec"]) * u.deg)
    assert float(fields["hips_pixel_scale"]) == pytest.approx(58.6323 / 512 / 2 ** figures["hips_order"], rel=1e-6)


def test_hips_metadata_have_the_mosaics_times_and_band(tmp_path: Path) -> None:
    """The release date is the newest observation's end, so the same mosaic gives the same bytes again."""
    header = tile_header(45.0, 20.0, 256)
    header["BANDWID"], header["PRODUCT"] = 187.5e6, "night_mosaic-20260125"
    header["MJD-OBS"], header["MJD-END"] = 61065.9, 61065.95
    header["DATE-OBS"], header["DATE-END"] = "2026-01-25T21:36:00", "2026-01-25T22:48:00"
    write_image(gaussians(header, 256, [(45.0, 20.0, 1.0)]), header, tmp_path / "m.fits")
    written = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        sky_tiles.write_sky_tiles(tmp_path / "m.fits", tmp_path / place, "continuum/2026-01-25")
        written.append({p.relative_to(tmp_path / place): p.read_bytes() for p in (tmp_path / place).rglob("*.*[gs]")})
        fields = properties_of(tmp_path / place / "hips")
        written[-1][Path("properties")] = (tmp_path / place / "hips" / "properties").read_bytes()
    assert written[0] == written[1]
    assert fields["creator_did"] == "ivo://dsa110/P/continuum/2026-01-25"
    assert fields["hips_release_date"] == "2026-01-25T22:48Z"
    assert (fields["t_min"], fields["t_max"], fields["prov_progenitor"]) == (
        "61065.900000",
        "61065.950000",
        "night_mosaic-20260125",
    )
    edges = [299792458 / (1.405e9 + sign * 187.5e6 / 2) for sign in (1, -1)]
    assert [float(fields[key]) for key in ("em_min", "em_max")] == pytest.approx(edges, rel=1e-5)


def test_fits_tiles_hold_the_mosaic_where_they_say(night: tuple[Path, dict[str, float]]) -> None:
    """Each tile's coordinates agree with reproject's implementation of the standard, and its pixels are the mosaic's."""
    from reproject.hips import hips_as_dask_array
    from reproject.hips._utils import tile_header as hips_header

    directory, figures = night
    order = int(figures["hips_order"])
    mosaic = read_image(directory / "mosaic.fits")
    tiles = sorted((directory / "hips" / f"Norder{order}").rglob("*.fits"))
    assert len(list((directory / "hips").rglob("Npix*.fits"))) == figures["hips_tiles"]
    for path in tiles:
        with fits.open(path, checksum=True) as hdus:
            tile, header = hdus[0].data, hdus[0].header
        assert (tile.shape, header["BITPIX"], header["BUNIT"]) == ((512, 512), -32, "Jy/beam")
        standard_header = hips_header(level=order, index=header["NPIX"], frame=ICRS(), tile_dims=512)
        rows, columns = (places.ravel()[::4099] for places in np.indices(tile.shape))
        ours, theirs = (WCS(one).wcs_pix2world(columns, rows, 0) for one in (header, standard_header))
        assert np.abs((ours[0] - theirs[0] + 180) % 360 - 180).max() < 1e-9
        assert np.abs(ours[1] - theirs[1]).max() < 1e-9
        x, y = WCS(mosaic.header).wcs_world2pix(*ours, 0)
        expected = map_coordinates(mosaic.data, [y, x], order=1, cval=np.nan)
        np.testing.assert_allclose(tile.ravel()[::4099], expected, atol=1e-6)
    array, wcs = hips_as_dask_array(str(directory / "hips"), level=order)
    x, y = (round(float(value)) for value in wcs.wcs_world2pix(*SOURCES[1][:2], 0))
    # a peak between pixels of 13" under a beam of 40"
    around = array.blocks[y // 512, x // 512].compute()[y % 512 - 3 : y % 512 + 4, x % 512 - 3 : x % 512 + 4]
    assert np.nanmax(around) == pytest.approx(2.0, rel=0.12)


@pytest.mark.parametrize("ra", [0.0, 89.99, 135.0, 180.0, 269.99, 359.99])
@pytest.mark.parametrize("dec", [-60.0, 0.0, 16.3, 71.0])
def test_positions_in_a_tile_are_right_anywhere(ra: float, dec: float) -> None:
    """Also across the edge of HPX maps at 180 degrees."""
    from astropy_healpix import lonlat_to_healpix

    index = int(lonlat_to_healpix(ra * u.deg, dec * u.deg, 2**5, order="nested"))
    x, y = np.meshgrid(np.arange(0, 512, 73), np.arange(0, 512, 73))
    position = WCS(hips.tile_header(5, index)).wcs_pix2world(x, y, 0)
    truth = hips.tile_deg(5, index, (x + 0.5) / 512, (y + 0.5) / 512)
    assert np.abs((position[0] - truth[0] + 180) % 360 - 180).max() < 1e-9
    assert np.abs(position[1] - truth[1]).max() < 1e-9
