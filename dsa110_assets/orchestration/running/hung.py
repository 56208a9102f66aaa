"""Runs that make no progress: they are ended with everything they started, tried once more, and then set aside.

Dagster's own limit applies to a run as a whole and is hours long, because Dagster does not know what a run does; a run that ignores its
request to end goes on. This module looks at every run every few seconds. A run is hung if

- for `hung_after_min` it had no event and its processes, which are on this host, used no processor time: they are stopped, or wait for a
  child or a file server that does not answer; or
- for `hung_after_min` times the `patience` of the asset that it makes, it had no event, although it computes: an endless loop. A backfill
  beside live runs may take `SLOWER` times as long.

A hung run is asked to end through its launcher, whichever kind that is, so runs of other hosts are ended too. A process of this host
that goes on after `GRACE_S` is killed with everything it has started, which releases its locks. A run that somebody cancelled is ended
in the same way. No process of another host is ever touched: its launcher ends it there (`workers`), within `ELSEWHERE_S`.
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
"""Set on a run that was ended as hung, and on its retry: the reason."""
LAUNCHED = (instances.LIVE, instances.BACKFILL, None)
"""Lanes whose runs have separate processes; None: runs launched from the web page."""
ELSEWHERE_S = 2 * GRACE_S
"""Time from asking a run of another host to end until it is reported; its process cannot be seen from here."""
SLOWER = 10.0
"""Next to a live run, a backfill's run gets a tenth of a processor."""
UNKNOWN_PATIENCE = 8.0
"""The patience for steps that make no asset: backups and scans read the whole archive."""
WORKING_PART = 0.01
"""The fraction of a processor above which a run counts as working: a process that only waits and polls takes less."""
GAP_S = 60.0
"""A gap this long between two looks counts against no run: the machine slept, or the platform was down."""
LONGEST_REASON = 400
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATES = {"T": "is stopped (SIGSTOP)", "t": "is stopped by a debugger", "D": "waits for a disk or file server", "R": "computes"}


@dataclass(frozen=True)
class Seen:
    """A run when it last made progress: its newest event, and the processor time [s] of its processes, each with its time [unix s]."""

    event: int
    event_at_s: float
    cpu_s: float | None
    cpu_at_s: float


@dataclass(frozen=True)
class Ending:
    """A run that was asked to end: when [unix s], and why ('' if somebody cancelled it)."""

    asked_s: float
    why: str


@dataclass(frozen=True)
class Watch:
    """What the last look saw, and its time [unix s]."""

    looked_s: float = 0.0
    seen: Mapping[str, Seen] = field(default_factory=dict)
    ending: Mapping[str, Ending] = field(default_factory=dict)


def restored(stored: Mapping[str, Any]) -> Watch:
    """Return a watch from the form in which it was kept in JSON."""
    seen, ending = stored.get("seen", {}), stored.get("ending", {})
    return Watch(
        stored.get("looked_s", 0.0),
        {run_id: Seen(**one) for run_id, one in seen.items()},
        {run_id: Ending(**one) for run_id, one in ending.items()},
    )


def look(platform: "Platform", instance: dg.DagsterInstance, before: Watch, now_s: float) -> Watch:
    """Look at every run once: ask hung runs to end, kill those that go on after being asked, and report them.

    A run that a command makes in its own process is left to the person who started the command, who may stop it with Ctrl-Z.
    """
    running = {run.run_id: run for run in instances.unfinished(instance) if run.tags.get(instances.LANE_TAG) in LAUNCHED}
    ending = {run_id: record for run_id, record in before.ending.items() if not _has_ended(platform, instance, run_id, record, now_s)}
    lost_s = now_s - before.looked_s if now_s - before.looked_s > GAP_S else 0.0
    seen = {}
    for run_id, run in running.items():
        if run.status == dg.DagsterRunStatus.CANCELING and run_id not in before.ending:
            ending[run_id] = Ending(now_s, "")
        elif run.status == dg.DagsterRunStatus.STARTED and run_id not in before.ending:
            record = _see(instance, run, before.seen.get(run_id), now_s, lost_s)
            if why := _hung(platform, instance, run, record, now_s):
                log.error("run %s: %s", run_id, why)
                _ask_to_end(instance, run)
                ending[run_id] = Ending(now_s, why)
            else:
                seen[run_id] = record
    return Watch(now_s, seen, ending)


def _see(instance: dg.DagsterInstance, run: dg.DagsterRun, before: Seen | None, now_s: float, lost_s: float) -> Seen:
    """A run as it is now: what has changed since `before` gets the time `now_s`."""
    event, pid = instances.newest_event(instance, run.run_id), instances.process_of(run)
    cpu_s = processor_s(pid) if pid else None
    if before is None:
        return Seen(event, now_s, cpu_s, now_s)
    if event != before.event or cpu_s is None or before.cpu_s is None:
        return Seen(event, now_s if event != before.event else before.event_at_s + lost_s, cpu_s, now_s)
    works = abs(cpu_s - before.cpu_s) > max(1.0, WORKING_PART * (now_s - before.cpu_at_s))
    idle_since = (cpu_s, now_s) if works else (before.cpu_s, before.cpu_at_s + lost_s)
    return Seen(event, before.event_at_s + lost_s, *idle_since)


