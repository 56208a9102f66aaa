"""Gains interpolated between two transits in planning: what becomes stale through a later transit and through a rejected set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.analyst import open_archive
from dsa110_assets.archive import caltable_registry, naming
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.stale import stale
from dsa110_assets.archive.store import Archive
from dsa110_assets.calibration import caltables
from dsa110_assets.calibration.select import ChooseOptions
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings
from dsa110_assets.telescope import timegrid
from dsa110_assets.visibilities import measurement_set
from dsa110_assets_tests.tiny import OBSERVATIONS, tiny_settings

RECIPE = specifications()["calibrated_ms"]
DAY = 1 / timegrid.SIDEREAL_RATIO
NIGHTS = ("2026-01-25", "2026-01-26", "2026-01-27")
WINDOWS = tuple(f"2026-01-2{day}T{hour:02d}:00" for day in (5, 6, 7) for hour in range(0, 24, 3))
FIRST_MJD = timegrid.datetime_to_mjd(timegrid.parse_key("2026-01-25T10:00"))


def with_interpolation(settings: Settings) -> Settings:
    return settings.model_copy(update={"choose": ChooseOptions(interpolate=True)})


@pytest.fixture
def season(tmp_path: Path) -> Settings:
    """Uncalibrated observations every three hours for three days, as records without data."""
    settings = with_interpolation(tiny_settings(tmp_path / "inbox", tmp_path))
    archive = Archive.create(settings.archive)
    record(archive, "sky_model", None)
    for key in WINDOWS:
        start = timegrid.datetime_to_mjd(timegrid.parse_key(key))
        record(archive, "measurement_set", key, mjd_start=start, mjd_end=start + 5 / 1440, pointing_dec_deg=16.27, antennas=["1", "2"])
    return settings


def record(archive: Archive, asset: str, partition: str | None, **metadata: object) -> None:
    with archive.publish(asset, partition, (), settings={}, code_version="1", run_id="r", engines={}) as draft:
        (draft.path / "x").write_text(f"{asset} {partition}")
        draft.metadata.update(metadata)


def solve(archive: Archive, night: str) -> str:
    """Record the table set of the night's transit, a sidereal day after the previous one. Return the set's id."""
    mid = FIRST_MJD + NIGHTS.index(night) * DAY
    with archive.publish("caltables", night, (), settings={}, code_version="1", run_id="r", engines={}) as draft:
        (draft.path / "B.cal").write_text(night)
        caltable_registry.register(
            draft, f"3C138-{night}", [Path("B.cal")], mid_mjd=mid, valid_start_mjd=mid - 0.5, valid_end_mjd=mid + 0.5, dec_deg=16.27,
            antennas=["1", "2"], calibrator="3C138", anchor="PB17:3C138",
        )  # fmt: skip
    return f"{draft.product.id}/3C138-{night}"


def calibrate(archive: Archive, settings: Settings) -> set[str]:
    """Record the products that calibrating all missing or stale observations would make. Return these observations."""
    made = set()
    for key in WINDOWS:
        found, current = RECIPE.find(archive, settings, key), archive.current("calibrated_ms", key)
        assert found is not None
        if current and RECIPE.stale(archive, current, settings, found) is None:
            continue
        made.add(key)
        figures = {"caltable_set": found.prepared.nearest.set_id, "caltable_sets": [one.set_id for one in found.prepared.sets]}
        with archive.publish(
            "calibrated_ms", key, found.ids, settings=RECIPE.settings(settings, found), code_version=RECIPE.code_version, run_id="r",
            engines={},
        ) as draft:  # fmt: skip
            (draft.path / "x").write_text(f"{key} {found.prepared.reason}")
            draft.metadata.update(figures)
    return made


def between(first_h: float, last_h: float) -> set[str]:
    """The windows between so many hours after the first transit."""
    hours = {key: 24 * (timegrid.datetime_to_mjd(timegrid.parse_key(key)) - FIRST_MJD) for key in WINDOWS}
    return {key for key, after_h in hours.items() if first_h < after_h < last_h}


def products(archive: Archive) -> dict[str, Product]:
    return {p.partition or "": p for p in archive.products("calibrated_ms")}


def test_a_later_transit_makes_only_observations_between_stale(season: Settings, tmp_path: Path) -> None:
    """Calibrating night by night gives the same inputs, settings and bytes as calibrating all at once."""
    shutil.copytree(season.archive, tmp_path / "other", symlinks=True)
    archive, other = Archive(season.archive), Archive(tmp_path / "other")
    day_h = 24 * DAY
    solve(archive, NIGHTS[0])
    assert calibrate(archive, season) == set(WINDOWS)
    solve(archive, NIGHTS[1])  # for later observations this set is nearer
    assert calibrate(archive, season) == between(0, 1e9)
    solve(archive, NIGHTS[2])
    assert calibrate(archive, season) == between(day_h, 1e9)
    assert calibrate(archive, season) == set()
    for night in NIGHTS:
        solve(other, night)
    assert calibrate(other, season) == set(WINDOWS)
    one_by_one, together = products(archive), products(other)
    for key in WINDOWS:
        for field in ("inputs", "settings", "digest"):
            assert getattr(one_by_one[key], field) == getattr(together[key], field), key
    assert {key for key in WINDOWS if "caltable_sets" in together[key].settings} == between(0, 2 * day_h)


def test_rejecting_a_set_makes_stale_what_was_made_with_it(season: Settings) -> None:
    """After the middle set is rejected, observations around it are not interpolated between the others, which are two days apart."""
    archive = Archive(season.archive)
    first, middle, last = (solve(archive, night) for night in NIGHTS)
    calibrate(archive, season)
    day_h = 24 * DAY
    for rejected, expected in ((first, between(-1e9, day_h)), (middle, between(0, 2 * day_h)), (last, between(day_h, 1e9))):
        caltable_registry.reject(archive, rejected, "swapped antennas")
        assert {one.product.partition for one in stale(archive)} == expected
        caltable_registry.restore(archive, rejected)
        assert stale(archive) == []
    caltable_registry.reject(archive, middle, "swapped antennas")
    assert calibrate(archive, season) == between(0, 2 * day_h)
    assert not any("caltable_sets" in product.settings for product in products(archive).values())
    assert stale(archive) == []


def test_without_the_setting_only_interpolated_data_are_made_again(season: Settings) -> None:
    archive = Archive(season.archive)
    for night in NIGHTS:
        solve(archive, night)
    calibrate(archive, season)
    assert calibrate(archive, season.model_copy(update={"choose": ChooseOptions()})) == between(0, 48 * DAY)


def test_an_observation_between_two_sets_records_both(processed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transit of the next night has identical tables, so that the data stay the same, except that the gains of two antennas are those
    of the middle of the transit instead of its last minute."""
    archive, settings, key = Archive(processed.archive), with_interpolation(processed), OBSERVATIONS[2]
    (first,) = caltable_registry.sets(archive)
    tables, before = archive.get(first.product_id), products(archive)[key]
    with archive.publish(
        "caltables", NIGHTS[1], tables.inputs, settings=tables.settings, code_version=tables.code_version, run_id="r", engines={}
    ) as draft:
        shutil.copytree(tables.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(naming.SIDECAR))
        caltable_registry.register(
            draft, "next", [path.relative_to(tables.path) for path in first.paths], mid_mjd=first.mid_mjd + DAY,
            valid_start_mjd=first.valid_start_mjd + DAY, valid_end_mjd=first.valid_end_mjd + DAY, dec_deg=first.dec_deg,
            antennas=first.antennas, calibrator=first.calibrator, anchor=first.anchor,
        )  # fmt: skip
    second = f"{draft.product.id}/next"
    report = process(settings, through="calibrated_ms")
    assert report.failed == ()
    assert [(one.asset, one.partition) for one in report.made] == [("calibrated_ms", key)]
    made = products(archive)[key]
    figures = made.metadata
    assert (figures["caltable_set"], figures["caltable_sets"]) == (first.set_id, [first.set_id, second])
    assert {first.product_id, draft.product.id} < set(made.inputs)
    age_h = figures["caltable_age_h"]
    assert figures["caltable_ages_h"] == pytest.approx([age_h, 24 * DAY - age_h])
    assert figures["caltable_weights"] == pytest.approx([1 - age_h / 24 / DAY, age_h / 24 / DAY])
    assert (figures["receptors_not_interpolated"], figures["receptors_of_one_set"], figures["n_receptors_interpolated"]) == ([], [], 16)
    assert (figures["calibrator"], figures["anchor"]) == (before.metadata["calibrator"], before.metadata["anchor"])
    was, now = (measurement_set.read(next(product.path.glob("*.ms"))) for product in (before, made))
    gains = caltables.read(next(path for path in first.paths if path.name == "G.cal"))
    off = float(np.abs(gains.values / gains.values[-1:] - 1)[~gains.flags].max())
    assert 0 < off < 0.05
    np.testing.assert_allclose(now.data, was.data, rtol=(1 + off) ** 2 - 1, atol=2e-6 * np.abs(was.data).max())
    np.testing.assert_array_equal(now.flags, was.flags)
    monkeypatch.setenv("DSA110_CHOOSE__INTERPOLATE", "true")
    found = open_archive(processed.archive).caltables(at=key)
    assert [(one.set_id, one.weight) for one in found.sets] == [
        (first.set_id, pytest.approx(figures["caltable_weights"][0])), (second, pytest.approx(figures["caltable_weights"][1])),
    ]  # fmt: skip
