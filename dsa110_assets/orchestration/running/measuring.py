"""What a step is counted and traced by: its end, its wall time, how long its run waited, and how late its product came."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from dsa110_assets import children, tracing
from dsa110_assets.archive import counters
from dsa110_assets.errors import DsaError
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.running import instance, reporting
from dsa110_assets.orchestration.specification import spec
from dsa110_assets.orchestration.watching import history
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.resources import Platform

log = logging.getLogger(__name__)
MADE, UP_TO_DATE, NOTHING, RETRIED, FAILED, ENDED = "made", "up_to_date", "nothing_to_make_of", "retried", "failed", "interrupted"
OUTCOMES = (MADE, UP_TO_DATE, NOTHING, RETRIED, FAILED, ENDED)
BY_HAND = "by hand"
LANES = (instance.LIVE, instance.BACKFILL, instance.PROCESS, BY_HAND)
ARRIVAL = "observation"
"""The first span of an observation's trace: from its first subband's arrival to its last one's."""


@dataclass
class Measured:
    """How a step ended: `outcome`, of a failure the class of its error, and the product it made."""

    outcome: str = ENDED
    error_class: str = ""
    product: "Product | None" = None
    links: list[tracing.Place] = field(default_factory=list)
    """The runs that made the step's inputs."""


@contextmanager
def measured(context: dg.AssetExecutionContext, platform: "Platform", name: str, partition: str | None) -> Iterator[Measured]:
    """Around a step, outside of what turns its errors into Dagster's: its counts, its span, and the ids its log lines carry."""
    found, began_s, lane = Measured(), time.time(), context.run.tags.get(instance.LANE_TAG, BY_HAND)
    place = _place(platform, context.run.run_id, name, partition)
    waited = _begin(context, place, name, partition)
    try:
        with tracing.at(place), tracing.span(name, found.links, asset=name, partition=partition or "", lane=lane) as told:
            try:
                with _outcome(found):
                    yield found
            finally:
                told |= {"outcome": found.outcome} | ({"error_class": found.error_class} if found.error_class else {})
                if found.product is not None:
                    told["product"] = found.product.id
                    tell_arrival(platform.archive, found.product)
                if not context.run.tags.get(reporting.TRIAL_TAG):
                    _count(platform, name, lane, found, time.time() - began_s, waited)
    finally:
        _run.ended_s, _run.error = time.time(), found.error_class if found.outcome == FAILED else ""


@contextmanager
def _outcome(found: Measured) -> Iterator[None]:
    """Note how the block ends, where it does by an error."""
    try:
        yield
    except dg.RetryRequested as error:
        found.outcome, found.error_class = RETRIED, type(error.__cause__).__name__
        raise
    except dg.Failure as error:
        found.outcome, found.error_class = FAILED, str(error.metadata[history.ERROR_CLASS].value)
        raise
    except Exception as error:
        found.outcome, found.error_class = FAILED, type(error).__name__
        raise


def _count(platform: "Platform", name: str, lane: str, found: Measured, took_s: float, waited: Sequence[counters.Count]) -> None:
    """Write what a step adds. Where that cannot be written now, the log says so, and the step is no worse for it."""
    counts = [*waited, counters.Count(counters.ATTEMPTS, (name, found.outcome))]
    try:
        if found.outcome == FAILED:
            counts.append(counters.Count(counters.FAILURES, (name, found.error_class)))
        if found.outcome == RETRIED:
            counts.append(counters.Count(counters.RETRIES, (name,)))
        if found.outcome == MADE and not platform.archive.trial:
            counts += counters.seconds(counters.DURATION, (name,), took_s)
            if found.product is not None and (late_s := latency_s(platform.archive, found.product)) is not None:
                counts += counters.seconds(counters.LATENCY, (name, lane), late_s)
        platform.archive.index.write(lambda c: counters.add(c, counts))
    except (DsaError, OSError, SQLAlchemyError) as error:
        log.warning("%s: its end could not be counted, the metrics lack it: %s", name, error)


