"""Sensors that watch: the look at all that people are told of, and runs that lost their process."""

from datetime import UTC, datetime

import dagster as dg

from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import conditions, watch

LOADED_AT = datetime.now(UTC)


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=int(watch.EVERY_S),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks at all that people are told of, keeps the alerts in the archive's database, and sends what is due.",
)
def alert_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SkipReason:
    """One look; the portal takes them, too, for when the daemon or this code server is dead."""
    limits, refused = platform.thresholds, platform.refused_thresholds
    found = watch.look(platform.archive, platform.settings, limits, refused, conditions.CODE_SERVER, watching_since=LOADED_AT)
    return dg.SkipReason("; ".join(found) or "nothing new")


@dg.sensor(
    name="orphaned_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process is gone, so that they are tried again and give back their place.",
)
def orphan_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fail orphaned runs; Dagster's own monitoring would let them hold their places for hours."""
    return dg.SkipReason(f"{len(instances.close_orphans(context.instance))} runs ended that had lost their process")
