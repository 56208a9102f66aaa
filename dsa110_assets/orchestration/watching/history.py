"""Dagster's runs as its storage has them, read without Dagster, which takes a second to load and opens what it reads for writing.

The history can therefore be read even where DAGSTER_HOME may not be written.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from dsa110_assets.archive import databases
from dsa110_assets.archive.index import normalise_url
from dsa110_assets.errors import NotFoundError, WaitingError

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

log = logging.getLogger(__name__)
POSTGRES_VARIABLE = "DAGSTER_PG_URL"
RUNS, EVENTS, SCHEDULES = Path("history", "runs.db"), Path("history", "runs"), Path("schedules", "schedules.db")
"""Where Dagster's SQLite storage keeps the runs, a database of events for each run, and the ticks of its sensors."""
PARTITION_TAG = "dagster/partition"
TRACE_TAG = "dsa110/trace"
"""Set on a run whose spans are sent: the trace they belong to."""
ERROR_CLASS = "error_class"
"""The metadata key of a failure that holds the class of the error, for the alerts and for `process`."""
FAILED = "FAILURE"
ENDED_BADLY = (FAILED, "CANCELED")
"""The final states of runs that can be tried again."""
RUNNING = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
UNFINISHED = ("QUEUED", *RUNNING)
"""Dagster's words for the states of a run."""
ENDED = ("SUCCESS", *ENDED_BADLY)
NEWEST = 500
BEATS_WITHIN = timedelta(days=1)
"""A part of the daemon whose last sign of life is this much older than those of the others is no longer configured."""
_runs = sa.table(
    "runs", *(sa.column(name) for name in ("id", "run_id", "status", "run_body", "start_time", "end_time")),
    sa.column("create_timestamp", sa.DateTime), sa.column("update_timestamp", sa.DateTime),
)  # fmt: skip
_updated = _runs.c.update_timestamp
_instigators = sa.table("instigators", *(sa.column(name) for name in ("selector_id", "instigator_type", "instigator_body")))
_ticks = sa.table("job_ticks", sa.column("selector_id"), sa.column("status"), sa.column("timestamp", sa.DateTime))
_GOOD = ("SUCCESS", "SKIPPED")
_heartbeats = sa.table("daemon_heartbeats", sa.column("daemon_type"), sa.column("timestamp", sa.DateTime))
_events = sa.table(
    "event_logs", *(sa.column(name) for name in ("id", "run_id", "event", "dagster_event_type", "asset_key")),
    sa.column("timestamp", sa.DateTime),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run: its state in Dagster's words, its job, what it was to make, its tags, and when it was requested, began and ended."""

    run_id: str
    status: str
    assets: tuple[str, ...]
    partition: str | None
    tags: Mapping[str, str]
    asked_at: datetime
    began_at: datetime | None
    ended_at: datetime | None
    job: str = ""


@dataclass(frozen=True)
class FailedRun:
    """A failed run: the assets it did not make, the partition, when it ended, and why."""

    run_id: str
    assets: tuple[str, ...]
    partition: str | None
    ended_at: datetime
    reason: str


def runs(home: Path, statuses: Sequence[str] = (), newest: int = NEWEST, before: str | None = None) -> list[Run]:
    """The newest runs in these states (any state if none is given), requested before the run `before`, newest first; [] while Dagster
    has no history."""
    query = sa.select(_runs).order_by(_runs.c.id.desc()).limit(newest)
    if before is not None:
        earlier = _runs.alias()
        query = query.where(_runs.c.id < sa.select(earlier.c.id).where(earlier.c.run_id == before).scalar_subquery())
    rows = _select(home, RUNS, query.where(_runs.c.status.in_(statuses)) if statuses else query)
    return [_run(home, row) for row in rows]


def heartbeats(home: Path) -> dict[str, datetime]:
    """When each part of Dagster's daemon that is still in use last gave a sign of life, by Dagster's name for the part."""
    beats = {row.daemon_type: row.timestamp.replace(tzinfo=UTC) for row in _select(home, RUNS, sa.select(_heartbeats))}
    return {name: at for name, at in beats.items() if at >= max(beats.values()) - BEATS_WITHIN}


def heartbeat(home: Path) -> datetime | None:
    """The last sign of life of the part of Dagster's daemon that has been silent longest; None while no part ever gave one."""
    return min(heartbeats(home).values(), default=None)


def sensor_success(home: Path, since: datetime) -> dict[str, datetime | None]:
    """When each sensor was last evaluated without an error, by its name; None if not after `since`."""
    successes = {}
    for row in _select(home, SCHEDULES, sa.select(_instigators).where(_instigators.c.instigator_type == "SENSOR")):
        good_ticks = (_ticks.c.selector_id == row.selector_id, _ticks.c.timestamp > since.replace(tzinfo=None), _ticks.c.status.in_(_GOOD))
        last = _select(home, SCHEDULES, sa.select(_ticks.c.timestamp).where(*good_ticks).order_by(_ticks.c.timestamp.desc()).limit(1))
        name = str(json.loads(row.instigator_body)["origin"]["job_name"])
        successes[name] = last[0].timestamp.replace(tzinfo=UTC) if last else None
    return successes


def counts(home: Path, ended_since: datetime) -> dict[str, int]:
    """The number of runs in each state, by Dagster's word for it; of the ended runs only those updated after `ended_since`."""
    counted = sa.or_(_runs.c.status.in_(UNFINISHED), sa.and_(_runs.c.status.in_(ENDED), _updated > ended_since.replace(tzinfo=None)))
    query = sa.select(_runs.c.status, sa.func.count().label("number")).where(counted).group_by(_runs.c.status)
    return {row.status: row.number for row in _select(home, RUNS, query)}


def created(home: Path) -> int:
    """The number of runs ever created."""
    return next((row.newest or 0 for row in _select(home, RUNS, sa.select(sa.func.max(_runs.c.id).label("newest")))), 0)


def run(home: Path, run_id: str) -> Run:
    """The run with this id. Raises NotFoundError."""
    rows = _select(home, RUNS, sa.select(_runs).where(_runs.c.run_id == run_id))
    if not rows:
        raise NotFoundError(f"there is no run {run_id}; `dsa110 runs` lists those that are not done")
    return _run(home, rows[0])


def failed(home: Path, store: "Archive") -> list[FailedRun]:
    """Failed runs, newest first, one for each partition, whose assets no later run has made; without those that merely wait."""
    failures: dict[tuple[tuple[str, ...], str | None], FailedRun | None] = {}
    for run in runs(home, [FAILED]):
        began_at = run.began_at or run.asked_at
        lacking = tuple(asset for asset in run.assets if not _made_since(store, asset, run.partition, began_at))
        if lacking and (lacking, run.partition) not in failures:
            ended = FailedRun(run.run_id, lacking, run.partition, run.ended_at or began_at, why_failed(home, run.run_id))
            failures[lacking, run.partition] = None if waits(home, run.run_id) else ended
    return [one for one in failures.values() if one is not None]


def reasons(home: Path, run_id: str) -> list[tuple[str, str]]:
    """The class and message of the error of each failed step of a run that has ended."""
    return list(_reasons(home, run_id))


@lru_cache(maxsize=4096)
def _reasons(home: Path, run_id: str) -> tuple[tuple[str, str], ...]:
    """The same, cached: the errors of an ended run no longer change, and are queried at every look."""
    return tuple(_error_of(event["event_specific_data"]) for event in _events_of(home, run_id, "STEP_FAILURE"))


def why_failed(home: Path, run_id: str) -> str:
    """The class and message of the first error of a failed run, or Dagster's message about its end."""
    errors = reasons(home, run_id)
    return ": ".join(errors[0]) if errors else _ending(home, run_id)


def last_event(home: Path, run_id: str) -> datetime | None:
    """The time of a run's last event; None if it has none."""
    rows = _select_events(home, run_id, sa.select(sa.func.max(_events.c.timestamp).label("at")).where(_events.c.run_id == run_id))
    return rows[0].at.replace(tzinfo=UTC) if rows and rows[0].at is not None else None


def waits(home: Path, run_id: str) -> bool:
    """Whether a failed run only waited for something that is not available yet."""
    errors = reasons(home, run_id)
    return bool(errors) and {error_class for error_class, _ in errors} == {WaitingError.__name__}


def _run(home: Path, row: Any) -> Run:
    body = json.loads(row.run_body)
    tags = body.get("tags") or {}
    selection = (body.get("asset_selection") or {}).get("__frozenset__", ())
    assets = {"/".join(key["path"]) for key in selection} or _planned(home, row.run_id)
    asked_at = row.create_timestamp.replace(tzinfo=UTC)
    began_at, ended_at = (None if at is None else datetime.fromtimestamp(at, UTC) for at in (row.start_time, row.end_time))
    return Run(
        row.run_id, row.status, tuple(sorted(assets)), tags.get(PARTITION_TAG), tags, asked_at, began_at, ended_at, body["pipeline_name"]
    )


def _planned(home: Path, run_id: str) -> set[str]:
    """The assets of a run that was launched without a selection: all of its job's, as recorded when the run is created."""
    query = sa.select(_events.c.asset_key).where(_events.c.run_id == run_id)
    rows = _select_events(home, run_id, query.where(_events.c.dagster_event_type == "ASSET_MATERIALIZATION_PLANNED"))
    return {"/".join(json.loads(row.asset_key)) for row in rows if row.asset_key}


def _made_since(store: "Archive", asset: str, partition: str | None, moment: datetime) -> bool:
    product = store.current(asset, partition)
    return product is not None and product.created_at >= moment


def _error_of(data: dict[str, Any]) -> tuple[str, str]:
    """The class of the error that failed a step, and its reason in the words of the code that raised it (see `policy.failure`)."""
    user_data = data.get("user_failure_data")
    if user_data is not None:
        entries = {one["label"]: one["entry_data"].get("text") for one in user_data["metadata_entries"]}
        error_class = str(entries.get(ERROR_CLASS) or "Failure")
        return error_class, (user_data["description"] or "").removeprefix(f"{error_class}: ")
    error = data.get("error") or {}
    while error.get("cause"):
        error = error["cause"]
    error_class = error.get("cls_name") or "Error"
    return error_class, " ".join((error.get("message") or "").split()).removeprefix(f"{error_class}: ")


def _ending(home: Path, run_id: str) -> str:
    """Dagster's message about a failed run in which no step failed: its process was killed, or never began."""
    messages = [" ".join((event["message"] or "").split()) for event in _events_of(home, run_id, "PIPELINE_FAILURE")]
    return messages[0] if messages else "no reason recorded; see the run in Dagster's web UI"


def _events_of(home: Path, run_id: str, kind: str) -> list[dict[str, Any]]:
    """A run's events of this kind, oldest first."""
    query = sa.select(_events.c.event).where(_events.c.run_id == run_id, _events.c.dagster_event_type == kind).order_by(_events.c.id)
    events = [json.loads(row.event)["dagster_event"] for row in _select_events(home, run_id, query)]
    return [event for event in events if event is not None]


def _select_events(home: Path, run_id: str, query: sa.Select[Any]) -> list[Any]:
    """Rows about one run. If the run's database is damaged, the list is empty and the log says so; other runs stay readable."""
    try:
        return _select(home, EVENTS / f"{run_id}.db", query)
    except OperationalError:
        raise
    except DatabaseError as error:
        log.error("run %s: its events cannot be read (%s)", run_id, error.orig)
        return []


def _select(home: Path, sqlite: Path, query: sa.Select[Any]) -> list[Any]:
    """The rows of a query to Dagster's storage, which for SQLite is the file of this name; [] before Dagster has created it."""
    url = os.environ.get(POSTGRES_VARIABLE, "").strip()
    if not url and not (home / sqlite).exists():
        return []
    with _connected(url, home / sqlite) as connection:
        ready = all(sa.inspect(connection).has_table(table.name) for table in query.get_final_froms() if isinstance(table, sa.TableClause))
        return list(connection.execute(query)) if ready else []


@contextmanager
def _connected(url: str, path: Path) -> Iterator[sa.Connection]:
    """A connection to the PostgreSQL database at this URL, or to the SQLite file if the URL is empty."""
    engine = (
        sa.create_engine(normalise_url(url, POSTGRES_VARIABLE), poolclass=NullPool)
        if url
        else sa.create_engine("sqlite://", creator=lambda: databases.connect_to_read(path), poolclass=NullPool)
    )
    with engine.connect() as connection:
        yield connection
