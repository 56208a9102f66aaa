"""Coadds against skies known exactly, against the coadds' noise maps, and against reproject."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.fits import read_image, write_image
from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.imaging.restoring import Beam
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.mosaics.anchors import anchor_figures, anchor_scales, corrections
from dsa110_assets.mosaics.coadd import Mosaic, TileInput, coadd, weights
from dsa110_assets.mosaics.grid import common_header
from dsa110_assets.mosaics.options import CoaddOptions
from dsa110_assets.mosaics.overlap import Pair, agreement, compared_pairs, odd_ones_out
from dsa110_assets.mosaics.resample import accumulate, source_coordinates, spline
from dsa110_assets.mosaics.shares import tile_shares
from dsa110_assets.mosaics.window import Window
from dsa110_assets.mosaics.write import write_mosaic
from dsa110_assets_tests.mosaics.tiles import (
    BEAM,
    PIXEL_DEG,
    Source,
    gaussians,
    make_tiles,
    response,
    tile_header,
)

CENTRES = [(150.0, 16.0), (150.6, 16.0), (151.2, 16.05)]
SOURCES: list[Source] = [(150.31, 16.12, 1.0), (150.62, 15.81, 0.5), (150.9, 16.3, 2.0), (151.0, 15.9, 0.7)]


def _measured(mosaic: Mosaic, ra: float, dec: float) -> tuple[float, float]:
    """(offset [beams], peak [Jy/beam]) of the peak nearest a true position."""
    peaks = find_peaks(np.nan_to_num(mosaic.image), 0.1)
    x, y = WCS(mosaic.header).wcs_world2pix(ra, dec, 0)
    away = np.hypot(peaks.x - x, peaks.y - y)
    return float(away.min() * PIXEL_DEG / mosaic.header["BMIN"]), float(peaks.value[np.argmin(away)])


def test_fluxes_and_places_survive(tmp_path: Path) -> None:
    mosaic = coadd(make_tiles(tmp_path, CENTRES, SOURCES))
    for ra, dec, flux in SOURCES:
        away, peak = _measured(mosaic, ra, dec)
        # splines of a beam 4 pixels wide err by 0.1 %, the Gaussian's foreshortening in SIN by less
        assert peak == pytest.approx(flux, rel=0.003)
        assert away < 0.02
    assert mosaic.figures["tiles"] == 3


def test_parts_of_an_image_add_up_to_it(tmp_path: Path) -> None:
    """An image cut into overlapping tiles and coadded on its own grid is recovered, to float32
    rounding."""
    full_header = tile_header(10.0, 40.0, 400)
    rng = np.random.default_rng(2)
    data = rng.standard_normal((400, 400)).astype(np.float32)
    tiles = []
    for number, (x, y) in enumerate([(0, 0), (180, 0), (0, 180), (180, 180)]):
        part = full_header.copy()
        part["CRPIX1"] -= x
        part["CRPIX2"] -= y
        tile = TileInput(tmp_path / f"i{number}", tmp_path / f"p{number}", 1.0 + number, f"t{number}", float(number))
        write_image(data[y : y + 220, x : x + 220], part, tile.image_path)
        write_image(np.ones((220, 220)), part, tile.primary_beam_path)
        tiles.append(tile)
    full_header["NAXIS1"] = full_header["NAXIS2"] = 400
    mosaic = coadd(tiles, full_header)
    np.testing.assert_allclose(mosaic.image, data, atol=2e-5)


def test_the_mosaic_follows_its_formula_in_every_pixel(tmp_path: Path) -> None:
    """M = sum(PB D / s^2) / sum(PB^2 / s^2) and its noise on one common grid, where nothing is
    interpolated."""
    header = tile_header(30.0, -5.0, 128)
    rng = np.random.default_rng(1)
    tiles, top, bottom, clear = [], 0.0, 0.0, np.ones((128, 128), np.bool_)
    for number in range(3):
        data = rng.standard_normal((128, 128))
        pb = response(header, 128, 30.0 + number, -5.0)
        sigma = 0.5 + number
        tile = TileInput(tmp_path / f"i{number}", tmp_path / f"p{number}", sigma, f"t{number}", float(number))
        write_image(data, header, tile.image_path)
        write_image(pb, header, tile.primary_beam_path)
        tiles.append(tile)
        in_beam = pb >= 0.2
        clear &= np.abs(pb - 0.2) > 1e-6  # the response is interpolated to 4e-7: closer to the cutoff than this, either side is right
        top, bottom = top + in_beam * pb * data / sigma**2, bottom + in_beam * pb**2 / sigma**2
    grid = header.copy()
    grid["NAXIS1"] = grid["NAXIS2"] = 128
    mosaic = coadd(tiles, grid)
    assert np.count_nonzero(~clear) <= 1
    np.testing.assert_allclose(mosaic.image[clear], (top / bottom)[clear], atol=1e-4)
    np.testing.assert_allclose(mosaic.noise[clear], bottom[clear] ** -0.5, rtol=1e-4)
    np.testing.assert_allclose(weights(mosaic.noise)[clear], bottom[clear], rtol=2e-4)


def test_the_noise_map_agrees_with_the_measured_noise(tmp_path: Path) -> None:
    """Trap 28: in a mosaic of noise alone, the measured sigma equals the noise map, overall and in each of its zones."""
    mosaic = coadd(make_tiles(tmp_path, CENTRES, [], noise_jy=[1.0, 2.0, 1.5], n_pixels=768))
    pulls = mosaic.image / mosaic.noise
    # some 2e4 beams give sigma to 1 %
    assert robust_rms(pulls) == pytest.approx(1.0, abs=0.03)
    assert mosaic.figures["measured_over_noise"] == pytest.approx(1.0, abs=0.03)
    quartiles = np.nanquantile(mosaic.noise, [0, 0.25, 0.5, 0.75, 1])
    for low, high in pairwise(quartiles):
        zone = (mosaic.noise >= low) & (mosaic.noise <= high)
        assert robust_rms(pulls[zone]) == pytest.approx(1.0, abs=0.06)


def test_a_tile_given_twice_counts_once(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path, CENTRES[:2], SOURCES, noise_jy=[1.0, 1.0])
    once, twice = coadd(tiles), coadd([*tiles, *tiles])
    np.testing.assert_array_equal(once.noise, twice.noise)
    assert len(twice.tiles) == 2


@pytest.mark.parametrize("shift_deg", [0.0, 209.4, 359.4 - 150.0 + 0.3])
def test_mosaics_do_not_depend_on_right_ascension(tmp_path: Path, shift_deg: float) -> None:
    """Trap 27: rotating the sky and the tiles in right ascension rotates the mosaic and nothing else."""
    reference, rotated = tmp_path / "a", tmp_path / "b"
    reference.mkdir()
    rotated.mkdir()
    mosaic = coadd(make_tiles(reference, CENTRES, SOURCES))
    moved_centres = [((ra + shift_deg) % 360, dec) for ra, dec in CENTRES]
    moved_sources = [((ra + shift_deg) % 360, dec, flux) for ra, dec, flux in SOURCES]
    rotated_mosaic = coadd(make_tiles(rotated, moved_centres, moved_sources))
    assert rotated_mosaic.image.shape == mosaic.image.shape
    assert (rotated_mosaic.header["CRVAL1"] - mosaic.header["CRVAL1"] - shift_deg + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(np.nan_to_num(rotated_mosaic.image), np.nan_to_num(mosaic.image), atol=2e-4)


def test_overlapping_tiles_agree_and_a_wrong_beam_shows(tmp_path: Path) -> None:
    """Trap 26: with the right beam, pairs agree within 3 %; with the beam corrected twice they do not."""
    tiles = make_tiles(tmp_path, CENTRES, SOURCES, noise_jy=[0.002] * 3)
    figures = agreement(compared_pairs(tiles))
    assert figures["overlap_pairs"] >= 5
    assert figures["overlap_flux_ratio"] == pytest.approx(1.0, abs=0.03)
    assert figures["overlap_flux_scatter"] < 0.03
    assert figures["overlap_flux_worst"] < 0.03
    assert figures["overlap_offset_arcsec"] < 0.05 * 40
    wrong = []
    for tile in tiles:
        squared = read_image(tile.primary_beam_path)
        path = tmp_path / f"squared-{tile.product_id}.fits"
        write_image(squared.data**2, squared.header, path)
        wrong.append(replace(tile, primary_beam_path=path))
    assert agreement(compared_pairs(wrong))["overlap_flux_scatter"] > 0.03


def test_the_one_tile_that_disagrees_is_named(tmp_path: Path) -> None:
    """The last of three tiles is 8 % too bright: the median of all pairs is off by at most 4 %, the worst pair by 8 % within its error."""
    tiles = make_tiles(tmp_path, CENTRES, SOURCES, noise_jy=[0.002] * 3)
    agreed = agreement(compared_pairs(tiles))
    assert agreed["overlap_flux_worst"] < 0.03 + 3 * agreed["overlap_worst_error"]
    image = read_image(tiles[2].image_path)
    write_image(image.data * np.float32(1.08), image.header, tmp_path / "bright.fits")
    wrong = [*tiles[:2], replace(tiles[2], image_path=tmp_path / "bright.fits")]
    figures = agreement(compared_pairs(wrong))
    assert figures["overlap_worst_tiles"] == ["tile-1", "tile-2"]
    assert figures["overlap_flux_worst"] == pytest.approx(0.08, abs=3 * figures["overlap_worst_error"])
    assert figures["overlap_worst_sigma"] > 5
    assert agreement(compared_pairs(tiles[:1]))["overlap_worst_tiles"] == []
    # the first two share too few sources to show which of the last two is odd
    assert sorted(odd_ones_out(compared_pairs(wrong), 0.03)) == ["tile-1", "tile-2"]
    assert odd_ones_out(compared_pairs(tiles), 0.03) == {}


@pytest.mark.parametrize(
    ("factors", "odd"),
    [((1, 1, 1, 1), []), ((1, 1.1, 1, 1), ["1"]), ((1.1, 1, 1, 1), ["0"]), ((1, 1, 1.1, 1.1), []), ((1, 1.1), ["0", "1"])],
)
def test_a_tile_that_disagrees_with_all_neighbours_is_odd(factors: tuple[float, ...], odd: list[str]) -> None:
    ones = np.ones(5)
    pairs = [Pair(str(k), str(k + 1), ones * b / a, 0.01 * ones, 0 * ones) for k, (a, b) in enumerate(pairwise(factors))]
    assert sorted(odd_ones_out(pairs, 0.03)) == odd
    few = [replace(pair, ratio=pair.ratio[:2], error=pair.error[:2], offset_deg=pair.offset_deg[:2]) for pair in pairs]
    assert odd_ones_out(few, 0.03) == {}


def test_a_scale_is_divided_out(tmp_path: Path) -> None:
    """A tile 8 % too bright in image and noise, with a scale of 1.08, counts as the original tile in mosaic, noise and overlaps."""
    tiles = make_tiles(tmp_path, CENTRES, SOURCES, noise_jy=[0.002, 0.001, 0.002])
    image = read_image(tiles[1].image_path)
    write_image(image.data * np.float32(1.08), image.header, tmp_path / "bright.fits")
    scaled = replace(tiles[1], image_path=tmp_path / "bright.fits", rms_jy=0.001 * 1.08, scale=1.08)
    plain, same = coadd(tiles), coadd([tiles[0], scaled, tiles[2]])
    np.testing.assert_allclose(same.image, plain.image, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(same.noise, plain.noise, rtol=1e-5)
    plain_figures, scaled_figures = agreement(compared_pairs(tiles)), agreement(compared_pairs([tiles[0], scaled, tiles[2]]))
    assert plain_figures["overlap_flux_ratio"] == pytest.approx(scaled_figures["overlap_flux_ratio"], rel=1e-5)


def test_shares_are_the_mosaics_weights(tmp_path: Path) -> None:
    """Sums of PB^2/sigma^2 at positions agree with the noise map there; half a pixel of 10 arcsec changes PB by 0.3 % at most."""
    tiles = make_tiles(tmp_path, CENTRES, SOURCES, noise_jy=[0.002, 0.001, 0.003])
    mosaic = coadd(tiles)
    rng = np.random.default_rng(4)
    x, y = (rng.uniform(0, side, 300).round() for side in mosaic.image.shape[::-1])
    ra, dec = WCS(mosaic.header).wcs_pix2world(x, y, 0)
    share = tile_shares(tiles, ra, dec, CoaddOptions().pb_cutoff)
    noise = mosaic.noise[y.astype(int), x.astype(int)]
    pb = [read_image(tile.primary_beam_path) for tile in tiles]
    places = [WCS(p.header).wcs_world2pix(ra, dec, 0) for p in pb]
    size = pb[0].data.shape[0]
    off_edges = [np.all([np.minimum(np.abs(v), np.abs(v - size + 1)) > 2 for v in place], axis=0) for place in places]
    off = np.all(off_edges, axis=0)  # from every tile's edge
    x, y, noise, share = x[off], y[off], noise[off], share[:, off]
    covered = np.isfinite(noise)
    np.testing.assert_array_equal(share[:, ~covered].sum(axis=0), 0)
    np.testing.assert_allclose(share[:, covered].sum(axis=0), 1)
    for k, tile in enumerate(tiles):
        column, row = (np.rint(v[off]).astype(int) for v in places[k])
        inside = covered & (column >= 0) & (row >= 0) & (column < size) & (row < size)
        expected = (pb[k].data[row[inside], column[inside]] * noise[inside] / tile.rms_jy) ** 2
        np.testing.assert_allclose(share[k, inside], expected, rtol=0.006)
    gone = replace(tiles[0], primary_beam_path=tmp_path / "gone.fits")
    rest = tile_shares([gone, *tiles[1:]], ra, dec, CoaddOptions().pb_cutoff)
    assert np.isnan(rest[0]).all()
    np.testing.assert_allclose(rest[1:], tile_shares(tiles[1:], ra, dec, CoaddOptions().pb_cutoff))


def test_two_scales_in_one_mosaic_are_corrected_to_the_standards(tmp_path: Path) -> None:
    """Three tiles on a standard's scale, then three on a listed calibrator's, 7 % low: the step is measured, divided out and
    recorded; the scale of a third anchor without neighbours stays unknown."""
    centres = [(150.0 + 0.5 * k, 16.0) for k in range(6)]
    rng = np.random.default_rng(8)
    sources = [(150 + 2.5 * rng.random(), 16 + 0.5 * rng.standard_normal(), 1.0 + rng.random()) for _ in range(25)]
    tiles = make_tiles(tmp_path, centres, sources, noise_jy=[0.004] * 6)
    for k, tile in enumerate(tiles[3:], start=3):
        image = read_image(tile.image_path)
        write_image(image.data * np.float32(0.93), image.header, tmp_path / f"low{k}.fits")
        tiles[k] = replace(tile, image_path=tmp_path / f"low{k}.fits")
    names = {tile.product_id: "PB17:3C138" if k < 3 else "VLA:0521+166" for k, tile in enumerate(tiles)}
    scales = anchor_scales(names, compared_pairs(tiles))
    low = scales["VLA:0521+166"]
    assert low.value == pytest.approx(0.93, abs=3 * low.error)
    assert low.error < 0.01
    applied = corrections(scales)
    assert applied["PB17:3C138"] == 1
    figures = anchor_figures(scales, applied)
    assert figures["n_anchors"] == 2
    assert figures["anchor_difference"] == 0
    assert figures["anchor_scales"] == [f"VLA:0521+166: {low.value:.4f} +- {low.error:.4f}, divided by {low.value:.4f}"]
    corrected = [replace(tile, scale=applied[names[tile.product_id]]) for tile in tiles]
    assert agreement(compared_pairs(corrected))["overlap_flux_worst"] < 0.03
    with_far = anchor_scales(names | {"far": "VLA:0000+000"}, compared_pairs(tiles))
    assert np.isnan(with_far["VLA:0000+000"].value)
    assert corrections(with_far)["VLA:0000+000"] == 1
    assert np.isnan(anchor_figures(with_far, corrections(with_far))["anchor_difference"])


def test_different_beams_are_made_one(tmp_path: Path) -> None:
    """When tiles of two beams are coadded, a point source keeps its flux in Jy/beam, and the noise map stays right."""
    beams = [BEAM, Beam(70 / 3600, 50 / 3600, -20.0), BEAM]
    mosaic = coadd(make_tiles(tmp_path, CENTRES, SOURCES, beams=beams, noise_jy=[0.001] * 3, flat=True))
    assert mosaic.figures["convolved"] == 1
    assert mosaic.header["BMAJ"] >= 70 / 3600
    for ra, dec, flux in SOURCES:
        assert _measured(mosaic, ra, dec)[1] == pytest.approx(flux, rel=0.01)
    assert mosaic.figures["measured_over_noise"] == pytest.approx(1.0, abs=0.05)


def test_resampling_agrees_with_reproject(tmp_path: Path) -> None:
    """The quick resampling against reproject's, which evaluates the WCS at every pixel (also with bicubic splines)."""
    from reproject import reproject_interp

    source = tile_header(150.0, 16.0, 300)
    target = tile_header(150.2, 16.1, 320)
    image = gaussians(source, 300, [(150.1, 16.05, 1.0), (149.9, 15.9, 1.0)])
    window = Window(0, 320, 0, 320)
    x, y = source_coordinates(WCS(source), WCS(target), window)
    ours, seen = np.zeros((2, 320, 320), np.float32)
    accumulate(spline(image.astype(np.float32)), np.ones(image.shape, np.float32), x, y, 1.0, 0.5, ours, seen)
    theirs, footprint = reproject_interp((image, source), target, shape_out=(320, 320), order="bicubic")
    both = (footprint > 0) & (seen > 0)
    assert both.sum() > 60_000
    np.testing.assert_allclose(ours[both], theirs[both], atol=1e-3)


