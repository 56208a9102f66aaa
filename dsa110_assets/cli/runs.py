"""Dagster's runs that failed and whose products are still missing, for `dsa110 status`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dagster import DagsterInstance, DagsterRun

    from dsa110_assets.archive.store import Archive

NEWEST = 500
PARTITION_TAG = "dagster/partition"


@dataclass(frozen=True)
class FailedRun:
    """A failed run: the assets it did not make, for which partition, when and why."""

    run_id: str
    assets: tuple[str, ...]
    partition: str | None
    ended_at: datetime
    reason: str


def failed(home: Path, store: Archive) -> list[FailedRun]:
    """Failed runs, newest first, one for each partition, that nothing has made good since; not those that merely wait."""
    from dagster import DagsterRunStatus, RunsFilter

    from dsa110_assets.errors import WaitingError
    from dsa110_assets.orchestration.looking import instance_of

    found: dict[tuple[tuple[str, ...], str | None], FailedRun | None] = {}
    with instance_of(home) as instance:
        for record in instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.FAILURE]), limit=NEWEST):
            run = record.dagster_run
            began_s = record.start_time or record.create_timestamp.timestamp()
            ended_at = datetime.fromtimestamp(record.end_time or began_s, UTC)
            began_at = datetime.fromtimestamp(began_s, UTC)
            partition = run.tags.get(PARTITION_TAG)
            lacking = tuple(asset for asset in _asked(instance, run) if not _made_since(store, asset, partition, began_at))
            if lacking and (lacking, partition) not in found:
                reasons = _reasons(instance, run.run_id)
                waits = bool(reasons) and {error_class for error_class, _ in reasons} == {WaitingError.__name__}
                told = ": ".join(reasons[0]) if reasons else _ending(instance, run.run_id)
                found[lacking, partition] = None if waits else FailedRun(run.run_id, lacking, partition, ended_at, told)
    return [one for one in found.values() if one is not None]


def _asked(instance: DagsterInstance, run: DagsterRun) -> list[str]:
    """The assets a run was to make. One launched without a selection makes all of its job's, as it says when it is made."""
    from dagster import DagsterEventType

    from dsa110_assets.orchestration.instance import events

    if run.asset_selection:
        return sorted(key.to_user_string() for key in run.asset_selection)
    planned = events(instance, run.run_id, DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    keys = {entry.dagster_event.asset_key for entry in planned if entry.dagster_event is not None}
    return sorted(key.to_user_string() for key in keys if key is not None)


def _made_since(store: Archive, asset: str, partition: str | None, moment: datetime) -> bool:
    product = store.current(asset, partition)
    return product is not None and product.created_at >= moment


def _reasons(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    """Class and words of the error of each failed step."""
    from dagster import DagsterEventType

    from dsa110_assets.orchestration import policy
    from dsa110_assets.orchestration.instance import events

    entries = events(instance, run_id, DagsterEventType.STEP_FAILURE)
    return [policy.failure(entry.dagster_event.step_failure_data) for entry in entries if entry.dagster_event is not None]


def _ending(instance: DagsterInstance, run_id: str) -> str:
    """What Dagster says of a run in which no step failed: its process was killed, or never began."""
    from dagster import DagsterEventType

    from dsa110_assets.orchestration.instance import events

    for entry in events(instance, run_id, DagsterEventType.RUN_FAILURE):
        if entry.dagster_event is not None:
            return " ".join((entry.dagster_event.message or "").split())
    return "no reason recorded; see the run in Dagster's web UI"
