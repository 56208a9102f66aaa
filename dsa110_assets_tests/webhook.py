"""A webhook on loopback that really listens: what it was told, and what it answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """Takes what is posted to it while `answer`, asked with each message, is 200; `taken_at` are the times [unix s]."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.taken_at: list[float] = []
        self.asked = 0
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
                hook.asked += 1
                self.send_response(hook.answer({}))
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._handler, self._port = Handler, 0
        self.open()

    def open(self) -> None:
        """Listen, again where it listened before."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def titles(self) -> list[str]:
        """Of what it took, in order."""
        return [message["title"] for message in self.taken]

    def close(self) -> None:
        """Listen no more: connections are refused."""
        self.server.shutdown()
        self.server.server_close()