def latency_s(archive: "Archive", product: "Product") -> float | None:
    """From the last subband's arrival in a product's window to its publication [s]; None for what has no window, or nothing in it,
    and for what was made before: it waited for something else."""
    grain = spec.assets()[product.asset].grain
    if grain not in plan.LENGTHS or product.partition is None or product.version > 1:
        return None
    start = timegrid.parse_key(product.partition)
    groups = archive.newest("subband_group", 1, timegrid.key(start + plan.LENGTHS[grain] - timegrid.OBSERVATION_WINDOW))
    if not groups or groups[0].partition is None or groups[0].partition < timegrid.key(start):
        return None
    arrived = arrivals_s(groups[0])
    return max(0.0, product.created_at.timestamp() - arrived[-1]) if arrived else None


def arrivals_s(group: "Product") -> list[float]:
    """When the files of a subband group were last written [unix s], in order, as its manifest identifies them."""
    found = []
    for identity in group.settings.get("files", ()):
        with suppress(ValueError):
            found.append(int(str(identity).rpartition(":")[2]) / 1e9)
    return sorted(found)


@dataclass
class _Run:
    """The run whose steps this process makes: where it is, whence its span hangs, when it began and its last step ended [unix s]."""

    place: tracing.Place = field(default_factory=tracing.Place)
    parent: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    name: str = ""
    error: str = ""


_run = _Run()


def _begin(context: dg.AssetExecutionContext, place: tracing.Place, name: str, partition: str | None) -> list[counters.Count]:
    """At the first step of a run, how long that waited, also as a span; the span of the run before it is over."""
    global _run
    if _run.place.run == place.run:
        return []
    record = context.instance.get_run_record_by_id(place.run)
    began_s = record.start_time if record and record.start_time else time.time()
    asked_s = min(record.create_timestamp.timestamp() if record else began_s, began_s)
    if tracing.is_on():
        end_run()
        context.instance.add_run_tags(place.run, {history.TRACE_TAG: place.trace})
        parent = tracing.span_of(ARRIVAL, place.trace) if spec.assets()[name].grain == "observation" else ""
        waiting = tracing.Place(place.trace, tracing.span_of("queue", place.run), place.run)
        tracing.record("queue", waiting, asked_s, began_s, parent=parent or place.span)
        _run = _Run(place, parent, began_s, began_s, f"run {partition or ''}".strip())
        _end_run_at_exit()
    else:
        _run = _Run(place)
    lane = context.run.tags.get(instance.LANE_TAG, BY_HAND)
    return counters.seconds(counters.QUEUED, (lane,), began_s - asked_s)


@cache
def _end_run_at_exit() -> None:
    children.at_exit(end_run, 10)  # before what is not sent yet is


def end_run() -> None:
    """Tell of the run whose steps were made here last: its end is theirs."""
    global _run
    if _run.name:
        tracing.record(_run.name, _run.place, _run.began_s, _run.ended_s, parent=_run.parent, error=_run.error)
    _run = _Run()


def tell_arrival(archive: "Archive", group: "Product") -> None:
    """The root of an observation's trace, once: its first manifest's."""
    arrived = arrivals_s(group)
    if tracing.is_on() and group.asset == "subband_group" and arrived and group.version == 1 and not group.trial:
        trace = _trace(archive, group.asset, group.partition)
        place = tracing.Place(trace, tracing.span_of(ARRIVAL, trace))
        tracing.record(ARRIVAL, place, arrived[0], arrived[-1], observation=group.partition or "", subbands=len(arrived))


def origins(archive: "Archive", products: "Sequence[Product]") -> list[tracing.Place]:
    """The runs that made these products, as what is made of them links to."""
    if not tracing.is_on():
        return []
    made = {(one.run_id, _trace(archive, one.asset, one.partition)) for one in products}
    return [tracing.Place(trace, tracing.span_of("run", run_id), run_id) for run_id, trace in sorted(made)]


def _place(platform: "Platform", run_id: str, name: str, partition: str | None) -> tracing.Place:
    """Where a run's steps are: its own span, in the trace of its partition; one of its own where the archive cannot be opened."""
    try:
        trace = _trace(platform.archive, name, partition) if tracing.is_on() else ""
    except (DsaError, OSError) as error:  # the step fails for it, too, and says so
        log.debug("%s: no trace: %s", name, error)
        trace = tracing.trace_of("", partition, name)
    return tracing.Place(trace, tracing.span_of("run", run_id), run_id)


def _trace(archive: "Archive", asset: str, partition: str | None) -> str:
    """The id of a partition's trace: an hour and an observation may have the same key."""
    return tracing.trace_of(archive.index.archive_id, partition, spec.assets()[asset].grain)
