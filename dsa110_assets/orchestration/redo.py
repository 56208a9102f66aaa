"""Doing again: what has become stale, or was left waiting, and what follows a backfill."""

import json
from collections.abc import Mapping, Set
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from dsa110_assets.errors import DsaError, WaitingError
from dsa110_assets.orchestration import graph, inbox, jobs, plan, policy
from dsa110_assets.orchestration.backfill import FOLLOW_TAG
from dsa110_assets.orchestration.backfill import TAGS as BACKFILL_TAGS
from dsa110_assets.orchestration.instance import events
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.sensors import FOLLOWING, LATER
from dsa110_assets.telescope import timegrid

PARTITION_TAG = "dagster/partition"
FOLLOWED_BACKFILLS = 50
REQUESTS_PER_TICK = 50
_BACKFILL_RUNS = (BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING)


@dg.sensor(
    name="settle",
    jobs=jobs.JOBS,
    minimum_interval_seconds=1800,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Remakes, a phase at a time, what has become stale in the last three days.",
)
def settle_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Request what is stale or was left waiting: a nearer calibration, a rejected table, a changed setting."""
    now = datetime.fromtimestamp(inbox.now_s(), UTC)
    span = plan.Span(now - plan.RECENT, now - plan.SETTLED, plan.NIGHT_REST)
    left_alone = failed_lately(context.instance, now) | in_hand(context.instance)
    requests = redo_requests(platform, span, FOLLOWING, left_alone)
    return _asked(requests, "everything of the last three days is up to date")


@dg.sensor(
    name="accepted_alone",
    jobs=jobs.JOBS,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Takes up observations that were accepted by hand, whose files the inbox holds for done.",
)
def accepted_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Request the measurement set of every observation that was accepted without one ever being asked for."""
    return _asked(left_behind(platform, context.instance), "every accepted observation was asked for")


def _asked(requests: list[dg.RunRequest], otherwise: str, cursor: str | None = None) -> dg.SensorResult:
    """What a tick asks for, or why for nothing."""
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else dg.SkipReason(otherwise), cursor=cursor)


def left_behind(platform: Platform, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """Runs for the observations, of any age, that have a manifest and whose measurement set nobody ever asked for."""
    asset, settings, archive = "measurement_set", platform.settings, platform.archive
    requests: list[dg.RunRequest] = []
    for key in archive.without("subband_group", asset):
        if len(requests) == REQUESTS_PER_TICK:
            break
        runs = instance.get_runs(filters=dg.RunsFilter(tags={PARTITION_TAG: key}))
        if any(dg.AssetKey(asset) in (run.asset_selection or {dg.AssetKey(asset)}) for run in runs):
            continue  # its run is under way, or failed: that is for a person
        if plan.first_to_make(archive, settings, [asset], key):
            told = {**LATER, "dsa110/reason": "it was accepted, and nobody asked for more"}
            requests.append(
                dg.RunRequest(job_name=jobs.name("observation"), partition_key=key, asset_selection=[dg.AssetKey(asset)], tags=told)
            )
    return requests


def failed_lately(instance: dg.DagsterInstance, now: datetime) -> set[tuple[str, str | None]]:
    """(asset, partition) of the last day's failed runs: what failed is for a person, not for the clock.

    Failures that only waited for calibration do not count.
    """
    lately = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=now - timedelta(days=1))
    failed = set()
    for run in instance.get_runs(filters=lately):
        for entry in events(instance, run.run_id, dg.DagsterEventType.STEP_FAILURE):
            event = entry.dagster_event
            if event is None or policy.failure(event.step_failure_data)[0] != WaitingError.__name__:
                failed.add((str(entry.step_key), run.tags.get(PARTITION_TAG)))
    return failed


def in_hand(instance: dg.DagsterInstance) -> set[tuple[str, str | None]]:
    """(asset, partition) of the runs that are queued or running: asked for already, by automation or a person."""
    unfinished = instance.get_runs(filters=dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    return {(key.to_user_string(), run.tags.get(PARTITION_TAG)) for run in unfinished for key in run.asset_selection or ()}


@dg.sensor(
    name="follow_backfills",
    jobs=jobs.JOBS,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Finishes backfilled nights: asks, a phase at a time, for what their observations lead to.",
)
def backfill_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Once a backfill of `dsa110 backfill` has ended: the next phase of its nights. Each step is tried once.

    The cursor lists the backfills that are followed to their end.
    """
    done: list[str] = json.loads(context.cursor or "[]")
    requests: list[dg.RunRequest] = []
    for one in context.instance.get_backfills(limit=FOLLOWED_BACKFILLS):
        if FOLLOW_TAG not in one.tags or one.backfill_id in done or one.status in _BACKFILL_RUNS:
            continue
        try:
            fresh = following(platform, context.instance, one.backfill_id, one.tags[FOLLOW_TAG])
        except (ValueError, OverflowError) as error:
            context.log.error(f"backfill {one.backfill_id} is not followed: {FOLLOW_TAG}={one.tags[FOLLOW_TAG]!r}: {error}")
            fresh = []
        except (DsaError, OSError) as error:
            context.log.error(f"backfill {one.backfill_id} is followed later: {error}")
            continue
        if fresh is not None:
            requests += fresh
            done += [] if fresh else [one.backfill_id]
    return _asked(requests, "no backfill has anything left to follow", json.dumps(done[-FOLLOWED_BACKFILLS:]))


def following(platform: Platform, instance: dg.DagsterInstance, backfill_id: str, nights: str) -> list[dg.RunRequest] | None:
    """The runs that follow a backfill of these nights ('2026-01-25..2026-01-27') now; None while its last ones run.

    Raises ValueError or OverflowError for what are no nights.
    """
    first, _, last = nights.partition("..")
    span = plan.Span(timegrid.parse_key(first), timegrid.parse_key(last) + timegrid.NIGHT)
    follow = {FOLLOW_TAG: backfill_id}
    runs = instance.get_runs(filters=dg.RunsFilter(tags=follow))
    if any(not run.is_finished for run in runs):
        return None
    tried = {(key.to_user_string(), run.tags.get(PARTITION_TAG)) for run in runs for key in run.asset_selection or ()}
    return redo_requests(platform, span, {**BACKFILL_TAGS, **follow}, tried | in_hand(instance))


def redo_requests(
    platform: Platform,
    span: plan.Span,
    tags: Mapping[str, str],
    tried: Set[tuple[str, str | None]] = frozenset(),
) -> list[dg.RunRequest]:
    """Runs for what is missing or stale in a span: the first phase with anything to do, without what was tried.

    A catalogue that was never made is left to automation, which asks for it at the same moment.
    """
    archive, settings = plan.read_at_once(platform.archive, span), platform.settings
    for grain, assets in graph.PHASES:
        requests: list[dg.RunRequest] = []
        for key in plan.partitions(archive, grain, assets[0], span):
            todo = plan.first_to_make(archive, settings, assets, key) if span.over(grain, key) else None
            if todo and (todo[0], key) not in tried and (grain != "catalogue" or archive.current(todo[0]) is not None):
                selection = [dg.AssetKey(name) for name in assets[assets.index(todo[0]) :]]
                told = {**tags, "dsa110/reason": todo[1][:200]}
                requests.append(dg.RunRequest(job_name=jobs.name(grain), partition_key=key, asset_selection=selection, tags=told))
        if requests:
            return requests[:REQUESTS_PER_TICK]
    return []
