"""The live platform's planner sensor: it requests what is missing or stale wherever something happened.

It examines the last nights, and older ones in which the platform's own runs made something: a backfill, a step started by
hand, an observation accepted late. Nothing else requests what follows from observations.
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
"""How far back all nights are examined; older nights are examined only where something happens."""
OLD = {**TAGS, "dagster/priority": "-9"}
"""Steps that follow from a backfill go before more of the backfill, while a measurement set is still in a machine's memory."""
EXAMINE_S = 60.0
"""Interval of examination when nothing has happened: some changes come by themselves, as hours end, or by hand, as tables are
rejected."""
LATE = timedelta(minutes=20)
"""So long after an hour's end the first tiles of the next hour have arrived, and late subbands, whose wait is ten minutes."""
RECENT = timedelta(hours=3)
"""Steps that became due longer ago, or are made again, run in the backfill's places; those for the present stay free."""
NIGHTS_PER_TICK = 3
"""Number of older nights in which something happened that one tick examines; each takes as long as one of the last nights."""
OVERLAP = timedelta(seconds=30)
"""A product is stamped before it is indexed, so one stamped this long before the last stamp seen may still appear."""
TRUSTED_S = 1800.0
"""Lost files are noticed, and made again, within half an hour; checking files at every tick would be most of a tick's work."""
RESTS_LONG_S = 3600.0
"""An older night in which every remaining step rests for longer is no longer examined until something happens in it."""


@dataclass(frozen=True)
class Cursor:
    """State of the last tick: stamps of the last products, runs in progress, when it examined [unix s], older nights still open."""

    stamps: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    looked_s: float = 0.0
    nights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """The examination of some nights: every step they need, the steps that may be requested now, and everything that waits."""

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
    """Request the steps that are ready and neither in progress nor resting: present observations first, then the oldest."""
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
    examined_nights, later = nights[:NIGHTS_PER_TICK], nights[NIGHTS_PER_TICK:]
    examined = [examine(platform, instance, span, busy, now) for span in (last_nights(now), *map(night_span, examined_nights))]
    ready = sorted((step for one in examined for step in one.ready), key=lambda step: _order(step, now))
    hosts = routing.Hosts.now(archive.root, runs)
    run_requests = [
        _run_request(step, now, hosts.tags(instance, archive, step.assets, step.partition, instances.LAUNCHER_TAG))
        for step in ready[: max(0, min(REQUESTS_PER_TICK, MOST_IN_FLIGHT - len(runs)))]
    ]
    partitions.tell(instance, *(one.partition_key for one in run_requests))
    open_nights = [night for night, one in zip(examined_nights, examined[1:], strict=True) if still_open(night, one, busy)]
    summary = _summary(examined, len(run_requests))
    context.log.info(summary)
    looked_s = now.timestamp() if len(run_requests) == len(ready) else 0.0  # steps not requested are examined in the next tick
    cursor = json.dumps(asdict(replace(after, looked_s=looked_s, nights=(*later, *open_nights))))
    return dg.SensorResult(run_requests=run_requests, skip_reason=None if run_requests else dg.SkipReason(summary), cursor=cursor)


def _summary(examined: Sequence[Examined], n_requested: int) -> str:
    """A summary of the tick, for the sensor's page."""
    waiting = [f"{item.what}: {item.reason}" for nights in examined for item in nights.waiting]
    steps = (
        f"{sum(len(nights.steps) for nights in examined)} steps to be made, {n_requested} requested; "
        "the others are in progress, rest, or are not due"
    )
    return "; ".join([steps, *([f"{len(waiting)} wait"] if waiting else []), *waiting[:MOST_LISTED]])


def published_since(archive: "Archive", before: Cursor) -> tuple[list[tuple[str, str | None, str]], tuple[str, ...]]:
    """Return (asset, partition, run) of the products published since the last tick, and the stamps to remember; the first tick
    returns no products."""
    newest = max(before.stamps, default=None)
    since = (datetime.fromisoformat(newest) - OVERLAP).isoformat(timespec="microseconds") if newest else None
    published = archive.published(since)
    fresh = [(asset, partition, run) for at, asset, partition, run in published if newest and at not in before.stamps]
    last = max([*before.stamps, *(at for at, *_ in published)], default="")
    kept = [at for at, *_ in published if datetime.fromisoformat(at) > datetime.fromisoformat(last) - OVERLAP]
    return fresh, tuple(kept or before.stamps)


def older_nights_touched(instance: dg.DagsterInstance, fresh: Sequence[tuple[str, str | None, str]], now: datetime) -> list[str]:
    """Nights before the last ones in which a run of the platform made something. Runs of `dsa110 process` do not count, because
    `process` itself continues with what follows."""
    first = f"{now - LIVE:%Y-%m-%d}"
    old = [(timegrid.night_of(partition), run) for _, partition, run in fresh if partition and partition < first]
    runs = instance.get_runs(dg.RunsFilter(run_ids=list({run for _, run in old}))) if old else ()
    ours = {run.run_id for run in runs if run.tags.get(instances.LANE_TAG) != instances.PROCESS}
    return sorted({night for night, run in old if run in ours})


def last_nights(now: datetime) -> plan.Span:
    """The span of the last nights, until now."""
    return plan.Span(timegrid.parse_key(f"{now - LIVE:%Y-%m-%d}"), now)


