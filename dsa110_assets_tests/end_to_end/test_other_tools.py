"""Published products opened by other tools: each line of docs/products-and-tools.md whose tool can be installed for these tests.

PyBDSF, Aegean and xradio have a separate environment: `ops/other-tools`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits, votable
from astropy.wcs import WCS
from pyuvdata import UVCal, UVData

from dsa110_assets.analyst import open_archive
from dsa110_assets.cli import main
from dsa110_assets.engines import casa
from dsa110_assets_tests.tiny import OBSERVATIONS

pytestmark = pytest.mark.row(39, cases="checks by tools that find what they look for")

KEY = OBSERVATIONS[1]  # its calibrator transits in it
NIGHT = KEY[:10]
Finished = tuple[Any, Any]


def tool(name: str) -> str:
    """The tool's path; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(command: list[Any], **options: Any) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def products(finished: Finished) -> dict[str, Path]:
    """The directory of the product of each asset that the tests use."""
    archive = open_archive(finished[0].archive)
    keys = {"tile_image": KEY, "hour_mosaic": KEY[:13] + ":00", "night_mosaic": NIGHT, "caltables": NIGHT}
    keys |= dict.fromkeys(("measurement_set", "calibrated_ms"), KEY)
    return {asset: Path(archive.product(asset, key).path) for asset, key in keys.items()}


def images(finished: Finished) -> list[Path]:
    paths = products(finished)
    return [
        path
        for asset in ("tile_image", "hour_mosaic", "night_mosaic")
        for path in sorted(paths[asset].glob("*.fits"))
        if "moc" not in path.name
    ]


