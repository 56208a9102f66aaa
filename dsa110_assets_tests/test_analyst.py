"""The analysts' interface returns what was published, with units, and its errors name what exists."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.time import Time

import dsa110_assets as dsa
from dsa110_assets.analyst import AnalystArchive, moment
from dsa110_assets.archive import caltable_registry
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.portal import overview
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.small_archive import SmallArchive

WINDOW, TILE = "2026-01-25T22:05", "tile_image-20260125T2205-v1"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallArchive:
    return made.build(tmp_path_factory.mktemp("analyst"))


@pytest.fixture(scope="module")
def archive(small: SmallArchive) -> AnalystArchive:
    return dsa.open_archive(small.root)


def test_products_are_a_frame_with_the_figures_as_columns(archive: AnalystArchive) -> None:
    frame = archive.products("tile_image", since="2026-01-25", until="2026-01-25")
    assert list(frame["partition"]) == [WINDOW, "2026-01-25T22:10"]
    assert set(frame["rms_jy"]) == {made.RMS_JY}
    assert frame["product_id"].iloc[0] == TILE
    assert len(archive.products()) == 29
    assert list(archive.products("night_mosaic").columns[:3]) == ["product_id", "asset", "partition"]


@pytest.mark.parametrize("since", ["2026-01-26", datetime(2026, 1, 26, tzinfo=UTC), Time("2026-01-26"), 61066.0])
@pytest.mark.row(52, cases="forms of times taken")
def test_times_come_in_every_form(archive: AnalystArchive, since: object) -> None:
    assert len(archive.products("tile_image", since=since)) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "since",
    [date(2026, 1, 26), np.datetime64("2026-01-26"), np.datetime64("2026-01-26T00:00"), np.datetime64("2026-01-26", "ns"),
     np.float64(61066), np.float32(61066), np.int64(61066), np.str_("2026-01-26"), pd.Timestamp("2026-01-26"), np.array(61066.0),
     pd.Timestamp("2026-01-26T01:00", tz="Europe/Paris"), datetime(2026, 1, 26)],
)  # fmt: skip
@pytest.mark.row(52, cases="forms of times taken")
def test_times_come_as_numpy_and_pandas_have_them(archive: AnalystArchive, since: object) -> None:
    assert len(archive.products("tile_image", since=since)) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("day", [date(2026, 1, 25), np.datetime64("2026-01-25"), np.datetime64("2026-01-25", "D")])
def test_a_date_includes_its_whole_day(archive: AnalystArchive, day: object) -> None:
    """A date bounds its whole day, as its text form does; a datetime does not."""
    count = len(archive.products("tile_image", until="2026-01-25"))
    assert count == len(archive.products("tile_image", since=day, until=day)) > 0  # type: ignore[arg-type]
    assert len(archive.products("tile_image", until=datetime(2026, 1, 25))) == 0


@pytest.mark.parametrize(
    "window",
    [np.datetime64("2026-01-25T22:05"), np.datetime64("2026-01-25T22:07:31.123456789"), datetime(2026, 1, 25, 22, 6),
     Time("2026-01-25T22:05"), np.float64(Time("2026-01-25T22:06").mjd), pd.Timestamp("2026-01-25T22:05", tz="UTC"), np.str_(WINDOW)],
)  # fmt: skip
@pytest.mark.row(52, cases="forms of times taken")
def test_windows_are_named_by_any_kind_of_time(archive: AnalystArchive, window: object) -> None:
    assert archive.image(window).product_id == TILE  # type: ignore[arg-type]
    assert archive.caltables(at=window).product_id == archive.caltables(at=WINDOW).product_id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [np.nan, np.inf, 2461066.5, 1.0, True, np.bool_(True), np.datetime64("NaT"), pd.NaT, "soon", np.array([61066.0, 61067.0]), [], {}, None,
     b"2026", 1e300, np.datetime64("20000-01-01"), "0001-01-01T00:00+05:00"],
)  # fmt: skip
@pytest.mark.row(52, cases="no times, told so")
def test_invalid_times_are_refused(archive: AnalystArchive, wrong: object) -> None:
    """This includes a Julian date: as a modified Julian date it would lie in the year 8597."""
    with pytest.raises(NotFoundError):
        archive.image(wrong)  # type: ignore[arg-type]
    if wrong is not None:
        with pytest.raises(NotFoundError):
            archive.products("tile_image", since=wrong)  # type: ignore[arg-type]


def test_moment_converts_to_utc() -> None:
    """MJD 61065.5 is noon of 2026-01-25; TAI has been ahead of UTC by 37 s since 2017."""
    noon = datetime(2026, 1, 25, 12, tzinfo=UTC)
    assert moment(61065.5) == noon
    assert moment("2026-01-25T13:00:00+01:00") == noon
    assert abs((moment(Time("2026-01-25T12:00:37", scale="tai")) - noon).total_seconds()) < 1e-4  # type: ignore[operator]


def test_image_has_data_wcs_beam_and_noise_with_units(archive: AnalystArchive) -> None:
    image = archive.image(WINDOW)
    assert image.product_id == TILE
    np.testing.assert_array_equal(image.data, made.pixels())
    assert image.unit == u.Jy / u.beam
    assert image.rms == made.RMS_JY * u.Jy / u.beam
    assert image.beam is not None
    assert image.beam.major.to_value("deg") == pytest.approx(made.BEAM_DEG[0])
    row, column = np.unravel_index(np.nanargmax(image.data), image.data.shape)
    found = image.wcs.pixel_to_world(column, row)
    expected = SkyCoord(made.RA_DEG, made.DEC_DEG, unit="deg")
    assert found.separation(expected) < 1e-6 * u.deg
    np.testing.assert_array_equal(image.pbcor, 2 * made.pixels())
    assert Path(image.path).name == "image.fits"


def test_image_as_ccddata_is_masked_where_blank(archive: AnalystArchive) -> None:
    ccd = archive.image(WINDOW).to_ccddata()
    assert ccd.unit == u.Jy / u.beam
    assert ccd.mask.sum() == 16
    assert ccd.meta["product_id"] == TILE
    np.testing.assert_allclose(ccd.uncertainty.array, made.RMS_JY)


def test_mosaic_takes_its_noise_from_the_noise_map(archive: AnalystArchive) -> None:
    mosaic = archive.mosaic("2026-01-25T22:00")
    assert mosaic.product_id == "hour_mosaic-20260125T2200-v1"
    assert mosaic.rms.to_value("Jy/beam") == pytest.approx(made.RMS_JY)
    assert mosaic.noise is not None


def test_image_plots_on_sky_coordinates(archive: AnalystArchive) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    axes = archive.image(WINDOW).plot()
    assert TILE in axes.get_title()
    assert axes.get_xlabel() == "Right ascension (ICRS)"
    axes.figure.canvas.draw()
    import matplotlib.pyplot as plt

    plt.close("all")


def test_companion_paths_outside_the_product_are_refused(archive: AnalystArchive) -> None:
    assert archive.image(WINDOW).companion("../../x.fits") is None


def test_measurement_sets_are_named(archive: AnalystArchive, small: SmallArchive) -> None:
    found = archive.measurement_set(WINDOW)
    assert found.path == small.products[found.product_id].path / "measurement_set.ms"
    assert archive.calibrated_ms(WINDOW).path.name == "calibrated.ms"


@pytest.mark.row(54, cases="definitions that agree")
def test_caltables_in_force_are_those_the_observation_used(archive: AnalystArchive) -> None:
    found = archive.caltables(at=WINDOW)
    assert found.set_id == "caltables-20260125-v1/3C138"
    assert found.age.to_value("hour") == pytest.approx(6, abs=1e-6)
    assert found.anchor == "PB17:3C138"
    assert [path.name for path in found.paths] == ["3C138.B"]


def test_caltables_of_a_time_without_observation_are_the_nearest_active(tmp_path: Path) -> None:
    small = made.build(tmp_path)
    archive = dsa.open_archive(small.root)
    assert archive.caltables(at="2026-01-26T10:00").product_id == "caltables-20260126-v1"
    caltable_registry.reject(archive.store, "caltables-20260126-v1/3C138", "swapped antennas")
    assert archive.caltables(at="2026-01-26T10:00").product_id == "caltables-20260125-v1"
    caltable_registry.reject(archive.store, "caltables-20260125-v1/3C138", "also bad")
    with pytest.raises(NotFoundError, match=r"caltables-20260125-v1/3C138 \(rejected"):
        archive.caltables(at="2026-01-26T10:00")


@pytest.mark.row(54, cases="definitions that agree")
def test_tables_that_the_pipeline_would_refuse_are_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are too old, of another strip, without an antenna or rejected: one definition for pipeline, command, page and metrics."""
    small = made.build(tmp_path)
    archive = dsa.open_archive(small.root)
    with pytest.raises(NotFoundError, match=r"no calibration for declination 16.27 deg .*\(2 more than 30 days away"):
        archive.caltables(at="2026-11-26T22:00")
    assert overview.calibration_state(archive, datetime(2026, 11, 26, 22, tzinfo=UTC), None) is None
    monkeypatch.setenv("DSA110_CHOOSE__MAX_AGE_DAYS", "400")
    assert archive.caltables(at="2026-11-26T22:00").product_id == "caltables-20260126-v1"
    monkeypatch.setenv("DSA110_CHOOSE__MAX_AGE_DAYS", "0.1")
    with pytest.raises(NotFoundError, match=r"2 more than 0\.1 days away"):
        archive.caltables(at=WINDOW)  # its observation was calibrated with tables that would be refused now
    monkeypatch.delenv("DSA110_CHOOSE__MAX_AGE_DAYS")
    for key, antennas, dec_deg, why in (("22:20", ["1", "9"], 16.27, "antennas"), ("22:25", ["1"], 20.0, "another declination strip")):
        with archive.store.publish("measurement_set", f"2026-01-26T{key}", [], settings={}, code_version="1", run_id="r") as draft:
            (draft.path / "x").write_text("x")
            draft.metadata.update(antennas=antennas, pointing_dec_deg=dec_deg)
        with pytest.raises(NotFoundError, match=why):
            archive.caltables(at=f"2026-01-26T{key}")


