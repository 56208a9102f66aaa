"""Sessions of browsers, and the audit of what was ordered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field

from dsa110_assets.archive import audit
from dsa110_assets.portal.v1 import access, paging, tokens
from dsa110_assets.portal.v1.context import Portal

router = APIRouter(tags=["control"])


class Login(BaseModel):
    """The token and name for a new session."""

    token: Annotated[str, Field(min_length=1, max_length=1000, description="the platform's token")]
    name: Annotated[
        str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$", description="your name, for the audit")
    ]


class SessionRow(BaseModel):
    """A session, or its absence."""

    control: bool = Field(description="whether a token is set, so that its holder may change things")
    name: str | None = Field(default=None, description="the name that its holder gave; null if there is no session")
    ends_at: datetime | None = None
    csrf: str | None = Field(default=None, description=f"what requests for changes with the session's cookie must carry as {access.CSRF}")


class AuditRow(BaseModel):
    """A line of the audit: an order has one line when it begins, and another when it is done or has failed."""

    order: str = Field(description="the same in all lines of one order")
    at: datetime
    by: str = Field(description="the name that its giver stated")
    origin: str = Field(description="the giver's address")
    verb: str
    target: str
    arguments: str = Field(description="other arguments, as JSON")
    state: str = Field(description="begun, done or failed")
    told: str = Field(description="its result, or why it failed")


def _row(session: tokens.Session | None, control: bool) -> SessionRow:
    if session is None:
        return SessionRow(control=control, name=None, ends_at=None, csrf=None)
    return SessionRow(control=control, name=session.name, ends_at=datetime.fromtimestamp(session.ends_s, UTC), csrf=session.csrf)


@router.get("/session")
def show_session(request: Request, portal: Portal) -> SessionRow:
    """Whether this browser may change things, and the csrf its requests must carry."""
    keys, cookie = portal.keys, request.cookies.get(access.COOKIE)
    return _row(keys.session(cookie) if keys and cookie else None, keys is not None)


@router.post("/session", status_code=201)
def begin_session(body: Login, request: Request, response: Response, portal: Portal) -> SessionRow:
    """Begin a browser's session: sets a cookie that scripts and other sites cannot use."""
    access.require_keys(portal)
    assert portal.keys is not None
    if not portal.keys.is_token(body.token):
        portal.tries.take(access.address(request))
        raise HTTPException(401, "that is not the platform's token", headers={"WWW-Authenticate": "Bearer"})
    cookie = portal.keys.begin(body.name.strip())
    response.set_cookie(
        access.COOKIE, cookie, max_age=int(tokens.SESSION_S), httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return _row(portal.keys.session(cookie), True)


@router.delete("/session", status_code=204)
def end_session() -> Response:
    """Forget this browser's session."""
    response = Response(status_code=204)
    response.delete_cookie(access.COOKIE, httponly=True, samesite="strict")
    return response


@router.get("/audit")
def list_audit(portal: Portal, cursor: paging.Cursor = None, limit: paging.Limit = 100) -> paging.Page[AuditRow]:
    """Orders given through this API: who, when, from where, what, and how it ended; newest first."""
    after = paging.decode(cursor, int)
    found = audit.lines(portal.archive.root, limit + 1, int(after[0]) if after else None)
    rows = [AuditRow.model_validate(one, from_attributes=True) for one in found[:limit]]
    return paging.Page(items=rows, next=paging.encode((found[limit - 1].place,)) if len(found) > limit else None)
