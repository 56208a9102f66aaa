"""Messages to systemd about the daemon, on a real socket, from its signs of life in a real Dagster home."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster._daemon.types import DaemonHeartbeat

from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import watchdog

LIMIT_S = 0.6


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The receiving end of NOTIFY_SOCKET; reading it times out after ten limits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "n"))
        listening.settimeout(10 * LIMIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(LIMIT_S * 1e6)))
        yield listening


def heard(systemd: socket.socket) -> str:
    return systemd.recv(100).decode()


def until_silent(systemd: socket.socket) -> list[str]:
    """All messages that arrive before ten limits pass without one."""
    messages = []
    while True:
        try:
            messages.append(heard(systemd))
        except TimeoutError:
            return messages


def beat(home: Path, at: datetime) -> None:
    with instances.open_instance(home) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(at.timestamp(), "SENSOR", None, None))


def test_a_working_daemon_is_reported_to_systemd_until_it_ends(systemd: socket.socket, tmp_path: Path) -> None:
    beat(tmp_path / "home", datetime.now(UTC) + timedelta(hours=1))
    with watchdog.watched(tmp_path / "home"):
        assert [heard(systemd) for _ in range(4)] == ["READY=1", *["WATCHDOG=1"] * 3]
    messages = [heard(systemd)]
    while messages[-1] != "STOPPING=1":
        messages.append(heard(systemd))
    assert set(messages[:-1]) <= {"WATCHDOG=1"}


def test_a_daemon_without_signs_of_life_is_not_reported_as_alive(systemd: socket.socket, tmp_path: Path) -> None:
    """The old sign of an earlier daemon does not count against a new daemon before the new one's limit is over."""
    beat(tmp_path / "home", datetime.now(UTC) - timedelta(days=1))
    with watchdog.watched(tmp_path / "home"):
        assert [heard(systemd), heard(systemd)] == ["READY=1", "WATCHDOG=1"]
        assert len(until_silent(systemd)) <= watchdog.TIMES
        beat(tmp_path / "home", datetime.now(UTC) + timedelta(hours=1))
        assert heard(systemd) == "WATCHDOG=1"


def test_without_systemd_no_notification_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(watchdog, "tell", lambda state: pytest.fail(state))
    with watchdog.watched(tmp_path / "home"):
        pass


def test_a_missing_systemd_socket_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with watchdog.watched(tmp_path / "home"):
        pass
    assert "systemd cannot be told READY=1" in caplog.text
