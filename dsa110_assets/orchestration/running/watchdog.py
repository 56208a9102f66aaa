"""systemd's watchdog over Dagster's daemon: it is told that all is well for as long as the daemon gives signs of life.

A process that is stopped tells nothing, and one whose parts hang is not vouched for; systemd then ends it and starts another. The
protocol is sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names. Without that, nothing is done.
"""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from dsa110_assets.orchestration.watching import history

log = logging.getLogger(__name__)
TIMES = 3
"""How often within systemd's limit it is told."""


@contextmanager
def watched(home: Path) -> Iterator[None]:
    """Around the daemon of a Dagster home: systemd is told that it has begun, and every third of its limit that it works."""
    if "NOTIFY_SOCKET" not in os.environ:
        yield
        return
    tell("READY=1")
    limit_s, ended = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6, threading.Event()
    if limit_s > 0:
        threading.Thread(target=_vouch, args=(home, limit_s, ended), name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        tell("STOPPING=1")


def tell(state: str) -> None:
    """Send one line to systemd. That it cannot be reached is logged: systemd then acts as if nothing had been told."""
    address = os.environ["NOTIFY_SOCKET"]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            channel.send(state.encode())
    except OSError as error:
        log.warning("systemd cannot be told %s at %s: %s", state, address, error)


def _vouch(home: Path, limit_s: float, ended: threading.Event) -> None:
    """Tell systemd that the daemon works while its oldest sign of life, or our own beginning, is not older than the limit."""
    began = datetime.now(UTC)
    while True:
        try:
            beat = history.heartbeat(home)
        except (OSError, SQLAlchemyError) as error:
            log.warning("the daemon's signs of life cannot be read: %s", error)
        else:
            if (datetime.now(UTC) - max(beat or began, began)).total_seconds() < limit_s:
                tell("WATCHDOG=1")
        if ended.wait(limit_s / TIMES):
            return
