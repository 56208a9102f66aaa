"""From cause to delivery, with each service a separate process as under systemd: critical alerts are delivered within a minute."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsa110_assets.children import descendants
from dsa110_assets.orchestration.watching import signs
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.live.fleet import isolated
from dsa110_assets_tests.live.platform import REPOSITORY
from dsa110_assets_tests.live.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.row(44)]
CRITICAL_S = 60.0
DOCKER = REPOSITORY / "ops" / "docker"
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

HANGING = """
import sys, time
from pathlib import Path
from dagster._daemon import sensor
from dsa110_assets.orchestration.running import daemon
hang, now = Path(sys.argv.pop(1)), sensor.get_current_timestamp
def now_or_never():
    while hang.exists():
        time.sleep(0.1)
    return now()
sensor.get_current_timestamp = now_or_never
sys.exit(daemon.main())
"""
"""The daemon, whose sensor thread hangs while a file exists."""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    made = Services(tmp_path_factory.mktemp("services"))
    try:
        made.start_all()
        yield made
    finally:
        made.close()


def measured(services: Services, what: str, name: str, cause: Callable[[], object], critical: bool = True) -> None:
    """Cause a condition, and measure the time until its alert is delivered."""
    since = time.time()
    cause()
    seconds = services.delivered_s(what, since)
    record_figure(44, f"seconds from cause to delivery, {name}", round(seconds, 1))
    print(f"{name}: {seconds:.1f} s")
    assert not critical or seconds < CRITICAL_S


def test_alerts_are_delivered_in_time(services: Services) -> None:
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
    before = len(live.webhook.taken)
    measured(services, "service_silent daemon", "the daemon killed", lambda: services.kill("daemon"))
    raised = [key for message in live.webhook.taken[before:] if message["kind"] == "raised" for key in message["alerts"]]
    assert len(raised) == len(set(raised))  # no alert was sent twice


@pytest.mark.parametrize("whose", ["own", "chart"])
def test_a_frozen_daemon_on_another_host_is_reported_in_time(tmp_path: Path, whose: str) -> None:
    """The other services cannot see its process, because its hostname and PID namespace are separate. The chart starts it as
    `dagster-daemon`."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a host of its own needs root and unshare")
    services = Services(tmp_path)
    if whose == "chart":
        services.live.environment["PATH"] = os.pathsep.join([str(DOCKER), str(Path(sys.executable).parent), os.environ["PATH"]])
        services.commands["daemon"] = ("/bin/bash", "-c", f"dagster-daemon run -w {tmp_path / 'workspace.yaml'}")
    (tmp_path / "scratch").mkdir()
    try:
        services.start("code server")
        services.start("portal")
        services.start("daemon", before=isolated("elsewhere", tmp_path / "scratch", tmp_path))
        services.until(lambda: {"code server", "portal", "daemon"} <= services.beats().keys(), "all give signs of life")
        assert "elsewhere" in (services.live.home / "daemon.lock").read_text()
        services.until(lambda: time.time() - services.beats()["portal"] < 5, "the portal looks")
        frozen = descendants(services.running["daemon"].pid)
        assert frozen

        def send(number: signal.Signals) -> None:
            for pid in frozen:
                os.kill(pid, number)

        name = {"own": "the daemon frozen on another host", "chart": "the chart's daemon frozen on another host"}[whose]
        measured(services, "service_silent daemon", name, lambda: send(signal.SIGSTOP))
        send(signal.SIGCONT)
        services.delivered_s("service_silent daemon", time.time(), "resolved")
        silent = [subject for one in services.live.webhook.taken if one["condition"] == "service_silent" for subject in one["subjects"]]
        assert set(silent) == {"daemon"}  # the code server, which looks only when the daemon asks it to, is not blamed
    finally:
        for pid in descendants(services.running["daemon"].pid) if "daemon" in services.running else ():
            os.kill(pid, signal.SIGKILL)
        services.close()


def test_a_hanging_part_of_a_live_daemon_is_reported_in_time(tmp_path: Path) -> None:
    """The process still gives signs of life, but observations wait."""
    services, hang = Services(tmp_path), tmp_path / "hang"
    services.commands["daemon"] = (sys.executable, "-c", HANGING, str(hang), *services.commands["daemon"][3:])
    try:
        services.start_all()
        lock, loading_s = services.live.home / signs.LOCK, signs.LOADING.total_seconds()
        services.until(lambda: time.time() - lock.stat().st_mtime > loading_s, "the daemon's first minute is over", 2 * loading_s)
        services.until(lambda: time.time() - services.beats()["portal"] < 5, "the portal looks")
        measured(services, "service_silent daemon", "the daemon's sensors hang, its process lives", hang.touch)
        assert "a part of it gave no sign of life" in str(services.live.webhook.taken)
        hang.unlink()
        services.delivered_s("service_silent daemon", time.time(), "resolved")
    finally:
        services.close()
