"""`dsa110 worker`: take runs on one of several hosts, by Dagster's own Celery tasks. dagster.yaml sets the broker and the rest.

Dagster and the science code are imported once, here: each run is a fork of this process, which ends with its run.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsa110_assets.cli.app import app
from dsa110_assets.cli.home import with_dagster_home
from dsa110_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings


@app.command(epilog="Example: dsa110 worker --queue imaging --queue solving --slots 8")
def worker(
    queue: Annotated[list[str] | None, typer.Option(help="Take runs of this queue; repeatable (default: all queues).")] = None,
    slots: int | None = typer.Option(None, min=1, help="Runs at the same time (default: one per core, as memory allows)."),
) -> None:
    """Take runs on this host, as one of several that share an archive; Ctrl-C ends it once its runs have ended."""
    from dsa110_assets import settings
    from dsa110_assets.archive import beats
    from dsa110_assets.archive.index import normalise_url
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.graph import specifications
    from dsa110_assets.orchestration.running import capacity, routing
    from dsa110_assets.orchestration.watching import hosts

    configured = with_dagster_home(settings.load())
    pools = {asset.pool for asset in specifications().values() if asset.pool}
    queues = [routing.ANY, routing.INGEST, routing.HOUSEKEEPING, *sorted(pools)]
    if unknown := [name for name in queue or () if name not in queues]:
        raise ConfigurationError(f"--queue {unknown[0]}: no run uses this queue; choose from {', '.join(queues)}")
    if configured.database_url is None or normalise_url(configured.database_url).get_backend_name() != "postgresql":
        raise ConfigurationError(
            "DSA110_DATABASE_URL names no PostgreSQL database: the SQLite index in the archive serves only one machine"
        )
    served, places = queue or queues, slots or capacity.fitting_runs()
    application = _tasks(configured)
    root, host = Path(configured.archive), socket.gethostname()
    Archive.create(root, configured.database_url).close()
    from celery import signals

    from dsa110_assets.cli import warm  # noqa: F401

    _start_watch(configured.home_path)  # a fork, so it must come before this process has a second thread
    beats.keep(root, host, {"queues": served, "slots": places})
    hosts.tell(root)
    signals.worker_shutting_down.connect(lambda **_: beats.end(root, host), weak=False)
    signals.worker_shutdown.connect(lambda **_: hosts.leave(root), weak=False)
    local = [routing.of_host(host, name) for name in served]
    application.worker_main(
        [
            "worker", "--loglevel=INFO", "-n", "dsa110@%h", "-Q", ",".join([*local, *served]), "-c", str(places), "--max-tasks-per-child=1",
            "--without-gossip", "--without-mingle",
        ]
    )  # fmt: skip


def _start_watch(home: Path) -> None:
    """Fork a process that ends this worker's cancelled runs. It lives as long as the worker, and ignores Ctrl-C."""
    from dsa110_assets.orchestration.running import workers

    worker = os.getpid()
    if os.fork() == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            workers.watch(home, worker)
        finally:
            os._exit(0)


def _tasks(configured: Settings) -> Any:
    """Return the Celery application of the instance's launcher, with Dagster's tasks. Raises ConfigurationError if it has none."""
    from dsa110_assets.orchestration.running import instance as instances

    with instances.open_instance(configured.dagster_home) as dagster:
        application = getattr(dagster.run_launcher, "celery", None)
    if application is None:
        raise ConfigurationError(
            f"{configured.dagster_home}/dagster.yaml names no Celery launcher: copy ops/dagster.celery.yaml there and set "
            f"{instances.REDIS_VARIABLE} (docs/many-machines.md)"
        )
    from celery import signals
    from dagster_celery import tasks
    from dagster_shared.serdes import unpack_value

    tasks.create_execute_job_task(application)
    tasks.create_resume_job_task(application)

    def claim(kwargs: Mapping[str, Any], **_: Any) -> None:
        """Record, before the run does anything, which process works on it. Interrupts act as in a foreground process."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        arguments: Any = unpack_value(next(iter(kwargs.values())))
        with instances.open_instance(configured.dagster_home) as dagster:
            run = dagster.get_run_by_id(arguments.run_id)
            if run is not None and not run.is_finished:
                instances.claim(dagster, run, configured.archive)

    signals.task_prerun.connect(claim, weak=False)
    return application
