"""Row 31: a run that hangs, and cannot even take a signal, is ended when it is cancelled, and stands in nobody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster_graphql.test.utils import execute_dagster_graphql

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import code_server
from dsa110_assets.cli.services import descendants, free_port
from dsa110_assets.orchestration import instance as instances
from dsa110_assets.orchestration import publishing
from dsa110_assets_tests.faults.figures import record_figure

WITHIN_S = 120.0
AT_ONCE = "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\ntelemetry: {enabled: false}\n"
LAUNCH = """mutation ($given: ExecutionParams!) { launchRun(executionParams: $given) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
CANCEL = """mutation ($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }"""
Ended = dg.DagsterRunStatus


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition of other processes."""
    deadline, pause = time.monotonic() + WITHIN_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not in {WITHIN_S:.0f} s: {what}"
        pause.wait(0.1)


class CodeServer:
    """The platform's code server in a process of its own, a Dagster instance, and what the web server would ask of both."""

    def __init__(self, place: Path, port: int, process: subprocess.Popen[bytes], instance: dg.DagsterInstance) -> None:
        self.place, self.port, self.process, self.instance = place, port, process, instance
        self.context: WorkspaceRequestContext | None = None

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """A GraphQL query, as the web pages send it."""
        assert self.context is not None
        answer = execute_dagster_graphql(self.context, query, variables)
        assert not answer.errors, answer.errors
        (told,) = answer.data.values()
        found: dict[str, Any] = told
        return found

    def launch(self, asset: str) -> str:
        """Ask for a run of one catalogue; its id."""
        selector = {
            "repositoryName": "__repository__", "repositoryLocationName": code_server.LOCATION, "pipelineName": "catalogues",
            "assetSelection": [{"path": [asset]}],
        }  # fmt: skip
        told = self.ask(LAUNCH, given={"selector": selector, "mode": "default", "runConfigData": {}})
        assert told["__typename"] == "LaunchRunSuccess", told
        return str(told["run"]["runId"])

    def run(self, run_id: str) -> dg.DagsterRun:
        """The run as Dagster knows it."""
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def pid(self, run_id: str) -> int:
        """The process of a run; 0 while no step of it has begun."""
        launcher = self.run(run_id).tags.get(instances.LAUNCHER_TAG)
        return int(launcher.split("/")[1]) if launcher else 0


@contextmanager
def served(place: Path) -> Iterator[CodeServer]:
    """A code server whose `source_catalog` hangs: this process holds the lock of whoever makes it."""
    home, port = place / "home", free_port()
    home.mkdir()
    (home / "dagster.yaml").write_text(AT_ONCE)
    (place / "inbox").mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("DSA110_", "DAGSTER"))},
        "DSA110_INBOX": str(place / "inbox"), "DSA110_ARCHIVE": str(place / "archive"), "DAGSTER_HOME": str(home),
    }  # fmt: skip
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", code_server.__name__, "--port", str(port)], env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        with (
            Archive.create(place / "archive") as archive,
            publishing._alone(archive.root, "source_catalog None"),
            dg.DagsterInstance.from_config(str(home)) as instance,
        ):
            server = CodeServer(place, port, process, instance)
            until(lambda: b"Serving" in (place / "server.log").read_bytes(), "the code server serves")
            target = GrpcServerTarget(host="127.0.0.1", port=port, socket=None, location_name=code_server.LOCATION)
            with WorkspaceProcessContext(instance, target) as workspace:
                until(lambda: answers(workspace, server), "the code server answers")
                yield server
    finally:
        for pid in (process.pid, *descendants(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def answers(workspace: WorkspaceProcessContext, server: CodeServer) -> bool:
    """Whether the definitions are there."""
    workspace.refresh_workspace()
    server.context = workspace.create_request_context()
    return not server.context.code_location_errors()


@pytest.mark.slow
@pytest.mark.row(31)
def test_cancelling_a_stopped_run_ends_it_and_the_next_one_runs(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        mild = server.launch("source_catalog")
        until(lambda: server.run(mild).status == Ended.STARTED, "a run that waits for the lock has begun")
        assert server.ask(CANCEL, id=mild)["__typename"] == "TerminateRunSuccess"
        asked = time.monotonic()
        until(lambda: server.run(mild).is_finished, "it has ended")
        assert server.run(mild).status == Ended.CANCELED
        assert time.monotonic() - asked < code_server.CANCEL_GRACE_S / 2, "it was killed, and could have ended by itself"

        given_up, hung = server.launch("source_catalog"), server.launch("source_catalog")
        for run_id in (given_up, hung):
            until(lambda: server.pid(run_id), "the runs that hang have begun")  # noqa: B023
            os.kill(server.pid(run_id), signal.SIGSTOP)
        server.instance.report_run_failed(server.run(given_up), "as the daemon says of what does not start in time")
        asked = time.monotonic()
        assert server.ask(CANCEL, id=hung)["__typename"] == "TerminateRunSuccess"
        record_figure(31, "seconds until a cancel of a stopped run is answered", round(time.monotonic() - asked, 1))

        other = server.launch("calibrator_catalog")
        until(lambda: server.run(other).is_finished, "a run beside the cancelled one")
        assert server.run(other).status == Ended.SUCCESS

        until(lambda: server.run(hung).is_finished, "the cancelled run has ended")
        record_figure(31, "seconds until a cancelled run that is stopped has ended", round(time.monotonic() - asked, 1))
        assert server.run(hung).status == Ended.CANCELED
        for run_id in (given_up, hung):
            until(lambda: not Path(f"/proc/{server.pid(run_id)}").exists(), "nothing is left of them")  # noqa: B023
        assert server.run(given_up).status == Ended.FAILURE
        last = server.launch("calibrator_catalog")
        until(lambda: server.run(last).is_finished, "a run after it")
        assert server.run(last).status == Ended.SUCCESS
