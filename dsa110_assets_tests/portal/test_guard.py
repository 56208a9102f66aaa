"""The guard of both servers, request by request: our own pages and programs pass, pages of other sites do not."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dsa110_assets.portal.guard import Guard
from dsa110_assets_tests.portal.conftest import Answer, ask

pytestmark = pytest.mark.row(51, cases="requests judged right")

OPS = Path(__file__).resolve().parents[2] / "ops"
MUTATION = quote("mutation { terminateRuns(runIds: []) { __typename } }")
CROSS = {"sec-fetch-site": "cross-site"}
LINK = {**CROSS, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def guarded(url: str, method: str = "GET", host: str = "127.0.0.1:3000", headers: dict[str, str] | None = None) -> Answer:
    async def inside(_: Any) -> PlainTextResponse:
        return PlainTextResponse("inside")

    routes = [Route("/{path:path}", inside, methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"])]
    encoded = tuple((name.encode(), value.encode()) for name, value in (headers or {}).items())
    return ask(Guard(Starlette(routes=routes), ("dsa110.example",)), url, method=method, host=host, headers=encoded)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:3000", "localhost:3000", "LOCALHOST", "localhost.", "[::1]:3000", "10.1.2.3:3000", "dsa110.example", socket.gethostname()],
)
def test_allowed_host_names_are_served(host: str) -> None:
    assert guarded("/", host=host).text == "inside"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example", "dsa110.example.evil", "", "127.0.0.1:x",
     "a@127.0.0.1", "127.0.0.1/evil", "127.0.0.1, evil.example", "[::1", "localhost:99999999"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_host_names_are_refused(host: str, method: str) -> None:
    assert guarded("/graphql", method, host=host).status == 400


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://127.0.0.1:3000"}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"},
     {"referer": "http://127.0.0.1:3000/runs"}, {"authorization": "Bearer x"}],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_own_pages_and_programs_pass(method: str, headers: dict[str, str]) -> None:
    assert guarded("/graphql", method, headers=headers).text == "inside"


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:3001"}, {"origin": "http://127.0.0.1"},
     {"origin": "http://localhost:3000"}, {"origin": "file://"}, {"origin": "nonsense"}, {"origin": "http://127.0.0.1:3000.evil.example"},
     CROSS, {"sec-fetch-site": "same-site"}, {**CROSS, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
     {**CROSS, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, {"sec-fetch-site": "nonsense"}],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_requests_from_other_sites_are_refused(method: str, headers: dict[str, str]) -> None:
    assert guarded("/graphql", method, headers=headers).status == 403


def test_links_from_other_sites_are_allowed_and_forms_refused() -> None:
    assert guarded("/runs/1", headers=LINK).text == "inside"
    assert guarded("/graphql", "POST", headers=LINK).status == 403
    assert guarded("/graphql", "POST", headers={"referer": "https://evil.example/page"}).status == 403


def test_the_https_origin_behind_a_proxy_is_accepted() -> None:
    assert guarded("/", "POST", host="dsa110.example", headers={"origin": "https://dsa110.example"}).text == "inside"


@pytest.mark.parametrize(
    "url",
    [f"/graphql?query={MUTATION}", f"/graphql/?query={MUTATION}", f"/graphql?query=%7Bx%7D&query={MUTATION}",
     f"/graphql?query={quote('query a { x } ' + 'mutation b { y }')}&operationName=b",
     f"/graphql?query={quote('# mutation?')}%0A{MUTATION}",
     "/graphql?query=mutation", f"/graphql?query={quote('subscription { x }')}", f"/graphql?query={quote('{' * 5000)}"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_mutations_by_get_head_or_delete_are_refused(method: str, url: str) -> None:
    assert guarded(url, method).status == 405


@pytest.mark.parametrize("query", ["{ version }", "query q { runs { id } }", "query mutation { version }", '{ asset(key: "mutation {}") }'])
def test_queries_by_get_are_allowed(query: str) -> None:
    assert guarded(f"/graphql?query={quote(query)}").text == "inside"
    assert guarded("/graphql").text == "inside"


def test_no_other_site_can_frame_our_pages() -> None:
    headers = guarded("/").headers
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["content-security-policy"] == "frame-ancestors 'self'"


@pytest.mark.parametrize(
    ("headers", "status"), [({"host": "127.0.0.1:3000", "origin": "http://127.0.0.1:3000"}, None), ({"host": "127.0.0.1:3000"}, None),
                            ({"host": "127.0.0.1:3000", "origin": "http://evil.example"}, 1008), ({"host": "evil.example"}, 1008)],
)  # fmt: skip
def test_websockets_from_other_sites_are_refused(headers: dict[str, str], status: int | None) -> None:
    """Browsers let any page open a WebSocket to any host."""
    passed: list[str] = []
    sent: list[Any] = []

    async def inside(scope: Any, _receive: Any, _send: Any) -> None:
        passed.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Guard(inside)({"type": "websocket", "path": "/graphql", "headers": encoded, "query_string": b""}, receive, send))
    assert passed == ([] if status else ["websocket"])
    assert [message["code"] for message in sent] == ([status] if status else [])


def test_every_way_to_run_it_starts_the_guarded_server() -> None:
    """Nothing starts Dagster's own web server command: units and compose use the door, or `dsa110 up`, which uses it."""
    compose = yaml.safe_load((OPS / "docker" / "compose.yaml").read_text())
    assert "command" not in compose["services"]["platform"]
    assert 'CMD ["dsa110", "up"]' in (OPS / "docker" / "Dockerfile").read_text()
    started = [path.read_text() for path in OPS.rglob("*") if path.is_file() and path.suffix in (".service", ".yaml", ".py", "", ".sh")]
    assert not any("dagster-webserver --" in text or '"dagster_webserver"' in text for text in started)
