"""Backfills: only windows with data, in the backfill lane, followed to the end one phase at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

import dagster as dg
import pytest
import yaml
from dagster._core.execution.backfill import BulkActionStatus

from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.ingest import sensor
from dsa110_assets.orchestration.planning import planner
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import backfill as backfills
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings

KEYS = ("2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


def test_only_windows_with_data_are_launched_behind_live_work(settings: Settings, instance: dg.DagsterInstance) -> None:
    (launch,) = backfills.backfill(settings, "2026-01-24", "2026-01-26", instance=instance)
    assert launch.partitions == KEYS
    (queued,) = instance.get_backfills()
    assert queued.backfill_id == launch.backfill_id
    assert queued.status == BulkActionStatus.REQUESTED
    assert queued.tags["dsa110/lane"] == "backfill"
    assert int(queued.tags["dagster/priority"]) < 0
    data = queued.asset_backfill_data
    assert data is not None
    for asset in ("subband_group", "measurement_set"):
        subset = data.target_subset.get_partitions_subset(dg.AssetKey(asset))
        assert set(subset.get_partition_keys()) == set(KEYS)


@pytest.mark.parametrize("name", ["dagster.yaml", "dagster.postgres.yaml", "dagster.celery.yaml"])
def test_lanes_have_places_of_their_own(name: str) -> None:
    """A backfill of any size does not reduce the number of live runs that are started."""
    configuration = yaml.safe_load(files("dsa110_assets.orchestration").joinpath(name).read_text())
    limits = {
        limit["value"]: limit["limit"]
        for limit in configuration["concurrency"]["runs"]["tag_concurrency_limits"]
        if limit["key"] == instances.LANE_TAG
    }
    assert limits.keys() == {sensor.LIVE[instances.LANE_TAG], backfills.TAGS[instances.LANE_TAG]}
    assert sum(limits.values()) <= configuration["run_coordinator"]["config"]["max_concurrent_runs"]


@pytest.mark.parametrize("name", ["dagster.yaml", "dagster.postgres.yaml", "dagster.celery.yaml"])
def test_backfill_runs_never_fill_a_pool(name: str) -> None:
    """At least two backfill runs at a time, so that one reads and writes while the other computes, and a place is left for a live run."""
    configuration = yaml.safe_load(files("dsa110_assets.orchestration").joinpath(name).read_text())
    (limit,) = (
        entry["limit"] for entry in configuration["concurrency"]["runs"]["tag_concurrency_limits"] if entry["value"] == instances.BACKFILL
    )
    assert 2 <= limit < configuration["concurrency"]["pools"]["default_limit"]


@pytest.mark.parametrize(("tags", "lowered"), [(sensor.LIVE, []), (backfills.TAGS, [(os.PRIO_PROCESS, 0, 10)])])
def test_a_backfills_run_lowers_its_priority(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], lowered: list[tuple[int, ...]]
) -> None:
    """The priority is only recorded here, because the test process could not raise its own again."""
    noted: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "getpriority", lambda which, who: 0)
    monkeypatch.setattr(os, "setpriority", lambda *given: noted.append(given))
    job = graph.over(Platform(settings)).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("source_catalog")], tags=tags)
    assert done.success
    assert noted == lowered


def test_one_asset_is_backfilled_by_hour_or_night(settings: Settings, instance: dg.DagsterInstance) -> None:
    (hours,) = backfills.backfill(settings, "2026-01-25", "2026-01-25", "hour_mosaic", instance=instance)
    assert (hours.assets, hours.partitions) == (("hour_mosaic",), ("2026-01-25T22:00",))
    (nights,) = backfills.backfill(settings, "2026-01-25", "2026-01-25", "caltables", instance=instance)
    assert nights.partitions == ("2026-01-25",)


def test_a_dry_run_launches_nothing(settings: Settings, instance: dg.DagsterInstance) -> None:
    (launch,) = backfills.backfill(settings, "2026-01-25", "2026-01-25", dry_run=True, instance=instance)
    assert launch.backfill_id is None
    assert launch.partitions == KEYS
    assert list(instance.get_backfills()) == []


@pytest.mark.parametrize(
    ("nights", "asset", "error", "said"),
    [
        (("2026-02-01", "2026-02-02"), None, NotFoundError, "no observation of"),
        (("2026-02-02", "2026-02-01"), None, ConfigurationError, "before the first"),
        (("yesterday", "2026-02-01"), None, ConfigurationError, "write 2026-01-25"),
        (("2026-01-25", "2026-01-25"), "tiles", ConfigurationError, "choose one of"),
        (("2026-01-25", "2026-01-25"), "sky_model", ConfigurationError, "has no nights"),
    ],
)
def test_impossible_backfills_are_refused_with_the_reason(
    settings: Settings, instance: dg.DagsterInstance, nights: tuple[str, str], asset: str | None,
    error: type[Exception], said: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=said):
        backfills.backfill(settings, *nights, asset, instance=instance)


@pytest.mark.slow
def test_a_backfill_is_followed_phase_by_phase_and_each_step_once(settings: Settings, instance: dg.DagsterInstance) -> None:
    backfills.backfill(settings, "2026-01-25", "2026-01-25", instance=instance)
    job = graph.over(Platform(settings)).resolve_implicit_global_asset_job_def()
    process(settings, through="sky_model")
    cursor: str | None = None

    def tick() -> list[dg.RunRequest]:
        nonlocal cursor
        result = planner.planner_sensor(dg.build_sensor_context(instance=instance, cursor=cursor), platform=Platform(settings))
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
        return list(result.run_requests or ())

    def run(assets: Sequence[dg.AssetKey], key: str | None, tags: Mapping[str, str]) -> None:
        """Run these assets as the daemon would, for a backfill or a request."""
        result = job.execute_in_process(instance=instance, asset_selection=assets, partition_key=key, tags=dict(tags))
        assert result.success

    assert tick() == [], "nothing was made yet"
    for key in KEYS:
        run([dg.AssetKey("subband_group"), dg.AssetKey("measurement_set")], key, backfills.TAGS)
    (tables,) = tick()
    assert (tables.partition_key, tables.asset_selection) == ("2026-01-25", [dg.AssetKey("caltables")])
    assert int(tables.tags["dagster/priority"]) < 0
    run(tables.asset_selection or (), tables.partition_key, tables.tags)
    third = tick()
    assert [request.partition_key for request in third] == list(KEYS)
    assert {key.to_user_string() for request in third for key in request.asset_selection or ()} == set(graph.PHASES[3][1])
    assert json.loads(str(cursor))["nights"] == ["2026-01-25"], "it is looked at until nothing is left to do"
