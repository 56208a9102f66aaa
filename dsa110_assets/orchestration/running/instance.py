"""The Dagster instance: opening it from DAGSTER_HOME, preparing it on first use, and closing its orphaned runs."""

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
"""Time from asking a run's process to end until it is killed: code that computes outside Python receives a signal only when it
returns."""
BACKFILL_NICE = 10
"""Next to a live run, a backfill's run gets a tenth of a processor; by itself, all of it. Disk access is shared in the same way."""
DATABASES = (RUNS, EVENTS / "index.db", Path("schedules", "schedules.db"))


def prepare_home(home: Path | None) -> Path:
    """Return DAGSTER_HOME, created on first use with the packaged configuration (PostgreSQL when DAGSTER_PG_URL is set, workers on
    several hosts when DAGSTER_REDIS_URL is set as well).

    Raises ConfigurationError when DAGSTER_HOME is not set or cannot be written, or DAGSTER_PG_URL cannot be parsed.
    """
    if home is None:
        raise ConfigurationError(NO_HOME)
    url = os.environ.get(POSTGRES_VARIABLE, "").strip()
    if url:
        normalise_url(url, POSTGRES_VARIABLE)  # checked here, because Dagster reports a wrong URL as a traceback
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
    if (not_writable_path := not_writable(home)) is not None:
        raise ConfigurationError(
            f"DAGSTER_HOME={home}: {not_writable_path} cannot be written by this user; permit it, or name another directory"
        )
    return home


def not_writable(home: Path) -> Path | None:
    """The first path that this user may not write, of a home directory and its SQLite databases; None if all are writable."""
    database_files = [home / part for part in DATABASES if os.path.exists(home / part)]
    places = [home, *(path.parent for path in database_files), *database_files]
    return next((path for path in places if not os.access(path, os.W_OK)), None)


def open_instance(home: Path | None) -> dg.DagsterInstance:
    """Prepare a home directory and return its instance. Raises ConfigurationError if its dagster.yaml is wrong."""
    from dsa110_assets.orchestration.running.internals import CheckError

    home_directory = prepare_home(home)
    try:
        return dg.DagsterInstance.from_config(str(home_directory))
    except (YAMLError, dg.DagsterInvalidConfigError, CheckError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:300]
        message = f"{home_directory / 'dagster.yaml'} is wrong ({why}): correct it, or remove it, and the packaged one is written"
        raise ConfigurationError(message) from error


def launcher(run_id: str) -> str:
    """The value of LAUNCHER_TAG that names this process as the one that runs a run."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}/{run_id}"


def beat(launcher: str) -> str:
    """The name under which the process in a LAUNCHER_TAG value gives its sign of life."""
    return ".".join(launcher.split("/")[:3])


def claim(instance: dg.DagsterInstance, run: dg.DagsterRun, root: Path) -> None:
    """Record in a run's tags that this process runs it. From now on this process gives a sign of life in the archive at `root`."""
    beats.keep(root, beat(launcher("")))
    if run.tags.get(LAUNCHER_TAG) != launcher(run.run_id):
        instance.add_run_tags(run.run_id, {LAUNCHER_TAG: launcher(run.run_id)})


def lower_priority_of_backfill(run: dg.DagsterRun) -> None:
    """If a run belongs to a backfill, lower the priority of this process, which runs nothing else, and of its children."""
    if run.tags.get(LANE_TAG) == BACKFILL:
        os.setpriority(os.PRIO_PROCESS, 0, max(BACKFILL_NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def events(instance: dg.DagsterInstance, run_id: str, *kinds: dg.DagsterEventType) -> list[dg.EventLogEntry]:
    """A run's events of these kinds. If the run's database is damaged, the list is empty and the log says so; other runs stay readable."""
    try:
        return list(instance.all_logs(run_id, of_type=set(kinds)))
    except DatabaseError as error:
        _log_damaged(run_id, error)
        return []


def newest_event(instance: dg.DagsterInstance, run_id: str) -> int:
    """The number of a run's newest event, which grows with each event; 0 if it has none yet, or its database is damaged."""
    try:
        records = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    except DatabaseError as error:
        _log_damaged(run_id, error)
        return 0
    return records[0].storage_id if records else 0


def _log_damaged(run_id: str, error: DatabaseError) -> None:
    """Log that a run's own database is damaged. Raises the error again if the database is merely unreachable."""
    if isinstance(error, OperationalError):
        raise error
    log.error("run %s: its events cannot be read (%s); move DAGSTER_HOME/%s away", run_id, error.orig, EVENTS / f"{run_id}.db")


def unfinished(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """The runs that are queued or running, whoever requested them."""
    return instance.get_runs(filters=dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in ENDED]))


def close_orphans(instance: dg.DagsterInstance, root: Path | None = None, but: Collection[str] = ()) -> list[str]:
    """Fail the runs whose process is gone, except those in `but`: nothing else would ever end them. Returns their ids.

    A run that somebody cancelled ends as cancelled.

    The kernel knows which of this host's processes live. A process of another host counts as gone once it gives no sign of life in the
    archive at `root`, whatever became of the host. Dagster's retries start such a run again, if the platform is up; `dsa110 process`
    makes what is missing. A run that cannot be ended because its database is damaged is named in the log, and the others are ended.
    """
    closed = []
    for run in unfinished(instance):
        if run.run_id not in but and (reason := _why_gone(run, root)) is not None:
            try:
                if queue := run.tags.get(routing.QUEUE_TAG):  # its retry must not wait for a host that is gone
                    instance.add_run_tags(run.run_id, {routing.QUEUE_TAG: routing.anywhere(queue)})
                _close(instance, run, reason)
            except DatabaseError as error:
                _log_damaged(run.run_id, error)
            else:
                closed.append(run.run_id)
    return closed


def _close(instance: dg.DagsterInstance, run: dg.DagsterRun, reason: str) -> None:
    if run.status == dg.DagsterRunStatus.CANCELING:  # Dagster would retry it if it were reported as failed
        instance.report_run_canceled(run, f"The run was cancelled, and {reason}.")
    else:
        instance.report_run_failed(run, reason)


def process_of(run: dg.DagsterRun) -> int | None:
    """The process on this host that runs a run; 0 if it is gone, None if a process of another host runs it or none has claimed it."""
    host, pid, started = _claimed_by(run)
    if host != socket.gethostname():
        return None
    return int(pid) if _started(int(pid)) == started else 0


def host_of(run: dg.DagsterRun) -> str:
    """The host whose process claimed a run; '' if none has."""
    return _claimed_by(run)[0]


def _claimed_by(run: dg.DagsterRun) -> tuple[str, str, str]:
    """Host, number and start of the process that claimed a run; all empty if none did."""
    host, pid, started, run_id = (*run.tags.get(LAUNCHER_TAG, "").split("/"), "", "", "", "")[:4]
    return (host, pid, started) if run_id == run.run_id and pid.isdecimal() else ("", "", "")


def _why_gone(run: dg.DagsterRun, root: Path | None) -> str | None:
    """Why no process runs an unfinished run any more, or ever will from the queue it waits in; None if one may."""
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
    """When a process started, as '<boot>.<ticks since>', because process numbers are reused, also after a reboot.

    '' if there is no such process, or it is a zombie.
    """
    try:
        fields = children.process_stat(pid)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot}.{fields[19]}"
