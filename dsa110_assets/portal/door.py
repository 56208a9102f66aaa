"""Dagster's web interface behind a guard, and behind a token where others reach it: `python -m dsa110_assets.portal.door`.

Dagster has no users, and takes orders from any page open in a browser that reaches it: anyone who reaches it may launch and delete.
Therefore the guard is always there. Where other machines reach the server, every request must also carry the token of the settings;
if no token is set, the interface is read-only for everyone.
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
"""Paths that need no token: this one shows that the server answers, and its version; `dsa110 up` waits for it."""


class TokenDoor:
    """Passes on only requests that carry the token, as `Authorization: Bearer` or in the cookie that ?token= sets."""

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
        return (kind.lower() == "bearer" and self._is_token(bearer)) or (cookie is not None and self._is_token(cookie.value))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token)

    def _answer(self, scope: Scope) -> Response:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] == "GET" and self._is_token(given):
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
    parser.add_argument("--local", action="store_true", help="on loopback: no token is needed, because only this machine reaches it")
    arguments = parser.parse_args()
    if arguments.local and arguments.host not in LOOPBACK:
        parser.error(f"--local: others reach {arguments.host}; use 127.0.0.1, or leave it out and set DSA110_TOKEN")
    try:
        configured = settings.load()
    except DsaError as error:
        print(f"web server: {error}", file=sys.stderr)
        return 1
    logs.configure(configured.log_format)
    _serve(arguments.host, arguments.port, arguments.workspace, configured, local=arguments.local)
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
