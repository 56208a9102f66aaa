"""Row 19: worthless or incomplete images, at every place where they are read: refused by file name, or masked; never 0 Jy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import BadDataError, DsaError
from dsa110_assets.mosaics.coadd import Mosaic, TileInput, coadd
from dsa110_assets.mosaics.overlap import agreement, compared_pairs
from dsa110_assets.mosaics.sky_tiles import write_sky_tiles
from dsa110_assets.mosaics.write import write_mosaic
from dsa110_assets.photometry import nightrows
from dsa110_assets.photometry.association import associate
from dsa110_assets.photometry.blind import find_sources
from dsa110_assets.photometry.ensemble import normalise
from dsa110_assets.photometry.measure import measure_mosaic, read_plane
from dsa110_assets.photometry.options import EnsembleOptions, PhotometryOptions
from dsa110_assets.photometry.past import Past
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.transits import one_per_transit
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.mosaics.tiles import make_tiles

CENTRES = [(359.9, 16.0), (0.1, 16.0)]
"""The centres [deg] of two tiles on either side of 0 h. Each contains sources of SOURCES, and the first source is in both tiles."""
SOURCES = [(359.95, 16.02, 1.0), (0.02, 15.9, 0.5), (0.2, 16.1, 0.8), (359.8, 15.95, 0.6)]
NOISE_JY = 1e-3
OPTIONS = PhotometryOptions()
CATALOGUE = pd.DataFrame({"source_id": [f"S{k}" for k in range(4)], "ra_deg": [s[0] for s in SOURCES], "dec_deg": [s[1] for s in SOURCES]})
TRUE_JY = {f"S{k}": source[2] for k, source in enumerate(SOURCES)}
TOLERANCE_JY = 6e-3
"""5 sigma, where sigma is 1.2e-3 Jy: the error of a flux from one tile of 1e-3 Jy noise here."""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[TileInput]:
    return make_tiles(tmp_path_factory.mktemp("tiles"), CENTRES, SOURCES, n_pixels=256, noise_jy=[NOISE_JY] * 2)


def spoilt(path: Path, to: Path, **cards: object) -> Path:
    """A copy of an image with changed header cards (None removes the card). A callable `data` makes its pixels from (data, header)."""
    with fits.open(path, memmap=False) as hdus:
        data, header = hdus[0].data.copy(), hdus[0].header.copy()
    for keyword, value in cards.items():
        if callable(value):
            data = value(data, header)
        elif value is None:
            del header[keyword]
        else:
            header[keyword] = value
    to.unlink(missing_ok=True)
    fits.writeto(to, data, header)
    return to


def blank(data: np.ndarray, header: fits.Header) -> np.ndarray:
    return np.full_like(data, np.nan)


def dead(data: np.ndarray, header: fits.Header) -> np.ndarray:
    return np.zeros_like(data)


def one_blank(data: np.ndarray, header: fits.Header) -> np.ndarray:
    """Blank the pixel of the brightest source."""
    x, y = WCS(header).celestial.wcs_world2pix(*SOURCES[0][:2], 0)
    data[..., round(float(y)), round(float(x))] = np.nan
    return data


WORTHLESS: dict[str, dict[str, object]] = {
    "all NaN": {"data": blank}, "all 0": {"data": dead}, "no BMAJ": {"BMAJ": None}, "no BMIN": {"BMIN": None},
    "zero beam": {"BMAJ": 0.0, "BMIN": 0.0}, "NaN is no card": {"BMAJ": "NaN"},
}  # fmt: skip


def measured(mosaic: Mosaic, place: Path) -> pd.DataFrame:
    """The measurements of a mosaic that was written to files as in a product, by source."""
    place.mkdir()
    write_mosaic(mosaic, place)
    return measure_mosaic(place / "mosaic.fits", place / "noise.fits", CATALOGUE, OPTIONS, "e", 61000.0, "m").set_index("source_id")


def silently_wrong(rows: pd.DataFrame) -> int:
    """The number of catalogue sources with an unflagged, finite flux that is wrong."""
    known = rows[rows.index.isin(list(TRUE_JY))]
    usable = known[known["flux_jy"].notna() & (known["quality"] == 0)]
    return int(sum(abs(flux - TRUE_JY[str(name)]) > TOLERANCE_JY for name, flux in usable["flux_jy"].items()))


@pytest.fixture(scope="module")
def whole(tiles: list[TileInput], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a faultless mosaic."""
    place = tmp_path_factory.mktemp("whole") / "mosaic"
    rows = measured(coadd(tiles), place)
    assert set(rows.index) == set(TRUE_JY)
    assert (rows["quality"] == 0).all()
    assert silently_wrong(rows) == 0
    return place


