"""Light curves as files: read back by astropy, STILTS and fitsverify, with time scale, units and UCDs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits, votable
from astropy.table import QTable
from astropy.time import Time
from astropy.timeseries import TimeSeries

from dsa110_assets.analyst_files import write_light_curve

FLUX = [0.101, 0.099, np.nan, 0.104]
MJD = [61065.93, 61066.93, 61067.93, 61068.93]


@pytest.fixture
def curve() -> TimeSeries:
    """A result of `light_curve` with a night without a measurement, one without a detection, and a name that is not ASCII."""
    series = TimeSeries(time=Time(MJD, format="mjd", scale="utc"))
    for name in ("flux", "error", "limit", "rms", "raw_flux", "raw_error", "absolute_error"):
        series[name] = np.array(FLUX) * (1 if "flux" in name else 0.01) * u.Jy
    series["detected"] = [True, True, False, False]
    series["flags"] = np.array([0, 0, 4, 0])
    series["correction"], series["correction_err"] = np.ones(4), np.full(4, 0.01)
    series["spectral_index"], series["spectral_index_err"] = np.full(4, -0.7), np.full(4, 0.05)
    series["n_references"] = np.full(4, 31)
    series["epoch"] = [f"2026-01-2{day}T22:00" for day in range(5, 9)]
    series["product_id"] = [f"hour_mosaic-2026012{day}T2200-v1" for day in range(5, 9)]
    series.meta.update(
        source_id="PSR J0024−7204A", product_id="light_curves-20260128-v1", frequency=1.405e9 * u.Hz, ra=6.02 * u.deg, dec=-72.08 * u.deg
    )
    return series


def test_a_votable_describes_its_columns(curve: TimeSeries, tmp_path: Path) -> None:
    path = tmp_path / "curve.vot"
    write_light_curve(curve, path)
    assert votable.validate(str(path), output=None)
    document = votable.parse(path, verify="exception")
    assert document.version == "1.4"
    (system,) = document.iter_timesys()
    assert (system.timescale, system.refposition, system.timeorigin) == ("UTC", "TOPOCENTER", 2400000.5)
    table = document.get_first_table()
    fields = {field.name: field for field in table.fields}
    assert (fields["mjd"].ref, fields["mjd"].unit, fields["mjd"].ucd) == (system.ID, u.d, "time.epoch;meta.main")
    assert all(field.ucd and field.description for field in fields.values())
    assert fields["flux"].ucd == "phot.flux.density;em.radio.750-1500MHz"
    assert {name for name, field in fields.items() if field.unit == u.Jy} == {
        "flux", "error", "limit", "rms", "raw_flux", "raw_error", "absolute_error",
    }  # fmt: skip
    facts = {param.name: param.value for param in table.params}
    assert facts["source_id"] == "PSR J0024−7204A"
    assert (facts["ra"], facts["dec"], facts["frequency"]) == (6.02, -72.08, 1.405e9)
    np.testing.assert_array_equal(table.array["mjd"], MJD)
    np.testing.assert_array_equal(table.array["flux"].filled(np.nan), FLUX)
    assert list(table.array["detected"]) == [True, True, False, False]


def test_an_unrecorded_frequency_is_left_out(curve: TimeSeries, tmp_path: Path) -> None:
    curve.meta["frequency"] = np.nan * u.Hz
    for suffix in ("vot", "fits", "ecsv"):
        write_light_curve(curve, tmp_path / f"curve.{suffix}")
    table = votable.parse_single_table(tmp_path / "curve.vot")
    assert "frequency" not in {param.name for param in table.params}
    assert table.get_field_by_id("flux").ucd == "phot.flux.density;em.radio"
    header = fits.getheader(tmp_path / "curve.fits", 1)
    assert "FREQ_HZ" not in header
    assert header["SOURCE"] == r"PSR J0024\u22127204A"  # FITS is ASCII
    assert QTable.read(tmp_path / "curve.ecsv", format="ascii.ecsv").meta["SOURCE"] == "PSR J0024−7204A"


def test_fits_and_ecsv_carry_units_and_time_scale(curve: TimeSeries, tmp_path: Path) -> None:
    curve.meta["source_id"] = "PSR J0024-7204A"
    for suffix, kind in (("fits", "fits"), ("ecsv", "ascii.ecsv")):
        write_light_curve(curve, tmp_path / f"curve.{suffix}")
        table = QTable.read(tmp_path / f"curve.{suffix}", format=kind)
        assert (table["mjd"].unit, table["flux"].unit) == (u.d, u.Jy)
        assert (table.meta["TIMESYS"], table.meta["RADESYS"], table.meta["FREQ_HZ"]) == ("UTC", "ICRS", 1.405e9)
        np.testing.assert_array_equal(table["flux"].to_value("Jy"), FLUX)


def test_stilts_and_fitsverify_find_no_fault(curve: TimeSeries, tmp_path: Path) -> None:
    curve.meta["source_id"] = "PSR J0024-7204A"
    commands = {"curve.vot": ["stilts", "votlint", "ucd=true"], "curve.fits": ["fitsverify", "-q"]}
    missing = [command[0] for command in commands.values() if shutil.which(command[0]) is None]
    for name, command in commands.items():
        write_light_curve(curve, tmp_path / name)
        if command[0] not in missing:
            done = subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0
            assert done.stdout.replace(f"verification OK: {tmp_path / name}", "").strip() == done.stderr.strip() == ""
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
