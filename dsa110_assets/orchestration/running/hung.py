"""Runs that make no progress: ended with everything they started, tried once more, and then set aside.

Dagster's own limit is on a run as a whole, hours long, as it does not know what a run does; what it asks to end, and cannot, goes on.
Here a run is looked at every few seconds. It is hung if for `hung_after_min`

- it had no event and its processes, which are on this host, no processor time: stopped, waiting for a child or a file server that
  does not answer; or
- times the `patience` of the asset that it makes, it had no event, whatever it computes: a loop without end. What is filled in beside
  live runs may take `SLOWER` times as long.

It is asked to end through the launcher, whichever this is, so that runs of other hosts are, too; a process of this host that goes on
after `GRACE_S` is killed with all it has started, and with it go its locks. A run that somebody cancelled is ended likewise. No
process of another host is ever touched: who launched it ends it there (`workers`), within `ELSEWHERE_S`.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets import children
from dsa110_assets.archive import quarantine
from dsa110_assets.errors import DsaError, OverrunError
from dsa110_assets.orchestration.planning import requests
from dsa110_assets.orchestration.running import execute
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.instance import GRACE_S
from dsa110_assets.orchestration.specification import launchpad, spec

if TYPE_CHECKING:
    from dsa110_assets.orchestration.resources import Platform

log = logging.getLogger(__name__)
HUNG_TAG = "dsa110/hung"
"""On a run that was ended, and on the one that tries it again: why."""
LAUNCHED = (instances.LIVE, instances.BACKFILL, None)
"""Lanes of runs that have processes of their own; None: from the web page."""
ELSEWHERE_S = 2 * GRACE_S
"""From asking to reporting a run of another host, whose process cannot be seen from here."""
SLOWER = 10.0
"""Beside a live run a backfill's gets a tenth of a processor."""
UNKNOWN_PATIENCE = 8.0
"""Of steps that make no asset: backups and scans read the whole archive."""
WORKING_PART = 0.01
"""Of a processor: what waits and looks now and then whether it is over takes less."""
GAP_S = 60.0
"""If nobody looked for so long, that time counts for nobody: the machine slept, or the platform was down."""
LONGEST_REASON = 400
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATES = {"T": "is stopped (SIGSTOP)", "t": "is stopped by a debugger", "D": "waits for a disk or file server", "R": "computes"}


@dataclass(frozen=True)
class Seen:
    """A run as it was when it last went on: its newest event, and the processor time [s] of its processes, with when [unix s]."""

    event: int
    event_at_s: float
    cpu_s: float | None
    cpu_at_s: float


@dataclass(frozen=True)
class Ending:
    """A run that was asked to end: when [unix s], and why; '' if somebody cancelled it."""

    asked_s: float
    why: str


@dataclass(frozen=True)
class Watch:
    """What the last look saw, and when [unix s] it was."""

    looked_s: float = 0.0
    seen: Mapping[str, Seen] = field(default_factory=dict)
    ending: Mapping[str, Ending] = field(default_factory=dict)


def restored(told: Mapping[str, Any]) -> Watch:
    """A watch as it was kept in JSON."""
    seen, ending = told.get("seen", {}), told.get("ending", {})
    return Watch(
        told.get("looked_s", 0.0),
        {run_id: Seen(**one) for run_id, one in seen.items()},
        {run_id: Ending(**one) for run_id, one in ending.items()},
    )


def look(platform: "Platform", instance: dg.DagsterInstance, before: Watch, now_s: float) -> Watch:
    """Look at every run once: end what is hung, kill what was asked to end and goes on, and report it.

    What a command runs in its own process is left to who started it, and may stop it with Ctrl-Z.
    """
    running = {run.run_id: run for run in instances.unfinished(instance) if run.tags.get(instances.LANE_TAG) in LAUNCHED}
    ending = {run_id: one for run_id, one in before.ending.items() if not _has_ended(platform, instance, run_id, one, now_s)}
    lost_s = now_s - before.looked_s if now_s - before.looked_s > GAP_S else 0.0
    seen = {}
    for run_id, run in running.items():
        if run.status == dg.DagsterRunStatus.CANCELING and run_id not in before.ending:
            ending[run_id] = Ending(now_s, "")
        elif run.status == dg.DagsterRunStatus.STARTED and run_id not in before.ending:
            one = _see(instance, run, before.seen.get(run_id), now_s, lost_s)
            if why := _hung(platform, instance, run, one, now_s):
                log.error("run %s: %s", run_id, why)
                _ask_to_end(instance, run)
                ending[run_id] = Ending(now_s, why)
            else:
                seen[run_id] = one
    return Watch(now_s, seen, ending)


def _see(instance: dg.DagsterInstance, run: dg.DagsterRun, before: Seen | None, now_s: float, lost_s: float) -> Seen:
    """A run now: what has changed since it was seen last is of now."""
    event, pid = instances.newest_event(instance, run.run_id), instances.process_of(run)
    cpu_s = processor_s(pid) if pid else None
    if before is None:
        return Seen(event, now_s, cpu_s, now_s)
    if event != before.event or cpu_s is None or before.cpu_s is None:
        return Seen(event, now_s if event != before.event else before.event_at_s + lost_s, cpu_s, now_s)
    works = abs(cpu_s - before.cpu_s) > max(1.0, WORKING_PART * (now_s - before.cpu_at_s))
    idle_since = (cpu_s, now_s) if works else (before.cpu_s, before.cpu_at_s + lost_s)
    return Seen(event, before.event_at_s + lost_s, *idle_since)


