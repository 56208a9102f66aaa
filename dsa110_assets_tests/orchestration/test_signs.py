"""The daemon's sign of life is given while its process makes progress and missed otherwise, and no other service is blamed for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster._daemon.types import DaemonHeartbeat

from dsa110_assets.archive import alerts
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import conditions, signs
from dsa110_assets.orchestration.watching.facts import Facts
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.tiny import tiny_settings

NOW, LIMITS = datetime.now(UTC), Thresholds()


@pytest.fixture
def archive(tmp_path: Path, engine_url: str | None) -> Iterator[Archive]:
    with Archive.create(tmp_path / "archive", engine_url) as made:
        yield made


def beat(archive: Archive, name: str, age_s: float) -> None:
    alerts.remember(archive, f"beat/{name}", (NOW - timedelta(seconds=age_s)).isoformat())


def silent(archive: Archive, place: Path) -> dict[str, str]:
    """The services that are reported as silent, with the description."""
    settings = tiny_settings(place / "inbox", place)
    found, _ = conditions.evaluate(Facts(archive, settings, LIMITS, now=NOW))
    return {one.subject: one.words for one in found if one.condition == "service_silent"}


def test_signs_of_life_are_given_only_while_the_daemon_runs(archive: Archive) -> None:
    """An archive that cannot be opened at first is tried again."""
    calls, given = list[int](), threading.Event()

    def opened() -> Archive:
        calls.append(1)
        given.set()
        return archive

    with signs.heartbeat_given(opened):
        assert given.wait(30)
        while signs.DAEMON not in alerts.beats(archive):
            threading.Event().wait(0.01)
    assert alerts.beats(archive) == {}


def test_an_unavailable_archive_does_not_end_the_daemon(caplog: pytest.LogCaptureFixture) -> None:
    tried = threading.Event()

    def opened() -> Archive:
        tried.set()
        raise ConfigurationError("there is no archive")

    with signs.heartbeat_given(opened):
        assert tried.wait(30)
    assert "there is no archive" in caplog.text


@pytest.mark.parametrize(
    ("daemon_s", "code_server_s", "expected"),
    [
        (9.0, 9.0, set()),
        (9.0, 36.0, {"code server"}),
        (36.0, 36.0, {"daemon"}),  # the code server looks only when the daemon asks it to
        (25.0, 36.0, set()),  # the daemon missed only two signs so far: the next look decides
        (None, 36.0, {"code server"}),  # Dagster's original daemon gives no sign
    ],
)
def test_services_without_signs_of_life_are_reported(
    archive: Archive, tmp_path: Path, daemon_s: float | None, code_server_s: float, expected: set[str]
) -> None:
    if daemon_s is not None:
        beat(archive, signs.DAEMON, daemon_s)
    beat(archive, conditions.CODE_SERVER, code_server_s)
    found = silent(archive, tmp_path)
    assert set(found) == expected
    assert all("no sign of life for 36 s" in words for words in found.values())


@pytest.mark.parametrize(
    ("part", "age_s", "missed"),
    [
        ("SENSOR", 34.0, ""),
        ("SENSOR", 36.0, "36 s"),
        ("QUEUED_RUN_COORDINATOR", 36.0, "36 s"),
        ("SCHEDULER", 91.0, ""),  # it sleeps to the next full minute
        ("SCHEDULER", 121.0, "2.0 min"),
    ],
)
def test_a_silent_part_of_a_live_daemon_is_reported(archive: Archive, tmp_path: Path, part: str, age_s: float, missed: str) -> None:
    others = {"SENSOR", "SCHEDULER", "BACKFILL"} - {part}
    home = with_parts(archive, tmp_path, {part: age_s, **dict.fromkeys(others, 0.0)})
    reason = signs.daemon_problem(archive, home, LIMITS, NOW)
    assert reason == (f"a part of it gave no sign of life for {missed} ({part})" if missed else "")


@pytest.mark.parametrize("where", ["home", "archive"])
@pytest.mark.parametrize(("started_s", "expected"), [(94.0, ""), (96.0, "a part of it gave no sign of life for 10 min (SENSOR)")])
def test_the_first_minute_of_a_daemon_does_not_count(archive: Archive, tmp_path: Path, where: str, started_s: float, expected: str) -> None:
    """The last sign of its sensors is from the previous daemon, or from before it loaded the code."""
    home = with_parts(archive, tmp_path, {"SENSOR": 600.0})
    lock = {"home": home / signs.LOCK, "archive": archive.root / f".{signs.LOCK}"}[where]
    lock.write_text("pid 1 on another-host")
    os.utime(lock, (NOW.timestamp() - started_s,) * 2)
    assert signs.daemon_problem(archive, home, LIMITS, NOW) == expected


def with_parts(archive: Archive, place: Path, ages_s: dict[str, float]) -> Path:
    """A Dagster home whose daemon is alive and whose parts gave signs of life so many seconds ago."""
    beat(archive, signs.DAEMON, 5.0)
    with instances.open_instance(place / "home") as instance:
        for name, age_s in ages_s.items():
            instance.add_daemon_heartbeat(DaemonHeartbeat(NOW.timestamp() - age_s, name, None, None))
    return place / "home"