def test_the_grid_covers_all_tiles_and_keeps_the_pixel_scale() -> None:
    headers = []
    for ra in np.arange(-10, 10, 1.3):
        header = tile_header(ra, 54.573, 600)
        header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, 600, 600
        headers.append(header)
    grid = common_header(headers)
    wcs = WCS(grid)
    assert wcs.wcs.ctype[0] == "RA---ZEA"
    for header in headers:
        x, y = wcs.wcs_world2pix(*WCS(header).wcs_pix2world([0, 599, 0, 599], [0, 0, 599, 599], 0), 0)
        assert np.all((x >= 0) & (x < grid["NAXIS1"]) & (y >= 0) & (y < grid["NAXIS2"]))
    # cos(dec) is included: the strip is 19.5 deg of RA at dec 54.6, not 19.5 deg of arc
    assert grid["NAXIS1"] * PIXEL_DEG == pytest.approx(19.5 * np.cos(np.deg2rad(54.573)) + 600 * PIXEL_DEG, rel=0.03)
    area = WCS(grid).proj_plane_pixel_area().to_value("deg2")
    assert area == pytest.approx(PIXEL_DEG**2, rel=1e-6)


def test_tiles_around_the_whole_sky_fit_one_grid(tmp_path: Path) -> None:
    headers = []
    for ra in np.arange(0, 300, 20.0):
        header = tile_header(ra, 16.27, 512)
        header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, 512, 512
        headers.append(header)
    grid = common_header(headers, max_pixels=2_000_000)
    assert grid["CTYPE1"] == "RA---MER"
    assert grid["NAXIS1"] * grid["NAXIS2"] <= 2_000_000
    x, y = grid["NAXIS1"] / 2, WCS(grid).wcs_world2pix(grid["CRVAL1"], 16.27, 0)[1]
    positions = np.array(WCS(grid).wcs_pix2world([x, x + 1, x], [y, y, y + 1], 0))
    across = abs(positions[0, 1] - positions[0, 0]) * np.cos(np.deg2rad(16.27))
    assert across == pytest.approx(positions[1, 2] - positions[1, 0], rel=1e-3)


