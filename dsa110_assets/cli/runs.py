"""`dsa110 runs`, `dsa110 queue` and `dsa110 watch`: work that is running, waiting or failed."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_date
from dsa110_assets.errors import NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.portal.queue import Observation
    from dsa110_assets.settings import Settings

JSON_HELP = "Print JSON, and nothing else, on standard output."
STATES = {"QUEUED": "queued", "NOT_STARTED": "queued", "STARTING": "running", "STARTED": "running", "CANCELING": "being cancelled"}
"""Dagster's states of a run, and the platform's words for them."""
SHOWN = 15
"""Rows of a table that `watch` shows."""


@dataclass(frozen=True)
class RunRow:
    """A run that is not done: queued, running, being cancelled or failed; `age_h` is how long it has been in this state."""

    run_id: str
    state: str
    assets: tuple[str, ...]
    partition: str | None
    lane: str
    age_h: float
    reason: str


@app.command(epilog="Example: dsa110 runs --retry 3f9b5738")
def runs(
    cancel: str | None = typer.Option(None, help="End this run (its id, or the beginning of its id)."),
    retry: str | None = typer.Option(None, help="Queue again the work of this failed run; the daemon of `dsa110 up` does it."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """List Dagster's runs: queued, running, and those that failed and were not made good since, with the reasons."""
    configured, archive, home = _open()
    if cancel is not None or retry is not None:
        if cancel is not None:
            _cancel(home, cancel)
        if retry is not None:
            _retry(configured, home, retry)
        return
    listed = run_rows(home, archive)
    if as_json:
        console.emit_json(listed)
        return
    console.out().print(_runs_grid(listed))
    counts = Counter(row.state for row in listed)
    console.warn(", ".join(f"{number} {state}" for state, number in counts.items()) or "nothing runs, waits or failed")


def run_rows(home: Path, archive: AnalystArchive) -> list[RunRow]:
    """Return the runs that are not done, and those that failed and were not made good, newest first."""
    from dsa110_assets.orchestration.running.instance import LANE_TAG
    from dsa110_assets.orchestration.watching import history

    now, rows = datetime.now(UTC), []
    for run in history.runs(home, history.UNFINISHED):
        age_h, lane = _hours(now - (run.began_at or run.asked_at)), run.tags.get(LANE_TAG, "")
        rows.append(RunRow(run.run_id, STATES[run.status], run.assets, run.partition, lane, age_h, ""))
    for failed in history.failed(home, archive.store):
        rows.append(RunRow(failed.run_id, "failed", failed.assets, failed.partition, "", _hours(now - failed.ended_at), failed.reason))
    return rows


def _hours(span: Any) -> float:
    return float(span.total_seconds()) / 3600


def _runs_grid(rows: list[RunRow]) -> RenderableType:
    cells = [(r.run_id[:8], r.state, ", ".join(r.assets), r.partition, console.age_text(r.age_h), r.reason or r.lane) for r in rows]
    return console.grid(("run", "state", "assets", "partition", "for", ""), cells)


def _find(home: Path, name: str) -> Any:
    """Return the run with this id or beginning of an id. Raises NotFoundError unless exactly one fits."""
    from dsa110_assets.orchestration.watching import history

    all_runs = history.runs(home)
    matches = [run for run in all_runs if run.run_id.startswith(name)]
    if len(matches) != 1:
        newest = ", ".join(run.run_id[:13] for run in (matches or all_runs)[:5]) or "none"
        raise NotFoundError(f"{name} names {len(matches) or 'no'} runs; the newest are {newest} (dsa110 runs)")
    return matches[0]


def _cancel(home: Path, name: str) -> None:
    from dsa110_assets.orchestration.running.runs import cancel

    run = _find(home, name)
    cancel(home, run)
    console.say(f"run {run.run_id} of {', '.join(run.assets)} {run.partition or ''} is cancelled; nothing incomplete is published")


def _retry(configured: Settings, home: Path, name: str) -> None:
    from dsa110_assets.orchestration.running.runs import retry

    run = _find(home, name)
    backfill_id = retry(configured.model_copy(update={"dagster_home": home}), run)
    console.say(f"{', '.join(run.assets)} {run.partition or ''} is queued as backfill {backfill_id}; the daemon of `dsa110 up` runs it")


