"""Answers of the probes while the daemon lives, is frozen or never ran, while ingest fails, and while the index is missing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData, TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from dsa110_assets.archive.store import Archive
from dsa110_assets.definitions import defs
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.portal import probes
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.portal.conftest import ask


@pytest.fixture
def probe(settings: Settings) -> Callable[[], dict[str, tuple[int, str]]]:
    """A function that returns HTTP status and status word of each probe, including the API's."""
    Archive.create(settings.archive).close()
    app = create_app(settings.archive, settings=settings)

    def probe_() -> dict[str, tuple[int, str]]:
        answers = {path: ask(app, path) for path in (*probes.PATHS, "/api/v1/health")}
        return {path: (answer.status, answer.json.get("status", "")) for path, answer in answers.items()}

    return probe_


def beat(instance: dg.DagsterInstance, age: timedelta) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat((datetime.now(UTC) - age).timestamp(), "SENSOR", None, None))


def tick(instance: dg.DagsterInstance, status: TickStatus, age: timedelta) -> None:
    """Record a tick of the inbox sensor as the daemon does."""
    origin = _origin()
    if not instance.all_instigator_state():
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, SensorInstigatorData())
        instance.add_instigator_state(state)
    error = SerializableErrorInfo("no", [], None) if status == TickStatus.FAILURE else None
    at, selector = (datetime.now(UTC) - age).timestamp(), origin.get_selector().get_id()
    runs = [] if status == TickStatus.SUCCESS else None
    instance.create_tick(
        TickData(origin.get_id(), probes.INGEST, InstigatorType.SENSOR, status, at, run_ids=runs, error=error, selector_id=selector)
    )


def _origin():  # type: ignore[no-untyped-def]  # Dagster's own, of no public type
    from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="dsa110_assets.definitions"))
    return RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, defs.get_repository_def().name), probes.INGEST)


OK, FAILING = (200, "ok"), (503, "failing")
MINUTE = timedelta(minutes=1)


def test_probes_are_ok_for_a_working_platform_and_fail_for_a_frozen_one(
    settings: Settings, probe: Callable[[], dict[str, tuple[int, str]]]
) -> None:
    never = {"/health": OK, "/ready": (200, "failing"), "/status": FAILING, "/api/v1/health": (200, "failing")}
    assert probe() == never
    with instances.open_instance(settings.home_path) as instance:
        beat(instance, timedelta())
        tick(instance, TickStatus.SKIPPED, MINUTE)
        assert probe() == {"/health": OK, "/ready": OK, "/status": OK, "/api/v1/health": OK}
        beat(instance, timedelta(seconds=Thresholds().daemon_silent_s) + MINUTE)  # as if the process were stopped
        assert probe() == never


def test_ingest_may_fail_for_an_hour(settings: Settings, probe: Callable[[], dict[str, tuple[int, str]]]) -> None:
    with instances.open_instance(settings.home_path) as instance:
        beat(instance, timedelta())
        assert probe()["/status"] == FAILING  # the inbox was never looked at
        tick(instance, TickStatus.SUCCESS, 50 * MINUTE)
        for age in range(49, 0, -1):
            tick(instance, TickStatus.FAILURE, age * MINUTE)
        assert probe()["/status"] == OK
        beat(instance, -11 * MINUTE)
    with Archive(settings.archive) as archive:
        later = probes.judge(archive, settings.home_path, Thresholds(), datetime.now(UTC) + 11 * MINUTE)
    assert (later.ready, later.working, later.status) == (True, False, "failing")
    assert "has not succeeded for 1.0 h" in later.reasons[0]


def test_without_an_index_the_portal_is_healthy_but_not_ready(settings: Settings, probe: Callable[[], dict[str, tuple[int, str]]]) -> None:
    (settings.archive / "index.sqlite").unlink()
    found = probe()
    assert found["/health"] == OK
    assert {found[path] for path in ("/ready", "/status")} == {(503, "not ready")}
    assert found["/api/v1/health"][0] == 503
