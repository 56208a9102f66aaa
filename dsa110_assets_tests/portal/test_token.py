"""Dagster's web interface where other machines reach it: closed without the token, read-only if no token is set."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dsa110_assets.cli import up
from dsa110_assets.cli.services import free_port
from dsa110_assets.portal.door import COOKIE, TokenDoor
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.portal.small_archive import SmallArchive

TOKEN = "a-token-of-some-length"


def door() -> TokenDoor:
    async def inside(request: Any) -> PlainTextResponse:
        return PlainTextResponse("inside")

    return TokenDoor(Starlette(routes=[Route("/{path:path}", inside, methods=["GET", "POST"])]), TOKEN)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b"Bearer wrong"),),
        ((b"authorization", b"Bearer "),),
        ((b"authorization", f"Basic {TOKEN}".encode()),),
        ((b"authorization", b"Bearer \xff\xfe"),),
        ((b"cookie", b"dsa110_token="),),
        ((b"cookie", f"other={TOKEN}".encode()),),
        ((b"cookie", b"; ; =;\x7f"),),
    ],
)
def test_requests_without_the_token_are_refused(method: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    answer = ask(door(), "/graphql", method=method, headers=headers)
    assert answer.status == 401
    assert TOKEN not in answer.text


@pytest.mark.parametrize("headers", [((b"authorization", f"Bearer {TOKEN}".encode()),), ((b"cookie", f"a=b; {COOKIE}={TOKEN}".encode()),)])
def test_requests_with_the_token_are_answered(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert ask(door(), "/graphql", method="POST", headers=headers).text == "inside"


def test_the_token_in_an_address_sets_a_protected_cookie() -> None:
    answer = ask(door(), f"/runs?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/runs")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert ask(door(), "/runs?token=wrong").status == 401
    assert ask(door(), f"/runs?token={TOKEN}", method="POST").status == 401


def test_a_websocket_needs_the_token() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    asyncio.run(door()({"type": "websocket", "path": "/graphql", "headers": [], "query_string": b""}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.5", False)])
def test_up_serves_dagster_only_behind_the_door(tmp_path: Path, host: str, local: bool) -> None:
    """The door always guards against other sites. Where other machines reach the server, it also requires the token."""
    (server,) = [one for one in up._services(tmp_path, host, 3000, 3001) if one.name == "web server"]
    assert server.command[2] == "dsa110_assets.portal.door"
    assert ("--local" in server.command) == local


def test_the_systemd_unit_starts_the_guarded_server() -> None:
    unit = (Path(__file__).parents[2] / "ops" / "systemd" / "dsa110-webserver.service").read_text()
    assert "python -m dsa110_assets.portal.door --local --host 127.0.0.1 " in unit


def test_only_loopback_addresses_need_no_token() -> None:
    command = [sys.executable, "-m", "dsa110_assets.portal.door", "--local", "--host", "0.0.0.0", "--port", "1", "--workspace", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "others reach 0.0.0.0" in done.stderr


LAUNCH = 'mutation { terminateRuns(runIds: ["x"]) { __typename ... on TerminateRunsResult { terminateRunResults { __typename } } } }'


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_real_server_changes_nothing_without_a_token(small: SmallArchive, tmp_path: Path, token: str | None) -> None:
    port, home = free_port(), tmp_path / "home"
    home.mkdir()
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    environment = {**os.environ, **small.environment, "DAGSTER_HOME": str(home), **({"DSA110_TOKEN": token} if token else {})}
    command = [sys.executable, "-m", "dsa110_assets.portal.door", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*command, "--workspace", str(tmp_path / "workspace.yaml")], env=environment, stdout=log, stderr=log)
    try:
        while (_get(port, "/server_info") or (0, ""))[0] != 200:
            assert server.poll() is None, (tmp_path / "log").read_text()
        if token is None:
            assert "UnauthorizedError" in _mutate(port)[1]
        else:
            assert _mutate(port)[0] == 401
            assert "UnauthorizedError" not in _mutate(port, TOKEN)[1]
            assert _mutate(port, TOKEN)[0] == 200
    finally:
        server.terminate()
        server.wait(60)
    assert TOKEN not in (tmp_path / "log").read_text()


def _mutate(port: int, token: str | None = None) -> tuple[int, str]:
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", json.dumps({"query": LAUNCH}).encode(), headers)
    return _open(request) or (0, "")


def _get(port: int, path: str) -> tuple[int, str] | None:
    return _open(urllib.request.Request(f"http://127.0.0.1:{port}{path}"))


def _open(request: urllib.request.Request) -> tuple[int, str] | None:
    """(status, body), or None while no server listens."""
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return None
