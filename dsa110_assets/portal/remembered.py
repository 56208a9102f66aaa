"""What the portal remembers between requests, only of things that never change, and bounded in bytes to bound its memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from dsa110_assets import heap

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

P = ParamSpec("P")
Value = TypeVar("Value")


class Memory:
    """Values by key, at most `most_bytes` of them in all; the least recently used are forgotten first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.held_bytes = most_bytes, 0
        self._known: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> tuple[object] | None:
        """The value in a tuple of one, so that a remembered None differs from None: it is not remembered."""
        with self._lock:
            found = self._known.get(key)
            if found is None:
                return None
            self._known.move_to_end(key)
            return (found[0],)

    def put(self, key: Hashable, value: object, size_bytes: int) -> None:
        """Remember a value, unless it is larger than the whole memory."""
        with self._lock:
            before = self._known.pop(key, None)
            self.held_bytes -= before[1] if before else 0
            if size_bytes > self.most_bytes:
                return
            self._known[key] = value, size_bytes
            self.held_bytes += size_bytes
            while self.held_bytes > self.most_bytes:
                _, (_, gone_bytes) = self._known.popitem(last=False)
                self.held_bytes -= gone_bytes


def remembered(most_bytes: int, size: Callable[[Any], int]) -> Callable[[Callable[P, Value]], Callable[P, Value]]:
    """A decorator that remembers what a function returns, by its hashable arguments, up to `most_bytes` in all.

    `size` gives the bytes of a returned value. Errors are not remembered. Arguments must be given in their order."""

    def around(function: Callable[P, Value]) -> Callable[P, Value]:
        memory = Memory(most_bytes)

        @wraps(function)
        def remembering(*arguments: P.args, **named: P.kwargs) -> Value:
            key = (*arguments, *sorted(named.items()))
            found: tuple[Any] | None = memory.get(key)
            if found is not None:
                value: Value = found[0]
                return value
            value = function(*arguments, **named)
            memory.put(key, value, size(value))
            return value

        return remembering

    return around


class ReturnFreedMemory:
    """Middleware that returns freed memory to the system after a request, at most once in `every_s`."""

    def __init__(self, app: ASGIApp, every_s: float = 30.0) -> None:
        self.app, self.every_s, self._last_s = app, every_s, time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        if time.monotonic() - self._last_s >= self.every_s:
            self._last_s = time.monotonic()
            await asyncio.to_thread(heap.give_back)