@pytest.mark.row(19)
@pytest.mark.parametrize("fault", WORTHLESS)
def test_a_worthless_tile_makes_no_mosaic(tiles: list[TileInput], tmp_path: Path, fault: str) -> None:
    """Alone, and beside a good tile: the error names the file, and the tile is not averaged into a mosaic."""
    bad = replace(tiles[0], image_path=spoilt(tiles[0].image_path, tmp_path / "bad.fits", **WORTHLESS[fault]))
    for inputs in ([bad], [bad, tiles[1]]):
        with pytest.raises(BadDataError, match=r"bad\.fits"):
            coadd(inputs)
    with pytest.raises(BadDataError, match="noise nan"):
        coadd([replace(tiles[0], rms_jy=float("nan")), tiles[1]])
    if fault != "all 0":  # no peak of such a tile is compared
        with pytest.raises(BadDataError, match=r"bad\.fits"):
            compared_pairs([bad, tiles[1]])


@pytest.mark.row(19)
@pytest.mark.parametrize("fault", WORTHLESS)
def test_a_worthless_mosaic_is_not_measured(whole: Path, tmp_path: Path, fault: str) -> None:
    bad = spoilt(whole / "mosaic.fits", tmp_path / "bad.fits", **WORTHLESS[fault])
    noise, _ = read_plane(whole / "noise.fits")
    rows = 0
    with pytest.raises(BadDataError):
        rows += len(measure_mosaic(bad, whole / "noise.fits", CATALOGUE, OPTIONS, "e", 61000.0, "m"))
    if fault not in ("all NaN", "all 0"):
        with pytest.raises(BadDataError):
            rows += len(find_sources(*read_plane(bad)[:1], noise, read_plane(bad)[1], OPTIONS))
    record_figure(19, "rows measured on worthless images", rows)
    if fault != "all 0":
        with pytest.raises(BadDataError):
            write_sky_tiles(bad, tmp_path)


@pytest.mark.row(19)
@pytest.mark.parametrize("make", [blank, dead])
def test_a_worthless_noise_map_gives_no_flux(whole: Path, tmp_path: Path, make: Callable[..., np.ndarray]) -> None:
    bad = spoilt(whole / "noise.fits", tmp_path / "bad.fits", data=make)
    with pytest.raises(BadDataError):
        measure_mosaic(whole / "mosaic.fits", bad, CATALOGUE, OPTIONS, "e", 61000.0, "m")


@pytest.mark.row(19)
@pytest.mark.parametrize("which", ["image", "primary beam"])
def test_one_blank_pixel_of_a_tile_is_a_hole_or_the_other_tiles(tiles: list[TileInput], tmp_path: Path, which: str) -> None:
    """The pixel is under the brightest source. Another tile fills it with the right flux; without one, the source's row is masked."""
    name = "image_path" if which == "image" else "primary_beam_path"
    bad = replace(tiles[0], **{name: spoilt(getattr(tiles[0], name), tmp_path / "bad.fits", data=one_blank)})
    single, both = measured(coadd([bad]), tmp_path / "alone"), measured(coadd([bad, tiles[1]]), tmp_path / "both")
    zeros = silently_wrong(single) + silently_wrong(both)
    record_figure(19, "silent zeros", zeros)
    assert zeros == 0
    assert both.loc["S0", "flux_jy"] == pytest.approx(TRUE_JY["S0"], abs=TOLERANCE_JY)
    assert np.isnan(single.loc["S0", "flux_jy"])
    assert np.isnan(single.loc["S0", "limit_jy"])
    assert single.loc["S0", "quality"] & Quality.NAN
    assert not single.loc["S0", "detected"]


@pytest.mark.row(19)
@pytest.mark.parametrize("file", ["mosaic.fits", "noise.fits"])
def test_one_blank_pixel_of_a_mosaic_is_a_masked_row(whole: Path, tmp_path: Path, file: str) -> None:
    paths = {name: whole / name for name in ("mosaic.fits", "noise.fits")}
    paths[file] = spoilt(paths[file], tmp_path / file, data=one_blank)
    rows = measure_mosaic(*paths.values(), CATALOGUE, OPTIONS, "e", 61000.0, "m").set_index("source_id")
    zeros = silently_wrong(rows)
    record_figure(19, "silent zeros", zeros)
    assert zeros == 0
    assert np.isnan(rows.loc["S0", ["flux_jy", "flux_err_jy", "limit_jy"]].to_numpy(float)).all()
    assert rows.loc["S0", "quality"] & Quality.NAN
    assert set(TRUE_JY) <= set(rows.index)


@pytest.mark.row(19)
def test_fluxes_and_names_are_right_across_zero_hours(tiles: list[TileInput], whole: Path, tmp_path: Path) -> None:
    """Tiles at 359.9 and 0.1 degrees: the grid is small, and fluxes, positions, overlap pairs and names are right."""
    mosaic = coadd(tiles)
    assert mosaic.header["NAXIS1"] < 2 * 256
    rows = measured(mosaic, tmp_path / "m")
    assert silently_wrong(rows) == 0
    assert rows["detected"].all()
    assert (rows["kind"] == "forced").all(), "a source of one side was new on the other"
    assert np.abs(rows[["ra_offset_arcsec", "dec_offset_arcsec"]].to_numpy()).max() < 1.0  # beam 60 arcsec / SNR 500 = 0.1
    assert agreement(compared_pairs(tiles))["overlap_pairs"] == 4
    image, header = read_plane(whole / "mosaic.fits")
    found = find_sources(image, read_plane(whole / "noise.fits")[0], header, OPTIONS)
    turned = CATALOGUE.assign(ra_deg=[ra - 360 if ra > 180 else ra for ra in CATALOGUE["ra_deg"]])
    for known in (CATALOGUE, turned):
        match = associate(found, known, de_ruiter=OPTIONS.de_ruiter, systematic_arcsec=1.0, max_separation_arcsec=40.0)
        assert sorted(match) == [0, 1, 2, 3]


