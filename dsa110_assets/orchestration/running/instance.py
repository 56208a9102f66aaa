"""The Dagster instance: opened from DAGSTER_HOME, made ready on first use, its orphaned runs closed."""

import logging
import os
import socket
from collections.abc import Collection, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DatabaseError, OperationalError
from yaml import YAMLError

from dsa110_assets import children
from dsa110_assets.archive import beats
from dsa110_assets.archive.index import normalise_url
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration import NO_HOME
from dsa110_assets.orchestration.running import routing
from dsa110_assets.orchestration.watching.history import EVENTS, POSTGRES_VARIABLE, RUNS

log = logging.getLogger(__name__)
REDIS_VARIABLE = "DAGSTER_REDIS_URL"
"""Names the broker of workers on several hosts, as dagster.celery.yaml reads it."""
LAUNCHER_TAG = "dsa110/launcher"
"""Names the process that runs a run: '<host>/<pid>/<its start>/<run>'; a retry inherits its parent's tags."""
LANE_TAG = "dsa110/lane"
"""On a run: `live`, `backfill` or `process`, which share the machine as dagster.yaml says."""
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
LIVE, BACKFILL, PROCESS = "live", "backfill", "process"
GRACE_S = 30.0
"""From asking a run's process to end to killing it: what computes outside Python takes a signal only when it comes back."""
BACKFILL_NICE = 10
"""Beside a live run, a backfill's gets a tenth of a processor; alone, all of it. Reading and writing follow."""
DATABASES = (RUNS, EVENTS / "index.db", Path("schedules", "schedules.db"))


def prepare_home(home: Path | None) -> Path:
    """DAGSTER_HOME, made on first use with the packaged configuration (PostgreSQL when DAGSTER_PG_URL is set, workers on
    several hosts when DAGSTER_REDIS_URL is, too).

    Raises ConfigurationError when it is not set or cannot be written, or DAGSTER_PG_URL cannot be read.
    """
    if home is None:
        raise ConfigurationError(NO_HOME)
    url = os.environ.get(POSTGRES_VARIABLE, "").strip()
    if url:
        normalise_url(url, POSTGRES_VARIABLE)  # Dagster's own word on a wrong one is a traceback
    workers = bool(os.environ.get(REDIS_VARIABLE, "").strip())
    if workers and not url:
        raise ConfigurationError(
            f"{REDIS_VARIABLE} is set and {POSTGRES_VARIABLE} is not: workers on several hosts share a PostgreSQL database"
        )
    if workers and find_spec("dagster_celery") is None:
        raise ConfigurationError(f'{REDIS_VARIABLE} is set and Dagster\'s Celery is not installed: pip install "dsa110-assets[celery]"')
    name = "dagster.celery.yaml" if workers else "dagster.postgres.yaml" if url else "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            (home / "dagster.yaml").write_bytes(files("dsa110_assets.orchestration").joinpath(name).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"DAGSTER_HOME={home} cannot be written ({error.strerror}); name another directory") from error
    if (refused := not_writable(home)) is not None:
        raise ConfigurationError(f"DAGSTER_HOME={home}: {refused} cannot be written by this user; let it, or name another directory")
    return home


def not_writable(home: Path) -> Path | None:
    """The first of a home directory and its SQLite databases that this user may not write; None if there is none."""
    files_there = [home / part for part in DATABASES if os.path.exists(home / part)]
    places = [home, *(path.parent for path in files_there), *files_there]
    return next((path for path in places if not os.access(path, os.W_OK)), None)


def open_instance(home: Path | None) -> dg.DagsterInstance:
    """The instance of a home directory, which is made ready first. Raises ConfigurationError if its dagster.yaml is wrong."""
    from dsa110_assets.orchestration.running.internals import CheckError

    prepared = prepare_home(home)
    try:
        return dg.DagsterInstance.from_config(str(prepared))
    except (YAMLError, dg.DagsterInvalidConfigError, CheckError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:300]
        message = f"{prepared / 'dagster.yaml'} is wrong ({why}): correct it, or remove it, and the packaged one is written"
        raise ConfigurationError(message) from error


def launcher(run_id: str) -> str:
    """This process as the one that runs a run, as LAUNCHER_TAG has it."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}/{run_id}"


def beat(launcher: str) -> str:
    """The name under which the process of a LAUNCHER_TAG gives its sign of life."""
    return ".".join(launcher.split("/")[:3])


def claim(instance: dg.DagsterInstance, run: dg.DagsterRun, root: Path) -> None:
    """Write into a run's tags that this process runs it, which from now on gives a sign of life in the archive at `root`."""
    beats.keep(root, beat(launcher("")))
    if run.tags.get(LAUNCHER_TAG) != launcher(run.run_id):
        instance.add_run_tags(run.run_id, {LAUNCHER_TAG: launcher(run.run_id)})


