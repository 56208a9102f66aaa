"""The live platform asks the planner: wherever something happened, one sensor requests what is missing or stale there.

It looks at the last nights, and at older ones in which something was made by the platform's own runs: a backfill, a step started by
hand, an observation accepted late. Nothing else asks for what follows from observations.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets.archive import naming
from dsa110_assets.orchestration.ingest import inbox, pausing
from dsa110_assets.orchestration.ingest.sensor import FOLLOWING, LATER, MOST_IN_FLIGHT, MOST_LISTED, REQUESTS_PER_TICK
from dsa110_assets.orchestration.planning import plan, requests
from dsa110_assets.orchestration.planning.requests import Key, Past
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import routing
from dsa110_assets.orchestration.running.backfill import TAGS
from dsa110_assets.orchestration.specification import jobs, partitions, spec
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

LIVE = timedelta(days=3)
"""How far back everything is looked at; in older nights only where something happens."""
OLD = {**TAGS, "dagster/priority": "-9"}
"""What follows from what is filled in goes before more of it: while a measurement set is still in a machine's memory."""
EXAMINE_S = 60.0
"""Without anything that happened: for what changes by itself, as hours end, and by hand, as tables are rejected."""
LATE = timedelta(minutes=20)
"""After its end the first tiles of what follows an hour are in, and late subbands: the wait for these is ten minutes."""
RECENT = timedelta(hours=3)
"""What became due longer ago, or is made again, runs in the places of what is filled in: those for the present stay free."""
NIGHTS_PER_TICK = 3
"""Older nights in which something happened, looked at in turn: each takes as long as one of the last ones."""
OVERLAP = timedelta(seconds=30)
"""A product is stamped before it is indexed: so much before the last stamp seen, another may still appear."""
TRUSTED_S = 1800.0
"""Who loses files sees them made again within half an hour; looked for at every tick, they would be most of its work."""
RESTS_LONG_S = 3600.0
"""An older night in which everything left rests for longer is left to whoever mends it."""


@dataclass(frozen=True)
class Cursor:
    """What the last tick saw: stamps of the last products, what was in hand, when it looked [unix s], older nights still open."""

    stamps: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    looked_s: float = 0.0
    nights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """A look at some nights: every step they need, which may be asked for now, and what waits for something else."""

    steps: tuple[plan.PlannedStep, ...] = ()
    ready: tuple[plan.PlannedStep, ...] = ()
    waiting: tuple[plan.Waiting, ...] = ()
    past: Mapping[str, Past] = field(default_factory=dict)


@dg.sensor(
    name="planner",
    jobs=jobs.JOBS,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes what follows from observations, and makes again what has become stale, where something happened.",
)
def planner_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Request the steps that are ready and neither in hand nor resting: what is observed now first, then the oldest."""
    archive, instance, now = platform.archive, context.instance, datetime.fromtimestamp(inbox.now_s(), UTC)
    if pausing.paused(archive.root, pausing.ALL) is not None:
        return dg.SensorResult(skip_reason=pausing.halted(archive.root)[0], cursor=context.cursor)
    before, runs = Cursor(**json.loads(context.cursor or "{}")), instances.unfinished(instance)
    busy = requests.in_progress(runs)
    fresh, stamps = published_since(archive, before)
    after = replace(before, stamps=stamps, busy=tuple(sorted(run.run_id for run in runs)))
    if not fresh and set(before.busy) <= set(after.busy) and 0 <= now.timestamp() - before.looked_s < EXAMINE_S:
        return dg.SensorResult(skip_reason=dg.SkipReason("nothing happened"), cursor=json.dumps(asdict(after)))
    nights = list(dict.fromkeys([*before.nights, *older_nights_touched(instance, fresh, now)]))
    looked_at, later = nights[:NIGHTS_PER_TICK], nights[NIGHTS_PER_TICK:]
    seen = [examine(platform, instance, span, busy, now) for span in (last_nights(now), *map(night_span, looked_at))]
    ready = sorted((step for one in seen for step in one.ready), key=lambda step: _order(step, now))
    hosts = routing.Hosts.now(archive.root, runs)
    asked = [
        _run_request(step, now, hosts.tags(instance, archive, step.assets, step.partition, instances.LAUNCHER_TAG))
        for step in ready[: max(0, min(REQUESTS_PER_TICK, MOST_IN_FLIGHT - len(runs)))]
    ]
    partitions.tell(instance, *(one.partition_key for one in asked))
    left = [night for night, one in zip(looked_at, seen[1:], strict=True) if still_open(night, one, busy)]
    summary = _summary(seen, len(asked))
    context.log.info(summary)
    looked_s = now.timestamp() if len(asked) == len(ready) else 0.0  # what was not asked for is looked at in the next tick
    cursor = json.dumps(asdict(replace(after, looked_s=looked_s, nights=(*later, *left))))
    return dg.SensorResult(run_requests=asked, skip_reason=None if asked else dg.SkipReason(summary), cursor=cursor)


def _summary(seen: Sequence[Examined], asked: int) -> str:
    """What a tick saw, for the sensor's page."""
    waiting = [f"{one.what}: {one.reason}" for look in seen for one in look.waiting]
    steps = f"{sum(len(look.steps) for look in seen)} steps to be made, {asked} asked for; the others are in hand, rest, or are not due"
    return "; ".join([steps, *([f"{len(waiting)} wait"] if waiting else []), *waiting[:MOST_LISTED]])


