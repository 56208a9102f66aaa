"""The API as an application: its resources, its description (OpenAPI), and the form of its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import compile_path

from dsa110_assets import __version__
from dsa110_assets.errors import BadDataError, ConfigurationError, DsaError, NotFoundError
from dsa110_assets.portal.problems import MEDIA_TYPE, problem
from dsa110_assets.portal.v1 import (
    alerts,
    caltables,
    control,
    judgements,
    page,
    products,
    requested,
    runs,
    services,
    session,
    sources,
    state,
)
from dsa110_assets.portal.v1.context import Context
from dsa110_assets.portal.v1.etags import Tagged

MOST_BODY_BYTES = 262_144
DESCRIPTION = """What the portal's pages show, and what its buttons do, for programs.

Times are UTC; units are in the names of fields; a missing value is null. Lists come in pages: send `next` as `cursor` until it is
null; no item is repeated or left out, whatever is published in the meantime. Every answer to GET carries an ETag.
Errors are problem details (RFC 9457). Reading needs no token. Changes are requested by POST with the platform's token
(`Authorization: Bearer`), or with a session's cookie and its `X-CSRF-Token`, and are recorded in the audit. What cannot be undone is
rehearsed first: without `confirm` nothing is done, and the answer says what would be done and gives the `confirm` to send for it.
"""
TAGS = [
    {"name": "state", "description": "The state of the platform."},
    {"name": "products", "description": "Published products, and what they were made from."},
    {"name": "requested mosaics", "description": "Mosaics that people request by a name."},
    {"name": "sources", "description": "Sources, light curves, candidates."},
    {"name": "calibration", "description": "Calibration tables."},
    {"name": "runs", "description": "Dagster's runs."},
    {"name": "alerts", "description": "Current and past alerts, and who acknowledged them."},
    {"name": "control", "description": "What people do by hand, and who did it."},
]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str = Field(description="what the status means")
    status: int
    detail: str = Field(description="what happened, to what, and what to do")
    errors: list[dict[str, Any]] | None = Field(
        None, description="the wrong parameters, each with its place (`loc`) and what is wrong (`msg`)"
    )


def create(context: Context) -> FastAPI:
    """The API over one portal's context."""
    problem_form = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    app = FastAPI(
        title="DSA-110 continuum platform", version=__version__, description=DESCRIPTION, openapi_tags=TAGS,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json", separate_input_output_schemas=False,
        middleware=[Middleware(Tagged)], max_body_size=MOST_BODY_BYTES,
        responses={"4XX": {"description": "The request is wrong.", **problem_form},
                   "503": {"description": "The request cannot be served now.", **problem_form}},
        exception_handlers={RequestValidationError: _invalid, HTTPException: _refused, DsaError: _our_error, Exception: _fault},
        generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.state.context = context
    for module in (state, products, requested, sources, judgements, caltables, runs, alerts, control, services, session):
        app.include_router(module.router)
    app.add_api_route("/docs", page.documentation, include_in_schema=False)
    app.openapi = _described(app, app.openapi)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, before: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The description with what FastAPI does not add by itself: the form of errors, 304, and that a session needs its csrf."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = before()
            found["components"]["schemas"]["Problem"] = Problem.model_json_schema()
            for methods in found["paths"].values():
                if "get" in methods:
                    methods["get"]["responses"]["304"] = {"description": "It has not changed (If-None-Match)."}
                for operation in methods.values():
                    if "security" in operation:
                        operation["security"] = [{"token": []}, {"session": [], "csrf": []}]
        return before()

    return described


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = [{"loc": [str(part) for part in one["loc"]], "msg": str(one["msg"])} for one in error.errors()]
    first = wrong[0]
    return problem(422, f"{'.'.join(first['loc'])}: {first['msg']}", errors=wrong)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence, headers = str(error.detail), error.headers
    if error.detail == "Not Found":
        sentence = "there is no such resource; /api/v1/docs lists them"
    elif error.status_code == 405:
        allowed = _methods(request)
        sentence, headers = f"{request.method} is not allowed for this resource: use {allowed}", {"Allow": allowed}
    return problem(error.status_code, sentence, headers)


def _methods(request: Request) -> str:
    """The methods in the description of a path, over all its routes."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    paths = request.app.openapi()["paths"].items()
    return ", ".join(sorted(method.upper() for known, methods in paths if compile_path(known)[0].fullmatch(path) for method in methods))


async def _our_error(request: Request, error: Exception) -> Response:
    """Answer 404 for what does not exist, 400 for a wrong request, 422 for unusable data, and 503 for other errors, which are temporary."""
    kinds = ((NotFoundError, 404), (ConfigurationError, 400), (BadDataError, 422))
    return problem(next((status for kind, status in kinds if isinstance(error, kind)), 503), str(error))


async def _fault(request: Request, error: Exception) -> Response:
    return problem(500, "this program failed: the portal's log has the traceback")
