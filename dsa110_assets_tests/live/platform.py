"""A platform as an operator runs it: `dsa110 up` in separate processes, with an inbox, a webhook and a movable clock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets.errors import DsaError
from dsa110_assets_tests.tiny import SMALL_DISK
from dsa110_assets_tests.webhook import Webhook

MAIN = "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"
CLOCK = Path(__file__).parent / "clock"
REPOSITORY = Path(__file__).parents[2]
POLL_S = 0.3
START_S, STOP_S, STEP_S = 240.0, 90.0, 240.0
"""Generous, because the machine may be busy; these times are reached only if something is wrong."""


class LivePlatform:
    """`dsa110 up` over an inbox and an archive below `place`, with further settings as environment variables."""

    def __init__(self, place: Path, **settings: str) -> None:
        self.place, self.webhook = place, Webhook()
        self.inbox, self.home = place / "inbox", place / "home"
        self.root, self.database_url = Path(settings.get("DSA110_ARCHIVE", place / "archive")), settings.get("DSA110_DATABASE_URL")
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.port, self.portal_port = free_port(), free_port()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DSA110_", "DAGSTER"))}
        path = os.pathsep.join([str(CLOCK), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {
            **inherited, "PYTHONPATH": path, "LIVE_TEST_CLOCK": str(place / "clock"), "DSA110_INBOX": str(self.inbox),
            "DSA110_ARCHIVE": str(self.root), "DAGSTER_HOME": str(self.home),
            "DSA110_ALERT_CHANNELS": json.dumps({"test": {"url": self.webhook.url, "severity": "info"}}),
            "DSA110_THRESHOLDS": str(SMALL_DISK), **settings,
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start everything, and return once the portal, which starts last, answers."""
        log = (self.place / "up.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "up", "--port", str(self.port), "--portal-port", str(self.portal_port)],
            env=self.environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        log.close()
        self.until(self._answers, "the portal answers", START_S)

    def stop(self) -> None:
        """Send Ctrl-C, as an operator would; the platform must end by itself."""
        self.webhook.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            try:
                assert self.process.wait(STOP_S) == 0
            finally:
                self.process.kill()

    def clock(self, moment: str) -> None:
        """Set the schedule's clock to this UTC time, from which it runs on."""
        self._set_ahead(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() - time.time())

    def pass_s(self, seconds: float) -> None:
        """Move the schedule's clock forward; it starts at the machine's time."""
        clock = self.place / "clock"
        self._set_ahead((float(clock.read_text()) if clock.exists() else 0.0) + seconds)

    def _set_ahead(self, ahead_s: float) -> None:
        new = self.place / "clock.new"
        new.write_text(str(ahead_s))
        new.replace(self.place / "clock")

    def drop(self, scene: Path, names: Iterable[str]) -> None:
        """Put files into the inbox as the correlator does: under another name while they are written."""
        for name in names:
            writing = self.inbox / name.replace(".hdf5", "_incomplete.hdf5")
            shutil.copyfile(scene / name, writing)
            writing.rename(self.inbox / name)

    def until(self, condition: Callable[[], Any], what: str, within_s: float = STEP_S) -> None:
        """Wait for a condition of the running platform. If it does not become true, fail with the ends of the logs."""
        deadline, pause = time.monotonic() + within_s, threading.Event()
        while not condition():
            dead = self.process is not None and self.process.poll() is not None
            if dead or time.monotonic() > deadline:
                pytest.fail(f"not in {within_s:.0f} s: {what}\n{self.recent_logs()}")
            pause.wait(POLL_S)

    def made(self, asset: str, *partitions: str | None) -> bool:
        """Whether the archive has these partitions of an asset."""
        try:
            with Archive(self.root, self.database_url) as archive:
                return all(archive.current(asset, key) for key in partitions)
        except DsaError:
            return False  # the archive is made when the platform starts

    def instance(self) -> dg.DagsterInstance:
        """The platform's Dagster instance, opened beside it."""
        return dg.DagsterInstance.from_config(str(self.home))

    def idle(self) -> bool:
        """Whether no run is queued or running."""
        with self.instance() as instance:
            return all(run.is_finished for run in instance.get_runs())

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `dsa110` command of the operator, with the platform's settings."""
        return subprocess.run(
            [sys.executable, "-c", MAIN, *arguments], env=self.environment, capture_output=True, text=True, timeout=STEP_S
        )  # fmt: skip

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The web server's answer to a query, sent as its pages send it."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/graphql", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = json.load(answer)
        assert "errors" not in content, content
        data: dict[str, Any] = content["data"]
        return data

    def recent_logs(self) -> str:
        """The last lines of every service's log."""
        logs = [*sorted(self.place.glob("*.log")), *sorted((self.home / "service-logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]) for log in logs if log.exists())

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.portal_port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