def published(archive: Archive, asset: str, key: str, files: dict[str, Path]) -> str:
    with archive.publish(asset, key, [], settings={}, code_version="1", run_id="r") as draft:
        for name, path in files.items():
            (draft.path / name).write_bytes(path.read_bytes())
    return draft.product.id


@pytest.mark.row(19)
@pytest.mark.parametrize("fault", [*WORTHLESS, "one NaN"])
def test_faulty_images_raise_or_are_masked_for_analysts(tiles: list[TileInput], whole: Path, tmp_path: Path, fault: str) -> None:
    """Through the objects of open_archive(): tile, hour and night."""
    cards = WORTHLESS.get(fault, {"data": one_blank})
    with Archive.create(tmp_path / "archive") as store:
        archive = AnalystArchive(store)
        tile = spoilt(tiles[0].image_path, tmp_path / "t.fits", **cards)
        mosaic = spoilt(whole / "mosaic.fits", tmp_path / "m.fits", **cards)
        published(store, "tile_image", "2026-01-25T22:25", {"image.fits": tile})
        for asset, key in (("hour_mosaic", "2026-01-25T22:00"), ("night_mosaic", "2026-01-25")):
            published(store, asset, key, {"mosaic.fits": mosaic, "noise.fits": whole / "noise.fits"})
        images = [archive.image("2026-01-25T22:25"), archive.mosaic("2026-01-25T22:00"), archive.night("2026-01-25")]
        for image in images:
            if fault == "all NaN":
                for read in (lambda one: one.data, lambda one: one.rms, lambda one: one.to_ccddata(), lambda one: one.beam):
                    with pytest.raises(BadDataError, match="no pixel is finite"):
                        read(image)
            elif fault in ("zero beam", "no BMIN", "NaN is no card"):
                with pytest.raises(BadDataError, match="which is not a beam"):
                    _ = image.beam
            elif fault == "no BMAJ":
                assert image.beam is None
            elif fault == "one NaN":
                x, y = (round(float(p)) for p in image.wcs.wcs_world2pix(*SOURCES[0][:2], 0))
                assert np.isnan(image.data[y, x])
                assert image.to_ccddata().mask[y, x]
                assert np.isnan(image.pbcor[y, x])
                assert 0 < image.rms.value < 0.01


@pytest.mark.row(19)
def test_a_masked_row_stays_masked_for_the_analyst(whole: Path, tmp_path: Path) -> None:
    """Measured, published and read back: a source under the hole has no flux in any table, and its mean is that of its other epoch."""
    holed = spoilt(whole / "mosaic.fits", tmp_path / "m.fits", data=one_blank)
    epochs = [
        measure_mosaic(path, whole / "noise.fits", CATALOGUE, OPTIONS, f"2026-01-2{5 + k}T21:00", 61065.9 + k, f"hour_mosaic-{k}")
        for k, path in enumerate((whole / "mosaic.fits", holed))
    ]
    with Archive.create(tmp_path / "archive") as store:
        options = EnsembleOptions()
        made = normalise(one_per_transit(pd.concat(epochs, ignore_index=True)), Past.nothing(options), options)
        with store.publish("light_curves", "2026-01-25", [], settings={}, code_version="1", run_id="r") as draft:
            nightrows.write(made.curves, draft.path)
            made.past.write(draft.path)
        archive = AnalystArchive(store)
        near = archive.sources(ra=0.0, dec=16.0, radius=0.3)
        assert sorted(near["source_id"]) == sorted(TRUE_JY), "a cone over 0 h lost its other side"
        for row in near:
            assert row["flux"].value == pytest.approx(TRUE_JY[row["source_id"]], abs=TOLERANCE_JY)
        series = archive.light_curve("S0")
        assert [bool(value) for value in np.isnan(series["flux"])] == [False, True]
        assert np.isnan(series["error"][1])
        assert not series["detected"][1]
        zeros = int(sum(float(flux) == 0 for name in TRUE_JY for flux in archive.light_curve(name)["flux"].value))
    record_figure(19, "silent zeros", zeros)
    assert zeros == 0


@pytest.mark.row(19)
def test_missing_and_truncated_mosaics_are_errors(whole: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.fits"
    short.write_bytes((whole / "mosaic.fits").read_bytes()[: 100 * 2880 // 2])
    for path in (short, tmp_path / "none.fits"):
        with pytest.raises(DsaError, match=path.name):
            measure_mosaic(path, whole / "noise.fits", CATALOGUE, OPTIONS, "e", 61000.0, "m")
