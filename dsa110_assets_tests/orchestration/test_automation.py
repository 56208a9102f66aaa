"""Automation on a night with holes: what is asked for, what is waited for, what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.definitions import defs
from dsa110_assets.orchestration import partitions, rules
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.process import QUIET

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
HOUR = "2026-03-10T10:00"
PRESENT = [f"2026-03-10T10:{minute:02d}" for minute in (0, 10, 25, 40, 55)]
"""Five of the hour's twelve windows have data."""
CATALOGUES = ("source_catalog", "calibrator_catalog", "sky_model")


class Scene:
    """An instance in which things happen and automation is evaluated, its cursor carried on."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.now = instance, NOW
        self.cursor: Any = None

    def make(self, asset: str, *partitions: str | None) -> None:
        for partition in partitions:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(asset), partition=partition))

    def make_mosaic(self, hour: str, passed: bool = True) -> None:
        """An hour mosaic made in a run of its own, whose blocking checks say this."""
        known = rules.check_specs("hour_mosaic", specifications()["hour_mosaic"].rules, partitions.HOURS)

        @dg.asset(name="hour_mosaic", partitions_def=partitions.HOURS, check_specs=known)
        def stand_in() -> dg.MaterializeResult:  # type: ignore[type-arg]
            said = [dg.AssetCheckResult(check_name=spec.name, passed=passed) for spec in known]
            return dg.MaterializeResult(check_results=said)

        dg.materialize([stand_in], partition_key=hour, instance=self.instance, raise_on_error=False, run_config=QUIET)

    def tick(self, minutes: float = 1.0) -> dict[str, set[str | None]]:
        """What is asked for, by asset."""
        self.now += timedelta(minutes=minutes)
        result = dg.evaluate_automation_conditions(
            defs=defs, instance=self.instance, asset_selection=dg.AssetSelection.all(),
            cursor=self.cursor, evaluation_time=self.now,
        )  # fmt: skip
        self.cursor = result.cursor
        asked: dict[str, set[str | None]] = {}
        for key in defs.resolve_asset_graph().materializable_asset_keys:
            name = key.to_user_string()
            if name in CATALOGUES:
                continue
            if partitions := result.get_requested_partitions(key):
                asked[name] = set(partitions)
        return asked

    def fail(self, partition: str, *assets: str) -> None:
        """A run that tried and failed."""
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            run_config=QUIET, instance=self.instance, partition_key=partition, asset_selection=[dg.AssetKey(asset) for asset in assets],
            raise_on_error=False,
        )  # fmt: skip
        assert not result.success  # there are no settings here


@pytest.fixture
def scene() -> Iterator[Scene]:
    with dg.DagsterInstance.ephemeral() as instance:
        one = Scene(instance)
        for name in CATALOGUES:
            one.make(name, None)
        one.tick()
        yield one


def calibrated(scene: Scene, *partitions: str) -> None:
    for asset in ("subband_group", "measurement_set", "calibrated_ms"):
        scene.make(asset, *partitions)


def test_a_new_measurement_set_is_calibrated_and_imaged_even_hours_late(scene: Scene) -> None:
    late = "2026-03-09T03:15"
    scene.make("subband_group", PRESENT[0], late)
    scene.make("measurement_set", PRESENT[0], late)
    asked = scene.tick()
    assert asked["calibrated_ms"] == asked["tile_image"] == {PRESENT[0], late}
    assert "hour_mosaic" not in asked


def test_history_is_left_to_process_and_backfill(scene: Scene) -> None:
    old = "2026-01-25T22:25"
    scene.make("subband_group", old)
    scene.make("measurement_set", old)
    assert scene.tick() == {}


def test_new_observations_lead_to_caltables_at_the_next_quarter(scene: Scene) -> None:
    calibrated(scene, PRESENT[0])
    assert "caltables" not in scene.tick(2)
    assert scene.tick(15)["caltables"] == {"2026-03-10"}
    scene.make("caltables", "2026-03-10")
    assert "caltables" not in scene.tick(15)


def test_windows_without_data_do_not_hold_up_their_hour(scene: Scene) -> None:
    calibrated(scene, *PRESENT)
    scene.make("tile_image", *PRESENT)
    scene.tick(5)
    assert scene.tick(20)["hour_mosaic"] == {HOUR}
    scene.make_mosaic(HOUR)
    assert scene.tick()["source_measurements"] == {HOUR}
    assert "hour_mosaic" not in scene.tick(20)


def test_nothing_is_measured_on_a_mosaic_that_failed_a_blocking_check(scene: Scene) -> None:
    other = "2026-03-10T09:00"
    scene.make_mosaic(HOUR, passed=False)
    scene.make_mosaic(other)
    assert scene.tick()["source_measurements"] == {other}


def test_a_tile_that_is_still_to_come_is_waited_for(scene: Scene) -> None:
    calibrated(scene, *PRESENT)
    scene.make("tile_image", *PRESENT[:-1])
    scene.tick(5)
    assert "hour_mosaic" not in scene.tick(20)
    scene.make("tile_image", PRESENT[-1])
    assert scene.tick(20)["hour_mosaic"] == {HOUR}


def test_a_failed_observation_does_not_hold_up_its_hour_and_is_not_asked_for_again(scene: Scene) -> None:
    calibrated(scene, *PRESENT[:-1])
    scene.make("tile_image", *PRESENT[:-1])
    scene.make("subband_group", PRESENT[-1])
    scene.make("measurement_set", PRESENT[-1])
    assert scene.tick(5)["calibrated_ms"] == {PRESENT[-1]}
    scene.fail(PRESENT[-1], "calibrated_ms")
    asked = scene.tick(20)
    assert asked["hour_mosaic"] == {HOUR}
    assert "calibrated_ms" not in asked


def test_an_observation_that_waited_is_asked_for_once_tables_come(scene: Scene) -> None:
    scene.make("subband_group", PRESENT[0])
    scene.make("measurement_set", PRESENT[0])
    scene.tick()
    scene.fail(PRESENT[0], "calibrated_ms", "tile_image")
    assert scene.tick() == {}
    scene.make("caltables", "2026-03-10")
    asked = scene.tick()
    assert asked["calibrated_ms"] == asked["tile_image"] == {PRESENT[0]}


def test_a_late_tile_makes_the_hour_again(scene: Scene) -> None:
    calibrated(scene, *PRESENT[:-1])
    scene.make("tile_image", *PRESENT[:-1])
    scene.tick(5)
    assert scene.tick(20)["hour_mosaic"] == {HOUR}
    scene.make("hour_mosaic", HOUR)
    scene.tick(1)
    calibrated(scene, PRESENT[-1])
    scene.make("tile_image", PRESENT[-1])
    asked = {key for minutes in (1, 20, 20) for key in scene.tick(minutes).get("hour_mosaic", set())}
    assert asked == {HOUR}


def test_a_tile_that_comes_after_the_tick_is_not_waited_for_till_the_next(scene: Scene) -> None:
    calibrated(scene, *PRESENT)
    scene.make("tile_image", *PRESENT[:-1])
    scene.tick(5)
    assert "hour_mosaic" not in scene.tick(20)
    scene.make("tile_image", PRESENT[-1])
    assert scene.tick(1)["hour_mosaic"] == {HOUR}


def test_an_hour_without_a_tile_is_never_asked_for(scene: Scene) -> None:
    scene.tick(20)
    assert scene.tick(60) == {}


def test_the_running_night_is_left_alone_and_the_last_one_is_made(scene: Scene) -> None:
    for night in ("2026-03-09", "2026-03-10"):
        scene.make("hour_mosaic", f"{night}T10:00")
        scene.make("source_measurements", f"{night}T10:00")
    asked: dict[str, set[str | None]] = {}
    for _ in range(3):
        for name, keys in scene.tick(8 * 60).items():
            asked.setdefault(name, set()).update(keys)
    assert "2026-03-09" in asked["night_mosaic"]
    assert "2026-03-09" in asked["light_curves"]
    assert scene.now.date().isoformat() not in asked["night_mosaic"]
    assert scene.now.date().isoformat() not in asked["light_curves"]


def test_every_asset_but_the_inboxs_has_a_condition() -> None:
    assert {asset.name for asset in specifications().values() if asset.automation is None} == {"subband_group", "measurement_set"}
