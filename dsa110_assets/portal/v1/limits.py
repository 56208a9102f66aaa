"""Limits on how often something may be requested."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from fastapi import HTTPException

MOST_NAMES = 10_000


class Limiter:
    """Allows at most `number` requests in any `seconds` for each name, counted in this process."""

    def __init__(self, number: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.number, self.seconds, self._now = number, seconds, now
        self._taken: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def take(self, name: str = "") -> None:
        """Count one request. Answers 429, with the time after which to try again, if there were too many."""
        with self._lock:
            now = self._now()
            if len(self._taken) > MOST_NAMES:
                self._taken = {known: at for known, at in self._taken.items() if at and at[-1] > now - self.seconds}
            at = self._taken.setdefault(name, deque())
            while at and at[0] <= now - self.seconds:
                at.popleft()
            if len(at) >= self.number:
                wait_s = max(1, int(at[0] + self.seconds - now + 1))
                message = f"more than {self.number} in {self.seconds:g} s: try again in {wait_s} s"
                raise HTTPException(429, message, headers={"Retry-After": str(wait_s)})
            at.append(now)
