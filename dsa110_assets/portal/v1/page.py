"""The API's documentation as a page generated here: it fetches nothing from elsewhere and needs no script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

_templates = Environment(
    loader=PackageLoader("dsa110_assets.portal"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Operation:
    """One method of one resource."""

    method: str
    path: str
    name: str
    told: str
    controls: bool
    parameters: list[tuple[str, str, str, str]]
    body: str | None
    answers: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Model:
    """The schema of a body or answer: its fields as (name, type, meaning)."""

    name: str
    told: str
    fields: list[tuple[str, str, str]]


def documentation(request: Request) -> HTMLResponse:
    """Every resource with its parameters, bodies and answers."""
    described = request.app.openapi()
    operations: dict[str, list[Operation]] = {tag["name"]: [] for tag in described["tags"]}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            operations[operation["tags"][0]].append(_operation(method.upper(), path, operation))
    models = [_model(name, schema) for name, schema in sorted(described["components"]["schemas"].items())]
    page = _templates.get_template("api.html")
    return HTMLResponse(page.render(info=described["info"], tags=described["tags"], operations=operations, models=models, root="/api/v1"))


def _operation(method: str, path: str, described: dict[str, Any]) -> Operation:
    parameters = [(one["name"], one["in"], _kind(one["schema"]), one.get("description", "")) for one in described.get("parameters", ())]
    body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answers = [(status, one["description"], _answer(one)) for status, one in described["responses"].items()]
    text, controls = described.get("description", described["summary"]), method != "GET"
    return Operation(method, path, described["operationId"], text, controls, parameters, None if body is None else _kind(body), answers)


def _answer(response: dict[str, Any]) -> str:
    return ", ".join(_kind(one["schema"]) for one in response.get("content", {}).values() if one.get("schema"))


def _model(name: str, schema: dict[str, Any]) -> Model:
    fields = [
        (field, _kind(field_schema), field_schema.get("description", "")) for field, field_schema in schema.get("properties", {}).items()
    ]
    return Model(name, schema.get("description", ""), fields)


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    return " or ".join(dict.fromkeys(_parts(schema))) or "anything"


def _parts(schema: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _parts(one)
    elif "enum" in schema:
        yield from map(str, schema["enum"])
    elif schema.get("type") == "array":
        yield f"list of {_kind(schema.get('items', {}))}"
    elif "type" in schema:
        limits = [
            f"{sign} {schema[name]:g}" for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")) if name in schema
        ]
        yield f"{schema.get('format') or schema['type']}{f' ({chr(44).join(limits)})' if limits else ''}"
