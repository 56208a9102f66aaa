"""How often every check passed and failed according to Dagster's history, for reviewing a long span of processing."""

from dataclasses import dataclass

import dagster as dg

from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.running.internals import AssetCheckExecutionRecordStatus


@dataclass(frozen=True)
class CheckSummary:
    """How often one check passed and failed, and its message when it last failed."""

    asset: str
    check: str
    passed: int
    failed: int
    last_failure: str


def check_summary(instance: dg.DagsterInstance, limit: int = 100_000) -> list[CheckSummary]:
    """Return every check's outcomes so far, in the order of the graph; checks that never ran are left out."""
    status = AssetCheckExecutionRecordStatus
    rows = []
    for asset in graph.specifications().values():
        for rule in asset.rules:
            key = dg.AssetCheckKey(dg.AssetKey(asset.name), rule.check)
            records = instance.event_log_storage.get_asset_check_execution_history(
                key, limit=limit, status={status.SUCCEEDED, status.FAILED}
            )
            failed = sorted((r for r in records if r.status == status.FAILED), key=lambda r: r.id)
            last = _failure_text(failed[-1].event) if failed and failed[-1].event else ""
            if records:
                rows.append(CheckSummary(asset.name, rule.check, len(records) - len(failed), len(failed), last))
    return rows


def _failure_text(event: dg.EventLogEntry) -> str:
    """The description of a failed check, followed by its figures."""
    assert event.dagster_event is not None
    evaluation = event.dagster_event.asset_check_evaluation_data
    figures = ", ".join(f"{key} {value.value}" for key, value in evaluation.metadata.items() if key not in ("reason", "partition"))
    return " · ".join(part for part in (evaluation.description or "", figures) if part)
