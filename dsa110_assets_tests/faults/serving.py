"""The platform's code server in a separate process, and the queries that the web pages send to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster_graphql.test.utils import execute_dagster_graphql

from dsa110_assets.children import descendants
from dsa110_assets.cli import code_server
from dsa110_assets.cli.services import free_port

WITHIN_S = 120.0
AT_ONCE = "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\ntelemetry: {enabled: false}\n"


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition of other processes."""
    deadline, pause = time.monotonic() + WITHIN_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not in {WITHIN_S:.0f} s: {what}"
        pause.wait(0.1)


class CodeServer:
    """The platform's code server in a separate process, a Dagster instance, and the web server's queries to both."""

    def __init__(self, process: subprocess.Popen[bytes], instance: dg.DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.process, self.instance, self.workspace = process, instance, workspace
        self.context: WorkspaceRequestContext | None = None

    def answers(self) -> bool:
        """Whether the code server delivers the definitions."""
        self.workspace.refresh_workspace()
        self.context = self.workspace.create_request_context()
        return not self.context.code_location_errors()

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a GraphQL query, sent as the web pages send it."""
        assert self.context is not None
        answer = execute_dagster_graphql(self.context, query, variables)
        assert not answer.errors, answer.errors
        (content,) = answer.data.values()
        found: dict[str, Any] = content
        return found

    def run(self, run_id: str) -> dg.DagsterRun:
        """The run as Dagster knows it."""
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found


@contextmanager
def served(place: Path, inbox: Path, **settings: str) -> Iterator[CodeServer]:
    """The code server over an inbox, with archive and Dagster home in `place`; runs begin as soon as they are launched."""
    home, port = place / "home", free_port()
    home.mkdir()
    (home / "dagster.yaml").write_text(AT_ONCE)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("DSA110_", "DAGSTER"))},
        "DSA110_INBOX": str(inbox), "DSA110_ARCHIVE": str(place / "archive"), "DAGSTER_HOME": str(home), **settings,
    }  # fmt: skip
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", code_server.__name__, "--port", str(port)], env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            until(lambda: b"Serving" in (place / "server.log").read_bytes(), "the code server serves")
            target = GrpcServerTarget(host="127.0.0.1", port=port, socket=None, location_name=code_server.LOCATION)
            with WorkspaceProcessContext(instance, target) as workspace:
                server = CodeServer(process, instance, workspace)
                until(server.answers, "the code server answers")
                yield server
    finally:
        for pid in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):  # it ended between being listed and now
                os.kill(pid, signal.SIGKILL)
        process.wait()
