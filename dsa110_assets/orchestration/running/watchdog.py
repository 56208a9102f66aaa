"""systemd's watchdog over Dagster's daemon: systemd is notified that all is well for as long as the daemon gives signs of life.

A stopped process sends nothing, and for a daemon whose parts hang nothing is sent; systemd then ends it and starts another. The
protocol is sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names. Without NOTIFY_SOCKET, nothing is done.
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
"""How often systemd is notified within its limit."""


@contextmanager
def watched(home: Path) -> Iterator[None]:
    """Around the daemon of a Dagster home: notify systemd that it has begun, and every third of systemd's limit that it works."""
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
    """Send one line to systemd. If systemd cannot be reached, that is logged; it then acts as if nothing had been sent."""
    address = os.environ["NOTIFY_SOCKET"]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            channel.send(state.encode())
    except OSError as error:
        log.warning("systemd cannot be told %s at %s: %s", state, address, error)


def _vouch(home: Path, limit_s: float, ended: threading.Event) -> None:
    """Notify systemd that the daemon works while its oldest sign of life, or the start of this thread, is not older than the limit."""
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
