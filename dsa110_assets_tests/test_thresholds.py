"""Thresholds: units, ranges, re-reading, and refusing the whole of a wrong file."""

from __future__ import annotations

import logging
import os

import pytest

from dsa110_assets import thresholds
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.thresholds import Thresholds, chosen_thresholds, load_thresholds, read, refused_thresholds


def test_without_a_file_the_defaults_hold(tmp_path):
    assert load_thresholds(tmp_path / "none.toml") == Thresholds()


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("max_tile_rms_jy = 0.002", "max_tile_rms_jy", 0.002),
        ('max_tile_rms_jy = "5 mJy"', "max_tile_rms_jy", 0.005),
        ('max_tile_rms_jy = "5e3 uJy"', "max_tile_rms_jy", 0.005),
        ('astrometry_warn_arcsec = "0.025 arcmin"', "astrometry_warn_arcsec", 1.5),
        ('calibration_aging_h = "300 min"', "calibration_aging_h", 5.0),
        ('disk_warn_gb = "1.5 TB"', "disk_warn_gb", 1500.0),
        ('superseded_days = "2 week"', "superseded_days", 14.0),
    ],
)
def test_units_are_converted_by_astropy(tmp_path, line, name, value):
    (tmp_path / "t.toml").write_text(line)
    assert getattr(read(tmp_path / "t.toml"), name) == pytest.approx(value, rel=1e-12)  # float rounding only


def test_retention_names_assets_in_any_unit(tmp_path):
    (tmp_path / "t.toml").write_text('[retention_days]\nmeasurement_set = 7\nhour_mosaic = "3 yr"\n')
    days = read(tmp_path / "t.toml").retention_days
    assert (days["measurement_set"], days["hour_mosaic"]) == (7, pytest.approx(3 * 365.25))
    assert set(days) == {"measurement_set", "hour_mosaic"}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("max_flag_fraction = 1.5", "max_flag_fraction = 1.5: Input should be less than or equal to 1"),
        ("max_flag_fractoin = 0.5", "there is no threshold max_flag_fractoin"),
        ('max_tile_rms_jy = "5 arcsec"', "is not a quantity in Jy"),
        ('max_tile_rms_jy = "5"', "has no unit"),
        ('max_tile_rms_jy = "many"', "is not a quantity in Jy"),
        ("max_tile_rms_jy = nan", "finite"),
        ("min_flux_ratio = 1.3", "min_flux_ratio=1.3 is above max_flux_ratio=1.1"),
        ("disk_critical_gb = 300", "disk_critical_gb=300 is above disk_warn_gb=200"),
        ("[retention_days]\ntile_image = -1", "retention_days.tile_image = -1"),
        ("half a line", "cannot be read"),
    ],
)
@pytest.mark.row(42, cases="mistakes named with file, key and value")
def test_a_wrong_file_is_refused_naming_the_error(tmp_path, line, match):
    path = tmp_path / "t.toml"
    path.write_text(f"min_solution_snr = 4\n{line}\n")
    with pytest.raises(ConfigurationError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("; correct it, it is read again at once")


def test_valid_changes_are_applied_and_logged_and_wrong_ones_ignored(tmp_path, caplog):
    path = tmp_path / "t.toml"

    def write(text, step):
        path.write_text(text)
        os.utime(path, ns=(step, step))  # the file system's clock may be too coarse for two writes

    with caplog.at_level(logging.INFO, logger=thresholds.__name__):
        write("max_flag_fraction = 0.4", 1)
        assert load_thresholds(path).max_flag_fraction == 0.4
        assert "threshold max_flag_fraction: 0.5 -> 0.4" in caplog.text
        write("max_flag_fraction = 0.3\nmin_completeness = 7", 2)
        assert load_thresholds(path).max_flag_fraction == 0.4
        assert caplog.text.count("the thresholds in force stay as they were") == 1
        load_thresholds(path)
        assert caplog.text.count("the thresholds in force stay as they were") == 1  # logged once, not at every read
        write("max_flag_fraction = 0.3", 3)
        assert load_thresholds(path).max_flag_fraction == 0.3
        path.unlink()
        assert load_thresholds(path) == Thresholds()


@pytest.mark.row(42)
def test_new_processes_use_the_last_valid_limits_while_the_file_is_wrong(tmp_path):
    """A new `ThresholdFile` reads what a new process would; every run is a new process."""
    path, kept = tmp_path / "t.toml", tmp_path / "kept.json"
    path.write_text("max_flag_fraction = 0.4\n[retention_days]\nmeasurement_set = 7\n")
    good = thresholds.ThresholdFile(path, kept).current()
    path.write_text("max_flag_fraction = 7\n")
    assert thresholds.ThresholdFile(path, kept).current() == good
    assert good.max_flag_fraction == 0.4
    assert good.retention_days["measurement_set"] == 7
    path.write_text("max_flag_fraction = 0.3\n")
    assert thresholds.ThresholdFile(path, kept).current().max_flag_fraction == 0.3
    path.write_text("half a line")
    assert thresholds.ThresholdFile(path, kept).current().max_flag_fraction == 0.3
    path.unlink()
    assert thresholds.ThresholdFile(path, kept).current() == Thresholds()
    path.write_text("half a line")
    assert thresholds.ThresholdFile(path, kept).current() == Thresholds()


@pytest.mark.parametrize("text", [None, "", "[]", "null", '{"max_flag_fraction": 7}', '{"of_another_version": 1}'])
def test_invalid_kept_limits_are_ignored(tmp_path, text):
    path, kept = tmp_path / "t.toml", tmp_path / "kept.json"
    path.write_text("max_flag_fraction = 7\n")
    if text is not None:
        kept.write_text(text)
    file = thresholds.ThresholdFile(path, kept)
    assert file.current() == Thresholds()
    assert file.guessed


@pytest.mark.row(42)
def test_a_file_that_was_never_valid_gives_defaults_that_remove_nothing(tmp_path, caplog):
    path, kept = tmp_path / "t.toml", tmp_path / "kept.json"
    path.write_text("[retention_days]\nmeasurement_set = -7\n")
    for _ in range(3):  # also at later reads, and in the limits that were last in force
        assert load_thresholds(path, kept) == Thresholds()
        assert "retention_days.measurement_set = -7" in str(refused_thresholds(path, kept))
        with pytest.raises(ConfigurationError, match=r"measurement_set = -7.*; nothing is removed before that"):
            chosen_thresholds(path, kept)
    assert caplog.text.count("until then the defaults hold") == 1
    path.write_text("half a line")
    with pytest.raises(ConfigurationError, match=r"cannot be read.*nothing is removed"):
        chosen_thresholds(path, kept)
    assert not kept.exists()
    path.write_text("[retention_days]\nmeasurement_set = 7\n")
    assert chosen_thresholds(path, kept).retention_days["measurement_set"] == 7
    assert refused_thresholds(path, kept) is None
    path.write_text("half a line again")
    assert chosen_thresholds(path, kept).retention_days["measurement_set"] == 7
    assert "cannot be read" in str(refused_thresholds(path, kept))


def test_thresholds_hold_where_no_copy_can_be_kept(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text("max_flag_fraction = 0.4\n")
    assert thresholds.ThresholdFile(path, tmp_path / "no" / "kept.json").current().max_flag_fraction == 0.4


def test_describe_has_a_unit_and_help_for_each():
    rows = thresholds.describe(Thresholds())
    assert len(rows) == len(Thresholds.model_fields)
    assert all(help_ for *_, help_ in rows)
    assert {name: unit for name, _, unit, _ in rows}["astrometry_fail_arcsec"] == "arcsec"
