"""Who may change things, and on which terms: with a token, after a rehearsal, and with a line in the audit."""

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
MOST_LISTED = 1000
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
    str | None,
    Field(max_length=64, description="`confirm` of the rehearsal; without it nothing is done, and the answer says what would be"),
]
Reason = Annotated[
    str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$", description="why; recorded permanently")
]


@dataclass(frozen=True)
class Actor:
    """A holder of the token: the name given, and the address."""

    name: str
    address: str


class Outcome(BaseModel):
    """What was done or, in a rehearsal, what would be done."""

    done: bool = Field(description="false: this was a rehearsal, and nothing was changed")
    told: str = Field(description="what was or would be done, in a sentence")
    affected: list[str] = Field(default_factory=list, description=f"ids of what is affected, the first {MOST_LISTED}")
    n_affected: int = Field(default=0, description="how many are affected")
    confirm: str | None = Field(
        default=None, description="of a rehearsal: send the same request again with this as `confirm` to have it done"
    )


def address(request: Request) -> str:
    """The address that a request comes from."""
    return request.client.host if request.client else "unknown"


def require_keys(portal: Context) -> None:
    """Answer 403 if no token is configured: then nobody may change anything."""
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
        raise HTTPException(403, f"a session changes nothing without its {CSRF}: GET /session returns it")
    return Actor(session.name, address(request))


Controller = Annotated[Actor, Depends(_actor)]


def ordered(portal: Context, actor: Actor, verb: str, target: str = "", **arguments: Any) -> AbstractContextManager[audit.Order]:
    """A context manager that records in the audit what its block does, and who ordered it."""
    stated = json.dumps({name: value for name, value in arguments.items() if value is not None}, sort_keys=True, default=str)
    return audit.order(portal.archive.root, actor.name, actor.address, verb, target, stated)


def rehearsed(confirm: str | None, told: str, affected: Sequence[str], *facts: Any) -> Outcome | None:
    """Return None if `confirm` belongs to a rehearsal of exactly this order, which may then be done; without one, the rehearsal.

    Answers 409 if it belongs to another order: what would be done has changed in the meantime.
    """
    digest = hashlib.sha256(json.dumps([told, list(affected), *facts], default=str).encode()).hexdigest()[:16]
    if confirm is None:
        return Outcome(done=False, told=told, affected=list(affected[:MOST_LISTED]), n_affected=len(affected), confirm=digest)
    if not hmac.compare_digest(confirm.encode(errors="replace"), digest.encode()):
        raise HTTPException(
            409, f"{told}: that is not what you confirmed; leave `confirm` out to rehearse it, then send the `confirm` of that answer"
        )
    return None


def done(told: str, affected: Sequence[str] = ()) -> Outcome:
    """The outcome of what was done."""
    return Outcome(done=True, told=told, affected=list(affected[:MOST_LISTED]), n_affected=len(affected))
