"""Dagster's runs read without Dagster equal what Dagster itself reads, on SQLite and PostgreSQL."""

from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import BadDataError, WaitingError
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.watching import history

KEYS = ("2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30", "2026-01-25T22:35")
PARTITIONS = dg.StaticPartitionsDefinition(list(KEYS))


@dg.asset(partitions_def=PARTITIONS)
def tile_image(context: dg.AssetExecutionContext) -> None:
    """Ends differently for each partition: with an error of the platform, with another exception, waiting, and successfully."""
    with policy.as_dagster_errors(retry_number=99):
        if context.partition_key == KEYS[0]:
            raise BadDataError("Größe: 'no such' \"file\"")
        if context.partition_key == KEYS[1]:
            try:
                raise ValueError("the cause")
            except ValueError as cause:
                raise LookupError("what came of it") from cause
        if context.partition_key == KEYS[2]:
            raise WaitingError("no calibration")


@pytest.fixture
def home(engine_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if engine_url is not None:
        monkeypatch.setenv(history.POSTGRES_VARIABLE, engine_url)
    return tmp_path / "home"


def test_failures_are_read_as_dagster_reports_them(home: Path, tmp_path: Path) -> None:
    """A missing home, and storage that Dagster has not made yet, have no runs."""
    archive = Archive.create(tmp_path / "archive")
    assert history.runs(home) == history.failed(home, archive) == []
    job = dg.Definitions([tile_image], jobs=[dg.define_asset_job("job", selection="*")], executor=dg.in_process_executor)
    with instances.open_instance(home) as instance:
        for key in KEYS:
            job.resolve_job_def("job").execute_in_process(instance=instance, partition_key=key, raise_on_error=False)
        runs = {run.run_id: run for run in history.runs(home)}
        records = instance.get_run_records()
        assert list(runs) == [record.dagster_run.run_id for record in records]
        for record in records:
            run = runs[record.dagster_run.run_id]
            assert (run.status, run.partition) == (record.dagster_run.status.value, record.dagster_run.tags["dagster/partition"])
            assert run.assets == ("tile_image",)
            assert run.asked_at == record.create_timestamp
            assert run.began_at is not None
            assert run.began_at.timestamp() == record.start_time
            failures = instances.events(instance, run.run_id, dg.DagsterEventType.STEP_FAILURE)
            expected = [policy.failure(one.dagster_event.step_failure_data) for one in failures if one.dagster_event is not None]
            assert history.reasons(home, run.run_id) == expected
    reasons = {one.partition: one.reason for one in history.failed(home, archive)}
    assert reasons == {KEYS[0]: "BadDataError: Größe: 'no such' \"file\"", KEYS[1]: "ValueError: the cause"}
    assert [run.partition for run in history.runs(home, [history.FAILED], newest=1)] == [KEYS[2]]
    with archive.publish("tile_image", KEYS[0], [], settings={}, code_version="1", run_id="r") as draft:
        (draft.path / "x").write_text("x")
    assert {one.partition for one in history.failed(home, archive)} == {KEYS[1]}


def test_the_heartbeat_is_that_of_the_part_that_has_been_silent_longest(home: Path) -> None:
    """A part that is no longer configured does not count: it has been silent for a day while the others still give signs of life."""
    from dagster._daemon.types import DaemonHeartbeat

    assert history.heartbeat(home) is None
    with instances.open_instance(home) as instance:
        assert history.heartbeat(home) is None
        for part, at in (("SENSOR", 2e9), ("SCHEDULER", 2e9 - 100), ("BACKFILL", 2e9 - 90_000)):
            instance.add_daemon_heartbeat(DaemonHeartbeat(at, part, "id", []))
    found = history.heartbeat(home)
    assert found is not None
    assert found.timestamp() == 2e9 - 100
