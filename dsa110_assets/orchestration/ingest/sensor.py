"""The inbox sensor, which requests a run for every observation that is ready. `planning.planner` requests what follows from it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.ingest import inbox, pausing
from dsa110_assets.orchestration.planning import plan, requests
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import capacity, routing
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings

REQUESTS_PER_TICK = 10
"""Dagster takes a third of a second for each, and scans the inbox again only after the last: 48 requests delayed an observation
that had just ended by 15 s. The runs of a backlog take longer than their requests."""
MOST_IN_FLIGHT = 200
"""Limit of observations requested and not yet done, so that a backlog of months does not become as many queued runs."""
HEADERS_PER_TICK = 1600
"""At 5 ms a header a tick stays well below the 60 s a sensor may take; the rest follows in the next tick."""
QUARANTINED_PER_TICK = 200
"""At 10 ms a record."""
LIVE = {instances.LANE_TAG: instances.LIVE, "dagster/priority": "10", routing.PRIORITY_TAG: "0"}
"""Live observations overtake backfills wherever runs queue: in Dagster the greater number goes first, at workers the smaller."""
LATER = {instances.LANE_TAG: instances.BACKFILL, "dagster/priority": "5", routing.PRIORITY_TAG: "6"}
FOLLOWING = {**LIVE, "dagster/priority": "8", routing.PRIORITY_TAG: "3"}
"""Steps that follow from observations leave the next free place to an observation that has just ended."""
RECENT_S = 3600.0
"""An older observation belongs to a backlog. It runs before ordered backfills, in the same places; the places for present
observations stay free."""
_INGEST = [dg.AssetKey(asset) for asset in graph.PHASES[1][1]]
ASSET = _INGEST[0].to_user_string()


@dg.sensor(
    name="inbox",
    target=dg.AssetSelection.assets(*_INGEST),
    minimum_interval_seconds=3,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts an observation's run when its subbands are there, or enough of them after the wait.",
)
def inbox_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Request a run for every observation that is ready; quarantine unusable files, each once.

    The cursor is {open, paused}. `open` holds observations whose run is under way, with the files it was requested for.
    `paused` holds observations whose run ended without a manifest of these files, for whatever reason, with the time [unix s]
    at which they are requested again, after longer and longer pauses. Until then they do not delay others.
    """
    settings, archive, runs = platform.settings, platform.archive, instances.unfinished(context.instance)
    if halted := pausing.halted(archive.root):
        return dg.SensorResult(skip_reason=halted[0], cursor=context.cursor)
    capacity.require_disk(platform)
    names, now_s = inbox.listing(settings.inbox), inbox.now_s()
    known, requested_runs = inbox.known_files(archive, names), [run for run in runs if requests.REQUEST_TAG in run.tags]
    in_flight = {run.tags[requests.REQUEST_TAG] for run in requested_runs if _INGEST[0] in (run.asset_selection or (_INGEST[0],))}
    by_hand = requests.in_progress([run for run in runs if requests.REQUEST_TAG not in run.tags])
    before = json.loads(context.cursor or "{}")
    opened: dict[str, list[str]] = {
        key: files
        for key, files in before.get("open", {}).items()
        if not known.used.issuperset(files) and _request(settings, key, files) in in_flight
    }
    paused: dict[str, tuple[list[str], float]] = {
        key: (files, until_s)
        for key, (files, until_s) in before.get("paused", {}).items()
        if now_s < until_s and not known.used.issuperset(files)
    }
    elsewhere = {name for files in (*opened.values(), *(files for files, _ in paused.values())) for name in files}
    patience = plan.patience(settings, by_data=False)
    scan = inbox.scan(settings.inbox, patience, replace(known, used=known.used | elsewhere), HEADERS_PER_TICK, names)
    for message in plan.quarantine_unusable(archive, scan, QUARANTINED_PER_TICK):
        context.log.warning("quarantined: %s", message)
    ready = {
        _request(settings, ready_candidate.observation, ready_candidate.files): ready_candidate
        for ready_candidate in scan.ready()
        if (ASSET, ready_candidate.observation) not in by_hand
    }
    past, run_requests = requests.past(context.instance, [name for name in ready if name not in in_flight], now_s), list[dg.RunRequest]()
    allowed = min(REQUESTS_PER_TICK, MOST_IN_FLIGHT - len(in_flight))
    for request, candidate in sorted(ready.items(), key=lambda pair: not _is_recent(pair[1], now_s)):
        key, past_runs = candidate.observation, past.get(request, requests.Past())
        if past_runs.rests_s:
            paused[key] = list(candidate.files), now_s + past_runs.rests_s
        elif request in in_flight or len(run_requests) < allowed or _is_recent(candidate, now_s):
            paused.pop(key, None)
            opened[key] = list(candidate.files)
            if request not in in_flight:
                run_requests.append(_run_request(candidate, request, past_runs.ended, _is_recent(candidate, now_s)))
    waiting = [f"{c.observation}: {c.reason}" for c in scan.candidates if c.state == "waiting"]
    waiting += [
        f"{key}: its run ended without a manifest; requested again in {until_s - now_s:.0f} s" for key, (_, until_s) in paused.items()
    ]
    reason = None if run_requests else dg.SkipReason("; ".join(waiting[:MOST_LISTED]) or "nothing new in the inbox")
    return dg.SensorResult(run_requests=run_requests, skip_reason=reason, cursor=json.dumps({"open": opened, "paused": paused}))


MOST_LISTED = 50


def _request(settings: "Settings", observation: str, files: Sequence[str]) -> str:
    """The name of the request: the same files always give the same name, a late subband another one."""
    return graph.specifications()[ASSET].request(settings, observation, recipes.Ingredients(facts={"files": list(files)}))


def _is_recent(candidate: inbox.Candidate, now_s: float) -> bool:
    """Whether an observation was taken within the last hour, so that it goes before a backlog."""
    return timegrid.mjd_to_datetime(candidate.group.mjd_start).timestamp() > now_s - RECENT_S


def _run_request(candidate: inbox.Candidate, request: str, attempt: int, recent: bool) -> dg.RunRequest:
    """Return the run request of an observation.

    Dagster drops a request whose run key it has seen, so that nothing runs twice; a new attempt therefore needs another key.
    The assets are named, because otherwise a failed run would not say what it was for."""
    return dg.RunRequest(
        run_key=f"{request}:{attempt}",
        partition_key=candidate.observation,
        asset_selection=_INGEST,
        tags={
            **(LIVE if recent else LATER), **routing.tags(graph.PHASES[1][1]), requests.REQUEST_TAG: request,
            "dsa110/group": f"{candidate.group.mjd_start:.8f}",
        },
    )  # fmt: skip
