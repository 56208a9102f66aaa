"""The guard before our servers: only their own pages may use them, not another site's that is open in the same browser.

A browser sends any page's requests anywhere, including to this machine and behind a firewall. The request states its host (an attacker
can make a name resolve to this machine: DNS rebinding), its origin, and how the two are related; see the OWASP sheets on cross-site
request forgery and the Fetch Metadata standard. Programs other than browsers state no origin, and pass.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from dsa110_assets.portal.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
FRAMES = ((b"x-frame-options", b"SAMEORIGIN"), (b"content-security-policy", b"frame-ancestors 'self'"))
"""No other site may show these pages in a frame of its own, where a click is not what it seems (clickjacking)."""
_POLICY_VIOLATION = 1008


class Guard:
    """Refuses requests for an unknown host (400), from another site's page (403), and changes requested by a reading method (405).

    `hosts` are further names under which the server is reached. Loopback names, this machine's name and plain IP addresses are
    always accepted, because nobody else can make them lead here.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app, self.hosts = app, frozenset(name.lower().rstrip(".") for name in (*LOOPBACK, socket.gethostname(), *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, _unframed(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal[1]})
        else:
            await problem(*refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """(status, sentence) if a request is refused, else None."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 400, "this server is not known by that host name: DSA110_HOSTS lists further names under which it may be reached"
        reading = scope["type"] == "http" and scope["method"] in READING
        origin = headers.get("origin") or (None if reading else headers.get("referer"))
        if origin is not None and not _same(origin, host):
            return 403, "a page of another site sent this request: this server answers its own pages only"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_link(scope, headers):
            return 403, "a page of another site sent this request: other sites may only link to these pages"
        if scope["type"] == "http" and scope["method"] != "POST" and _mutates(scope):
            return 405, "a request that changes something must be a POST"
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True


def _name(host: str) -> str | None:
    """The name in a Host header, without its port; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError if the port is not a number
    except ValueError:
        return None
    name = (parts.hostname or "").rstrip(".")
    return name if name and parts.username is None and parts.netloc == host and not parts.path else None


def _same(origin: str, host: str) -> bool:
    """Whether an Origin header names the same server as the Host header; `null`, sent by a page without an origin, never does."""
    try:
        page = urlsplit(origin)
        default = DEFAULT_PORTS[page.scheme]
        here = urlsplit(f"//{host}")
        return (page.hostname, page.port or default) == (here.hostname, here.port or default)
    except (ValueError, KeyError):
        return False


def _is_link(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a request follows a link to a whole page, which changes nothing; pictures, frames, forms and scripts are no links."""
    to_page = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return to_page and scope["type"] == "http" and scope["method"] in READING


def _mutates(scope: Scope) -> bool:
    """Whether the query parameters hold a GraphQL document that may change something, or one that cannot be parsed."""
    documents = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("query", [])
    if not scope["path"].rstrip("/").endswith("/graphql"):
        return False
    from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

    try:
        definitions = [definition for text in documents for definition in parse(text).definitions]
    except (GraphQLError, RecursionError):
        return True
    return any(isinstance(one, OperationDefinitionNode) and one.operation is not OperationType.QUERY for one in definitions)


def _unframed(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(one for one in FRAMES if one[0] not in present)]
        await send(message)

    return sending