def published_since(archive: "Archive", before: Cursor) -> tuple[list[tuple[str, str | None, str]], tuple[str, ...]]:
    """(asset, partition, run) of what was published since the last tick, and the stamps to remember; at first nothing."""
    newest = max(before.stamps, default=None)
    since = (datetime.fromisoformat(newest) - OVERLAP).isoformat(timespec="microseconds") if newest else None
    there = archive.published(since)
    fresh = [(asset, partition, run) for at, asset, partition, run in there if newest and at not in before.stamps]
    last = max([*before.stamps, *(at for at, *_ in there)], default="")
    kept = [at for at, *_ in there if datetime.fromisoformat(at) > datetime.fromisoformat(last) - OVERLAP]
    return fresh, tuple(kept or before.stamps)


def older_nights_touched(instance: dg.DagsterInstance, fresh: Sequence[tuple[str, str | None, str]], now: datetime) -> list[str]:
    """Nights before the last ones in which a run of the platform has made something; `dsa110 process` goes on by itself."""
    first = f"{now - LIVE:%Y-%m-%d}"
    old = [(timegrid.night_of(partition), run) for _, partition, run in fresh if partition and partition < first]
    runs = instance.get_runs(dg.RunsFilter(run_ids=list({run for _, run in old}))) if old else ()
    ours = {run.run_id for run in runs if run.tags.get(instances.LANE_TAG) != instances.PROCESS}
    return sorted({night for night, run in old if run in ours})


def last_nights(now: datetime) -> plan.Span:
    """The last nights."""
    return plan.Span(timegrid.parse_key(f"{now - LIVE:%Y-%m-%d}"), now)


def night_span(night: str) -> plan.Span:
    """A night's span."""
    return plan.Span(timegrid.parse_key(night), timegrid.parse_key(night) + timegrid.NIGHT)


def examine(platform: Platform, instance: dg.DagsterInstance, span: plan.Span, busy: Set[Key], now: datetime) -> Examined:
    """What a span needs by the planner, and which of it may be asked for now."""
    steps, waiting = plan.missing(platform.archive, platform.settings, span, TRUSTED_S)
    past = requests.past(instance, [step.request for step in steps], now.timestamp())
    return Examined(tuple(steps), tuple(ready(steps, past, busy, now)), tuple(waiting), past)


def ready(steps: Iterable[plan.PlannedStep], past: Mapping[str, Past], busy: Set[Key], now: datetime) -> list[plan.PlannedStep]:
    """The steps that are due, neither in hand nor resting, and made from nothing that is still to be made.

    What rests holds up nothing, and what is there and is to be made anew no hour that was never made: the present does not wait for a
    past that is improved, and is improved itself later.
    """
    active = [step for step in steps if not _rests(step, past)]
    anew = {key for step in active if step.reason != plan.MISSING for key in step.keys}
    every = _by_asset({*busy, *(key for step in active for key in step.keys)})
    first = _by_asset({*busy, *(key for step in active for key in step.keys)} - anew)
    coming, coming_first = upcoming(every), upcoming(first)
    idle = [step for step in active if not busy & set(step.keys) and _due(step, now)]
    return [step for step in idle if not _waits_for_inputs(step, every, coming_first if _is_new_hour(step) else coming)]


def _is_new_hour(step: plan.PlannedStep) -> bool:
    return step.reason == plan.MISSING and spec.assets()[step.asset].grain == "hour"


