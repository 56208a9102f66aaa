"""Metrics for Prometheus: the counters of runs, the state of the platform now, and the requests to this portal.

Every series exists from the start, because a rule on an absent series never fires: what was never counted is 0, what never
happened is NEVER_S old, and `dsa110_unknown` reports what could not be determined.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsa110_assets import __version__, errors
from dsa110_assets.archive import alerts, backup, counters
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.watching import history, hosts
from dsa110_assets.portal import front, overview, queue
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.thresholds import Thresholds

Sample = tuple[str, str, dict[str, str], float | None]
NEVER_S, NEVER_H, NEVER_D = 1e9, 1e9 / 3600, 1e9 / 86400
"""The age of what never happened, and the time until what will never happen."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PARTS = ("the inbox", "the calibration", "the next transit", "the disk", "Dagster", "the queue", "the alerts")
"""The parts of the state that may be impossible to determine."""
FIGURES = {
    "rms_jy": ("dsa110_image_noise_jy", "Noise of the newest 5-minute image"),
    "dynamic_range": ("dsa110_image_dynamic_range", "Peak over noise of the newest 5-minute image"),
    "flag_fraction": ("dsa110_flagged_fraction", "Flagged part of what living receptors saw, behind the newest 5-minute image"),
    "flag_fraction_calibrated": (
        "dsa110_flagged_fraction_calibrated",
        "Flagged part of all that was calibrated, lost antennas included, behind the newest 5-minute image",
    ),
}
API = "/api/v1"
"""Under this path a holder of the token may change things; all else is read-only."""
HTTP_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Sources:
    """Where the metrics are read from."""

    archive: AnalystArchive
    home: Path
    inbox: Path | None
    look: overview.Look | None
    backups: Path
    limits: Callable[[], tuple[Thresholds, str | None]]


class Counted(Collector):
    """The counters that runs increment in the archive's index, with 0 for those that no run has incremented yet."""

    def __init__(self, archive: AnalystArchive) -> None:
        self._archive = archive

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """One family for each metric name."""
        found = self._archive.store.index.read(counters.read)
        for name, family in counters.FAMILIES.items():
            series: dict[counters.Labels, dict[str, float]] = {labels: {} for labels in _from_the_start(name)} | found.get(name, {})
            if family.histogram:
                histogram = HistogramMetricFamily(name, family.explanation, labels=family.labels)
                for labels, parts in series.items():
                    histogram.add_metric(labels, counters.buckets(parts), parts.get("sum", 0.0))
                yield histogram
            else:
                counter = CounterMetricFamily(name, family.explanation, labels=family.labels)
                for labels, parts in series.items():
                    counter.add_metric(labels, parts.get("", 0.0))
                yield counter


def _from_the_start(name: str) -> list[counters.Labels]:
    """The series of a family that are reported before anything was counted."""
    from dsa110_assets.orchestration.graph import specifications
    from dsa110_assets.orchestration.running import measuring

    assets, classes = specifications(), [cls.__name__ for cls in errors.DsaError.__subclasses__()]
    checks = [(asset.name, rule.check) for asset in assets.values() for rule in asset.rules]
    more: dict[str, list[counters.Labels]] = {
        counters.ATTEMPTS: [(asset, outcome) for asset in assets for outcome in measuring.OUTCOMES],
        counters.FAILURES: [(asset, name) for asset in assets for name in classes],
        counters.CHECKS: [(*one, outcome) for one in checks for outcome in (counters.PASSED, counters.WARNED, counters.FAILED)],
        counters.REFUSALS: list(checks),
        counters.LATENCY: [(asset, "live") for asset in assets],
        counters.QUEUED: [(lane,) for lane in measuring.LANES],
    }
    return more.get(name, [(asset,) for asset in assets])


class Gauges(Collector):
    """The state of the platform, read at each collection; values that are not finite are left out."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each metric name."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, explanation, labels, value in samples(self._sources):
            if value is not None and math.isfinite(value):
                family = families.setdefault(name, GaugeMetricFamily(name, explanation, labels=list(labels)))
                family.add_metric(list(labels.values()), value)
        yield from families.values()


@dataclass
class Requests:
    """The requests to this portal, counted by this process from its start."""

    registry: CollectorRegistry
    total: Counter = field(init=False)
    seconds: Histogram = field(init=False)
    in_progress: Gauge = field(init=False)

    def __post_init__(self) -> None:
        self.total = Counter("dsa110_http_requests", "Requests answered", ("method", "route", "status"), registry=self.registry)
        self.seconds = Histogram(
            "dsa110_http_request_seconds", "Time until a request was answered", ("route",), buckets=HTTP_SECONDS, registry=self.registry
        )
        self.in_progress = Gauge("dsa110_http_requests_in_progress", "Requests being answered", registry=self.registry)
        self.total.labels("GET", "/metrics", "200")
        self.seconds.labels("/metrics")


class CountRequests:
    """Middleware that counts requests by the route that answers them, because routes are few and addresses many."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self.app, self.requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), "500"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        with self.requests.in_progress.track_inprogress():
            try:
                await self.app(scope, receive, sending)
            finally:
                route = _route(scope)
                method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE") else "other"
                self.requests.total.labels(method, route, status).inc()
                self.requests.seconds.labels(route).observe(time.perf_counter() - began)