def night_span(night: str) -> plan.Span:
    """A night's span."""
    return plan.Span(timegrid.parse_key(night), timegrid.parse_key(night) + timegrid.NIGHT)


def examine(platform: Platform, instance: dg.DagsterInstance, span: plan.Span, busy: Set[Key], now: datetime) -> Examined:
    """Return the steps a span needs according to the planner, and which of them may be requested now."""
    steps, waiting = plan.missing(platform.archive, platform.settings, span, TRUSTED_S)
    past = requests.past(instance, [step.request for step in steps], now.timestamp())
    return Examined(tuple(steps), tuple(ready(steps, past, busy, now)), tuple(waiting), past)


def ready(steps: Iterable[plan.PlannedStep], past: Mapping[str, Past], busy: Set[Key], now: datetime) -> list[plan.PlannedStep]:
    """The steps that are due, neither in progress nor resting, and made from nothing that is still to be made.

    A resting step delays nothing. Products that exist and are to be made again do not delay an hour that was never made: the present
    does not wait for improvements of the past, and is improved itself later.
    """
    active = [step for step in steps if not _rests(step, past)]
    remade = {key for step in active if step.reason != plan.MISSING for key in step.keys}
    pending = _partitions_by_asset({*busy, *(key for step in active for key in step.keys)})
    pending_first = _partitions_by_asset({*busy, *(key for step in active for key in step.keys)} - remade)
    coming, coming_first = upcoming(pending), upcoming(pending_first)
    idle = [step for step in active if not busy & set(step.keys) and _due(step, now)]
    return [step for step in idle if not _waits_for_inputs(step, pending, coming_first if _is_new_hour(step) else coming)]


def _is_new_hour(step: plan.PlannedStep) -> bool:
    return step.reason == plan.MISSING and spec.assets()[step.asset].grain == "hour"


def _partitions_by_asset(keys: Iterable[Key]) -> dict[str, set[str]]:
    by_asset: dict[str, set[str]] = defaultdict(set)
    for asset, partition in keys:
        by_asset[asset].add(partition or "")
    return by_asset


def _rests(step: plan.PlannedStep, past: Mapping[str, Past]) -> bool:
    return past.get(step.request, Past()).rests_s > 0


def upcoming(direct: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """The partitions of each asset that are to be made, or will be once their inputs are made: from observations to hours and nights.

    Inputs of a coarser grain, such as a night's tables for all of its observations, are not followed: observations wait for tables
    that are to be made, but not for each measurement set that might hold another transit.
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
    """The partitions of an asset that are made from the partition `key` of an input of the same or a finer grain."""
    if asset.grain == "night":
        return {timegrid.night_of(key)}
    if asset.grain == "hour":
        start = timegrid.parse_key(key)
        return {timegrid.hour_of(timegrid.key(moment)) for moment in (start - asset.reach, start, start + asset.reach)}
    return {key}


def _waits_for_inputs(step: plan.PlannedStep, direct: Mapping[str, Set[str]], coming: Mapping[str, Set[str]]) -> bool:
    """Whether any input of the step is still to be made."""
    known, partition = spec.assets(), step.partition or ""
    inputs = ((known[source], known[name]) for name in step.assets for source in known[name].inputs if source not in step.assets)
    if step.of is not None:
        return any(step.of.holds(key) for source, _ in inputs for key in coming[source.name])
    if any(_feeds(source, asset, partition, direct, coming) for source, asset in inputs):
        return True
    return any(key < partition for name in step.assets if known[name].nights_before for key in coming[name])


def _feeds(source: spec.Asset, asset: spec.Asset, partition: str, direct: Mapping[str, Set[str]], coming: Mapping[str, Set[str]]) -> bool:
    """Whether a partition of an input that is still to be made is used for this partition of an asset."""
    if source.grain == "catalogue":
        return bool(direct.get(source.name))
    if _coarser(source, asset):
        return timegrid.night_of(partition) in direct.get(source.name, ())
    return any(partition in _windows(asset, key) for key in coming[source.name])


def _due(step: plan.PlannedStep, now: datetime) -> bool:
    """Whether an hour, a night or the time of a request is over, and so is the wait for late arrivals."""
    asset = spec.assets()[step.asset]
    waits_for_end = asset.grain in ("hour", "night", "request") and not asset.before_window_ends
    return not waits_for_end or now >= _end(step) + LATE


def _end(step: plan.PlannedStep) -> datetime:
    assert step.partition is not None
    if step.of is not None and step.of.until is not None:
        return step.of.until
    return timegrid.parse_key(step.partition) + plan.LENGTHS[spec.assets()[step.asset].grain]


def _tags(step: plan.PlannedStep, now: datetime) -> Mapping[str, str]:
    """The lane and priority of a step. Steps made for the first time, soon after they became possible, and tonight's calibration
    are live."""
    live = step.reason == plan.MISSING or spec.assets()[step.asset].before_window_ends
    if step.partition is None or (live and now <= _end(step) + RECENT):
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
    """Whether an older night is to be examined again: a step of it is in progress, or will be requested before long."""
    keys = [partition for _, partition in busy if partition and not naming.is_named(partition)]
    at_work = any(timegrid.night_of(key) == night for key in keys)
    return at_work or any(seen.past.get(step.request, Past()).rests_s < RESTS_LONG_S for step in seen.steps)
