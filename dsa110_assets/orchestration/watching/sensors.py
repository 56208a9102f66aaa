"""Sensors that watch: one looks at all conditions that raise alerts, one at runs that hang or lost their process."""

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime

import dagster as dg

from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import hung
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import conditions, uptime, watch

LOADED_AT = datetime.now(UTC)


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=int(watch.EVERY_S),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks at all conditions that raise alerts, keeps the alerts in the archive's database, and sends due messages.",
)
def alert_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SkipReason:
    """Take one look. The portal takes the same looks, in case the daemon or this code server is dead."""
    limits, refused = platform.thresholds, platform.refused_thresholds
    findings = watch.look(platform.archive, platform.settings, limits, refused, conditions.CODE_SERVER, watching_since=LOADED_AT)
    return dg.SkipReason("; ".join(findings) or "nothing new")


@dg.sensor(
    name="orphaned_runs",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs that make no progress or whose process is gone, so that they are tried again and free their place.",
)
def orphan_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """End hung runs and fail orphaned ones. Dagster's own monitoring would let them hold their places for hours."""
    before = json.loads(context.cursor or "{}")
    now_s = time.time()
    uptime.note(platform.archive.root, now_s)
    watch = hung.look(platform, context.instance, hung.restored(before), now_s)
    closed = instances.close_orphans(context.instance, platform.archive.root, but=watch.ending)
    summary = f"{len(watch.seen)} runs go on, {len(watch.ending)} were asked to end, {len(closed)} had lost their process"
    return dg.SensorResult(skip_reason=dg.SkipReason(summary), cursor=json.dumps(asdict(watch)))
