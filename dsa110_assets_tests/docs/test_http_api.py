"""The page of the HTTP API: its Python and curl examples run against a portal, and it names every resource."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from dsa110_assets.archive import alerts, audit
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.browser import answers
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.conftest import ask

PAGE = pages.DOCS / "http-api.md"
TOKEN = "a-token-of-some-length"
VERBS = {
    "start runs", "cancel run", "retry run", "retire caltables", "reject caltables", "restore caltables", "import caltables",
    "release from quarantine", "pin", "unpin", "retain", "pause ingest", "resume ingest", "reload thresholds",
    "request mosaic", "delete requested mosaic", "judge", "acknowledge alert", "mark false alarm", "resolve alert", "silence alerts",
    "end silence", "drain", "end drain",
}  # fmt: skip


@contextmanager
def portal(place: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Run a portal on a platform with a queued run, a failed run and a missing worker. Yield the user's environment and the archive."""
    small, port = small_archive.build(place), free_port()
    with Archive(small.root) as archive:
        alerts.remember(archive, "beat/worker", "2026-01-26T00:00:00+00:00")
    (small.root / "thresholds.toml").write_text("service_silent_s = 1\n")
    tables = place / "tables" / "x.B"
    tables.mkdir(parents=True)
    (tables / "table.dat").write_bytes(b"no table")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dsa110"), "repository"), "observations")
    with open_instance(place / "home") as instance:
        for status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.FAILURE):
            create_run_for_test(
                instance, status=status, asset_selection=frozenset({dg.AssetKey("tile_image")}), remote_job_origin=origin,
                tags={"dagster/partition": "2026-01-25T22:05"},
            )  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DSA110_", "DAGSTER"))}
    variables = {"PORTAL": f"http://127.0.0.1:{port}", "DSA110_TOKEN": TOKEN, "TABLES": str(tables.parent)}
    command = [sys.executable, "-m", "dsa110_assets.portal", "--port", str(port)]
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env={**inherited, **small.environment, **variables, "DAGSTER_HOME": str(place / "home")}, stdout=log, stderr=log
        )
    try:
        while not answers(f"{variables['PORTAL']}/health"):
            assert server.poll() is None, (place / "log").read_text()
        with Archive(small.root) as archive:
            while not alerts.listed(archive, [alerts.ACTIVE], condition="service_silent"):
                assert server.poll() is None, (place / "log").read_text()
        yield {**inherited, **variables}, small.root
    finally:
        server.terminate()
        server.wait(60)


def run(language: str, command: list[str], place: Path) -> tuple[str, set[str]]:
    """The output of all examples of a language, run one after the other, and the verbs in the audit that were carried out or refused."""
    script = place / "examples"
    script.write_text("\n".join(pages.fenced(PAGE.read_text(encoding="utf-8"), language)))
    with portal(place) as (environment, root):
        done = subprocess.run([*command, str(script)], env=environment, cwd=place, capture_output=True, text=True, timeout=300)
        log = (place / "log").read_text()
        verbs = {line.verb for line in audit.lines(root, 1000) if line.state != audit.BEGUN}
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert TOKEN not in done.stdout + log
    return done.stdout, verbs


@pytest.mark.slow
def test_the_python_examples_run(tmp_path: Path) -> None:
    output, verbs = run("python", [sys.executable], tmp_path)
    assert verbs == VERBS
    assert "2026-01-26T22:10 0.002" in output
    assert "x.B" in output


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="no curl and jq on PATH")
def test_the_curl_examples_run(tmp_path: Path) -> None:
    output, verbs = run("bash", ["bash", "-eu", "-o", "pipefail"], tmp_path)
    assert verbs == VERBS
    assert "304" in output.splitlines()
    assert "x.B" in output


def test_every_resource_is_on_the_page_and_no_other(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    described = json.loads(ask(create_app(small_archive.build(tmp_path).root), "/api/v1/openapi.json").body)["paths"]
    first = {path.split("/")[1] for path in described}
    named = {part.split("/")[1] for word in pages.ticked(text) for part in re.findall(r"(?<![\w.])/[a-z-]+", word)}
    assert first - named == set()
    known = {part for path in described for part in path.split("/")} | {"api", "metrics"}
    assert {word for word in named if word not in known} == set()
