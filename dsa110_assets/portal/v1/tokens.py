"""The token that lets its holder change things, and the sessions that browsers receive in exchange for it.

A session's cookie names its holder and its end, signed with a key made from the token; the token itself is in no cookie.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass

SESSION_S = 12 * 3600.0
"""Twelve hours: long enough for a night's watch."""


@dataclass(frozen=True)
class Session:
    """A browser's session: the name its holder gave, when it ends [unix s], and the csrf that its changes must carry."""

    name: str
    ends_s: float
    csrf: str


class Keys:
    """The token, and what is signed with it. All comparisons take the same time whatever text is given."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def __repr__(self) -> str:
        return "<Keys>"

    def is_token(self, given: str) -> bool:
        """Whether a text is the token."""
        return hmac.compare_digest(hashlib.sha256(given.encode(errors="replace")).digest(), hashlib.sha256(self._token).digest())

    def begin(self, name: str) -> str:
        """The cookie of a new session."""
        content = json.dumps([name, time.time() + SESSION_S, secrets.token_hex(8)]).encode()
        body = base64.urlsafe_b64encode(content).decode()
        return f"{body}.{self._sign('session', body)}"

    def session(self, cookie: str) -> Session | None:
        """The session of a cookie; None if the cookie is not ours or has expired."""
        body, _, signature = cookie.partition(".")
        if not hmac.compare_digest(signature.encode(errors="replace"), self._sign("session", body).encode()):
            return None
        try:
            name, ends_s, _ = json.loads(base64.urlsafe_b64decode(body))
        except (ValueError, binascii.Error):
            return None
        return Session(name, ends_s, self._sign("csrf", body)) if time.time() < ends_s else None

    def _sign(self, use: str, text: str) -> str:
        key = hmac.new(self._token, b"dsa110 portal " + use.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(errors="replace"), hashlib.sha256).hexdigest()
