"""`image`: the graph's fluxes, parts of the data, masks, cubes, the stated accuracy of a quick look, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS

from dsa110_assets.errors import BadDataError, ConfigurationError, SilentWrongnessError
from dsa110_assets.imaging.fits import read_image, write_image
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.peaks import refine_peak
from dsa110_assets.imaging.tile import TileImage, make_tile
from dsa110_assets.sky import model as sky_model
from dsa110_assets.tools.data import Part, read_sources
from dsa110_assets.tools.image import image, quick
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.types import Visibilities
from dsa110_assets_tests.imaging.synthetic import observe, position_rad

SOURCES = [(0.0, 0.0, 2.0), (0.3, -0.4, 1.0), (-0.5, 0.2, 0.6)]
OPTIONS = ImagingOptions(field_deg=2.0, pixels_per_beam=4.5, threads=1, spectral_index=0.0)


@pytest.fixture(scope="module")
def vis() -> Visibilities:
    """Visibilities of sources whose Q is a tenth of I."""
    observed = observe(SOURCES, n_antennas=20, n_times=8, n_channels=4, n_subbands=4, noise_jy=0.3, primary_beam=True, smeared=True)
    noise = observed.data[..., 0] - observed.data[..., 1]
    mean = (observed.data[..., 0] + observed.data[..., 1]) / 2
    return replace(observed, data=np.stack([mean * 1.1 + noise / 2, mean * 0.9 - noise / 2], axis=-1).astype(np.complex64))


@pytest.fixture(scope="module")
def ms(vis: Visibilities, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "calibrated.ms"
    measurement_set.write(vis, path, unit="Jy")
    return path


def fluxes(tile: TileImage, vis: Visibilities, sources: list[tuple[float, float, float]] = SOURCES) -> list[tuple[float, float]]:
    """(flux / true flux, distance from the true position [beams]) of the sources; the true flux includes the primary beam."""
    out = []
    for east, north, flux in sources:
        x, y = WCS(tile.header).celestial.wcs_world2pix(*np.rad2deg(position_rad(vis.phase_centres_rad[0], east, north)), 0)
        row, column = round(float(y)), round(float(x))
        part = tile.image[row - 2 : row + 3, column - 2 : column + 3]
        top, left = np.unravel_index(int(part.argmax()), part.shape)
        peak = refine_peak(tile.image, row - 2 + int(top), column - 2 + int(left))
        assert peak is not None
        away = float(np.hypot(peak[0] - x, peak[1] - y)) * float(tile.header["CDELT2"]) / tile.beam.bmin_deg
        out.append((peak[2] / (flux * float(tile.primary_beam[row, column])), away))
    return out


def test_an_image_equals_the_graphs_and_is_complete_on_disk(ms: Path, vis: Visibilities, tmp_path: Path) -> None:
    made = image(ms, tmp_path / "a", OPTIONS)
    truth = make_tile(measurement_set.mapped(ms), OPTIONS, sky_model.from_frame(read_sources([])))
    assert np.array_equal(made.tile.image, truth.image)
    names = {"image.fits", "image-pb.fits", "residual.fits", "model.fits", "psf.fits", "primary-beam.fits", "preview.png", "points.csv"}
    assert {path.name for path in made.path.iterdir()} == names | {"provenance.json"}
    assert np.array_equal(read_image(made.path / "image.fits").data, truth.image)
    record = json.loads((made.path / "provenance.json").read_text())
    assert record["options"]["imaging"]["field_deg"] == 2.0
    assert record["figures"]["rms_jy"] == pytest.approx(truth.rms_jy)
    # three sources in one image: 4 sigma of noise for each, and 1 % for imaging without calibration
    for (ratio, away), (_, _, flux) in zip(fluxes(made.tile, vis), SOURCES, strict=True):
        assert abs(ratio - 1) < 0.01 + 4 * made.tile.rms_jy / flux
        assert away < 0.1
    with pytest.raises(ConfigurationError, match=r"exists; .*--force"):
        image(ms, tmp_path / "a", OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_quick_look_has_the_stated_accuracy(ms: Path, vis: Visibilities, tmp_path: Path) -> None:
    full = make_tile(vis, OPTIONS)
    look = image(ms, tmp_path / "quick", quick(OPTIONS)).tile
    for (ratio, away), (_, _, flux) in zip(fluxes(look, vis), SOURCES, strict=True):
        assert flux > 30 * look.rms_jy
        assert abs(ratio - 1) < 0.05
        assert away < 0.1
    assert look.rms_jy < 1.5 * full.rms_jy


def test_a_drifting_bright_source_does_not_raise_a_quick_looks_noise(tmp_path: Path) -> None:
    """Over a whole group a source at the half-power point changes by a tenth; for 40 Jy that is a hundred times the noise."""
    sources = [(0.3, 0.9, 40.0), (-0.4, -0.3, 0.6), (0.1, 0.2, 0.3)]
    vis = observe(sources, n_antennas=20, n_channels=1, noise_jy=0.3, primary_beam=True, smeared=True)
    options = replace(OPTIONS, field_deg=2.4)
    full, look = make_tile(vis, options), make_tile(vis, quick(options))
    assert look.rms_jy < 1.5 * full.rms_jy
    for (ratio, away), (_, _, flux) in zip(fluxes(look, vis, sources), sources, strict=True):
        assert abs(ratio - 1) < 0.05 + 4 * look.rms_jy / flux
        assert away < 0.1


def test_parts_of_the_data_are_imaged(ms: Path, vis: Visibilities, tmp_path: Path) -> None:
    centre = tuple(np.rad2deg(position_rad(vis.phase_centres_rad[0], 0.1, 0.1)))
    part = Part(subbands=(1, 2), times=(2, 5), phase_centre_deg=centre)
    made = image(ms, tmp_path / "a", OPTIONS, part, catalogues=None).tile  # the data hold no calibrator
    assert (made.header["CRVAL1"], made.header["CRVAL2"]) == pytest.approx((centre[0] % 360, centre[1]))
    assert made.header["EXPTIME"] == pytest.approx(4 * vis.interval_s)
    assert made.header["BANDWID"] == pytest.approx(8 * vis.channel_width_hz)
    # channels ascend, subbands descend: of sixteen channels 4 to 11 are sb02 and sb01
    # (weighted by Briggs: within half a channel of the middle)
    assert made.header["RESTFRQ"] == pytest.approx(vis.frequencies_hz[4:12].mean(), abs=0.5 * vis.channel_width_hz)
    assert all(abs(ratio - 1) < 0.01 + 5 * made.rms_jy / s[2] for (ratio, _), s in zip(fluxes(made, vis), SOURCES, strict=True))
    with pytest.raises(BadDataError, match=r"integrations 0 to 7, not 2..9"):
        image(ms, tmp_path / "b", OPTIONS, Part(times=(2, 9)))
    with pytest.raises(BadDataError, match=r"subbands 0 to 3, none of 4..9"):
        image(ms, tmp_path / "b", OPTIONS, Part(subbands=(4, 9)))
    assert not (tmp_path / "b").exists()


def test_stokes_q_is_a_tenth_of_the_flux(ms: Path, vis: Visibilities, tmp_path: Path) -> None:
    made = image(ms, tmp_path / "q", OPTIONS, Part(stokes="Q"))
    for (ratio, _), (_, _, flux) in zip(fluxes(made.tile, vis), SOURCES[:2], strict=False):
        assert abs(ratio - 0.1) < 0.002 + 4 * made.tile.rms_jy / flux
    with astropy_fits.open(made.path / "image.fits") as hdus:
        assert (hdus[0].header["CTYPE4"], hdus[0].header["CRVAL4"]) == ("STOKES", 2.0)


def test_masks_limit_cleaning(ms: Path, vis: Visibilities, tmp_path: Path) -> None:
    centre = vis.phase_centres_rad[0]
    lines = ["name,ra_deg,dec_deg,flux_jy"]
    for number, (east, north, flux) in enumerate(SOURCES[:2]):
        ra, dec = np.rad2deg(position_rad(centre, east, north))
        lines.append(f"s{number},{ra % 360},{dec},{flux}")
    catalogue = tmp_path / "two@1400MHz.csv"
    catalogue.write_text("\n".join(lines) + "\n")
    made = image(ms, tmp_path / "catalogue", OPTIONS, mask="catalogue", catalogues=[catalogue]).tile
    ratios = [ratio for ratio, _ in fluxes(made, vis)]
    assert all(abs(ratio - 1) < 0.02 for ratio in ratios[:2])
    x, y = WCS(made.header).celestial.wcs_world2pix(*np.rad2deg(position_rad(centre, *SOURCES[2][:2])), 0)
    row, column = round(float(y)), round(float(x))
    assert not made.model[row - 9 : row + 10, column - 9 : column + 10].any()
    assert made.residual[row, column] > 0.3
    mask = (made.model != 0).astype(np.float32)
    path = write_image(np.where(mask.any() and mask > 0, 1, 0).astype(np.float32), made.header, tmp_path / "mask.fits")
    again = image(ms, tmp_path / "file", OPTIONS, mask=path).tile
    assert not again.model[row - 9 : row + 10, column - 9 : column + 10].any()
    assert abs(fluxes(again, vis)[0][0] - 1) < 0.02


def test_a_cube_has_every_subband_on_one_grid_at_one_beam(ms: Path, vis: Visibilities, tmp_path: Path) -> None:
    made = image(ms, tmp_path / "cube", replace(OPTIONS, field_deg=1.6), catalogues=None, cube=True)
    assert sorted(made.tiles) == [0, 1, 2, 3]
    with astropy_fits.open(made.path / "cube.fits") as hdus:
        cube, header = hdus[0].data, hdus[0].header
    assert cube.shape == (4, *made.tiles[0].image.shape)
    middle = cube.shape[1] // 2
    for plane, number in enumerate((3, 2, 1, 0)):
        frequency = header["CRVAL3"] + plane * header["CDELT3"]
        assert frequency == pytest.approx(made.tiles[number].header["RESTFRQ"], rel=1e-4)
        rms = made.tiles[number].rms_jy
        # the source is at the phase centre, which drifts by 0.2 degree in 8 integrations: the beam attenuates by 1 %
        assert cube[plane, middle, middle] == pytest.approx(2.0 * made.tiles[number].primary_beam[middle, middle], abs=0.03 + 4 * rms)


def test_sets_that_cannot_be_imaged_are_refused(vis: Visibilities, tmp_path: Path) -> None:
    raw = tmp_path / "raw.ms"
    measurement_set.write(vis, raw)
    with pytest.raises(BadDataError, match=r"raw.ms: DATA is not in Jy.*dsa110 apply"):
        image(raw, tmp_path / "out", OPTIONS)
    with pytest.raises(BadDataError, match=r"no column CORRECTED_DATA"):
        image(raw, tmp_path / "out", OPTIONS, Part(column="CORRECTED_DATA"))
    with pytest.raises(BadDataError, match=r"nothing.ms: not a measurement set"):
        image(tmp_path / "nothing.ms", tmp_path / "out", OPTIONS)
    assert image(raw, tmp_path / "out", OPTIONS, Part(as_jy=True), dry_run=True).tiles == {}
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_no_files(vis: Visibilities, tmp_path: Path) -> None:
    dead = tmp_path / "dead.ms"
    measurement_set.write(replace(vis, flags=np.ones_like(vis.flags)), dead, unit="Jy")
    with pytest.raises((BadDataError, SilentWrongnessError)):
        image(dead, tmp_path / "out", OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["dead.ms"]