def _by_asset(keys: Iterable[Key]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for asset, partition in keys:
        found[asset].add(partition or "")
    return found


def _rests(step: plan.PlannedStep, past: Mapping[str, Past]) -> bool:
    return past.get(step.request, Past()).rests_s > 0


def upcoming(direct: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """The partitions of each asset that are to be made, or will be for what is made before them: from observations to hours and nights.

    Not through what serves many, as a night's tables do all of its observations: these wait for tables that are to be made, but not
    for each measurement set that might hold another transit.
    """
    known = spec.assets()
    coming = {name: set(direct.get(name, ())) for name in known}
    for name, asset in known.items():
        for source in asset.inputs:
            if not _coarser(known[source], asset):
                coming[name] |= {window for key in coming[source] for window in _windows(asset, key)}
    return coming


def _coarser(source: spec.Asset, asset: spec.Asset) -> bool:
    return spec.GRAINS.index(source.grain) > spec.GRAINS.index(asset.grain) or source.grain == "catalogue"


def _windows(asset: spec.Asset, key: str) -> set[str]:
    """The partitions of an asset that are made from this one of an input of its own grain, or a finer one."""
    if asset.grain == "night":
        return {timegrid.night_of(key)}
    if asset.grain == "hour":
        start = timegrid.parse_key(key)
        return {timegrid.hour_of(timegrid.key(moment)) for moment in (start - asset.reach, start, start + asset.reach)}
    return {key}


def _waits_for_inputs(step: plan.PlannedStep, direct: Mapping[str, Set[str]], coming: Mapping[str, Set[str]]) -> bool:
    """Whether anything it is made from is still to be made."""
    known, partition = spec.assets(), step.partition or ""
    inputs = ((known[source], known[name]) for name in step.assets for source in known[name].inputs if source not in step.assets)
    if step.of is not None:
        return any(step.of.holds(key) for source, _ in inputs for key in coming[source.name])
    if any(_feeds(source, asset, partition, direct, coming) for source, asset in inputs):
        return True
    return any(key < partition for name in step.assets if known[name].nights_before for key in coming[name])


def _feeds(source: spec.Asset, asset: spec.Asset, partition: str, direct: Mapping[str, Set[str]], coming: Mapping[str, Set[str]]) -> bool:
    """Whether something to come of an input is for this partition of an asset."""
    if source.grain == "catalogue":
        return bool(direct.get(source.name))
    if _coarser(source, asset):
        return timegrid.night_of(partition) in direct.get(source.name, ())
    return any(partition in _windows(asset, key) for key in coming[source.name])


def _due(step: plan.PlannedStep, now: datetime) -> bool:
    """Whether an hour, a night or the time of a request is over, and what comes late to it is in."""
    asset = spec.assets()[step.asset]
    whole = asset.grain in ("hour", "night", "request") and not asset.before_window_ends
    return not whole or now >= _end(step) + LATE


def _end(step: plan.PlannedStep) -> datetime:
    assert step.partition is not None
    if step.of is not None and step.of.until is not None:
        return step.of.until
    return timegrid.parse_key(step.partition) + plan.LENGTHS[spec.assets()[step.asset].grain]


def _tags(step: plan.PlannedStep, now: datetime) -> Mapping[str, str]:
    """The lane and priority of a step: live is what is made for the first time just after it could be, and tonight's calibration."""
    first = step.reason == plan.MISSING or spec.assets()[step.asset].before_window_ends
    if step.partition is None or (first and now <= _end(step) + RECENT):
        return FOLLOWING
    return LATER if _end(step) > now - LIVE else OLD


def _order(step: plan.PlannedStep, now: datetime) -> tuple[int, str]:
    return -int(_tags(step, now)["dagster/priority"]), step.partition or ""


def _run_request(step: plan.PlannedStep, now: datetime, queue: Mapping[str, str]) -> dg.RunRequest:
    return dg.RunRequest(
        job_name=jobs.name(spec.assets()[step.asset].grain),
        partition_key=step.partition,
        asset_selection=[dg.AssetKey(asset) for asset in step.assets],
        tags={**_tags(step, now), **queue, requests.REQUEST_TAG: step.request, "dsa110/reason": step.reason[:200]},
    )


def still_open(night: str, seen: Examined, busy: Set[Key]) -> bool:
    """Whether an older night is to be looked at again: something of it is in hand, or will be asked for before long."""
    keys = [partition for _, partition in busy if partition and not naming.is_named(partition)]
    at_work = any(timegrid.night_of(key) == night for key in keys)
    return at_work or any(seen.past.get(step.request, Past()).rests_s < RESTS_LONG_S for step in seen.steps)