@app.command(epilog="Example: dsa110 queue --state failed")
def queue(
    state: str | None = typer.Option(None, help="Only observations of this state: collecting, pending, in-progress, completed or failed."),
    since: str | None = typer.Option(None, help="Completed ones from this UTC night on; default: the last night with data."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """List observations by state (collecting their subbands, pending, in progress, completed, failed), and for how long in it."""
    from dsa110_assets.portal.queue import STATES as KNOWN

    state_name = state.replace("-", " ") if state else None
    if state_name is not None and state_name not in KNOWN:
        raise typer.BadParameter(f"--state {state!r}: use {', '.join(known.replace(' ', '-') for known in KNOWN)}")
    configured, archive, home = _open()
    listed = _observations(configured, archive, home, parse_date(since).isoformat() if since else None)
    shown = [observation for observation in listed if state_name in (None, observation.state)]
    if as_json:
        now = datetime.now(UTC)
        counts = Counter(observation.state for observation in listed)
        rows = [{"observation": o.observation, "state": o.state, "step": o.step, "age_h": o.age_h(now), "reason": o.reason} for o in shown]
        console.emit_json({"counts": {known: counts[known] for known in KNOWN}, "observations": rows})
        return
    console.out().print(_queue_grid(shown))
    console.warn(_counted(listed))


def _observations(configured: Settings, archive: AnalystArchive, home: Path, since: str | None) -> list[Observation]:
    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.portal import queue

    night = since or next(iter(archive.store.nights(1, "subband_group")), None)
    return queue.observations(archive.store, home, plan.scan_for_display(archive.store, configured), night)


def _counted(listed: list[Observation]) -> str:
    from dsa110_assets.portal.queue import STATES as KNOWN

    counts = Counter(observation.state for observation in listed)
    return ", ".join(f"{counts[known]} {known}" for known in KNOWN)


def _queue_grid(shown: list[Observation]) -> RenderableType:
    now = datetime.now(UTC)
    rows = [
        (observation.observation, observation.state, observation.step, console.age_text(observation.age_h(now)), observation.reason)
        for observation in shown
    ]
    return console.grid(("observation", "state", "step", "for", ""), rows)


@app.command(epilog="Example: dsa110 watch --every 10")
def watch(
    every: float = typer.Option(5.0, min=1.0, max=3600.0, help="Seconds from one update to the next."),
    once: bool = typer.Option(False, "--once", help="Print one frame and stop."),
) -> None:
    """Show status, queue and runs in the terminal, updated repeatedly; Ctrl-C ends it."""
    draw = partial(frame, *_open())
    if once:
        console.out().print(draw())
        return
    from rich.live import Live

    with Live(draw(), console=console.out(), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(draw(), refresh=True)


def frame(configured: Settings, archive: AnalystArchive, home: Path) -> RenderableType:
    """Return one frame of `watch`, of the present state."""
    from rich.console import Group
    from rich.text import Text

    from dsa110_assets.cli.status import short
    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.portal import overview

    now = overview.status(archive, configured.inbox, look=partial(plan.scan_for_display, settings=configured))
    runs_now, observed = run_rows(home, archive), _observations(configured, archive, home, None)
    unfinished = [observation for observation in observed if observation.state != "completed"]
    parts: list[RenderableType] = [Text(f"{now.now}  {now.archive}"), console.grid(("", ""), short(now)), Text("")]
    parts += [Text(f"observations: {_counted(observed)}", style="bold"), _queue_grid(unfinished[:SHOWN])]
    if len(unfinished) > SHOWN:
        parts.append(Text(f"… and {len(unfinished) - SHOWN} more: dsa110 queue"))
    parts += [Text(""), Text(f"runs: {len(runs_now)}", style="bold"), _runs_grid(runs_now[:SHOWN]), Text("")]
    parts.append(Text(console.failed_checks_text([(row["product_id"], row["check"]) for row in now.failed_checks])))
    return Group(*parts)


def _open() -> tuple[Settings, AnalystArchive, Path]:
    from dsa110_assets import settings
    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.store import Archive

    configured = settings.load()
    return configured, AnalystArchive(Archive(configured.archive, configured.database_url)), configured.home_path
