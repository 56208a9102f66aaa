"""Sensors that watch: failed checks and other news for alerts, failed runs, and runs that lost their process."""

import json
from dataclasses import asdict

import dagster as dg

from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import capacity
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import alerts


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends failed checks, new quarantines, refused thresholds and a full disk to the console and the webhook.",
)
def alert_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Alert about what is new since the last tick; the cursor moves only once it is sent, and holds what is left to send."""
    assert context.repository_def is not None
    keys = sorted(context.repository_def.asset_graph.asset_check_keys, key=str)
    before = json.loads(context.cursor or "{}")
    found, cursor = alerts.failed_checks(context.instance, keys, before)
    aside, cursor["quarantine"] = alerts.new_quarantines(platform.archive, before.get("quarantine"))
    refused, cursor["thresholds"] = alerts.thresholds_changes(platform.refused_thresholds, before.get("thresholds"))
    disk, cursor["disk"] = alerts.disk_changes(capacity.disk_shortage(platform), before.get("disk"))
    late = alerts.send_late(context.instance, platform.settings.webhook_url)
    new = [*(alerts.Alert(**left) for left in before.get("left", ())), *found, *aside, *refused, *disk]
    cursor["left"] = [asdict(alert) for alert in alerts.send(new, platform.settings.webhook_url)]
    return dg.SensorResult(skip_reason=dg.SkipReason(f"{late + len(new)} alerts"), cursor=json.dumps(cursor))


@dg.sensor(
    name="orphaned_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process is gone, so that they are tried again and give back their place.",
)
def orphan_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SkipReason:
    """Fail orphaned runs; Dagster's own monitoring would let them hold their places for hours."""
    return dg.SkipReason(f"{len(instances.close_orphans(context.instance, platform.archive.root))} runs ended that had lost their process")


@dg.run_failure_sensor(
    name="failed_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends failed runs to the console and the webhook.",
)
def failure_sensor(context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform]) -> None:
    """Alert about a run that failed; what the webhook does not take at once is sent by the sensor `alerts`."""
    alerts.send_of_run(context.instance, context.dagster_run, platform.settings.webhook_url)
