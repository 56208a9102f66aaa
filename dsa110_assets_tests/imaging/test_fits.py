"""FITS files written and read: positions are right, and unusable files are refused by name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image

from dsa110_assets.errors import BadDataError, NotFoundError
from dsa110_assets.imaging.fits import read_header, read_image, read_plane, write_image, write_tile
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.preview import MAX_BYTES, preview_png
from dsa110_assets.imaging.tile import TileImage, make_tile
from dsa110_assets_tests.imaging.synthetic import observe, position_rad


@pytest.fixture(scope="module")
def tile() -> TileImage:
    vis = observe([(0.3, 0.2, 1.0)], n_times=3, n_antennas=16, noise_jy=0.5)
    return make_tile(vis, ImagingOptions(field_deg=4.0, threads=1, pblimit=0.5))


@pytest.fixture
def written(tile: TileImage, tmp_path: Path) -> dict[str, Path]:
    return write_tile(tile, tmp_path, {"PRODUCT": "tile_image-20260125T2225-v1", "ANCHOR": "PB17:3C138"})


def _spoil(path: Path, **cards: object) -> Path:
    with fits.open(path) as hdus:
        data, header = hdus[0].data.copy(), hdus[0].header.copy()
    for keyword, value in cards.items():
        if value is None:
            header.remove(keyword)
        elif keyword == "data":
            data = value
        else:
            header[keyword] = value
    spoilt = path.with_name("spoilt.fits")
    fits.PrimaryHDU(data, header).writeto(spoilt, overwrite=True)
    return spoilt


def test_all_files_are_written_with_complete_headers(written: dict[str, Path]) -> None:
    assert set(written) == {
        "image.fits", "image-pb.fits", "residual.fits", "model.fits", "psf.fits",
        "primary-beam.fits", "preview.png",
    }  # fmt: skip
    for name, path in written.items():
        if not name.endswith(".fits"):
            continue
        with fits.open(path, checksum=True) as hdus:
            header = hdus[0].header
            assert header["PRODUCT"] == "tile_image-20260125T2225-v1"
            assert header["ANCHOR"] == "PB17:3C138"
            assert header["RADESYS"] == "ICRS"
            assert header["BMAJ"] > header["BMIN"] > 0
            assert header["BITPIX"] == -32
            assert header["DATE-OBS"].startswith("2026-01-25T22:24")
            assert {"CHECKSUM", "DATASUM", "RESTFRQ", "TELESCOP", "BPA"} <= set(header)


def test_the_source_is_where_astropy_reads_it(written: dict[str, Path]) -> None:
    vis = observe([], n_times=3, n_antennas=16)
    truth = np.rad2deg(position_rad(vis.phase_centres_rad[0], 0.3, 0.2))
    image = read_image(written["image.fits"])
    row, column = np.unravel_index(np.argmax(image.data), image.data.shape)
    x, y = WCS(image.header).wcs_world2pix(*truth, 0)
    assert abs(column - x) <= 0.5 + 0.05 * image.beam.bmaj_deg / image.header["CDELT2"]
    assert abs(row - y) <= 0.5 + 0.05 * image.beam.bmaj_deg / image.header["CDELT2"]


def test_the_corrected_image_is_blank_where_the_beam_is_low(written: dict[str, Path]) -> None:
    image, corrected, beam = (read_image(written[name]).data for name in ("image.fits", "image-pb.fits", "primary-beam.fits"))
    low = beam < 0.5
    assert low.any()
    assert np.all(np.isnan(corrected[low]))
    np.testing.assert_allclose(corrected[~low] * beam[~low], image[~low], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("keyword", ["BMAJ", "BMIN"])
@pytest.mark.parametrize("value", [None, 0.0, -1.0, "wide"])
def test_an_image_without_a_beam_is_refused(written: dict[str, Path], keyword: str, value: object) -> None:
    with pytest.raises(BadDataError, match=rf"spoilt\.fits: {keyword}"):
        read_image(_spoil(written["image.fits"], **{keyword: value}))
    with pytest.raises(BadDataError, match=keyword):
        read_header(_spoil(written["image.fits"], **{keyword: value}))


def test_blank_and_broken_images_are_refused(written: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="no pixel is finite"):
        read_image(_spoil(written["image.fits"], data=np.full((8, 8), np.nan, dtype=np.float32)))
    with pytest.raises(BadDataError, match="no celestial"):
        read_image(_spoil(written["image.fits"], CTYPE1="FREQ", CTYPE2="STOKES", CUNIT1="Hz", CUNIT2=""))
    with pytest.raises(BadDataError, match="two axes"):
        read_image(_spoil(written["image.fits"], data=np.zeros((3, 8, 8), dtype=np.float32)))
    with pytest.raises(NotFoundError):
        read_image(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("no image")
    with pytest.raises(BadDataError, match="not readable"):
        read_image(tmp_path / "text.fits")
    whole = written["image.fits"].read_bytes()
    (tmp_path / "short.fits").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadDataError, match="not readable"):
        read_image(tmp_path / "short.fits")


def test_one_blank_pixel_stays_blank(written: dict[str, Path]) -> None:
    data = read_image(written["image.fits"]).data.copy()
    data[5, 7] = np.nan
    back = read_image(_spoil(written["image.fits"], data=data))
    assert np.isnan(back.data[5, 7])
    assert np.isnan(back.data).sum() == 1


def test_images_of_four_axes_read_as_two(written: dict[str, Path]) -> None:
    data = read_image(written["image.fits"]).data
    spoilt = _spoil(written["image.fits"], data=data[None, None], CTYPE3="FREQ", CTYPE4="STOKES", CRVAL3=1.4e9)
    back = read_image(spoilt)
    assert back.data.shape == data.shape
    assert WCS(back.header).naxis == 2


def test_frequency_and_stokes_are_axes_of_a_file_and_none_in_memory(written: dict[str, Path]) -> None:
    for name, path in written.items():
        if not name.endswith(".fits"):
            continue
        with fits.open(path) as hdus:
            header, shape = hdus[0].header, hdus[0].data.shape
        back, pixels = read_plane(path)[1], read_plane(path)[0]
        assert shape == (1, 1, *pixels.shape)
        assert [header[f"CTYPE{axis}"] for axis in (3, 4)] == ["FREQ", "STOKES"]
        assert (header["CUNIT3"], header["CRPIX3"], header["CDELT3"]) == ("Hz", 1, header["BANDWID"])
        assert header["CRVAL3"] == header["RESTFRQ"] == header["RESTFREQ"] == back["RESTFRQ"]
        assert header["CRVAL4"] == 1  # I
        assert (header["SPECSYS"], header["RADESYS"], header["TIMESYS"]) == ("TOPOCENT", "ICRS", "UTC")
        assert WCS(header).spectral.wcs_pix2world(0, 0)[0] == pytest.approx(header["RESTFRQ"])
        assert WCS(back).naxis == back["NAXIS"] == 2
        assert {"CTYPE3", "CTYPE4", "NAXIS3", "NAXIS4"}.isdisjoint(back)


def test_the_frequency_of_a_file_of_another_tool_is_that_of_its_axis(written: dict[str, Path]) -> None:
    """As CASA writes it: Stokes before frequency, a matrix of all axes, another unit, and a line's rest frequency."""
    data = read_image(written["image.fits"]).data
    matrix = {f"PC{i}_{j}": float(i == j) for i in range(1, 5) for j in range(1, 5)}
    axes = {"CTYPE3": "STOKES", "CRVAL3": 1.0, "CUNIT3": "", "CRPIX3": 1.0, "CDELT3": 1.0, "CTYPE4": "FREQ", "CRVAL4": 1.39,
            "CDELT4": 0.01, "CRPIX4": 2.0, "CUNIT4": "GHz", "RESTFRQ": 1.420405752e9, "WCSAXES": 4}  # fmt: skip
    back = read_image(_spoil(written["image.fits"], data=data[None, None], **matrix, **axes))
    assert back.header["RESTFRQ"] == pytest.approx(1.38e9)
    assert WCS(back.header).naxis == 2
    assert not [keyword for keyword in back.header if keyword.startswith(("PC3", "PC4", "PC1_3"))]
    with pytest.raises(BadDataError, match=r"spoilt\.fits: the frequency on axis 3 cannot be read"):
        read_image(_spoil(written["image.fits"], CUNIT3="parsec"))


