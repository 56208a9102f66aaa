"""A page made from the portal's own OpenAPI description of the HTTP API."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dsa110_assets
from dsa110_assets.analyst import open_archive
from dsa110_assets.archive.store import Archive
from dsa110_assets.portal.v1 import app
from dsa110_assets.portal.v1.context import Context

PACKAGE = Path(dsa110_assets.__file__).parent
PREFIX = "/api/v1"


def link(text: str, page: str) -> str:
    """A link from a page of the reference to a page of the repository."""
    return f"[{text}](../../{page})"


def description() -> dict[str, Any]:
    """The content of `/api/v1/openapi.json`."""
    with tempfile.TemporaryDirectory() as place:
        Archive.create(Path(place)).close()
        return app.create(Context(open_archive(place))).openapi()


def page() -> str:
    """The page of all operations with their parameters, by tag. Examples are on the page docs/http-api.md."""
    told = description()
    parts = [f"# HTTP API\n\n{told['info']['description']}\n\nExamples: {link('HTTP API', 'docs/http-api.md')}.\n"]
    for tag in told["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{tag['description']}\n")
        parts += [text for name, text in _operations(told["paths"]) if name == tag["name"]]
    return "\n".join(parts)


def _operations(paths: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The tag and the text of each operation."""
    for path, verbs in paths.items():
        for verb, one in verbs.items():
            body = one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            rows = [(f"`{p['name']}`", p["in"], p.get("description", "")) for p in one.get("parameters", [])]
            rows += [(f"`{body['$ref'].rpartition('/')[2]}`", "body", "")] if "$ref" in body else []
            listed = "".join(f"| {' | '.join(' '.join(str(cell).split()).replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
            head = "| parameter | in | what it is |\n|---|---|---|\n" if rows else ""
            text = f"### {verb.upper()} {PREFIX}{path}\n\n{one.get('description') or one.get('summary', '')}\n\n{head}{listed}"
            yield one.get("tags", [""])[0], text
