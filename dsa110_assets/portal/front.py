"""The front page: whether all is well and, if not, why; how old the newest of everything is; what is under way, and how fast."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from dsa110_assets.archive import alerts
from dsa110_assets.errors import DsaError, NotFoundError
from dsa110_assets.orchestration.running import measuring
from dsa110_assets.orchestration.watching import conditions, disks, history, hosts
from dsa110_assets.plain_text import DAY_S, duration, size
from dsa110_assets.portal import overview, queue, render
from dsa110_assets.portal.candidates import candidate_rows
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.portal.overview import Status
    from dsa110_assets.thresholds import Thresholds

T = TypeVar("T")
WELL, ATTENTION, TROUBLE = "well", "attention", "trouble"
LEVELS = (WELL, ATTENTION, TROUBLE)
SPANS = (("hour", timedelta(hours=1)), ("day", timedelta(days=1)), ("week", timedelta(days=7)))
PROMISED_S = 600.0
"""The promised time from the last subband to the image."""
IDLE_S = 7200.0
"""An array that has given no file for longer than this is not observing."""
MANY_WAIT, SOON_FULL_D = 100, 7.0
SHOWN, CANDIDATES, FALSE_RATE = 20, 6, 0.01


@dataclass(frozen=True)
class Reason:
    """One reason why not all is well: its level, a sentence, and the page with the details."""

    level: str
    text: str
    link: str = ""


@dataclass(frozen=True)
class Age:
    """When something last happened (None: never), and how long ago that is [s]."""

    what: str
    at: datetime | None
    age_s: float | None
    note: str = ""


@dataclass(frozen=True)
class Flow:
    """Observations per hour that arrived and that were imaged, averaged over a span."""

    span: str
    arrived_per_h: float
    imaged_per_h: float


@dataclass(frozen=True)
class Latency:
    """From an observation's last subband to its image, over the last night: median and 95th percentile [s] of `number` images."""

    number: int
    median_s: float
    p95_s: float
    late: int


@dataclass(frozen=True)
class Place:
    """A disk, named by what lies on it."""

    what: str
    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Calibration:
    """The calibration in force for the latest observation: its age then [h], the band of that age, and the end of its validity."""

    band: str
    age_h: float
    aging_h: float
    stale_h: float
    valid_until: datetime | None


def front(request: Request) -> Response:
    """The state of the platform now. What cannot be determined is reported, and hides nothing else."""
    archive, state = render.archive_of(request), request.app.state
    now = datetime.now(UTC)
    status = overview.status(archive, state.inbox, now, state.look)
    seen = state.look(archive.store) if state.look and status.inbox_groups is not None else None
    limits, refused = state.limits()

    def listed(what: str, find: Callable[[], list[T]]) -> list[T]:
        return overview.part(status.troubles, what, find) or []

    beat = overview.part(status.troubles, "the daemon's heartbeat", lambda: history.heartbeat(state.home))
    failed = listed("the failed runs", lambda: history.failed(state.home, archive.store))
    taken_up = [row for row in status.waiting if row["next"] != overview.STEPS[0]]
    waiting = listed("the queue", lambda: queue.observations(archive.store, state.home, seen, status.latest_night, failed, taken_up))
    runs = listed("the active runs", lambda: history.runs(state.home, history.UNFINISHED))
    made = listed("success and failure", lambda: outcomes(archive.store, state.home, now))
    active = listed("the alerts", lambda: alerts.current(archive.store))
    best = listed("the candidates", lambda: candidates(archive))
    calibration = calibration_of(archive.store, status, limits)
    ages = tuple(ages_of(archive.store, status, beat, now))
    reasons = reasons_of(status, ages, calibration, failed, limits, refused)
    ordered = sorted(reasons, key=lambda one: LEVELS.index(one.level), reverse=True)
    return render.page(
        "front.html", request, state=status, level=ordered[0].level if ordered else WELL, reasons=ordered, ages=ages,
        queue=[(name, [one for one in waiting if one.state == name]) for name in queue.STATES], runs=runs, outcomes=made,
        flows=flows(archive.store, now), latency=latency_of(archive.store, status.latest_night), promised_s=PROMISED_S,
        hosts=listed("the hosts", lambda: hosts.known(archive.root)),
        places=places(archive.root, state.inbox), calibration=calibration, candidates=best, now=now, failed=failed[:SHOWN],
        newest=newest_images(archive.store), shown=SHOWN, alerts=active, titles=conditions.presentations(),
    )  # fmt: skip


