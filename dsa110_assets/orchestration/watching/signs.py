"""The signs of life of Dagster's daemon: that of its process, in the archive's index, and those of its parts, in Dagster's database.

Other machines rely on the sign of the process, because they cannot see the process itself. The lack of signs from parts that observations
wait for is also noticed within a minute, once the daemon has loaded the code; other parts sleep for up to a minute without a sign.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets import children
from dsa110_assets.archive import alerts, files
from dsa110_assets.errors import DsaError
from dsa110_assets.orchestration.watching import history, hosts
from dsa110_assets.plain_text import duration

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.thresholds import Thresholds

log = logging.getLogger(__name__)
DAEMON = "daemon"
EVERY_S = 10.0
SOON = 1 / 6
"""The fraction of the time after which the daemon's parts count as dead, from which on its process is looked for. It is not looked for
earlier, because a daemon that is being restarted is away for a moment."""
WAITED_FOR = ("SENSOR", "QUEUED_RUN_COORDINATOR")
"""The parts, by Dagster's names, without which no observation is accepted. They sleep for seconds; BACKFILL sleeps for half a minute,
SCHEDULER until the next full minute."""
LOCK = "daemon.lock"
"""The lock file in Dagster's home and, with a leading dot, in the archive: written when the daemon starts, and held for as long as it
lives (`running.daemon`)."""
LOADING = timedelta(minutes=1)
"""The time after the daemon's start in which the lack of its parts' signs means nothing, because it loads the code: 45 s were measured."""


@contextmanager
def heartbeat_given(open_archive: "Callable[[], Archive]") -> Iterator[None]:
    """Around the daemon: give a sign of life every EVERY_S while its process runs, and sign off at the end, so that it is not missed."""
    ended = threading.Event()
    thread = threading.Thread(target=_give, args=(open_archive, ended), name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(EVERY_S)


def _give(open_archive: "Callable[[], Archive]", ended: threading.Event) -> None:
    archive, ending = None, False
    while True:
        try:
            archive = archive or open_archive()
            (alerts.sign_off if ending else alerts.beat)(archive, DAEMON)
            (hosts.leave if ending else hosts.tell)(archive.root)
        except (DsaError, OSError) as error:
            log.warning("the daemon's sign of life cannot be given: %s", error)
        if ending:
            return
        ending = ended.wait(EVERY_S)


def daemon_problem(archive: "Archive", home: Path, limits: "Thresholds", now: datetime, since: datetime | None = None) -> str:
    """What is wrong with the daemon; '' if nothing is, or if it never ran here. The lack of signs of life counts from `since` on; for the
    daemon's parts it counts from LOADING after the daemon's start."""
    process_beat, parts = alerts.beats(archive).get(DAEMON), history.heartbeats(home)
    own_s, *ages_s = (0.0 if at is None else (now - max(at, since or at)).total_seconds() for at in (process_beat, *parts.values()))
    if max((own_s, *ages_s)) > limits.daemon_silent_s * SOON and (why := _dead(home / LOCK)):
        return why
    if own_s > limits.service_silent_s:
        return f"it gave no sign of life for {duration(own_s)}"
    started = max(_starts(home / LOCK, archive.root / f".{LOCK}"), default=None)
    loaded_s = (now - started - LOADING).total_seconds() if started else math.inf
    for age_s, name in sorted(zip(ages_s, parts, strict=True), reverse=True):
        if min(age_s, loaded_s) > (limits.part_silent_s if name in WAITED_FOR else limits.daemon_silent_s):
            return f"a part of it gave no sign of life for {duration(age_s)} ({name})"
    return ""


def may_be_missed_soon(archive: "Archive", now: datetime) -> bool:
    """Whether the daemon's process has missed a sign of life. Services that act when the daemon asks them to are then silent, too."""
    process_beat = alerts.beats(archive).get(DAEMON)
    return process_beat is not None and (now - process_beat).total_seconds() > 2 * EVERY_S


def _starts(*locks: Path) -> Iterator[datetime]:
    """When a daemon took each of these locks, for those that exist."""
    for lock in locks:
        with suppress(FileNotFoundError):
            yield datetime.fromtimestamp(lock.stat().st_mtime, UTC)


def _dead(lock: Path) -> str:
    """Why the process that a daemon's lock names cannot be at work, as far as can be seen from this host; '' if it can.

    The lock itself is tried only if there is no such process, which may be in another container with the same host name.
    """
    try:
        _, pid, _, host = (*lock.read_text(errors="replace").split(), "", "", "", "")[:4]
    except OSError:
        return ""
    if host != os.uname().nodename or not pid.isdecimal():
        return ""
    try:
        state = children.process_stat(pid)[0]
    except OSError:
        state = "Z"
    if state in "Tt":
        return "its process is stopped"
    if state not in "ZX" or (descriptor := files.take_lock(lock, create=False)) is None:
        return ""
    os.close(descriptor)
    return "its process has ended"
