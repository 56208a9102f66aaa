"""Whose pages may use our servers: their own, and nobody else's that happens to be open in the same browser.

A browser sends any page's requests anywhere, also to this machine and behind a firewall. It says for which host (a name of
the attacker's can be made to lead here: DNS rebinding), from which origin, and how the two are related; see the OWASP sheets on
cross-site request forgery and the Fetch Metadata standard. Programs that are no browsers say nothing of it, and pass.
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
"""No other site may show these pages inside its own, where a click is not what it seems."""
_POLICY_VIOLATION = 1008


class Guard:
    """Refuses requests for a strange host (400), from another site's page (403), and changes asked for by reading (405).

    `hosts` are names under which the server is reached, beside loopback's, this machine's own and plain IP addresses, which
    no one else can make lead here.
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
        """(status, sentence) of a request that is refused."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 400, "this server does not go by that host name; DSA110_HOSTS lists others it may be reached under"
        reading = scope["type"] == "http" and scope["method"] in READING
        origin = headers.get("origin") or (None if reading else headers.get("referer"))
        if origin is not None and not _same(origin, host):
            return 403, "a page of another site asked for this; it is answered to its own pages only"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_link(scope, headers):
            return 403, "a page of another site asked for this; a link to follow is all it may hold"
        if scope["type"] == "http" and scope["method"] != "POST" and _mutates(scope):
            return 405, "what changes something is asked for by POST"
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
        _ = parts.port  # raises ValueError for what is no number
    except ValueError:
        return None
    name = (parts.hostname or "").rstrip(".")
    return name if name and parts.username is None and parts.netloc == host and not parts.path else None


def _same(origin: str, host: str) -> bool:
    """Whether an Origin header names the server that the Host header does; `null`, of a page without one, never does."""
    try:
        page = urlsplit(origin)
        default = DEFAULT_PORTS[page.scheme]
        here = urlsplit(f"//{host}")
        return (page.hostname, page.port or default) == (here.hostname, here.port or default)
    except (ValueError, KeyError):
        return False


def _is_link(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a request is a link followed to a whole page, which changes nothing: not a picture, frame, form or script."""
    to_page = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return to_page and scope["type"] == "http" and scope["method"] in READING


def _mutates(scope: Scope) -> bool:
    """Whether the query parameters hold a GraphQL document that may change something; one that cannot be read may."""
    given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("query", [])
    if not scope["path"].rstrip("/").endswith("/graphql"):
        return False
    from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

    try:
        definitions = [definition for text in given for definition in parse(text).definitions]
    except (GraphQLError, RecursionError):
        return True
    return any(isinstance(one, OperationDefinitionNode) and one.operation is not OperationType.QUERY for one in definitions)


def _unframed(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(one for one in FRAMES if one[0] not in there)]
        await send(message)

    return sending
