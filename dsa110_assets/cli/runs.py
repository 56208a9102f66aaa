"""Dagster's runs that failed and whose products are still missing, for `dsa110 status`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dagster import DagsterInstance

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
    """Failed runs, newest first, one for each partition, that nothing has made good since."""
    from dagster import DagsterRunStatus, RunsFilter

    from dsa110_assets.orchestration.looking import instance_of

    found: dict[tuple[tuple[str, ...], str | None], FailedRun] = {}
    with instance_of(home) as instance:
        for record in instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.FAILURE]), limit=NEWEST):
            run = record.dagster_run
            began_s = record.start_time or record.create_timestamp.timestamp()
            ended_at = datetime.fromtimestamp(record.end_time or began_s, UTC)
            began_at = datetime.fromtimestamp(began_s, UTC)
            partition = run.tags.get(PARTITION_TAG)
            asked = sorted(key.to_user_string() for key in run.asset_selection or ())
            lacking = tuple(asset for asset in asked if not _made_since(store, asset, partition, began_at))
            if lacking and (lacking, partition) not in found:
                found[lacking, partition] = FailedRun(
                    run.run_id, lacking, partition, ended_at, _reason(instance, run.run_id)
                )
    return list(found.values())


def _made_since(store: Archive, asset: str, partition: str | None, moment: datetime) -> bool:
    product = store.current(asset, partition)
    return product is not None and product.created_at >= moment


def _reason(instance: DagsterInstance, run_id: str) -> str:
    """What the failed step said, else what the run did."""
    from dagster import DagsterEventType

    from dsa110_assets.orchestration import policy

    kinds = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        if not event.is_step_failure:
            return " ".join((event.message or "").split())
        return ": ".join(policy.failure(event.step_failure_data))
    return "no reason recorded; see the run in Dagster's web UI"
