"""A code server that gets SIGTERM lets its runs finish, still answers queries about them, and begins no others."""

from __future__ import annotations

import signal
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running.execute import partition_lock
from dsa110_assets_tests.faults.serving import CodeServer, served, until
from dsa110_assets_tests.faults.test_hung_runs import CANCEL, launch

Ended = dg.DagsterRunStatus


def is_refused(server: CodeServer, asset: str) -> bool:
    """Whether the server refuses to begin a run of this asset; Dagster then counts the run as failed."""
    try:
        run_id = launch(server, asset)
    except AssertionError as error:
        assert "after telling it to shut down" in str(error)  # noqa: PT017
        return True
    until(lambda: server.run(run_id).is_finished, "a run that is refused has ended")
    return server.run(run_id).status == Ended.FAILURE


@pytest.mark.slow
def test_a_stopping_code_server_finishes_runs_and_starts_none(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    with Archive.create(tmp_path / "archive") as archive, served(tmp_path, tmp_path / "inbox") as server:
        with partition_lock(archive, "source_catalog", None):  # a run that makes it waits for the lock
            going_on, cancelled = launch(server, "source_catalog"), launch(server, "source_catalog")
            for run_id in (going_on, cancelled):
                until(lambda: server.run(run_id).status == Ended.STARTED, "both runs have begun")  # noqa: B023
            server.process.send_signal(signal.SIGTERM)
            until(lambda: is_refused(server, "calibrator_catalog"), "no run begins any more")
            assert server.answers()
            assert server.ask(CANCEL, id=cancelled)["__typename"] == "TerminateRunSuccess"
            until(lambda: server.run(cancelled).status == Ended.CANCELED, "a run is cancelled as before")
            assert server.process.poll() is None
        until(lambda: server.run(going_on).is_finished, "the run that waited")
        assert server.run(going_on).status == Ended.SUCCESS
        until(lambda: server.process.poll() is not None, "the server ends with its last run")
        assert server.process.returncode == 0
