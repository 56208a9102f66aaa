"""A private Redis server for tests, which can be stopped and started again without losing its contents."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsa110_assets_tests.postgres import free_port

WITHIN_S = 30.0


class RedisServer:
    """A server on loopback that stores everything below `home`."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        import redis

        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.home), "--appendonly", "yes",
             "--save", "", "--logfile", str(self.home / "log")],
        )  # fmt: skip
        deadline, pause = time.monotonic() + WITHIN_S, threading.Event()
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, (self.home / "log").read_text()
                    pause.wait(0.05)
                else:
                    return

    def stop(self) -> None:
        """Kill it: connections break, as if its machine had lost power."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. After SIGSTOP connections stay open without an answer, as if the network lost everything, until SIGCONT."""
        assert self.process is not None
        self.process.send_signal(number)


@contextmanager
def private_redis() -> Iterator[RedisServer]:
    """A new server on a free loopback port, stopped and removed at the end; skips where Redis is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on PATH (Debian: redis-server)")
    home = Path(tempfile.mkdtemp(prefix="dsa110-redis-"))
    server = RedisServer(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
