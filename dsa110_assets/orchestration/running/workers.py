"""How runs made by Celery workers are ended: the request is recorded in Dagster's database, and carried out on the worker's own host.

Dagster's launcher has Celery send SIGTERM to the process and records nothing: the run counts as lost and is begun again, its child
processes live on, a stopped process stays for ever, and a request is lost if the broker that should pass it on is away. Here a
cancellation is written to the database, and a process beside each worker (`watch`) ends those runs of its host that the database has as
cancelled, abandoned or ended.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher

from dsa110_assets import children
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.instance import GRACE_S

log = logging.getLogger(__name__)
LOOK_S = 5.0
"""Time between two looks at a host's runs, and so between two interrupts. They are repeated because Python drops an interrupt that comes
while it collects garbage."""
BEGUN = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


class WorkersLauncher(CeleryRunLauncher):
    """The launcher that dagster.yaml names: Dagster's own, except for how a run is ended."""

    def terminate(self, run_id: str) -> bool:
        """Record that a run is to end; False if it has ended already. A run that no worker has begun ends at once, and is never begun."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if not instances.host_of(run):
            self._instance.report_run_canceled(run, "It was cancelled before a worker began it.")
        return True


def watch(home: Path, worker: int) -> None:
    """Look at this host's runs every LOOK_S while the worker, this process's parent, lives."""
    pause = threading.Event()
    with instances.open_instance(home) as dagster:
        to_end: Mapping[str, float | None] = {}
        while os.getppid() == worker:
            try:
                to_end = look(dagster, worker, to_end, time.monotonic())
            except Exception:
                # nothing else on this host ends runs, so an unreachable database must not end this loop
                log.exception("this host's runs cannot be looked at; it is tried again in %.0f s", LOOK_S)
            pause.wait(LOOK_S)


def look(dagster: dg.DagsterInstance, worker: int, before: Mapping[str, float | None], now_s: float) -> dict[str, float | None]:
    """End those of a worker's runs that are to end. Returns the runs whose processes live, each with the time [s] since which it is to
    end, or None if it is not."""
    begun, own = {run.run_id: run for run in dagster.get_runs(dg.RunsFilter(statuses=BEGUN))}, children.descendants(worker)
    living: dict[str, float | None] = {}
    for run_id in begun.keys() | before.keys():
        run = begun.get(run_id) or dagster.get_run_by_id(run_id)
        pid = instances.process_of(run) if run is not None else None
        if run is None or pid is None or (pid and pid not in own):
            continue
        cancelled = run.status == dg.DagsterRunStatus.CANCELING
        if pid and not (cancelled or run.is_finished):
            living[run_id] = None
        elif pid:
            since_s = before.get(run_id)
            living[run_id] = now_s if since_s is None else since_s
            # the process of a run that has ended gets until the next look to end by itself
            _end(pid, None if since_s is None else now_s - since_s, at_once=cancelled)
        elif cancelled:
            dagster.report_run_canceled(run, "The process of the cancelled run has ended.")
    return living


def _end(pid: int, waited_s: float | None, *, at_once: bool) -> None:
    """Interrupt a process, again at every look, and kill it with everything it has started once the grace period is over."""
    if waited_s is not None and waited_s >= GRACE_S:
        children.kill_tree(pid)
    elif at_once or waited_s is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