def test_an_image_of_which_no_frequency_is_known_has_two_axes(tmp_path: Path) -> None:
    header = fits.Header({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CDELT1": -0.01, "CDELT2": 0.01, "CUNIT1": "deg", "CUNIT2": "deg"})
    path = write_image(np.ones((4, 6)), header, tmp_path / "plain.fits")
    assert fits.getdata(path).shape == (4, 6)


def test_a_long_anchor_follows_the_long_string_convention(tile: TileImage, tmp_path: Path) -> None:
    """As when there are many calibrators. fitsverify reports a header that uses the convention without announcing it."""
    long = ", ".join(f"catalogue:NVSS J{number:06d}+161616" for number in range(6))
    for name, anchor in (("long", long), ("short", "PB17:3C138")):
        path = write_image(np.ones((4, 6)), tile.header, tmp_path / f"{name}.fits", {"ANCHOR": anchor})
        with fits.open(path, checksum=True) as hdus:
            assert hdus[0].header["ANCHOR"] == anchor
            assert ("LONGSTRN" in hdus[0].header) == (name == "long")
        if shutil.which("fitsverify"):
            done = subprocess.run(["fitsverify", "-q", str(path)], capture_output=True, text=True, timeout=60)
            assert "verification OK" in done.stdout


def test_previews_are_small_and_upright(tile: TileImage, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    data = rng.standard_normal((3000, 2000)).astype(np.float32)
    data[2800:2820, 100:120] = 100
    content = preview_png(data, tmp_path / "p.png")
    assert len(content) <= MAX_BYTES
    assert (tmp_path / "p.png").read_bytes() == content
    with Image.open(tmp_path / "p.png") as picture:
        grey = np.asarray(picture.convert("L")).astype(float)
    row, column = np.unravel_index(np.argmax(grey), grey.shape)
    assert row < 0.1 * grey.shape[0]  # north is up
    assert column < 0.1 * grey.shape[1]
    assert len(preview_png(np.full((50, 60), np.nan, dtype=np.float32))) <= MAX_BYTES
    assert len(preview_png(np.zeros((50, 60), dtype=np.float32))) <= MAX_BYTES


def test_previews_show_the_brightest_ratio_to_the_noise(tmp_path: Path) -> None:
    """The preview of image and noise equals that of their ratio, shrunk by numpy; the sides are no multiple of the 2 x 2 blocks."""
    rng = np.random.default_rng(2)
    data, noise = rng.standard_normal((301, 257)).astype(np.float32), rng.uniform(0.5, 2, (301, 257)).astype(np.float32)
    noise[:, 40:60], noise[0, 0] = np.nan, 0
    with np.errstate(divide="ignore"):
        ratio = np.pad(data / noise, ((0, 1), (0, 1)), constant_values=np.nan)
    blocks = np.where(np.isfinite(ratio), ratio, -np.inf).reshape(151, 2, 129, 2).max(axis=(1, 3))
    shrunk = np.where(np.isfinite(blocks), blocks, np.nan).astype(np.float32)
    assert preview_png(data, noise=noise, rms=1.1) == preview_png(shrunk, rms=1.1)
