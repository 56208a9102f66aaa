"""ETag and If-None-Match: an answer that the client already has is not sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Tagged:
    """Gives every successful answer to GET or HEAD a tag made from its bytes, and sends 304 to a client that has that tag."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        known_tags = dict(scope["headers"]).get(b"if-none-match", b"").decode("latin-1")
        start: Message = {}
        body = b""

        async def collecting(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await _send(start, body, known_tags, send)

        await self.app(scope, receive, collecting)


async def _send(start: Message, body: bytes, known_tags: str, send: Send) -> None:
    if start["status"] == 200:
        tag = f'"{xxhash.xxh3_128_hexdigest(body)}"'
        start["headers"] = [*start["headers"], (b"etag", tag.encode())]
        if known_tags.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in known_tags.split(",")]:
            kept = [(name, value) for name, value in start["headers"] if name.lower() not in (b"content-length", b"content-type")]
            start, body = {**start, "status": 304, "headers": kept}, b""
    await send(start)
    await send({"type": "http.response.body", "body": body})