def test_tiles_that_cannot_be_coadded_are_refused(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path, CENTRES[:1], [], n_pixels=128)
    with pytest.raises(BadDataError, match="at least one tile"):
        coadd([])
    with pytest.raises(BadDataError, match="no weight"):
        coadd([replace(tiles[0], rms_jy=0.0)])
    elsewhere = tile_header(10.0, 16.0, 64)
    elsewhere["NAXIS1"] = elsewhere["NAXIS2"] = 64
    with pytest.raises(BadDataError, match="inside the mosaic"):
        coadd(tiles, elsewhere)
    header = read_image(tiles[0].image_path).header
    write_image(np.ones((64, 64)), header, tmp_path / "small.fits")
    with pytest.raises(BadDataError, match=r"small\.fits"):
        coadd([replace(tiles[0], primary_beam_path=tmp_path / "small.fits")])


def test_blank_pixels_stay_out(tmp_path: Path) -> None:
    """A NaN in a tile does not spread, and does not count as 0 flux where another tile sees the sky."""
    tiles = make_tiles(tmp_path, CENTRES[:2], SOURCES, flat=True)
    image = read_image(tiles[0].image_path)
    data = image.data.copy()
    data[:, 200:260] = np.nan
    write_image(data, image.header, tmp_path / "holed.fits")
    mosaic = coadd([replace(tiles[0], image_path=tmp_path / "holed.fits"), tiles[1]])
    for ra, dec, flux in SOURCES[:2]:
        assert _measured(mosaic, ra, dec)[1] == pytest.approx(flux, rel=0.01)