def _hung(platform: "Platform", instance: dg.DagsterInstance, run: dg.DagsterRun, seen: Seen, now_s: float) -> str:
    """Why a run counts as hung; '' if it does not."""
    limit_s = 60.0 * platform.settings.hung_after_min
    quiet = seen.cpu_s is not None and now_s - seen.cpu_at_s > limit_s
    if not quiet and now_s - seen.event_at_s <= limit_s:
        return ""
    step = _step(instance, run)
    patience = spec.assets()[step].patience if step in spec.assets() else UNKNOWN_PATIENCE
    slower = SLOWER if run.tags.get(instances.LANE_TAG) == instances.BACKFILL else 1.0
    if not quiet and now_s - seen.event_at_s <= limit_s * patience * slower:
        return ""
    subject = f"{step or run.job_name} {run.tags.get(requests.PARTITION_TAG, '')}".strip()
    return f"{subject}: no progress for {(now_s - seen.event_at_s) / 60.0:.3g} min ({_doing(run)}); it is ended with all it has started"


def _step(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The step that a run is in; '' before the first."""
    begun = instances.events(instance, run.run_id, dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED)
    return (begun[-1].step_key or "") if begun else ""


def _doing(run: dg.DagsterRun) -> str:
    """What the process of a run is doing, in words."""
    pid = instances.process_of(run)
    if pid is None:
        return "its process is on another host"
    with contextlib.suppress(OSError):
        state = children.process_stat(pid)[0]
        return f"its process {pid} {_STATES.get(state, 'sleeps')}"
    return "its process is gone"


def processor_s(root: int) -> float:
    """Processor time [s] used by a process and its descendants, including those that have ended."""
    total = 0
    for pid in (root, *children.descendants(root)):
        with contextlib.suppress(OSError, IndexError):
            total += sum(map(int, children.process_stat(pid)[11:15]))
    return total / _TICKS_PER_S


def _ask_to_end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Ask a run's launcher to end it. If the launcher cannot, signal the process itself, if it is on this host."""
    try:
        accepted = instance.run_launcher.terminate(run.run_id)
    except Exception:
        log.exception("run %s: its launcher could not be asked to end it", run.run_id)
        accepted = False
    if not accepted and (pid := instances.process_of(run)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _has_ended(platform: "Platform", instance: dg.DagsterInstance, run_id: str, ending: Ending, now_s: float) -> bool:
    """Whether a run that was asked to end has ended. Kills its process on this host after the grace period, and then reports it, once."""
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
    """Whether the process of a run has meanwhile begun another run, as the processes of a worker pool do."""
    process = run.tags[instances.LAUNCHER_TAG].rpartition("/")[0]
    others = [one for one in instances.unfinished(instance) if one.run_id != run.run_id]
    return any(one.tags.get(instances.LAUNCHER_TAG) == f"{process}/{one.run_id}" for one in others)


def _report_hung(platform: "Platform", instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    """Fail a run that was hung. The first time it is tried again, by Dagster or by whatever requested it. The second time it rests for a
    day, and if it is an observation's run, the raw files are quarantined: they would hang the next run too."""
    hung_before, tags = _hung_before(instance, run), {HUNG_TAG: why[:LONGEST_REASON]}
    if hung_before:
        step = _step(instance, run)
        why = f"{why}; it was hung before too, and is set aside"
        tags |= {"dagster/max_retries": "0", requests.ERROR_TAG: OverrunError.__name__, requests.FAILED_TAG: _request(platform, run, step)}
        partition = run.tags.get(requests.PARTITION_TAG)
        if (raw := execute.subband_files(platform, partition)) and not _is_of_trial(run):
            quarantine.quarantine(platform.archive, raw, why, partition)
    instance.add_run_tags(run.run_id, tags)
    instance.report_run_failed(run, why if hung_before else f"{why}; it is tried once more")


def _is_of_trial(run: dg.DagsterRun) -> bool:
    steps: Any = run.run_config.get("ops") or {}
    return any(launchpad.TRIAL in (one.get("config") or {}) for one in steps.values())


def _hung_before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether this run is the retry of a hung run, or another run of the same request was hung."""
    if HUNG_TAG in run.tags:
        return True
    request = run.tags.get(requests.REQUEST_TAG)
    return request is not None and any(
        HUNG_TAG in one.tags for one in instance.get_runs(dg.RunsFilter(tags={requests.REQUEST_TAG: request}))
    )


def _request(platform: "Platform", run: dg.DagsterRun, step: str) -> str:
    """The request that names what a step was to make, so that it is not requested again at once."""
    partition, fallback = run.tags.get(requests.PARTITION_TAG), run.tags.get(requests.REQUEST_TAG, "")
    if step not in spec.assets():
        return fallback
    asset, settings = spec.assets()[step], platform.settings
    try:
        ingredients = asset.find(platform.archive, settings, partition or "")
    except DsaError:
        return fallback
    return fallback if ingredients is None else asset.request(settings, partition, ingredients)
