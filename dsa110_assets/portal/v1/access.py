"""Who may change things, and on which terms: a token, what was rehearsed, and a line in the audit."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, HTTPException, Request, Security
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from dsa110_assets.archive import audit
from dsa110_assets.portal.v1.context import Context, Portal

COOKIE, CSRF = "dsa110_session", "X-CSRF-Token"
MOST_TOLD = 1000
Bearer = Annotated[
    HTTPAuthorizationCredentials | None,
    Security(HTTPBearer(auto_error=False, scheme_name="token", description="the platform's token (`DSA110_TOKEN`), for programs")),
]
Cookie = Annotated[
    str | None, Security(APIKeyCookie(name=COOKIE, auto_error=False, scheme_name="session", description="what `POST /session` sets"))
]
Csrf = Annotated[
    str | None,
    Security(APIKeyHeader(name=CSRF, auto_error=False, scheme_name="csrf", description="`csrf` of the session, with its cookie")),
]
User = Annotated[
    str | None, Header(alias="X-DSA110-User", max_length=80, pattern=r"^[\x21-\x7e][\x20-\x7e]*$", description="your name, for the audit")
]
Confirm = Annotated[
    str | None, Field(max_length=64, description="`confirm` of the rehearsal; without it nothing is done, and you are told what would be")
]
Reason = Annotated[
    str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$", description="why; recorded for ever")
]


@dataclass(frozen=True)
class Actor:
    """Who holds the token: the name he goes by, and his address."""

    name: str
    address: str


class Outcome(BaseModel):
    """What was done, or, of a rehearsal, what would be."""

    done: bool = Field(description="false: this was a rehearsal, and nothing was changed")
    told: str = Field(description="the same in a sentence")
    affected: list[str] = Field(default_factory=list, description=f"ids of what it concerns, the first {MOST_TOLD}")
    n_affected: int = Field(default=0, description="how many it concerns")
    confirm: str | None = Field(default=None, description="of a rehearsal: send the same again with this as `confirm`, and it is done")


def address(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else "unknown"


def require_keys(portal: Context) -> None:
    """Answer 403 where no token is configured: then nobody may change anything."""
    if portal.keys is None:
        raise HTTPException(403, "this portal is read-only: no token is set (DSA110_TOKEN)")


def _actor(request: Request, portal: Portal, bearer: Bearer, cookie: Cookie, csrf: Csrf, user: User = None) -> Actor:
    require_keys(portal)
    assert portal.keys is not None
    if bearer is not None:
        if portal.keys.is_token(bearer.credentials):
            return Actor(user or "holder of the token", address(request))
        portal.tries.take(address(request))
    session = portal.keys.session(cookie) if cookie and bearer is None else None
    if session is None:
        raise HTTPException(
            401, "this needs the platform's token: Authorization: Bearer, or POST /session", headers={"WWW-Authenticate": "Bearer"}
        )
    if not hmac.compare_digest((csrf or "").encode(errors="replace"), session.csrf.encode()):
        raise HTTPException(403, f"a session changes nothing without its {CSRF}: GET /session tells it")
    return Actor(session.name, address(request))


Controller = Annotated[Actor, Depends(_actor)]


def ordered(portal: Context, actor: Actor, verb: str, target: str = "", **arguments: Any) -> AbstractContextManager[audit.Order]:
    """Have what the block does in the audit, with who ordered it."""
    said = json.dumps({name: value for name, value in arguments.items() if value is not None}, sort_keys=True, default=str)
    return audit.order(portal.archive.root, actor.name, actor.address, verb, target, said)


def rehearsed(confirm: str | None, told: str, affected: Sequence[str], *facts: Any) -> Outcome | None:
    """None if `confirm` is what a rehearsal of exactly this answers, which may be done then; without one, the rehearsal.

    Answers 409 if it is of something else: what would be done has changed meanwhile.
    """
    digest = hashlib.sha256(json.dumps([told, list(affected), *facts], default=str).encode()).hexdigest()[:16]
    if confirm is None:
        return Outcome(done=False, told=told, affected=list(affected[:MOST_TOLD]), n_affected=len(affected), confirm=digest)
    if not hmac.compare_digest(confirm.encode(errors="replace"), digest.encode()):
        raise HTTPException(409, f"{told}: that is not what you confirmed; leave `confirm` out to see it, and send what that answers")
    return None


def done(told: str, affected: Sequence[str] = ()) -> Outcome:
    """The outcome of what was done."""
    return Outcome(done=True, told=told, affected=list(affected[:MOST_TOLD]), n_affected=len(affected))