def _route(scope: Scope) -> str:
    """The pattern of the requested address; `other` where no route matches it."""
    pattern = getattr(scope.get("route"), "path", "other")
    return f"{API}{pattern}" if scope["path"].startswith(f"{API}/") else pattern


def registry(sources: Sources) -> CollectorRegistry:
    """The registry of one application, with the metrics of the platform and of this process."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the number of series, and nothing uses them
    made = CollectorRegistry()
    made.register(Counted(sources.archive))
    made.register(Gauges(sources))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def metrics(request: Request) -> Response:
    """All registered metrics, in Prometheus' text format 0.0.4."""
    return PlainTextResponse(generate_latest(request.app.state.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def samples(sources: Sources) -> Iterator[Sample]:
    """(name, help, labels, value) of every gauge."""
    now = datetime.now(UTC)
    state = overview.status(sources.archive, sources.inbox, now, look=sources.look)
    yield "dsa110_build_info", "Version of dsa110_assets", {"version": __version__}, 1
    yield from _of_products(state)
    yield from _of_calibration(state)
    troubles = list(state.troubles)
    yield from overview.part(troubles, "the disk", lambda: list(_of_disks(sources, state))) or ()
    yield from _of_host(sources, now)
    yield from overview.part(troubles, "Dagster", lambda: list(_of_dagster(sources.home, now))) or ()
    yield from overview.part(troubles, "the queue", lambda: list(_of_queue(sources))) or ()
    yield from overview.part(troubles, "the alerts", lambda: list(_of_alerts(sources.archive.store, now))) or ()
    for part in PARTS:
        unknown = float(any(trouble.startswith(f"{part}:") for trouble in troubles))
        yield "dsa110_unknown", "Whether this could not be found out", {"part": part}, unknown
    for key, (name, explanation) in FIGURES.items():
        yield name, explanation, {}, state.latest_figures.get(key)


def _of_products(state: overview.Status) -> Iterator[Sample]:
    from dsa110_assets.orchestration.graph import specifications

    for asset in sorted({*specifications(), *state.products}):
        yield "dsa110_products", "Current products by asset", {"asset": asset}, state.products.get(asset, 0)
    latest = state.latest_observation
    seconds = timegrid.parse_key(latest).timestamp() if latest else 0.0
    yield "dsa110_last_observation_timestamp_seconds", "Start of the newest observation; 0 if there is none", {}, seconds
    yield "dsa110_waiting_observations", "Observations known but not imaged", {}, len(state.waiting)
    for name, number in (state.inbox_groups or {}).items():
        yield "dsa110_inbox_groups", "Observations in the inbox that are not taken up yet, by state", {"state": name}, number
    ungrouped = None if state.inbox_groups is None else len(state.inbox_files)
    yield "dsa110_inbox_files", "Files in the inbox that are in no group", {}, ungrouped
    yield "dsa110_failed_checks", "Failed checks of severity ERROR of the last two nights", {}, len(state.failed_checks)
    yield "dsa110_quarantined", "Files and groups in quarantine", {}, len(state.quarantined)
    yield "dsa110_rejected_products", "Products rejected", {}, len(state.rejected)
    yield "dsa110_held_products", "Products held by a failed blocking check", {}, len(state.held)


def _of_calibration(state: overview.Status) -> Iterator[Sample]:
    in_force = state.calibration or {}
    yield "dsa110_calibration_in_force", "Whether an observation like the newest would be calibrated now", {}, float(bool(in_force))
    yield "dsa110_calibration_age_hours", "Age of the calibration in force", {}, in_force.get("age_h", NEVER_H)
    at_observation = in_force.get("age_at_latest_observation_h", NEVER_H)
    yield "dsa110_calibration_age_at_observation_hours", "Age of the calibration in force at the newest observation", {}, at_observation


def _of_disks(sources: Sources, state: overview.Status) -> Iterator[Sample]:
    if state.disk:
        full_d = NEVER_D if state.disk.full_in_days is None else state.disk.full_in_days
        yield "dsa110_disk_full_in_days", "Days until the archive's disk is full", {}, full_d
    for place in front.places(sources.archive.root, sources.inbox):
        yield "dsa110_disk_free_bytes", "Free space of a disk, by what is on it", {"disk": place.what}, place.free_bytes
        yield "dsa110_disk_total_bytes", "Size of a disk", {"disk": place.what}, place.total_bytes


def _of_host(sources: Sources, now: datetime) -> Iterator[Sample]:
    """This machine, the backups, whether ingest is paused, and whether the thresholds file was refused."""
    host = hosts.here()
    yield "dsa110_host_load", "Processes that want to run, over one minute", {}, host.load
    yield "dsa110_host_processors", "Processors of this machine", {}, host.processors
    yield "dsa110_host_memory_available_bytes", "Memory available to new work", {}, host.memory_free_bytes
    yield "dsa110_host_memory_bytes", "Memory of this machine", {}, host.memory_bytes
    newest = max((one.at for one in backup.backups(sources.backups)), default=None)
    age_h = NEVER_H if newest is None else (now - newest) / HOUR
    yield "dsa110_backup_age_hours", "Age of the newest backup", {}, age_h
    yield "dsa110_ingest_paused", "Whether a person paused ingest", {}, float(pausing.paused(sources.archive.root) is not None)
    _, refused = sources.limits()
    yield (
        "dsa110_thresholds_refused",
        "Whether the thresholds file is wrong, so that the last good thresholds are in force",
        {},
        float(refused is not None),
    )


def _of_dagster(home: Path, now: datetime) -> Iterator[Sample]:
    """Signs of life, and runs by state."""
    beats, ticks = history.heartbeats(home), history.sensor_success(home, now - DAY)

    def age_s(at: datetime | None) -> float:
        return NEVER_S if at is None else (now - at).total_seconds()

    oldest = "Age of the oldest sign of life of the parts of Dagster's daemon"
    yield "dsa110_daemon_heartbeat_age_seconds", oldest, {}, age_s(min(beats.values(), default=None))
    for name in sorted({"inbox", "planner", *ticks}):
        explanation = "Time since a sensor was last evaluated without an error"
        yield "dsa110_sensor_success_age_seconds", explanation, {"sensor": name}, age_s(ticks.get(name))
    numbers = history.counts(home, now - HOUR)
    for state in history.UNFINISHED:
        yield "dsa110_runs", "Runs that are not done, by Dagster's word for their state", {"state": state}, numbers.get(state, 0)
    for state in history.ENDED:
        yield "dsa110_runs_ended_last_hour", "Runs that ended in the last hour, by outcome", {"state": state}, numbers.get(state, 0)
    yield "dsa110_newest_run", "Number of the newest run, which is how many were ever requested", {}, history.created(home)


def _of_alerts(store: Archive, now: datetime) -> Iterator[Sample]:
    """Alerts that are not over, and the signs of life of the alerting itself and of services and workers."""
    from dsa110_assets.orchestration.watching import conditions

    unresolved, looked_at = alerts.current(store), alerts.looked_at(store)
    by_state, by_condition = _counts(f"{one.severity} {one.state}" for one in unresolved), _counts(one.condition for one in unresolved)
    for severity in alerts.SEVERITIES:
        for state in (alerts.ACTIVE, alerts.ACKNOWLEDGED):
            labels = {"severity": severity, "state": state}
            yield "dsa110_alerts", "Alerts that are not resolved", labels, by_state.get(f"{severity} {state}", 0)
    for name in conditions.NAMES:
        yield "dsa110_alert_conditions", "Alerts that are not resolved, by condition", {"condition": name}, by_condition.get(name, 0)
    age_s = NEVER_S if looked_at is None else (now - looked_at).total_seconds()
    yield "dsa110_alerts_look_age_seconds", "Time since the platform last looked for conditions to alert about", {}, age_s
    for name, at in alerts.beats(store).items():
        explanation = "Age of the last sign of life of a service or worker that has not signed off"
        yield "dsa110_service_heartbeat_age_seconds", explanation, {"service": name}, (now - at).total_seconds()


def _of_queue(sources: Sources) -> Iterator[Sample]:
    store, home = sources.archive.store, sources.home
    seen = sources.look(store) if sources.look else None
    numbers = _counts(one.state for one in queue.unfinished(store, home, seen, {}))
    for state in queue.STATES:
        if state != queue.COMPLETED:
            yield "dsa110_queue", "Observations that are not done, by state", {"state": state}, numbers.get(state, 0)


def _counts(names: Iterable[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for word in names:
        counts[word] = counts.get(word, 0) + 1
    return counts