def newest_images(store: Archive, number: int = 8) -> list[Product]:
    """The newest images of any kind, the last made first."""
    from dsa110_assets.orchestration.graph import specifications

    found = [one for asset in specifications().values() if asset.image for one in store.newest(asset.name, number)]
    return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)[:number]


def ages_of(store: Archive, status: Status, beat: datetime | None, now: datetime) -> Iterator[Age]:
    """The ages of the last file, observation, image and calibration, and of the daemon's last sign of life."""
    group = next(iter(store.newest("subband_group")), None)
    tile = next(iter(store.newest("tile_image")), None)
    observed = timegrid.parse_key(status.latest_observation) if status.latest_observation else None
    solved = timegrid.mjd_to_datetime(status.calibration["mjd"]) if status.calibration else None
    events: tuple[tuple[str, datetime | None, str], ...] = (
        ("Last file", arrived(group) if group else None, "of the last observation taken up"),
        ("Last observation", observed, status.latest_observation or ""),
        ("Last image", tile.created_at if tile else None, (tile.partition or "") if tile else ""),
        ("Last calibration", solved, status.calibration["calibrator"] if status.calibration else "none in force"),
        ("Daemon's heartbeat", beat, "Dagster's daemon"),
    )
    for what, at, note in events:
        yield Age(what, at, None if at is None else (now - at).total_seconds(), note)


def arrived(group: Product) -> datetime | None:
    """When the last file of an observation was written, by its manifest; None if the manifest cannot determine it."""
    last_s = max(measuring.arrivals_s(group), default=None)
    return None if last_s is None else datetime.fromtimestamp(last_s, UTC)


def calibration_of(store: Archive, status: Status, limits: Thresholds) -> Calibration | None:
    """The age of the calibration in force, judged by the thresholds of the check; None if none is in force."""
    from dsa110_assets.archive import caltable_registry

    if status.calibration is None:
        return None
    age_h = float(status.calibration["age_at_latest_observation_h"])
    band = "fresh" if age_h <= limits.calibration_aging_h else "aging" if age_h <= limits.calibration_stale_h else "stale"
    try:
        end = timegrid.mjd_to_datetime(caltable_registry.get(store, status.calibration["set_id"]).valid_end_mjd)
    except (DsaError, ValueError):  # the set was retired in the meantime
        end = None
    return Calibration(band, age_h, limits.calibration_aging_h, limits.calibration_stale_h, end)


def reasons_of(
    status: Status, ages: Sequence[Age], calibration: Calibration | None, failed: Sequence[history.FailedRun], limits: Thresholds,
    refused: str | None,
) -> Iterator[Reason]:  # fmt: skip
    """All reasons why not all is well, those of the disk first."""
    if status.disk:
        free_gb, full_d = status.disk.free_bytes / 1e9, status.disk.full_in_days
        critical_gb = disks.critical_gb(limits, status.disk.total_bytes)
        if free_gb < critical_gb:
            yield Reason(TROUBLE, f"the archive's disk is full: {size(status.disk.free_bytes)} free, ingest is paused", "#room")
        elif free_gb < disks.warn_gb(limits, status.disk.total_bytes):
            yield Reason(ATTENTION, f"the archive's disk is filling: {size(status.disk.free_bytes)} free", "#room")
        if full_d is not None and full_d < SOON_FULL_D:
            yield Reason(ATTENTION, f"the archive's disk is full in {duration(DAY_S * full_d)} at the rate of the last 24 h", "#room")
    for text in status.halted:
        yield Reason(ATTENTION, text, "/control")
    for text in status.troubles:
        yield Reason(TROUBLE, f"could not be found out: {text}")
    if refused:
        yield Reason(TROUBLE, f"refused {refused}")
    by_name = {one.what: one for one in ages}
    beat, observed = by_name["Daemon's heartbeat"], by_name["Last observation"]
    if beat.age_s is None:
        yield Reason(ATTENTION, "Dagster's daemon never ran here: nothing is processed by itself; dsa110 up starts it")
    elif beat.age_s > limits.daemon_silent_s:
        yield Reason(TROUBLE, f"Dagster's daemon gave no sign of life for {duration(beat.age_s)}; dsa110 up starts it")
    if observed.age_s is None:
        yield Reason(ATTENTION, "there are no data yet")
    elif observed.age_s > IDLE_S:
        yield Reason(ATTENTION, f"the last data are {duration(observed.age_s)} old", "/timeline")
    if status.latest_observation and calibration is None:
        yield Reason(TROUBLE, "no calibration is in force: observations wait for a transit", "/calibration")
    elif calibration and calibration.band != "fresh":
        level = TROUBLE if calibration.band == "stale" else ATTENTION
        text = f"{calibration.age_h:.1f} h away from the last observation: {calibration.band}, stale from {calibration.stale_h:.1f} h on"
        yield Reason(level, f"the calibration was {text}", "/calibration")
    for number, one, many, level, link in (
        (len(failed), "run failed", "runs failed", TROUBLE, "#failed"),
        (len(status.held), "product is held by a check", "products are held by a check", TROUBLE, "#held"),
        (len(status.failed_checks), "check failed in the last two nights", "checks failed in the last two nights", TROUBLE, "#checks"),
        (len(status.rejected), "product is rejected", "products are rejected", ATTENTION, "#rejected"),
        (len(status.quarantined), "file or group is quarantined", "files or groups are quarantined", ATTENTION, "#quarantined"),
        (len(status.waiting) if len(status.waiting) > MANY_WAIT else 0, "", "observations wait", ATTENTION, "#queue"),
    ):
        if number:
            yield Reason(level, f"{number} {one if number == 1 else many}", link)


