"""A platform whose services are processes of their own, as systemd runs them: each can be killed, stopped and started by itself."""

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
        """Start one of `commands`, by way of a command `before` it if there is one."""
        with (self.live.place / f"{name}.log").open("ab") as log:
            command = [*before, *self.commands[name]]
            self.running[name] = subprocess.Popen(command, env=self.live.environment, stdout=log, stderr=log, start_new_session=True)

    def start_all(self) -> None:
        """Start every one, and return once all have looked at the platform."""
        for name in self.commands:
            self.start(name)
        self.until(lambda: {"code server", "portal"} <= self.beats().keys(), "the sensor and the portal look")
        self.until(lambda: history.heartbeat(self.live.home) is not None, "the daemon gives signs of life")

    def kill(self, name: str) -> None:
        """End one at once."""
        self.running[name].kill()
        self.running[name].wait()

    def close(self) -> None:
        """End all of them, also those that are stopped."""
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.live.webhook.close()

    def stop(self) -> None:
        """End all of them as systemd does, the code server last; whoever is left after STOP_S is ended by `close`."""
        for process in reversed(list(self.running.values())):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)

    def beats(self) -> dict[str, float]:
        """When each that gives signs of life in the index last gave one [unix s]."""
        with Archive(self.live.root, self.live.database_url) as archive:
            return {name: at.timestamp() for name, at in alerts.beats(archive).items()}

    def until(self, condition: Callable[[], bool], what: str, within_s: float = STEP_S) -> None:
        """Await a condition; fails with what the services' logs end with."""
        self.live.until(condition, what, within_s)

    def delivered_s(self, what: str, since: float, kind: str = "raised") -> float:
        """Seconds from a moment until the webhook has such a message."""

        hook = self.live.webhook

        def there() -> bool:
            new = [one for one, at in zip(hook.taken, hook.taken_at, strict=False) if at >= since]
            return any(what in one["condition"] + " " + " ".join(one["subjects"]) and one["kind"] == kind for one in new)

        self.until(there, f"{kind}: {what}; so far {hook.titles}")
        return time.time() - since
