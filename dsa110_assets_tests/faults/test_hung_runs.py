"""Row 31: a run that hangs and cannot even handle a signal is ended when it is cancelled, and does not block other runs."""

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
    """Launch a run of one catalogue. Return its id."""
    selector = {
        "repositoryName": "__repository__", "repositoryLocationName": code_server.LOCATION, "pipelineName": "catalogues",
        "assetSelection": [{"path": [asset]}],
    }  # fmt: skip
    answer = server.ask(LAUNCH, given={"selector": selector, "mode": "default", "runConfigData": {}})
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def process_of(server: CodeServer, run_id: str) -> int:
    """The process id of a run; 0 while no step of it has begun."""
    launcher = server.run(run_id).tags.get(instances.LAUNCHER_TAG)
    return int(launcher.split("/")[1]) if launcher else 0


@pytest.mark.slow
@pytest.mark.row(31)
def test_cancelling_a_stopped_run_ends_it_and_the_next_one_runs(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    with (
        Archive.create(tmp_path / "archive") as archive,
        partition_lock(archive, "source_catalog", None),  # a run that makes it waits for the lock, and hangs
        served(tmp_path, tmp_path / "inbox") as server,
    ):
        responsive = launch(server, "source_catalog")
        until(lambda: server.run(responsive).status == Ended.STARTED, "a run that waits for the lock has begun")
        assert server.ask(CANCEL, id=responsive)["__typename"] == "TerminateRunSuccess"
        began = time.monotonic()
        until(lambda: server.run(responsive).is_finished, "it has ended")
        assert server.run(responsive).status == Ended.CANCELED
        assert time.monotonic() - began < code_server.CANCEL_GRACE_S / 2, "it was killed, and could have ended by itself"

        abandoned, hung = launch(server, "source_catalog"), launch(server, "source_catalog")
        for run_id in (abandoned, hung):
            until(lambda: process_of(server, run_id), "the runs that hang have begun")  # noqa: B023
            os.kill(process_of(server, run_id), signal.SIGSTOP)
        server.instance.report_run_failed(server.run(abandoned), "as the daemon says of what does not start in time")
        began = time.monotonic()
        assert server.ask(CANCEL, id=hung)["__typename"] == "TerminateRunSuccess"
        record_figure(31, "seconds until a cancel of a stopped run is answered", round(time.monotonic() - began, 1))

        other = launch(server, "calibrator_catalog")
        until(lambda: server.run(other).is_finished, "a run beside the cancelled one")
        assert server.run(other).status == Ended.SUCCESS

        until(lambda: server.run(hung).is_finished, "the cancelled run has ended")
        record_figure(31, "seconds until a cancelled run that is stopped has ended", round(time.monotonic() - began, 1))
        assert server.run(hung).status == Ended.CANCELED
        for run_id in (abandoned, hung):
            until(lambda: not Path(f"/proc/{process_of(server, run_id)}").exists(), "nothing is left of them")  # noqa: B023
        assert server.run(abandoned).status == Ended.FAILURE
        last = launch(server, "calibrator_catalog")
        until(lambda: server.run(last).is_finished, "a run after it")
        assert server.run(last).status == Ended.SUCCESS