def outcomes(store: Archive, home: Path, now: datetime) -> list[tuple[str, list[tuple[int, int]]]]:
    """For every asset that had either, how much was made and how many runs failed in each of SPANS."""
    longest = now - SPANS[-1][1]
    made = [(datetime.fromisoformat(at), asset) for at, asset, _, _ in store.published(longest.isoformat(timespec="microseconds"))]
    failed = [
        (run.ended_at or run.asked_at, asset)
        for run in history.runs(home, [history.FAILED])
        if (run.ended_at or run.asked_at) >= longest
        for asset in run.assets
    ]
    from dsa110_assets.orchestration.graph import specifications

    def within(events: Sequence[tuple[datetime, str]], asset: str, span: timedelta) -> int:
        return sum(1 for at, name in events if name == asset and at >= now - span)

    rows = [(asset, [(within(made, asset, span), within(failed, asset, span)) for _, span in SPANS]) for asset in specifications()]
    return [row for row in rows if any(any(counts) for counts in row[1])]


def flows(store: Archive, now: datetime) -> list[Flow]:
    """Observations per hour that arrived and that were imaged, over the last hour and the last day."""
    spans = (("last hour", timedelta(hours=1)), ("last 24 h", timedelta(hours=24)))
    longest = now - spans[-1][1]
    made = [(at, asset) for at, asset, _, _ in store.published(longest.isoformat(timespec="microseconds"))]
    found = []
    for name, span in spans:
        since, hours = (now - span).isoformat(timespec="microseconds"), span / timedelta(hours=1)
        arrived_, imaged = (sum(1 for at, one in made if one == asset and at >= since) / hours for asset in ("subband_group", "tile_image"))
        found.append(Flow(name, arrived_, imaged))
    return found


def latencies(store: Archive, since: str, until: str) -> dict[str, float]:
    """By observation the time from its last subband to its image [s], for those from `since` to `until` (nights) imaged only once."""
    written = {group.partition: arrived(group) for group in store.products("subband_group", since, until, removed=True)}
    found = {}
    for tile in store.figures("tile_image", (), since, until):
        last = written.get(tile.partition)
        if last is not None and tile.id.endswith("-v1"):  # an image made again waited for something else
            found[tile.partition] = (datetime.fromisoformat(tile.created_at) - last).total_seconds()
    return found


def latency_of(store: Archive, night: str | None) -> Latency | None:
    """The latency of the last night's images; None without any."""
    found = np.array(list(latencies(store, night, night).values())) if night else np.empty(0)
    if not found.size:
        return None
    return Latency(found.size, float(np.median(found)), float(np.percentile(found, 95)), int((found > PROMISED_S).sum()))


def places(root: Path, inbox: Path | None) -> list[Place]:
    """The disks of archive, inbox and scratch; those that share a disk share one entry."""
    found: dict[int, Place] = {}
    for what, path in (("archive", root), ("inbox", inbox), ("scratch", Path(tempfile.gettempdir()))):
        if path is None or not path.is_dir():
            continue
        device, usage = path.stat().st_dev, shutil.disk_usage(path)
        before = found.get(device)
        name = f"{before.what}, {what}" if before else what
        found[device] = Place(name, before.path if before else str(path), usage.free, usage.total)
    return list(found.values())


def candidates(archive: AnalystArchive) -> list[dict[str, Any]]:
    """The most significant candidates of the last night that was searched, for their thumbnails."""
    try:
        return candidate_rows(archive, FALSE_RATE)[:CANDIDATES]
    except NotFoundError:
        return []