def test_sources_are_found_by_quantity_number_and_text(archive: AnalystArchive) -> None:
    everything = archive.sources()
    assert list(everything["source_id"]) == list(made.SOURCES)
    assert everything["ra"].unit == u.deg
    assert everything["flux"].unit == u.Jy
    for ra, dec, radius in (
        (40.0, 16.27, 0.1), (40 * u.deg, 16.27 * u.deg, 6 * u.arcmin), ("2h40m00s", "+16d16m12s", "6m"),
        ("2:40:00", "16:16:12", 0.1), (2 / 3 * 4 * u.hourangle, "16.27", "0.1d"),
    ):  # fmt: skip
        near = archive.sources(ra=ra, dec=dec, radius=radius)
        assert list(near["source_id"]) == ["NVSS J024000+161612"]
        assert near["separation"][0] < 1 * u.arcsec
    assert len(archive.sources(ra=200.0, dec=16.27, radius=0.1)) == 0


@pytest.mark.parametrize("cone", [{"ra": 1.0}, {"ra": "x", "dec": 1.0}, {"ra": 1.0, "dec": 95.0}, {"ra": 1 * u.Jy, "dec": 1.0}])
def test_half_a_position_is_refused(archive: AnalystArchive, cone: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        archive.sources(**cone)


def test_light_curve_is_a_time_series_with_units_and_origin(archive: AnalystArchive) -> None:
    curve = archive.light_curve(" nvss_j024100+162000 ")
    assert curve.meta["source_id"] == made.FAINT
    assert curve.meta["product_id"] == "light_curves-20260126-v1"
    assert list(curve["detected"]) == [True, False, True, False]
    for name in ("flux", "error", "limit", "rms"):
        assert curve[name].unit == u.Jy
    np.testing.assert_array_equal(np.isnan(curve["limit"].value), [True, False, True, False])
    assert curve["limit"][1] == 5 * made.RMS_JY * u.Jy
    assert list(curve["flags"]) == [0, 0, 0, 0]
    assert curve["product_id"][3] == "hour_mosaic-20260126T2200-v1"
    assert curve.time.scale == "utc"
    assert curve.time[0].isot.startswith("2026-01-25T22:05:00")


def test_variables_are_limited_by_the_false_discovery_rate(archive: AnalystArchive) -> None:
    found = archive.variables(max_false_discovery_rate=0.01)
    assert list(found["source_id"]) == [made.FAINT]
    assert found["mean_flux"].unit == u.Jy
    assert found.meta["product_id"] == "variability-20260126-v1"
    assert len(archive.variables(max_false_discovery_rate=0.5)) == 2
    with pytest.raises(ConfigurationError):
        archive.variables(max_false_discovery_rate=1.5)


def test_lineage_accepts_images_ids_paths_and_light_curves(archive: AnalystArchive) -> None:
    image = archive.image(WINDOW)
    names = [Path(leaf.path).name for leaf in archive.lineage(image).files()]
    assert names == ["2026-01-25T22:05:00_sb00.hdf5", "2026-01-25T22:05:00_sb01.hdf5"]
    assert archive.lineage(TILE).product == archive.lineage(image.path).product
    assert len(archive.lineage(archive.light_curve(made.FAINT)).files()) == 8


def test_errors_about_missing_products_name_existing_ones(archive: AnalystArchive) -> None:
    with pytest.raises(NotFoundError, match="2026-01-25T22:05, 2026-01-25T22:10"):
        archive.image("2026-01-25T23:00")
    with pytest.raises(NotFoundError, match="from 2026-01-25T22:05 to 2026-01-26T22:10"):
        archive.image("2026-03-01T22:00")
    with pytest.raises(NotFoundError, match="no night_mosaic at all"):
        archive.night("2026-01-25")
    with pytest.raises(NotFoundError, match=r"tile_image, hour_mosaic"):
        archive.products("tile_images")
    with pytest.raises(NotFoundError, match="NVSS J024000"):
        archive.light_curve("NVSS J024001+161612")
    with pytest.raises(NotFoundError, match="is no time"):
        archive.image("yesterday")
    with pytest.raises(NotFoundError, match="is a caltables, not a tile_image"):
        archive.image("caltables-20260125-v1")


def test_no_archive_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSA110_ARCHIVE", raising=False)
    with pytest.raises(ConfigurationError, match="DSA110_ARCHIVE"):
        dsa.open_archive()
    with pytest.raises(ConfigurationError, match="no such directory"):
        dsa.open_archive(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="no archive"):
        dsa.open_archive(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_archive_is_found_through_the_environment(small: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSA110_ARCHIVE", str(small.root))
    assert len(dsa.open_archive().products()) == 29


def test_neither_dagster_nor_casa_is_imported(small: SmallArchive) -> None:
    code = (
        "import sys, dsa110_assets as dsa\n"
        f"archive = dsa.open_archive({str(small.root)!r})\n"
        f"archive.products('tile_image'); archive.image({WINDOW!r}).data\n"
        f"archive.light_curve({made.FAINT!r})\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "bad = loaded & {'dagster', 'casatools', 'casatasks', 'casacore'}\n"
        "sys.exit(f'imported {bad}' if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