def test_a_mosaic_on_disk_reads_back(tmp_path: Path) -> None:
    mosaic = coadd(make_tiles(tmp_path, CENTRES, SOURCES, noise_jy=[0.01] * 3), options=CoaddOptions(threads=1))
    out = tmp_path / "out"
    out.mkdir()
    written = write_mosaic(mosaic, out, {"PRODUCT": "hour_mosaic-1"})
    assert set(written) == {"mosaic.fits", "noise.fits", "weights.fits", "preview.png"}
    back = read_image(written["mosaic.fits"])
    np.testing.assert_array_equal(back.data, mosaic.image)
    assert back.header["PRODUCT"] == "hour_mosaic-1"
    assert [back.header[f"TILE{n:04d}"] for n in (1, 2, 3)] == ["tile-0", "tile-1", "tile-2"]
    noise, weights = (fits.getdata(written[name]) for name in ("noise.fits", "weights.fits"))
    covered = weights > 0
    np.testing.assert_allclose(noise[covered] ** -2.0, weights[covered], rtol=1e-5)
    assert written["preview.png"].stat().st_size <= 20_000


@pytest.mark.parametrize("shape", [(2, 3), (7, 5), (33, 70)])
def test_spline_coefficients_are_those_of_scipy(shape: tuple[int, int]) -> None:
    """Mirrored edges, also of images smaller than the filter's reach; float32 rounding of sums of gain 36."""
    image = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
    expected = ndimage.spline_filter(image, order=3, output=np.float64, mode="mirror")
    np.testing.assert_allclose(spline(image).coefficients[1:-2, 1:-2], expected, atol=36 * 6e-8 * np.abs(expected).max())
