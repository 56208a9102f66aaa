"""Sensors: the inbox, the automation of the graph, and the alerts."""

import json
import shutil
from typing import Any

import dagster as dg

from dsa110_assets.errors import ResourceError, WaitingError
from dsa110_assets.orchestration import alerts, inbox, plan, policy
from dsa110_assets.orchestration.process import LANE_TAG
from dsa110_assets.orchestration.resources import Platform

REQUESTS_PER_TICK = 50
HEADERS_PER_TICK = 1600
"""At 5 ms a header a tick stays far from the 60 s a sensor may take; the rest follows in the next one."""
LIVE = {LANE_TAG: "live", "dagster/priority": "10"}
"""Live observations overtake backfills wherever runs queue."""
_INGEST = dg.AssetSelection.assets("subband_group", "measurement_set")


@dg.sensor(
    name="inbox",
    target=_INGEST,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts an observation's run when its subbands are there, or enough of them after the wait.",
)
def inbox_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Request a run for every observation that is ready; quarantine, once, what cannot be used.

    The cursor is {mark, open}: `mark` the stamp of the oldest file not settled yet, `open` the requested
    observations whose manifest is not published yet, with the files they were requested for.
    """
    settings, archive = platform.settings, platform.archive
    _require_room(platform)
    cursor: dict[str, Any] = json.loads(context.cursor or "{}")
    opened: dict[str, list[str]] = cursor.get("open", {})
    settled = plan.settled_files(archive)
    opened = {key: files for key, files in opened.items() if not settled.issuperset(files)}
    requested = {name for files in opened.values() for name in files}
    seen = inbox.look(settings.inbox, plan.patience(settings, by_data=False), settled | requested, HEADERS_PER_TICK)
    for told in plan.put_aside(archive, seen):
        context.log.warning("quarantined: %s", told)
    ready = seen.ready()[:REQUESTS_PER_TICK]
    requests = []
    for candidate in ready:
        opened[candidate.observation] = list(candidate.files)
        requests.append(
            dg.RunRequest(
                run_key=f"{candidate.observation}:{_fingerprint(candidate.files)}",
                partition_key=candidate.observation,
                tags={**LIVE, "dsa110/group": f"{candidate.group.mjd_start:.8f}"},
            )
        )
    waiting = [f"{c.observation}: {c.reason}" for c in seen.candidates if c.state == "waiting"]
    reason = None if requests else dg.SkipReason("; ".join(waiting) or "nothing new in the inbox")
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=reason,
        cursor=json.dumps({"mark": seen.oldest_open or cursor.get("mark"), "open": opened}),
    )


def _fingerprint(files: tuple[str, ...]) -> str:
    """The same files always ask for the same run: a request is made once, a late subband makes another."""
    import xxhash

    return xxhash.xxh3_64_hexdigest("\n".join(files).encode())


def _require_room(platform: Platform) -> None:
    """Pause ingest while the archive's disk is all but full. Raises ResourceError, which the tick shows."""
    free_gb = shutil.disk_usage(platform.archive.root).free / 1e9
    critical_gb = min(platform.thresholds.disk_critical_gb, shutil.disk_usage(platform.archive.root).total / 1e10)
    if free_gb < critical_gb:
        raise ResourceError(
            f"{platform.archive.root}: {free_gb:.1f} GB free, below {critical_gb:.1f} GB; ingest waits: free some, it resumes"
        )


automation_sensor = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    run_tags=LIVE,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes what follows from new observations: calibration, images, mosaics, measurements, nights.",
)


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends failed asset checks to the console and the webhook.",
)
def alert_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Alert about check failures that are new since the last tick; the cursor moves only once they are sent."""
    assert context.repository_def is not None
    keys = sorted(context.repository_def.asset_graph.asset_check_keys, key=str)
    found, cursor = alerts.failed_checks(context.instance, keys, json.loads(context.cursor or "{}"))
    alerts.send(found, platform.settings.webhook_url)
    return dg.SensorResult(skip_reason=dg.SkipReason(f"{len(found)} alerts"), cursor=json.dumps(cursor))


@dg.run_failure_sensor(
    name="failed_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends failed runs to the console and the webhook.",
)
def failure_sensor(context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform]) -> None:
    """Alert about a run that failed, with the steps' own words."""
    run, partition = context.dagster_run, context.dagster_run.tags.get("dagster/partition", "")
    reasons, waiting = [], True
    for event in context.get_step_failure_events():
        told = event.step_failure_data.user_failure_data
        reasons.append(f"{event.step_key}: {(told.description if told else None) or event.message}")
        waiting &= told is not None and told.metadata.get(policy.ERROR_CLASS) == dg.TextMetadataValue(WaitingError.__name__)
    what = "run waits" if reasons and waiting else "run failed"
    text = "; ".join(reasons) or context.failure_event.message or ""
    alert = alerts.Alert(f"{what} {partition}".strip(), text, "WARN" if what == "run waits" else "ERROR", run.run_id)
    alerts.send([alert], platform.settings.webhook_url)
