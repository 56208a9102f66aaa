"""From cause to delivery, with the services as systemd runs them, each by itself: what is critical is delivered within a minute."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dsa110_assets.archive import alerts
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets.cli.up import LOCATION
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets.orchestration.watching import history
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.live.platform import LivePlatform
from dsa110_assets_tests.tiny import SMALL_DISK

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.row(44)]
CRITICAL_S = 60.0
BEATING = """
import sys, time
from pathlib import Path
from dsa110_assets.archive import alerts
from dsa110_assets.archive.store import Archive
archive = Archive(Path(sys.argv[1]))
while True:
    alerts.beat(archive, "worker a")
    time.sleep(1)
"""


class Services:
    """Code server, daemon and portal, each a process of its own, over one archive."""

    def __init__(self, place: Path) -> None:
        self.limits = place / "limits.toml"
        self.limits.write_text(SMALL_DISK.read_text())
        self.live = LivePlatform(place, DSA110_THRESHOLDS=str(self.limits))
        self.live.clock(datetime.now(UTC).isoformat(timespec="seconds")[:19])
        with Archive.create(self.live.root):
            pass
        open_instance(self.live.home).dispose()
        port = free_port()
        server = {"host": "127.0.0.1", "port": port, "location_name": LOCATION}
        (place / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
        self.commands = {
            "code server": ("dsa110_assets.cli.code_server", "--port", str(port)),
            "daemon": ("dsa110_assets.orchestration.running.daemon", "--workspace", str(place / "workspace.yaml")),
            "portal": ("dsa110_assets.portal", "--port", str(self.live.portal_port)),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with (self.live.place / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", *self.commands[name]]
            self.running[name] = subprocess.Popen(command, env=self.live.environment, stdout=log, stderr=log, start_new_session=True)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def close(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.live.webhook.close()

    def beats(self) -> dict[str, float]:
        with Archive(self.live.root) as archive:
            return {name: at.timestamp() for name, at in alerts.beats(archive).items()}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.live.until(condition, what)

    def delivered_s(self, what: str, since: float, kind: str = "raised") -> float:
        """Seconds from a moment until the webhook has such a message."""

        def there() -> bool:
            return any(what in m["condition"] + " " + " ".join(m["subjects"]) and m["kind"] == kind for m in self.live.webhook.taken)

        self.until(there, f"{kind}: {what}; so far {self.live.webhook.titles}")
        return time.time() - since


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    made = Services(tmp_path_factory.mktemp("services"))
    try:
        for name in made.commands:
            made.start(name)
        made.until(lambda: {"code server", "portal"} <= made.beats().keys(), "the sensor and the portal look")
        made.until(lambda: history.heartbeat(made.live.home) is not None, "the daemon gives signs of life")
        yield made
    finally:
        made.close()


def measured(services: Services, what: str, name: str, cause: Callable[[], object], critical: bool = True) -> None:
    """Bring it about, and await that it is told."""
    since = time.time()
    cause()
    seconds = services.delivered_s(what, since)
    record_figure(44, f"seconds from cause to delivery, {name}", round(seconds, 1))
    print(f"{name}: {seconds:.1f} s")
    assert not critical or seconds < CRITICAL_S


def test_what_goes_wrong_is_delivered_in_time(services: Services) -> None:
    live, limits = services.live, services.limits
    good = limits.read_text()

    measured(services, "thresholds", "a typo in the thresholds", lambda: limits.write_text("queue_warn = 0\n"))
    limits.write_text(good)
    services.delivered_s("thresholds", time.time(), "resolved")
    measured(
        services,
        "disk archive",
        "the disk is full",
        lambda: limits.write_text(f"{good}disk_warn_gb = 1e7\n".replace("disk_warn_gb = 2\n", "")),
    )
    limits.write_text(good)
    worker = subprocess.Popen([sys.executable, "-c", BEATING, str(live.root)], env=live.environment)
    services.until(lambda: "worker a" in services.beats(), "a worker gives signs of life")
    measured(services, "service_silent worker a", "a worker killed", lambda: (worker.kill(), worker.wait()))
    measured(services, "service_silent code server", "the code server killed", lambda: services.kill("code server"))
    services.start("code server")
    services.until(lambda: time.time() - services.beats()["code server"] < 20, "the sensor looks again")
    measured(services, "service_silent portal", "the portal killed", lambda: services.kill("portal"))
    services.start("portal")
    services.until(lambda: time.time() - services.beats()["portal"] < 20, "the portal looks again")
    measured(services, "service_silent daemon", "the daemon stopped", lambda: services.running["daemon"].send_signal(signal.SIGSTOP))
    services.running["daemon"].send_signal(signal.SIGCONT)
    services.delivered_s("service_silent daemon", time.time(), "resolved")
    live.webhook.taken.clear()
    measured(services, "service_silent daemon", "the daemon killed", lambda: services.kill("daemon"))
    raised = [key for message in live.webhook.taken if message["kind"] == "raised" for key in message["alerts"]]
    assert len(raised) == len(set(raised))  # nothing was told twice
