"""`dsa110 worker` reports what it lacks, and takes as many runs as the machine has room for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsa110_assets.cli import worker
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.running import capacity
from dsa110_assets.orchestration.running import instance as instances

POSTGRES = "postgresql+psycopg2://dsa110@127.0.0.1:1/dsa110"


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with settings but without a Dagster home."""
    for name in [name for name in os.environ if name.startswith(("DSA110_", "DAGSTER"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "DSA110_INBOX": tmp_path / "inbox",
        "DSA110_ARCHIVE": tmp_path / "archive",
        "DAGSTER_HOME": tmp_path / "home",
    }.items():
        monkeypatch.setenv(name, str(value))


def test_a_worker_refuses_an_index_that_serves_one_machine() -> None:
    with pytest.raises(ConfigurationError, match="serves only one machine"):
        worker.worker(queue=None, slots=1)


def test_an_unknown_queue_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSA110_DATABASE_URL", POSTGRES)
    with pytest.raises(ConfigurationError, match=r"--queue imagine: .* choose from dagster, ingest, housekeeping, imaging, solving"):
        worker.worker(queue=["ingest", "imagine"], slots=1)


def test_a_home_without_the_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSA110_DATABASE_URL", POSTGRES)
    with pytest.raises(ConfigurationError, match=r"dagster\.celery\.yaml there and set DAGSTER_REDIS_URL"):
        worker.worker(queue=None, slots=1)


def test_the_home_is_configured_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(ConfigurationError, match="DAGSTER_PG_URL is not"):
        instances.prepare_home(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_PG_URL", POSTGRES)
    made = instances.prepare_home(tmp_path / "home") / "dagster.yaml"
    assert "WorkersLauncher" in made.read_text()


@pytest.mark.parametrize(("cores", "free_gb", "slots"), [(8, 64.0, 8), (8, 10.0, 3), (2, 1.0, 1)])
def test_worker_slots_are_limited_by_cores_and_memory(monkeypatch: pytest.MonkeyPatch, cores: int, free_gb: float, slots: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(capacity, "available_bytes", lambda limit_gib: free_gb * 1e9)
    assert capacity.fitting_runs() == slots
