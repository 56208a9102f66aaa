"""Dagster's history is bounded, on SQLite and PostgreSQL: old runs and their logs go; unfinished runs and materializations stay."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import expiry, history, housekeeping

KEYS = ("2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30")


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(list(KEYS)))
def tile_image(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Fails for the second partition."""
    print("a line of the step's output")
    if context.partition_key == KEYS[1]:
        raise ValueError("no")
    return dg.MaterializeResult(data_version=dg.DataVersion(context.partition_key))


def test_old_runs_are_removed_and_their_materializations_stay(
    engine_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine_url is not None:
        monkeypatch.setenv(history.POSTGRES_VARIABLE, engine_url)
    home, asset = tmp_path / "home", dg.AssetKey("tile_image")
    job = dg.Definitions([tile_image], jobs=[dg.define_asset_job("job", selection="*")], executor=dg.in_process_executor)
    definition = job.resolve_job_def("job")
    with instances.open_instance(home) as instance:
        waiting = instance.create_run_for_job(definition, status=dg.DagsterRunStatus.STARTED).run_id  # the oldest, and unfinished
        old = [
            definition.execute_in_process(instance=instance, partition_key=key, raise_on_error=False, tags={"a": "b"}).run_id
            for key in KEYS[:2]
        ]
        between = datetime.now(UTC)
        young = definition.execute_in_process(instance=instance, partition_key=KEYS[2]).run_id
        output = [home / "storage" / run_id for run_id in old]
        assert all(place.is_dir() for place in output)

        assert expiry.expire(instance, home, between) == 2
        assert {run.run_id for run in history.runs(home)} == {waiting, young}
        assert instance.get_runs(dg.RunsFilter(tags={"a": "b"})) == []
        assert not any(place.exists() for place in output)
        assert not any((home / history.EVENTS / f"{run_id}.db").exists() for run_id in old)
        left = (*old, young) if engine_url is not None else (young,)  # in SQLite the events of each run are a separate file
        assert [len(instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)) for run_id in left] == [0] * (len(left) - 1) + [1]
        assert instance.get_materialized_partitions(asset) == {KEYS[0], KEYS[2]}
        known = instance.fetch_materializations(dg.AssetRecordsFilter(asset, asset_partitions=[KEYS[0]]), limit=1).records
        assert known[0].asset_materialization is not None
        assert (known[0].asset_materialization.tags or {})["dagster/data_version"] == KEYS[0]

        assert expiry.expire(instance, home, between) == 0
        assert expiry.expire(instance, home, datetime.now(UTC) + timedelta(days=1)) == 1
        assert {run.run_id for run in history.runs(home)} == {waiting}


def test_the_history_job_is_scheduled_and_defined() -> None:
    assert "history" in {schedule.job_name for schedule in housekeeping.SCHEDULES}
    assert housekeeping.history_job in housekeeping.JOBS
