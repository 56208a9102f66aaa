"""A platform whose services are separate processes, as systemd runs them: each can be killed, stopped and started individually."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dsa110_assets.archive import alerts
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets.cli.up import LOCATION
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets.orchestration.watching import history
from dsa110_assets_tests.live.platform import STEP_S, STOP_S, LivePlatform
from dsa110_assets_tests.tiny import SMALL_DISK


class Services:
    """Code server, daemon and portal over one archive, with further settings as environment variables; `limits` are its thresholds."""

    def __init__(self, place: Path, **settings: str) -> None:
        self.limits = place / "limits.toml"
        self.limits.write_text(SMALL_DISK.read_text())
        self.live = LivePlatform(place, **{"DSA110_THRESHOLDS": str(self.limits), **settings})
        self.live.pass_s(0.0)
        with Archive.create(self.live.root, self.live.database_url):
            pass
        open_instance(self.live.home).dispose()
        port = free_port()
        server = {"host": "127.0.0.1", "port": port, "location_name": LOCATION}
        (place / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
        module = (sys.executable, "-m")
        self.commands: dict[str, tuple[str, ...]] = {
            "code server": (*module, "dsa110_assets.cli.code_server", "--port", str(port)),
            "daemon": (*module, "dsa110_assets.orchestration.running.daemon", "--workspace", str(place / "workspace.yaml")),
            "portal": (*module, "dsa110_assets.portal", "--port", str(self.live.portal_port)),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, before: Sequence[str] = ()) -> None:
        """Start one of `commands`, optionally through a command prefix `before`."""
        with (self.live.place / f"{name}.log").open("ab") as log:
            command = [*before, *self.commands[name]]
            self.running[name] = subprocess.Popen(command, env=self.live.environment, stdout=log, stderr=log, start_new_session=True)

    def start_all(self) -> None:
        """Start all services, and return once each has given a sign of life."""
        for name in self.commands:
            self.start(name)
        self.until(lambda: {"code server", "portal"} <= self.beats().keys(), "the sensor and the portal look")
        self.until(lambda: history.heartbeat(self.live.home) is not None, "the daemon gives signs of life")

    def kill(self, name: str) -> None:
        """Kill one service."""
        self.running[name].kill()
        self.running[name].wait()

    def close(self) -> None:
        """Kill all services, including stopped ones."""
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.live.webhook.close()

    def stop(self) -> None:
        """End all services as systemd does, the code server last. Processes left after STOP_S are killed by `close`."""
        for process in reversed(list(self.running.values())):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)

    def beats(self) -> dict[str, float]:
        """The time [unix s] of the last sign of life of every service that records one in the index."""
        with Archive(self.live.root, self.live.database_url) as archive:
            return {name: at.timestamp() for name, at in alerts.beats(archive).items()}

    def until(self, condition: Callable[[], bool], what: str, within_s: float = STEP_S) -> None:
        """Wait for a condition. If it does not become true, fail with the ends of the services' logs."""
        self.live.until(condition, what, within_s)

    def delivered_s(self, what: str, since: float, kind: str = "raised") -> float:
        """Seconds from `since` [unix s] until the webhook has received a message of this kind about `what`."""

        hook = self.live.webhook

        def there() -> bool:
            new = [message for message, at in zip(hook.taken, hook.taken_at, strict=False) if at >= since]
            return any(what in message["condition"] + " " + " ".join(message["subjects"]) and message["kind"] == kind for message in new)

        self.until(there, f"{kind}: {what}; so far {hook.titles}")
        return time.time() - since