@contextmanager
def display(place: Path) -> Iterator[str]:
    """The name of a virtual display, as the server prints it when it is ready."""
    reads, writes = os.pipe()
    command = [tool("Xvfb"), "-displayfd", str(writes), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    with (place / "xvfb.log").open("wb") as log:
        server = subprocess.Popen(command, pass_fds=[writes], stdout=log, stderr=log)
    os.close(writes)
    try:
        with os.fdopen(reads) as server_output:
            yield f":{server_output.readline().strip()}"
    finally:
        server.terminate()
        server.wait(30)


def test_every_fits_file_verifies(finished_run: Finished) -> None:
    """All FITS files in the archive: images, coverage, HiPS tiles of every order."""
    verify, root = tool("fitsverify"), Path(finished_run[0].archive)
    found = sorted(root.rglob("*.fits"))
    assert {path.name for path in found} >= {"image.fits", "psf.fits", "noise.fits", "coverage.moc.fits", "Moc.fits"}
    output = run([verify, "-q", *found])
    assert output.count("verification OK") == len(found), output


def test_every_image_says_frequency_stokes_beam_and_time(finished_run: Finished) -> None:
    paths = images(finished_run)
    assert len(paths) == 12
    for path in paths:
        header = fits.getheader(path)
        assert [header[f"CTYPE{axis}"][:4] for axis in range(1, 5)] == ["RA--", "DEC-", "FREQ", "STOK"], path
        assert (header["CRVAL4"], header["CUNIT3"], header["RADESYS"], header["EQUINOX"]) == (1, "Hz", "ICRS", 2000), path
        assert header["CRVAL3"] == header["RESTFRQ"] == header["RESTFREQ"] == pytest.approx(1.475e9, rel=0.01), path
        assert header["CDELT3"] == header["BANDWID"] > 1e6, path
        assert header["BMAJ"] >= header["BMIN"] > 0, path
        assert header["DATE-OBS"].startswith(NIGHT), path
        assert (header["TIMESYS"], header["TELESCOP"], "BUNIT" in header) == ("UTC", "OVRO_MMA", True), path
        assert WCS(header).celestial.naxis == 2


@pytest.mark.casa
@pytest.mark.parametrize("asset", ["tile_image", "night_mosaic"])
def test_casa_finds_frequency_stokes_and_beam(finished_run: Finished, tmp_path: Path, asset: str) -> None:
    place = products(finished_run)[asset]
    image = place / ("image.fits" if asset == "tile_image" else "mosaic.fits")
    casa.run_task("importfits", {"fitsimage": str(image), "imagename": "one.im"}, work_dir=tmp_path)
    summary = casa.run_task("imhead", {"imagename": "one.im", "mode": "list"}, work_dir=tmp_path)
    header = fits.getheader(image)
    assert [summary[f"ctype{axis}"] for axis in range(1, 5)] == ["Right Ascension", "Declination", "Frequency", "Stokes"]
    assert (summary["crval3"], summary["cunit3"], summary["reffreqtype"]) == (header["RESTFRQ"], "Hz", "TOPO")
    assert summary["bunit"] == "Jy/beam"
    assert summary["beammajor"]["value"] == pytest.approx(3600 * header["BMAJ"])
    assert summary["telescope"] == "OVRO_MMA"
    peak = casa.run_task("imstat", {"imagename": "one.im"}, work_dir=tmp_path)["max"]
    assert np.ravel(peak)[0] == pytest.approx(np.nanmax(fits.getdata(image)))


def test_ds9_puts_a_position_where_it_is(finished_run: Finished, tmp_path: Path) -> None:
    """DS9 puts a sky position on the same pixel as astropy, in an image and in a HiPS tile."""
    ds9, place = tool("ds9"), products(finished_run)["night_mosaic"]
    tile = next(iter(sorted((place / "hips" / "Norder5").rglob("*.fits"))))
    with display(tmp_path) as name:
        for path in (place / "mosaic.fits", tile):
            header = fits.getheader(path)
            x, y = header["NAXIS1"] * 0.4, header["NAXIS2"] * 0.6
            ra, dec = WCS(header).celestial.wcs_pix2world(x, y, 1)
            region = tmp_path / f"{path.stem}.reg"
            point = f"icrs; point({float(ra):.8f},{float(dec):.8f})"
            save = ["-regions", "system", "image", "-regions", "save", region]
            run([ds9, path, "-regions", "command", point, *save, "-exit"], env={**os.environ, "DISPLAY": name})
            (pixel,) = re.findall(r"^point\(([\d.]+),([\d.]+)\)", region.read_text(), re.MULTILINE)
            assert [float(value) for value in pixel] == pytest.approx([x, y], abs=0.02)


def test_wsclean_images_calibrated_ms(finished_run: Finished, tmp_path: Path) -> None:
    """The calibrated set has one phase centre and the same peak as the platform's image: the calibrator. In the set as it was taken each
    integration is a separate field, of which WSClean images one."""
    wsclean, directories = tool("wsclean"), products(finished_run)
    platform_image = open_archive(finished_run[0].archive).image(KEY)
    row, column = np.unravel_index(np.nanargmax(platform_image.data), platform_image.data.shape)
    ra, dec = platform_image.wcs.wcs_pix2world(column, row, 0)
    scale = 3600 * platform_image.header["CDELT2"]
    command = [wsclean, "-j", "1", "-size", "640", "640", "-scale", f"{scale:.6f}asec", "-niter", "500", "-mgain", "0.8"]
    gridded = {}
    for asset in ("measurement_set", "calibrated_ms"):
        shutil.copytree(next(directories[asset].glob("*.ms")), tmp_path / f"{asset}.ms")
        options = ["-auto-threshold", "5", "-no-update-model-required", "-name", asset, f"{asset}.ms"]
        counts = re.findall(r"Gridded visibility count: ([\d.e+]+)", run([*command, *options], cwd=tmp_path))
        gridded[asset] = float(counts[0])
    assert gridded["calibrated_ms"] > 15 * gridded["measurement_set"]
    with fits.open(tmp_path / "calibrated_ms-image.fits") as hdus:
        plane, header = hdus[0].data[0, 0], hdus[0].header
    del header["DATE-OBS"]  # astropy would warn that it brings no MJD-OBS
    x, y = (round(float(value)) for value in WCS(header).celestial.wcs_world2pix(ra, dec, 0))
    assert plane[y - 3 : y + 4, x - 3 : x + 4].max() == pytest.approx(platform_image.data.max(), rel=0.1)
    assert plane.max() == plane[y - 3 : y + 4, x - 3 : x + 4].max()


def test_pyuvdata_reads_visibilities_and_every_caltable(finished_run: Finished) -> None:
    directories = products(finished_run)
    data = UVData.from_file(str(next(directories["calibrated_ms"].glob("*.ms"))), file_type="ms")
    assert (data.telescope.name, len(data.phase_center_catalog), data.Npols) == ("OVRO_MMA", 1, 2)
    tables = sorted(path for path in directories["caltables"].rglob("*.cal"))
    assert len(tables) >= 2
    for path in tables:
        cal = UVCal()
        cal.read_ms_cal(str(path))
        assert cal.Nants_data == data.telescope.Nants
        assert list(cal.jones_array) == [-5, -6]


def test_stilts_reads_a_light_curve(finished_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stilts = tool("stilts")
    monkeypatch.setenv("DSA110_ARCHIVE", str(finished_run[0].archive))
    source = str(open_archive(finished_run[0].archive).sources()["source_id"][0])
    assert main(["lightcurve", source, "--out", str(tmp_path / "curve.vot")]) == 0
    assert run([stilts, "votlint", "ucd=true", tmp_path / "curve.vot"]) == ""
    fields = votable.parse_single_table(tmp_path / "curve.vot", verify="exception").fields
    assert [field.name for field in fields if not (field.ucd and field.description)] == []
    output = run([stilts, "tpipe", f"in={tmp_path / 'curve.vot'}", "omode=meta"])
    assert "mjd(Double)/d" in output
    assert "flux(Double)/Jy" in output


def test_a_survey_of_all_nights_is_made_once(finished_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The command runs twice; the second time nothing is left to do. The survey of one night is that night's mosaic."""
    settings = finished_run[0]
    for name, value in {"DSA110_ARCHIVE": settings.archive, "DSA110_INBOX": settings.inbox, "DAGSTER_HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    assert main(["archive", "survey", str(tmp_path / "survey")]) == 0
    assert "1 nights, " in capsys.readouterr().out
    assert main(["archive", "survey", str(tmp_path / "survey")]) == 0
    assert "; 0 of them changed" in capsys.readouterr().out
    night, survey = products(finished_run)["night_mosaic"] / "hips", tmp_path / "survey" / "hips"
    tiles = sorted(path.relative_to(survey) for path in survey.glob("Norder*/Dir*/*.fits"))
    assert tiles == sorted(path.relative_to(night) for path in night.glob("Norder*/Dir*/*.fits"))
    for path in tiles:
        np.testing.assert_allclose(fits.getdata(survey / path), fits.getdata(night / path), rtol=1e-5, atol=1e-6)
