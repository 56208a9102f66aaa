"""Schedules: what is looked at by the clock."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from dsa110_assets.errors import WaitingError
from dsa110_assets.orchestration import plan, policy, sensors
from dsa110_assets.orchestration.resources import Platform


@dg.schedule(
    name="settle",
    target=dg.AssetSelection.all(),
    cron_schedule="10 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Each hour, one phase at a time: remakes what has become stale in the last three days.",
)
def settle(context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]) -> list[dg.RunRequest] | dg.SkipReason:
    """Request what is stale or was left waiting: a nearer calibration came, a table was rejected, a setting changed."""
    now = context.scheduled_execution_time or datetime.now(UTC)
    requests = sensors.redo_requests(platform, plan.Span(now - plan.RECENT, now - plan.SETTLED), sensors.LIVE, failed_lately(context.instance, now))
    return requests or dg.SkipReason("everything of the last three days is up to date")


def failed_lately(instance: dg.DagsterInstance, now: datetime) -> set[tuple[str, str | None]]:
    """(asset, partition) of the last day's failed runs: what failed is for a person, not for the clock.

    Failures that only waited for calibration do not count.
    """
    lately = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=now - timedelta(days=1))
    failed = set()
    for run in instance.get_runs(filters=lately):
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
            told = entry.dagster_event.step_failure_data.user_failure_data if entry.dagster_event else None
            if told is None or told.metadata.get(policy.ERROR_CLASS) != dg.TextMetadataValue(WaitingError.__name__):
                failed.add((str(entry.step_key), run.tags.get("dagster/partition")))
    return failed
