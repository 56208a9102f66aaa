"""The small archive behind the portal, and a client that drives the application without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from starlette.types import ASGIApp

from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.small_archive import SmallArchive


@dataclass(frozen=True)
class Answer:
    """The response of the application."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Get = Callable[..., Answer]


def ask(
    app: ASGIApp,
    url: str,
    method: str = "GET",
    host: str = "localhost",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: Any = None,
) -> Answer:
    """Send one request through the whole application as a server does, with the path unquoted. A `body` is sent as JSON."""
    parts = urlsplit(url)
    sent_body = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    if body is not None:
        headers = (*headers, (b"content-type", b"application/json"))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(parts.path), "raw_path": parts.path.encode(), "query_string": parts.query.encode(),
        "root_path": "", "headers": [(b"host", host.encode()), *headers], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    is_sent = False

    async def receive() -> dict[str, Any]:
        nonlocal is_sent
        if is_sent:  # the client stays connected until it has its answer
            await asyncio.Event().wait()
        is_sent = True
        return {"type": "http.request", "body": sent_body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    answer_headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], answer_headers, b"".join(part.get("body", b"") for part in sent[1:]))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallArchive:
    return small_archive.build(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def get(small: SmallArchive) -> Get:
    app = create_app(small.root, inbox=small.inbox)

    def get_(url: str, **options: Any) -> Answer:
        return ask(app, url, **options)

    return get_


@pytest.fixture
def empty(tmp_path: Path) -> Get:
    """A portal over an archive without products."""
    from dsa110_assets.archive.store import Archive

    Archive.create(tmp_path / "archive").close()
    app = create_app(tmp_path / "archive", inbox=tmp_path)
    return lambda url, **options: ask(app, url, **options)
