"""How far the platform keeps its promises: figures computed from what happened, each with its definition in words and its cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.archive import quarantine
from dsa110_assets.archive.lineage import raw_files
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import history, uptime
from dsa110_assets.plain_text import duration
from dsa110_assets.portal import front, overview, render
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.ingest.inbox import Inbox

WEEK = timedelta(days=7)
NEAR_H, SOON = 6.0, timedelta(hours=6)
ZERO_TOUCH = 0.995
MOST_RUNS = 200_000
BY_ITSELF = (instances.LIVE, instances.BACKFILL, instances.PROCESS)
"""Lanes of runs that no person started one by one."""
RETRY_TAG = "dsa110/retry"


@dataclass(frozen=True)
class Figure:
    """A figure: its value (None: there were no cases) in `unit` over `number` cases, what was promised, and its definition.

    `kept` is whether the promise holds; None where none was made or nothing is known. `cases` names the cases that speak against it.
    """

    name: str
    value: float | None
    unit: str
    number: int
    definition: str
    promised: str = ""
    kept: bool | None = None
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Night:
    """The observations of a span of time: their keys, their products by asset, the reasons of those in quarantine, and the runs."""

    keys: tuple[str, ...]
    groups: dict[str, Product]
    made: dict[str, dict[str, Product]]
    aside: dict[str, str]
    runs: tuple[history.Run, ...]


def figures(store: Archive, home: Path, place: Path | None, seen: Inbox | None, since: datetime, until: datetime) -> list[Figure]:
    """Return every figure of the observations whose windows begin in [since, until), and of the runs and files of that time.

    `home` is Dagster's home; `seen` is what lies in the inbox at `place` and is not taken up (None: the inbox was not looked at).
    """
    night = _night_of(store, home, since, until)
    return [
        *_of_observations(store, night),
        *_of_runs(store, night, since, until),
        _lost(store, place, seen, night),
        _uptime(store.root, since, until),
    ]


def _night_of(store: Archive, home: Path, since: datetime, until: datetime) -> Night:
    first, last = timegrid.key(since), timegrid.key(until - timedelta(microseconds=1))
    made = {asset: _by_partition(store.products(asset, first, last, removed=True)) for asset in overview.STEPS}
    records = [one for one in quarantine.quarantined(store, released=True) if one.observation and first <= one.observation <= last]
    aside = {str(one.observation): one.reason for one in records if one.released_at is None}
    keys = sorted({*made[overview.STEPS[0]], *(str(one.observation) for one in records)})
    return Night(tuple(keys), made[overview.STEPS[0]], made, aside, tuple(history.runs(home, newest=MOST_RUNS)))


def _by_partition(products: Sequence[Product]) -> dict[str, Product]:
    return {product.partition: product for product in products if product.partition}


def _of_observations(store: Archive, night: Night) -> Iterator[Figure]:
    _, converted, calibrated, imaged = (night.made[asset] for asset in overview.STEPS)
    touched = _touched(store, night)
    missing = [key for key in night.keys if key not in imaged]
    zero = (
        "observations that were imaged, and for which nobody started, repeated or cancelled a run or released a file; those queued or "
        "waiting count against it; `dsa110 process` does not count as a touch, because it names no observation"
    )
    yield _of_all("zero touch", night, [*missing, *(key for key in touched if key in imaged)], zero, ZERO_TOUCH)
    yield _of_all("converted", night, [key for key in night.keys if key not in converted], "observations that have a measurement set")
    yield _of_all("imaged", night, missing, "observations that have an image")
    ages_h = {key: product.metadata.get("caltable_age_h") for key, product in calibrated.items()}
    far = [key for key in night.keys if not isinstance(age_h := ages_h.get(key), int | float) or age_h > NEAR_H]
    near = f"observations calibrated with tables of at most {NEAR_H:g} h before or after them"
    yield _of_all("calibrated from near", night, far, near)
    written = {key: front.arrived(group) for key, group in night.groups.items()}
    soon = {key for key, one in calibrated.items() if (last := written.get(key)) is not None and one.created_at - last <= SOON}
    within = "observations whose calibrated data existed within that time of their last file; if they were made again, the last time counts"
    yield _of_all(f"calibrated within {SOON / timedelta(hours=1):g} h", night, [key for key in night.keys if key not in soon], within)
    found = front.latencies(store, night.keys[0], night.keys[-1]) if night.keys else {}
    seconds = np.array([found[key] for key in night.keys if key in found])
    slow = tuple(key for key in night.keys if found.get(key, 0.0) > front.PROMISED_S)
    what = "from an observation's last file being written to its image, of those imaged once"
    yield _seconds("latency, median", seconds, 50, what)
    yield _seconds("latency, 95th percentile", seconds, 95, what, front.PROMISED_S, slow)


def _of_all(name: str, night: Night, against: Sequence[str], definition: str, promised: float | None = None) -> Figure:
    return _share(name, night.keys, against, f"{definition}, as a part of all that were taken up or quarantined", promised)


def _touched(store: Archive, night: Night) -> list[str]:
    """Observations for which a person did something."""
    ours = [run for run in night.runs if set(run.assets) & set(overview.STEPS) and run.partition]
    by_hand = {run.partition for run in ours if run.tags.get(instances.LANE_TAG) not in BY_ITSELF or RETRY_TAG in run.tags}
    cancelled = {run.partition for run in ours if run.status == "CANCELED"}
    released = {one.observation for one in quarantine.quarantined(store, released=True) if one.released_at is not None}
    return [key for key in night.keys if key in by_hand | cancelled | released]


def _of_runs(store: Archive, night: Night, since: datetime, until: datetime) -> Iterator[Figure]:
    failed = [run for run in night.runs if run.status == history.FAILED and since <= (run.ended_at or run.asked_at) < until]
    first: dict[tuple[str, str | None], datetime] = {}
    for run in reversed(failed):  # oldest first: a partition that failed again had not recovered
        ended_at = run.ended_at or run.asked_at
        for asset in run.assets:
            made_at = _made_after(store, asset, run.partition, run.began_at or run.asked_at)
            if made_at is None or made_at > ended_at:  # otherwise the run had made it before it failed
                first.setdefault((asset, run.partition), ended_at)
    recovered = {key: moment - at for key, at in first.items() if (moment := _made_after(store, *key, at)) is not None}
    seconds = np.array([span.total_seconds() for span in recovered.values()])
    what = "from the first failure of a run that was to make a partition to its product"
    yield _seconds("recovery, median", seconds, 50, what)
    yield _seconds("recovery, longest", seconds, 100, what)
    left = tuple(f"{asset} {partition or ''}".strip() for asset, partition in first if (asset, partition) not in recovered)
    yield Figure(
        "not recovered",
        float(len(left)),
        "",
        len(first),
        "partitions whose run failed before it made them, and that were not made since",
        cases=left,
    )
    begun = [(run, run.began_at) for run in night.runs if run.began_at is not None and since <= run.began_at < until]
    live = [(at - run.asked_at).total_seconds() for run, at in begun if run.tags.get(instances.LANE_TAG) == instances.LIVE]
    yield _seconds("queue, 95th percentile", np.array(live), 95, "from the request of a live run to its beginning")
    ended = [run.run_id for run, _ in begun if run.ended_at]
    attempts = "runs that ended without a failure, of those that began in this time and ended; each attempt counts"
    yield _share("runs succeeded", ended, [run.run_id for run, _ in begun if run.status == history.FAILED], attempts)


def _made_after(store: Archive, asset: str, partition: str | None, moment: datetime) -> datetime | None:
    return min((one.created_at for one in store.versions(asset, partition) if one.created_at >= moment), default=None)


def _lost(store: Archive, place: Path | None, seen: Inbox | None, night: Night) -> Figure:
    """Files that are in no product and have no reason; value None if the inbox was not looked at, or only in part."""
    name, definition = (
        "files lost",
        (
            "files that arrived and are in no manifest, wait for nothing, are not quarantined and have no reason; and files that a "
            "manifest names and that are gone although no measurement set was made of them; from the inbox now and this time's manifests"
        ),
    )
    if place is None or seen is None or seen.more:
        return Figure(name, None, "", 0, definition, "none")
    names = inbox.listing(place)
    known = inbox.known_files(store, names)
    named = {key: {Path(one.path) for one in raw_files(group)} for key, group in night.groups.items()}
    accounted = {path for files in named.values() for path in files}
    accounted |= {header.path for one in seen.candidates for header in one.group.files.values()}
    accounted |= {path for path, _ in (*seen.waiting, *seen.unusable, *seen.foreign)}
    accounted |= {file.path for file in names.finished if file.identity in known.used | known.refused}
    present = {file.path for file in (*names.finished, *names.written, *(file for file, _ in names.misnamed))}
    converted = night.made[overview.STEPS[1]]
    gone = {path for key, paths in named.items() if key not in converted for path in paths if not path.exists()}
    lost = sorted(map(str, (present - accounted) | gone))
    return Figure(name, float(len(lost)), "", len(present | accounted), definition, "none", not lost, tuple(lost))


def _uptime(root: Path, since: datetime, until: datetime) -> Figure:
    part, known_s = uptime.share(root, since, min(until, datetime.now(UTC)))
    definition = "the part of the time in which the daemon and the code server looked after the runs, since this was first recorded"
    return Figure("uptime", part, "share", int(known_s), definition)


def _share(name: str, of: Sequence[str], against: Sequence[str], definition: str, promised: float | None = None) -> Figure:
    """The figure of a share: the part of the cases `of` that are not in `against`."""
    bad = set(against)
    value = 1.0 - len(bad) / len(of) if of else None
    kept = None if promised is None or value is None else value >= promised
    return Figure(name, value, "share", len(of), definition, f"at least {promised:.1%}" if promised else "", kept, tuple(sorted(bad)))


def _seconds(
    name: str, seconds: npt.NDArray[np.float64], percent: int, definition: str, promised_s: float | None = None, cases: tuple[str, ...] = ()
) -> Figure:
    """The figure of a percentile of times [s]."""
    value = float(np.percentile(seconds, percent)) if seconds.size else None
    kept = None if promised_s is None or value is None else value <= promised_s
    promised = f"at most {promised_s:g} s" if promised_s else ""
    return Figure(name, value, "s", seconds.size, definition, promised, kept, cases if kept is False else ())


def text_of(one: Figure) -> str:
    """The value with its unit, as people read it."""
    if one.value is None:
        return "–"
    if one.unit == "share":
        return f"{100 * one.value:.2f} %"
    return duration(one.value) if one.unit == "s" else f"{one.value:g}"


def success(request: Request) -> Response:
    """The figures of the last week, or of `days`."""
    days = request.query_params.get("days", "7")
    span = timedelta(days=min(400, max(1, int(days)))) if days.isdecimal() else WEEK
    now, state, archive = datetime.now(UTC), request.app.state, render.archive_of(request)
    seen = state.look(archive.store) if state.look else None
    found = figures(archive.store, state.home, state.inbox, seen, now - span, now)
    return render.page("success.html", request, figures=[(one, text_of(one)) for one in found], since=now - span, until=now, days=span.days)


ROUTES = [Route("/success", success)]