def _hung(platform: "Platform", instance: dg.DagsterInstance, run: dg.DagsterRun, one: Seen, now_s: float) -> str:
    """Why a run is taken to be hung; '' if it is not."""
    limit_s = 60.0 * platform.settings.hung_after_min
    quiet = one.cpu_s is not None and now_s - one.cpu_at_s > limit_s
    if not quiet and now_s - one.event_at_s <= limit_s:
        return ""
    step = _step(instance, run)
    patience = spec.assets()[step].patience if step in spec.assets() else UNKNOWN_PATIENCE
    slower = SLOWER if run.tags.get(instances.LANE_TAG) == instances.BACKFILL else 1.0
    if not quiet and now_s - one.event_at_s <= limit_s * patience * slower:
        return ""
    what = f"{step or run.job_name} {run.tags.get(requests.PARTITION_TAG, '')}".strip()
    return f"{what}: no progress for {(now_s - one.event_at_s) / 60.0:.3g} min ({_doing(run)}); it is ended with all it has started"


def _step(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The step that a run is at; '' before the first."""
    begun = instances.events(instance, run.run_id, dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED)
    return (begun[-1].step_key or "") if begun else ""


def _doing(run: dg.DagsterRun) -> str:
    """What the process of a run is at, in words."""
    pid = instances.process_of(run)
    if pid is None:
        return "its process is on another host"
    with contextlib.suppress(OSError):
        state = children.process_stat(pid)[0]
        return f"its process {pid} {_STATES.get(state, 'sleeps')}"
    return "its process is gone"


def processor_s(root: int) -> float:
    """Processor time [s] that a process, what it has started and what of that has ended took."""
    total = 0
    for pid in (root, *children.descendants(root)):
        with contextlib.suppress(OSError, IndexError):
            total += sum(map(int, children.process_stat(pid)[11:15]))
    return total / _TICKS_PER_S


def _ask_to_end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Ask a run's launcher to end it, and where it cannot, the process itself if it is on this host."""
    try:
        taken = instance.run_launcher.terminate(run.run_id)
    except Exception:
        log.exception("run %s: its launcher could not be asked to end it", run.run_id)
        taken = False
    if not taken and (pid := instances.process_of(run)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _has_ended(platform: "Platform", instance: dg.DagsterInstance, run_id: str, ending: Ending, now_s: float) -> bool:
    """Whether a run that was asked to end has: after the grace its process of this host is killed. Then it is reported, once."""
    run, waited_s = instance.get_run_by_id(run_id), now_s - ending.asked_s
    if run is None:
        return True
    pid = instances.process_of(run)
    if pid is None and instances.host_of(run) and not run.is_finished and waited_s < ELSEWHERE_S:
        return False
    if pid:
        if waited_s < GRACE_S:
            return False
        if not _works_for_another(instance, run):
            children.kill_tree(pid)
    if ending.why and run.status != dg.DagsterRunStatus.SUCCESS:
        _report_hung(platform, instance, run, ending.why)
    elif not run.is_finished:
        instance.report_run_canceled(run, "The process of the cancelled run had to be killed, or is gone.")
    return True


def _works_for_another(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process of a run has taken up another one meanwhile, as those of a pool of workers do."""
    mine = run.tags[instances.LAUNCHER_TAG].rpartition("/")[0]
    others = [one for one in instances.unfinished(instance) if one.run_id != run.run_id]
    return any(one.tags.get(instances.LAUNCHER_TAG) == f"{mine}/{one.run_id}" for one in others)


def _report_hung(platform: "Platform", instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    """Fail a run that was hung. The first is tried again, by Dagster or by who asked for it; the second rests for a day, and if it is
    an observation's, the raw files are put aside: they would hang whoever comes next."""
    again, tags = _hung_before(instance, run), {HUNG_TAG: why[:LONGEST_REASON]}
    if again:
        step = _step(instance, run)
        why = f"{why}; it was so before, and is set aside"
        tags |= {"dagster/max_retries": "0", requests.ERROR_TAG: OverrunError.__name__, requests.FAILED_TAG: _request(platform, run, step)}
        partition = run.tags.get(requests.PARTITION_TAG)
        if (raw := execute.subband_files(platform, partition)) and not _is_of_trial(run):
            quarantine.quarantine(platform.archive, raw, why, partition)
    instance.add_run_tags(run.run_id, tags)
    instance.report_run_failed(run, why if again else f"{why}; it is tried once more")


def _is_of_trial(run: dg.DagsterRun) -> bool:
    steps: Any = run.run_config.get("ops") or {}
    return any(launchpad.TRIAL in (one.get("config") or {}) for one in steps.values())


def _hung_before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether this run tries one again that was hung, or another of the same request was."""
    if HUNG_TAG in run.tags:
        return True
    request = run.tags.get(requests.REQUEST_TAG)
    return request is not None and any(
        HUNG_TAG in one.tags for one in instance.get_runs(dg.RunsFilter(tags={requests.REQUEST_TAG: request}))
    )


def _request(platform: "Platform", run: dg.DagsterRun, step: str) -> str:
    """Names what a step was to make, so that it is not asked for again at once."""
    partition, otherwise = run.tags.get(requests.PARTITION_TAG), run.tags.get(requests.REQUEST_TAG, "")
    if step not in spec.assets():
        return otherwise
    asset, settings = spec.assets()[step], platform.settings
    try:
        ingredients = asset.find(platform.archive, settings, partition or "")
    except DsaError:
        return otherwise
    return otherwise if ingredients is None else asset.request(settings, partition, ingredients)
