"""Row 31: a run that hangs, and cannot even take a signal, is ended when it is cancelled, and stands in nobody's way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import code_server
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.execute import partition_lock
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.serving import CodeServer, served, until

LAUNCH = """mutation ($given: ExecutionParams!) { launchRun(executionParams: $given) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
CANCEL = """mutation ($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }"""
Ended = dg.DagsterRunStatus


def launch(server: CodeServer, asset: str) -> str:
    """Ask for a run of one catalogue; its id."""
    selector = {
        "repositoryName": "__repository__", "repositoryLocationName": code_server.LOCATION, "pipelineName": "catalogues",
        "assetSelection": [{"path": [asset]}],
    }  # fmt: skip
    told = server.ask(LAUNCH, given={"selector": selector, "mode": "default", "runConfigData": {}})
    assert told["__typename"] == "LaunchRunSuccess", told
    return str(told["run"]["runId"])


def process_of(server: CodeServer, run_id: str) -> int:
    """The process of a run; 0 while no step of it has begun."""
    launcher = server.run(run_id).tags.get(instances.LAUNCHER_TAG)
    return int(launcher.split("/")[1]) if launcher else 0


@pytest.mark.slow
@pytest.mark.row(31)
def test_cancelling_a_stopped_run_ends_it_and_the_next_one_runs(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    with (
        Archive.create(tmp_path / "archive") as archive,
        partition_lock(archive, "source_catalog", None),  # whoever makes it waits, and hangs
        served(tmp_path, tmp_path / "inbox") as server,
    ):
        mild = launch(server, "source_catalog")
        until(lambda: server.run(mild).status == Ended.STARTED, "a run that waits for the lock has begun")
        assert server.ask(CANCEL, id=mild)["__typename"] == "TerminateRunSuccess"
        asked = time.monotonic()
        until(lambda: server.run(mild).is_finished, "it has ended")
        assert server.run(mild).status == Ended.CANCELED
        assert time.monotonic() - asked < code_server.CANCEL_GRACE_S / 2, "it was killed, and could have ended by itself"

        given_up, hung = launch(server, "source_catalog"), launch(server, "source_catalog")
        for run_id in (given_up, hung):
            until(lambda: process_of(server, run_id), "the runs that hang have begun")  # noqa: B023
            os.kill(process_of(server, run_id), signal.SIGSTOP)
        server.instance.report_run_failed(server.run(given_up), "as the daemon says of what does not start in time")
        asked = time.monotonic()
        assert server.ask(CANCEL, id=hung)["__typename"] == "TerminateRunSuccess"
        record_figure(31, "seconds until a cancel of a stopped run is answered", round(time.monotonic() - asked, 1))

        other = launch(server, "calibrator_catalog")
        until(lambda: server.run(other).is_finished, "a run beside the cancelled one")
        assert server.run(other).status == Ended.SUCCESS

        until(lambda: server.run(hung).is_finished, "the cancelled run has ended")
        record_figure(31, "seconds until a cancelled run that is stopped has ended", round(time.monotonic() - asked, 1))
        assert server.run(hung).status == Ended.CANCELED
        for run_id in (given_up, hung):
            until(lambda: not Path(f"/proc/{process_of(server, run_id)}").exists(), "nothing is left of them")  # noqa: B023
        assert server.run(given_up).status == Ended.FAILURE
        last = launch(server, "calibrator_catalog")
        until(lambda: server.run(last).is_finished, "a run after it")
        assert server.run(last).status == Ended.SUCCESS
