"""The web application: its routes, and the checks that every request must pass first."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsa110_assets.analyst import AnalystArchive, open_archive
from dsa110_assets.errors import ConfigurationError, DsaError, NotFoundError
from dsa110_assets.orchestration.resources import IN_FORCE
from dsa110_assets.portal import charts, metrics, overview, pages, probes, render
from dsa110_assets.portal.guard import Guard
from dsa110_assets.portal.problems import problem
from dsa110_assets.portal.remembered import ReturnFreedMemory
from dsa110_assets.portal.v1 import app as api
from dsa110_assets.portal.v1.context import Context
from dsa110_assets.portal.v1.tokens import Keys
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import Thresholds, load_thresholds, refused_thresholds

LONGEST_PARAMETER = 400
_log = logging.getLogger(__name__)


def create_app(
    archive: Path | AnalystArchive | None = None,
    *,
    inbox: Path | None = None,
    hosts: Sequence[str] = (),
    look: overview.Look | None = None,
    settings: Settings | None = None,
) -> Starlette:
    """Return the portal over an archive (None: DSA110_ARCHIVE). Without a `look` the contents of the inbox are not reported.

    With the platform's `settings` its API shows them, and whoever has their token may change things; without a token it is read-only.
    `settings` also give the places of Dagster's home, the thresholds and CARTA; without them the first two are expected in the archive.

    It answers only its own pages, under loopback names, this machine's name, plain IP addresses and `hosts` (see `guard`).
    Raises ConfigurationError when there is no archive.
    """
    opened = archive if isinstance(archive, AnalystArchive) else open_archive(archive)
    keys = Keys(settings.token) if settings is not None and settings.token else None
    routes = [
        *pages.ROUTES,
        Route("/metrics", metrics.metrics),
        *(Route(path, answer) for path, answer in zip(probes.PATHS, (probes.health, probes.ready, probes.status), strict=True)),
        Mount(metrics.API, api.create(Context(opened, inbox, look, settings, keys))),
        Mount("/static/bokeh", charts.static_files()),
        Mount("/static", StaticFiles(packages=[("dsa110_assets.portal", "static")])),
    ]
    home = (settings.dagster_home if settings else None) or opened.root / "dagster"
    thresholds = settings.thresholds_path if settings else opened.root / "thresholds.toml"
    last_good = opened.root / IN_FORCE
    backups = settings.backups_path if settings else opened.root.with_name(f"{opened.root.name}-backups")

    def limits() -> tuple[Thresholds, str | None]:
        return load_thresholds(thresholds, last_good), refused_thresholds(thresholds, last_good)

    registry = metrics.registry(metrics.Sources(opened, home, inbox, look, backups, limits))
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(ReturnFreedMemory),
            Middleware(metrics.CountRequests, requests=metrics.Requests(registry)),
            Middleware(Guard, hosts=hosts),
            Middleware(_Door),
        ],
        exception_handlers={HTTPException: _http_error, DsaError: _our_error, Exception: _fault},
    )
    app.state.archive, app.state.inbox, app.state.look = opened, inbox, look
    app.state.home, app.state.limits, app.state.registry = home, limits, registry
    app.state.carta, app.state.aladin = (settings.carta_url, settings.aladin) if settings else (None, None)
    return app


class _Door:
    """Refuses requests that no client needs (changes outside the API, control characters, very long parameters); adds security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        texts = [scope["path"], *request.query_params.keys(), *request.query_params.values()]
        if request.method not in ("GET", "HEAD") and not scope["path"].startswith(f"{metrics.API}/"):
            await _answer(request, 405, "this address is read-only: /api/v1/docs lists what can be changed, and how")(
                scope, receive, _with_headers(send)
            )
        elif any(len(text) > LONGEST_PARAMETER or not text.isprintable() for text in texts):
            await _answer(request, 400, "a parameter is too long or contains control characters")(scope, receive, _with_headers(send))
        else:
            await self.app(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            for name, value in (
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"same-origin"),
                (b"content-security-policy", render.POLICY.encode()),
                (b"cache-control", b"no-cache"),
            ):
                if name not in names:
                    message["headers"] = [*message["headers"], (name, value)]
        await send(message)

    return sending


def _answer(request: Request, status: int, sentence: str) -> Response:
    """An error as problem details for programs and as a page for people."""
    path = request.url.path
    if path.startswith("/api/") or path.endswith(".json") or path in ("/metrics", *probes.PATHS):
        return problem(status, sentence)
    return pages.error_page(request, status, sentence)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = "there is no such page" if error.status_code == 404 else str(error.detail)
    return _answer(request, error.status_code, sentence)


async def _our_error(request: Request, error: Exception) -> Response:
    """Answer 404 for what does not exist, 400 for a wrong request, and 503 for other errors, which are temporary."""
    status = 404 if isinstance(error, NotFoundError) else 400 if isinstance(error, ConfigurationError) else 503
    return _answer(request, status, str(error))


async def _fault(request: Request, error: Exception) -> Response:
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    return _answer(request, 500, "this program failed: the portal's log has the traceback")
