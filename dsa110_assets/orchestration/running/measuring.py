"""The counts and traces of a step: its outcome, its wall time, how long its run waited, and the latency of its product."""

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
"""The first span of an observation's trace: from the arrival of its first subband to that of its last."""


@dataclass
class Measured:
    """How a step ended: `outcome`, the class of the error if it failed, and the product it made."""

    outcome: str = ENDED
    error_class: str = ""
    product: "Product | None" = None
    links: list[tracing.Place] = field(default_factory=list)
    """The runs that made the step's inputs."""


@contextmanager
def measured(context: dg.AssetExecutionContext, platform: "Platform", name: str, partition: str | None) -> Iterator[Measured]:
    """Record a step's counts and span, and set the ids its log lines carry. Goes outside the block that turns errors into Dagster's."""
    measurement, began_s, lane = Measured(), time.time(), context.run.tags.get(instance.LANE_TAG, BY_HAND)
    place = _place(platform, context.run.run_id, name, partition)
    waiting_counts = _begin(context, place, name, partition)
    try:
        with tracing.at(place), tracing.span(name, measurement.links, asset=name, partition=partition or "", lane=lane) as attributes:
            try:
                with _outcome(measurement):
                    yield measurement
            finally:
                attributes |= {"outcome": measurement.outcome} | (
                    {"error_class": measurement.error_class} if measurement.error_class else {}
                )
                if measurement.product is not None:
                    attributes["product"] = measurement.product.id
                    tell_arrival(platform.archive, measurement.product)
                if not context.run.tags.get(reporting.TRIAL_TAG):
                    _count(platform, name, lane, measurement, time.time() - began_s, waiting_counts)
    finally:
        _run.ended_s, _run.error = time.time(), measurement.error_class if measurement.outcome == FAILED else ""


@contextmanager
def _outcome(measurement: Measured) -> Iterator[None]:
    """Record how the block ends if it ends with an error."""
    try:
        yield
    except dg.RetryRequested as error:
        measurement.outcome, measurement.error_class = RETRIED, type(error.__cause__).__name__
        raise
    except dg.Failure as error:
        measurement.outcome, measurement.error_class = FAILED, str(error.metadata[history.ERROR_CLASS].value)
        raise
    except Exception as error:
        measurement.outcome, measurement.error_class = FAILED, type(error).__name__
        raise


def _count(
    platform: "Platform", name: str, lane: str, measurement: Measured, took_s: float, waiting_counts: Sequence[counters.Count]
) -> None:
    """Write the counts that a step adds. If they cannot be written, log a warning; the step itself does not fail."""
    counts = [*waiting_counts, counters.Count(counters.ATTEMPTS, (name, measurement.outcome))]
    try:
        if measurement.outcome == FAILED:
            counts.append(counters.Count(counters.FAILURES, (name, measurement.error_class)))
        if measurement.outcome == RETRIED:
            counts.append(counters.Count(counters.RETRIES, (name,)))
        if measurement.outcome == MADE and not platform.archive.trial:
            counts += counters.seconds(counters.DURATION, (name,), took_s)
            if measurement.product is not None and (late_s := latency_s(platform.archive, measurement.product)) is not None:
                counts += counters.seconds(counters.LATENCY, (name, lane), late_s)
        platform.archive.index.write(lambda c: counters.add(c, counts))
    except (DsaError, OSError, SQLAlchemyError) as error:
        log.warning("%s: its outcome could not be counted and is missing from the metrics: %s", name, error)


def latency_s(archive: "Archive", product: "Product") -> float | None:
    """Time from the last subband's arrival in a product's window to its publication [s]. None if the product has no window, if nothing
    arrived in it, and for versions after the first, which waited for something else."""
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
    """The times [unix s] when the files of a subband group were last written, sorted, from the identities in its manifest."""
    times_s = []
    for identity in group.settings.get("files", ()):
        with suppress(ValueError):
            times_s.append(int(str(identity).rpartition(":")[2]) / 1e9)
    return sorted(times_s)


@dataclass
class _Run:
    """The run whose steps this process makes: its place, its parent span, when it began and when its last step ended [unix s]."""

    place: tracing.Place = field(default_factory=tracing.Place)
    parent: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    name: str = ""
    error: str = ""


_run = _Run()


def _begin(context: dg.AssetExecutionContext, place: tracing.Place, name: str, partition: str | None) -> list[counters.Count]:
    """At the first step of a run, return the counts of how long the run waited, and record the wait as a span. Ends the span of the
    run before it. Empty at later steps."""
    global _run
    if _run.place.run == place.run:
        return []
    record = context.instance.get_run_record_by_id(place.run)
    began_s = record.start_time if record and record.start_time else time.time()
    requested_s = min(record.create_timestamp.timestamp() if record else began_s, began_s)
    if tracing.is_on():
        end_run()
        context.instance.add_run_tags(place.run, {history.TRACE_TAG: place.trace})
        parent = tracing.span_of(ARRIVAL, place.trace) if spec.assets()[name].grain == "observation" else ""
        waiting = tracing.Place(place.trace, tracing.span_of("queue", place.run), place.run)
        tracing.record("queue", waiting, requested_s, began_s, parent=parent or place.span)
        _run = _Run(place, parent, began_s, began_s, f"run {partition or ''}".strip())
        _end_run_at_exit()
    else:
        _run = _Run(place)
    lane = context.run.tags.get(instance.LANE_TAG, BY_HAND)
    return counters.seconds(counters.QUEUED, (lane,), began_s - requested_s)


@cache
def _end_run_at_exit() -> None:
    children.at_exit(end_run, 10)  # before the spans not yet sent are sent


def end_run() -> None:
    """Record the span of the run whose steps were made here last. It ended when its last step ended."""
    global _run
    if _run.name:
        tracing.record(_run.name, _run.place, _run.began_s, _run.ended_s, parent=_run.parent, error=_run.error)
    _run = _Run()


def tell_arrival(archive: "Archive", group: "Product") -> None:
    """Record the root span of an observation's trace, once: for its first manifest."""
    arrived = arrivals_s(group)
    if tracing.is_on() and group.asset == "subband_group" and arrived and group.version == 1 and not group.trial:
        trace = _trace(archive, group.asset, group.partition)
        place = tracing.Place(trace, tracing.span_of(ARRIVAL, trace))
        tracing.record(ARRIVAL, place, arrived[0], arrived[-1], observation=group.partition or "", subbands=len(arrived))


def origins(archive: "Archive", products: "Sequence[Product]") -> list[tracing.Place]:
    """The places of the runs that made these products, for links from the steps that use them."""
    if not tracing.is_on():
        return []
    run_traces = {(one.run_id, _trace(archive, one.asset, one.partition)) for one in products}
    return [tracing.Place(trace, tracing.span_of("run", run_id), run_id) for run_id, trace in sorted(run_traces)]


def _place(platform: "Platform", run_id: str, name: str, partition: str | None) -> tracing.Place:
    """The place of a run's steps: the run's span, in the trace of its partition; in a separate trace if the archive cannot be opened."""
    try:
        trace = _trace(platform.archive, name, partition) if tracing.is_on() else ""
    except (DsaError, OSError) as error:  # the step fails for the same reason, and reports it
        log.debug("%s: no trace: %s", name, error)
        trace = tracing.trace_of("", partition, name)
    return tracing.Place(trace, tracing.span_of("run", run_id), run_id)


def _trace(archive: "Archive", asset: str, partition: str | None) -> str:
    """The id of a partition's trace: an hour and an observation may have the same key."""
    return tracing.trace_of(archive.index.archive_id, partition, spec.assets()[asset].grain)
