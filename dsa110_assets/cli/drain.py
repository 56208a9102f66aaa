"""`dsa110 drain`: start nothing new and let running work finish, before a new version, a restart or a move."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import EXIT_INCOMPLETE, app

if TYPE_CHECKING:
    from dsa110_assets.orchestration.watching.history import Run

LOOK_S = 1.0
STILL_S = 5.0
"""The queue is read every second: after this long without a run, no run can begin any more."""


@app.command(epilog="Example: dsa110 drain --reason 'version 2' --timeout 20")
def drain(
    off: bool = typer.Option(False, "--off", help="Let the platform resume."),
    reason: str = typer.Option("a new version", help="The reason, shown by the status."),
    timeout: float = typer.Option(
        30.0, min=0.0, max=1440.0, help="Minutes to wait for running work; the platform stays drained afterwards."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, and nothing else, on standard output."),
) -> int:
    """Start nothing new, wait for running work, and report the state."""
    from dsa110_assets import settings
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.ingest import pausing
    from dsa110_assets.orchestration.watching import history

    configured = settings.load()
    root, home = Archive(configured.archive, configured.database_url).root, configured.home_path
    if off:
        pausing.resume(root, pausing.ALL)
        running, drained = history.runs(home, history.RUNNING), False
    else:
        pausing.pause(root, getpass.getuser(), reason.strip(), pausing.ALL)
        running = wait(home, history.RUNNING if _queue_is_held(home) else history.UNFINISHED, 60.0 * timeout)
        drained = not running
    queued = history.runs(home, ["QUEUED"])
    if as_json:
        rows = [{"run_id": run.run_id, "assets": run.assets, "partition": run.partition} for run in running]
        console.emit_json({"draining": not off, "drained": drained, "running": rows, "queued": len(queued)})
    elif off:
        console.say(f"the platform goes on; {len(queued)} runs are queued")
    elif drained:
        console.say(f"nothing runs; {len(queued)} queued runs wait for: dsa110 drain --off")
    else:
        names = "; ".join(f"{run.run_id[:8]} {', '.join(run.assets)} {run.partition or ''}".strip() for run in running)
        console.warn(f"still running after {timeout:g} min: {names}; the platform stays drained: wait longer, or dsa110 runs --cancel")
    return 0 if off or drained else EXIT_INCOMPLETE


def wait(home: Path, statuses: tuple[str, ...], seconds: float) -> list[Run]:
    """Wait until all runs of these states have ended, at most this long; return those that have not."""
    from dsa110_assets.orchestration.watching import history

    until, still_since, reported = time.monotonic() + seconds, None, -1
    while True:
        running, now = history.runs(home, statuses), time.monotonic()
        still_since = None if running else still_since or now
        if still_since is not None and now - still_since >= STILL_S:
            return []
        if running and now >= until:
            return running
        if len(running) != reported:
            console.warn(f"waiting for {len(running)} runs")
            reported = len(running)
        time.sleep(LOOK_S)


def _queue_is_held(home: Path) -> bool:
    """Whether queued runs stay queued; a dagster.yaml of an earlier version uses Dagster's own queue."""
    from dsa110_assets.orchestration.running import instance

    with instance.open_instance(home) as dagster:
        limits = dagster.get_concurrency_config().run_queue_config
    return limits is not None and limits.max_concurrent_runs == 0
