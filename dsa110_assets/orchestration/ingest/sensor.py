"""The sensor of the inbox: it asks for the run of every observation that is ready. What follows is `planning.planner`'s."""

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
"""Dagster takes a third of a second for each, and looks into the inbox again after the last: 48 kept what had just been
observed waiting for 15 s. A backlog's runs take longer than being asked for."""
MOST_IN_FLIGHT = 200
"""Observations asked for and not done: a backlog of months must not become as many queued runs."""
HEADERS_PER_TICK = 1600
"""At 5 ms a header a tick stays far from the 60 s a sensor may take; the rest follows in the next one."""
QUARANTINED_PER_TICK = 200
"""At 10 ms a record."""
LIVE = {instances.LANE_TAG: instances.LIVE, "dagster/priority": "10", routing.PRIORITY_TAG: "0"}
"""Live observations overtake backfills wherever runs queue: at Dagster the greater number is first, at workers the smaller."""
LATER = {instances.LANE_TAG: instances.BACKFILL, "dagster/priority": "5", routing.PRIORITY_TAG: "6"}
FOLLOWING = {**LIVE, "dagster/priority": "8", routing.PRIORITY_TAG: "3"}
"""What follows from observations leaves the next free place to one that has just ended."""
RECENT_S = 3600.0
"""An older observation is of a backlog: it runs before what is filled in by order, in the same places; those for what
is observed now stay free."""
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
    """Request a run for every observation that is ready; quarantine, once, what cannot be used.

    The cursor is {open, paused}: observations whose run is under way, with the files it was requested for; and those
    whose run ended without a manifest of these files, for whatever reason, with the time [unix s] at which they are
    asked for again, later and later. Until then they stand in no other's way.
    """
    settings, archive, runs = platform.settings, platform.archive, instances.unfinished(context.instance)
    if halted := pausing.halted(archive.root):
        return dg.SensorResult(skip_reason=halted[0], cursor=context.cursor)
    capacity.require_disk(platform)
    names, now_s = inbox.listing(settings.inbox), inbox.now_s()
    known, asked = inbox.known_files(archive, names), [run for run in runs if requests.REQUEST_TAG in run.tags]
    flying = {run.tags[requests.REQUEST_TAG] for run in asked if _INGEST[0] in (run.asset_selection or (_INGEST[0],))}
    by_hand = requests.in_progress([run for run in runs if requests.REQUEST_TAG not in run.tags])
    before = json.loads(context.cursor or "{}")
    opened: dict[str, list[str]] = {
        key: files
        for key, files in before.get("open", {}).items()
        if not known.used.issuperset(files) and _request(settings, key, files) in flying
    }
    paused: dict[str, tuple[list[str], float]] = {
        key: (files, until_s)
        for key, (files, until_s) in before.get("paused", {}).items()
        if now_s < until_s and not known.used.issuperset(files)
    }
    elsewhere = {name for files in (*opened.values(), *(files for files, _ in paused.values())) for name in files}
    patience = plan.patience(settings, by_data=False)
    seen = inbox.scan(settings.inbox, patience, replace(known, used=known.used | elsewhere), HEADERS_PER_TICK, names)
    for message in plan.quarantine_unusable(archive, seen, QUARANTINED_PER_TICK):
        context.log.warning("quarantined: %s", message)
    ready = {_request(settings, one.observation, one.files): one for one in seen.ready() if (ASSET, one.observation) not in by_hand}
    past, made = requests.past(context.instance, [name for name in ready if name not in flying], now_s), list[dg.RunRequest]()
    most = min(REQUESTS_PER_TICK, MOST_IN_FLIGHT - len(flying))
    for request, candidate in sorted(ready.items(), key=lambda pair: not _is_recent(pair[1], now_s)):
        key, before_it = candidate.observation, past.get(request, requests.Past())
        if before_it.rests_s:
            paused[key] = list(candidate.files), now_s + before_it.rests_s
        elif request in flying or len(made) < most or _is_recent(candidate, now_s):
            paused.pop(key, None)
            opened[key] = list(candidate.files)
            if request not in flying:
                made.append(_run_request(candidate, request, before_it.ended, _is_recent(candidate, now_s)))
    waiting = [f"{c.observation}: {c.reason}" for c in seen.candidates if c.state == "waiting"]
    waiting += [f"{key}: its run ended without a manifest; asked again in {until_s - now_s:.0f} s" for key, (_, until_s) in paused.items()]
    reason = None if made else dg.SkipReason("; ".join(waiting[:MOST_LISTED]) or "nothing new in the inbox")
    return dg.SensorResult(run_requests=made, skip_reason=reason, cursor=json.dumps({"open": opened, "paused": paused}))


MOST_LISTED = 50


def _request(settings: "Settings", observation: str, files: Sequence[str]) -> str:
    """Names what is asked for: the same files always ask for the same, a late subband for something else."""
    return graph.specifications()[ASSET].request(settings, observation, recipes.Ingredients(facts={"files": list(files)}))


def _is_recent(candidate: inbox.Candidate, now_s: float) -> bool:
    """Whether an observation was taken within the last hour: it goes before a backlog."""
    return timegrid.mjd_to_datetime(candidate.group.mjd_start).timestamp() > now_s - RECENT_S


def _run_request(candidate: inbox.Candidate, request: str, attempt: int, of_now: bool) -> dg.RunRequest:
    """Dagster drops a request whose run key it has seen: nothing runs twice, so a new attempt needs another key. The assets
    are named, or the run would not say what it was for once it has failed."""
    return dg.RunRequest(
        run_key=f"{request}:{attempt}",
        partition_key=candidate.observation,
        asset_selection=_INGEST,
        tags={
            **(LIVE if of_now else LATER), **routing.tags(graph.PHASES[1][1]), requests.REQUEST_TAG: request,
            "dsa110/group": f"{candidate.group.mjd_start:.8f}",
        },
    )  # fmt: skip
