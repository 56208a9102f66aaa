"""One daemon for each Dagster home, and no request for a run that is already in progress."""

from __future__ import annotations

import uuid
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.cli import up
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.planning import requests
from dsa110_assets.orchestration.running import daemon
from dsa110_assets.orchestration.running import instance as instances


def test_a_second_daemon_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigurationError, match=r"runs already \(pid \d+ on")
    with daemon.daemon_lock(tmp_path), refused, daemon.daemon_lock(tmp_path):
        pass
    with daemon.daemon_lock(tmp_path):
        pass


def test_another_hosts_daemon_is_refused_for_the_same_archive(tmp_path: Path) -> None:
    """Each host has a separate home."""
    homes = [tmp_path / name for name in ("alpha", "beta")]
    for home in (*homes, tmp_path / "archive"):
        home.mkdir()
    refused = pytest.raises(ConfigurationError, match=r"DSA110_ARCHIVE=.*archive: its daemon runs already")
    with daemon.daemon_lock(homes[0], tmp_path / "archive"), refused, daemon.daemon_lock(homes[1], tmp_path / "archive"):
        pass


@pytest.mark.parametrize(("status", "left_alone"), [("STARTING", True), ("STARTED", True), ("SUCCESS", False), ("FAILURE", False)])
def test_queued_and_running_steps_are_in_progress(status: str, left_alone: bool) -> None:
    run = dg.DagsterRun(
        job_name="nights", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus(status), tags={"dagster/partition": "2026-01-25"},
        asset_selection=frozenset({dg.AssetKey("caltables")}),
    )  # fmt: skip
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_run(run)
        assert (("caltables", "2026-01-25") in requests.in_progress(instances.unfinished(instance))) is left_alone


def test_no_service_logs_where_dagsters_telemetry_collects(tmp_path: Path) -> None:
    for service in up._services(tmp_path, "127.0.0.1", 3000, 3001):
        assert service.log_path.parent != tmp_path / "logs"
        assert service.environment["DAGSTER_DISABLE_TELEMETRY"] == "1"
