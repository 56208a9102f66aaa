"""Dagster's web interface behind a guard, and a token where others reach it: `python -m dsa110_assets.portal.door`.

Dagster knows no users, and takes orders from any page open in a browser that reaches it: whoever does may launch and delete. So
the guard is always there. Where more than this machine reaches the server, every request must carry the token of the settings
too; without a token set, the interface is read-only for everybody.
"""

from __future__ import annotations

import argparse
import hmac
import os
import sys
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dsa110_assets.portal.guard import LOOPBACK, Guard
from dsa110_assets.portal.problems import problem

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings

COOKIE = "dsa110_token"
OPEN = frozenset({"/server_info"})
"""Says that the server answers, and its version: what `dsa110 up` waits for."""


class TokenDoor:
    """Lets requests pass that carry the token: as `Authorization: Bearer`, or in the cookie that ?token= sets."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self._carries(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope)(scope, receive, send)

    def _carries(self, scope: Scope) -> bool:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        kind, _, bearer = headers.get(b"authorization", "").partition(" ")
        cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        return (kind.lower() == "bearer" and self._is(bearer)) or (cookie is not None and self._is(cookie.value))

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token)

    def _answer(self, scope: Scope) -> Response:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] == "GET" and self._is(given):
            answer: Response = RedirectResponse(scope["path"], 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", max_age=86400)
            return answer
        return problem(401, "this needs the token of DSA110_TOKEN: open /?token=... once")


def main() -> int:
    """Serve Dagster's web interface."""
    from dsa110_assets import logs, settings
    from dsa110_assets.errors import DsaError

    parser = argparse.ArgumentParser(prog="python -m dsa110_assets.portal.door", description=main.__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--local", action="store_true", help="on loopback: no token is asked for, for only this machine reaches it")
    asked = parser.parse_args()
    if asked.local and asked.host not in LOOPBACK:
        parser.error(f"--local: others reach {asked.host}; use 127.0.0.1, or leave it out and set DSA110_TOKEN")
    try:
        configured = settings.load()
    except DsaError as error:
        print(f"web server: {error}", file=sys.stderr)
        return 1
    logs.configure(configured.log_format)
    _serve(asked.host, asked.port, asked.workspace, configured, local=asked.local)
    return 0


def _serve(host: str, port: int, workspace: str, configured: Settings, *, local: bool) -> None:
    import dagster as dg
    import uvicorn
    from dagster_webserver.app import create_app_from_workspace_process_context

    from dsa110_assets.orchestration.running.internals import WorkspaceFileTarget, WorkspaceProcessContext

    target = WorkspaceFileTarget([os.path.abspath(workspace)])
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, target, read_only=configured.token is None and not local) as context,
    ):
        app: ASGIApp = create_app_from_workspace_process_context(context, path_prefix="")
        if configured.token is not None and not local:
            app = TokenDoor(app, configured.token)
        uvicorn.run(Guard(app, (host, *configured.hosts)), host=host, port=port, log_config=None, access_log=False)


if __name__ == "__main__":
    sys.exit(main())
