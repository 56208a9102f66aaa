"""A real webhook on loopback that keeps its messages and whose answers can be set."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """Keeps every posted message for which `answer` returns 200 in `taken`; `taken_at` are the times [unix s]."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.taken_at: list[float] = []
        self.heartbeats = 0
        self.answer: Callable[[dict[str, Any]], int] = lambda _: 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = hook.answer(message)
                if status == 200:
                    hook.taken_at.append(time.time())
                    hook.taken.append(message)
                self.send_response(status)
                self.end_headers()

            def do_GET(self) -> None:
                hook.heartbeats += 1
                self.send_response(hook.answer({}))
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._handler, self._port = Handler, 0
        self.open()

    def open(self) -> None:
        """Listen, on the same port as before if it was closed."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def titles(self) -> list[str]:
        """The titles of the kept messages, in order."""
        return [message["title"] for message in self.taken]

    def close(self) -> None:
        """Stop listening: connections are refused."""
        self.server.shutdown()
        self.server.server_close()