def lower_priority_of_backfill(run: dg.DagsterRun) -> None:
    """If a run is of a backfill, lower the priority of this process, which runs it and nothing else, and of its children."""
    if run.tags.get(LANE_TAG) == BACKFILL:
        os.setpriority(os.PRIO_PROCESS, 0, max(BACKFILL_NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def events(instance: dg.DagsterInstance, run_id: str, *kinds: dg.DagsterEventType) -> list[dg.EventLogEntry]:
    """A run's events of these kinds. Of one whose database is damaged none, and the log says so: it hides no other run."""
    try:
        return list(instance.all_logs(run_id, of_type=set(kinds)))
    except DatabaseError as error:
        _log_damaged(run_id, error)
        return []


def newest_event(instance: dg.DagsterInstance, run_id: str) -> int:
    """The number of a run's newest event, which grows with each; 0 while it has none, or its database is damaged."""
    try:
        records = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    except DatabaseError as error:
        _log_damaged(run_id, error)
        return 0
    return records[0].storage_id if records else 0


def _log_damaged(run_id: str, error: DatabaseError) -> None:
    """Tell of a run whose own database is damaged. Raises the error again if the database is merely away."""
    if isinstance(error, OperationalError):
        raise error
    log.error("run %s: its events cannot be read (%s); move DAGSTER_HOME/%s away", run_id, error.orig, EVENTS / f"{run_id}.db")


def unfinished(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """The runs that are queued or running, whoever asked for them."""
    return instance.get_runs(filters=dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in ENDED]))


def close_orphans(instance: dg.DagsterInstance, root: Path | None = None, but: Collection[str] = ()) -> list[str]:
    """Fail the runs whose process is gone, `but` these: nobody else would ever end them. Returns their ids.

    One that somebody cancelled ends as such.

    Of this host's processes the kernel tells; another host's is gone once it gives no sign of life in the archive at `root`, whatever
    became of the host. Dagster's retries start such a run again, where the platform is up; `dsa110 process` makes what is missing.
    One that cannot be ended, for its database is damaged, is named in the log, and the others are ended.
    """
    closed = []
    for run in unfinished(instance):
        if run.run_id not in but and (reason := _why_gone(run, root)) is not None:
            try:
                if queue := run.tags.get(routing.QUEUE_TAG):  # its retry must not wait for the host that is gone
                    instance.add_run_tags(run.run_id, {routing.QUEUE_TAG: routing.anywhere(queue)})
                _close(instance, run, reason)
            except DatabaseError as error:
                _log_damaged(run.run_id, error)
            else:
                closed.append(run.run_id)
    return closed


def _close(instance: dg.DagsterInstance, run: dg.DagsterRun, reason: str) -> None:
    if run.status == dg.DagsterRunStatus.CANCELING:  # as a failure it would be tried again
        instance.report_run_canceled(run, f"The run was cancelled, and {reason}.")
    else:
        instance.report_run_failed(run, reason)


def process_of(run: dg.DagsterRun) -> int | None:
    """The process on this host that runs a run; 0 if it is gone, None if another host's has it, or none has claimed it."""
    host, pid, started = _claimed_by(run)
    if host != socket.gethostname():
        return None
    return int(pid) if _started(int(pid)) == started else 0


def host_of(run: dg.DagsterRun) -> str:
    """The host whose process claimed a run; '' if none has."""
    return _claimed_by(run)[0]


def _claimed_by(run: dg.DagsterRun) -> tuple[str, str, str]:
    """Host, process and its start of who claimed a run; empty where nobody did."""
    host, pid, started, run_id = (*run.tags.get(LAUNCHER_TAG, "").split("/"), "", "", "", "")[:4]
    return (host, pid, started) if run_id == run.run_id and pid.isdecimal() else ("", "", "")


def _why_gone(run: dg.DagsterRun, root: Path | None) -> str | None:
    """Why nobody runs an unfinished run any more, or ever will where it waits; None if somebody may."""
    if (process := process_of(run)) is not None:
        return "its process was killed" if process == 0 else None
    host, *_ = _claimed_by(run)
    if root is None:
        return None
    if host:
        lost = beats.lost(root, beat(run.tags[LAUNCHER_TAG]))
        return f"its process on {host} has given no sign of life for {beats.LOST_S:.0f} s" if lost else None
    waits_for = routing.host_of(run.tags.get(routing.QUEUE_TAG, "")) if run.status == dg.DagsterRunStatus.STARTING else None
    if waits_for is not None and beats.lost(root, waits_for):
        return f"{waits_for}, whose queue it waits in, has given no sign of life for {beats.LOST_S:.0f} s"
    return None


def _started(pid: int) -> str:
    """When a process started, as '<boot>.<ticks since>': process numbers are used again, also after a reboot.

    '' if there is none, or none but a zombie.
    """
    try:
        fields = children.process_stat(pid)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot}.{fields[19]}"
