"""Every answer of the API is one that its description lists, and never a fault of the program."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from dsa110_assets import settings
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.portal.app import create_app
from dsa110_assets.portal.v1 import context
from dsa110_assets_tests.portal.small_archive import SmallArchive

TOKEN = "a-token-of-some-length"
ASKED: dict[str, Any] = {
    "seed": 110,
    "headers": {"Authorization": f"Bearer {TOKEN}"},
    "generation": {"max-examples": 6, "deterministic": True, "database": "none"},
    "phases": {"stateful": {"enabled": False}},
    # a valid request may name what the archive lacks; the answer is then 4XX with a sentence
    "checks": {"positive_data_acceptance": {"enabled": False}},
}


def portal(small: SmallArchive, place: Path) -> ASGIApp:
    shutil.copytree(small.root, place / "archive")
    instances.open_instance(place / "home").dispose()
    configured = settings.load(inbox=small.inbox, archive=place / "archive", DAGSTER_HOME=place / "home", token=TOKEN)
    return create_app(place / "archive", inbox=small.inbox, settings=configured, hosts=("testserver",))


def breaches(app: ASGIApp) -> Iterator[str]:
    """A line for each finding of Schemathesis and for each operation that it did not call."""
    import schemathesis
    from schemathesis.engine import events, from_schema

    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, config=schemathesis.Config.from_dict(ASKED))
    called = set()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            yield f"{getattr(event, 'label', '')}: {getattr(event, 'value', event)}"
        if isinstance(event, events.ScenarioFinished):
            called.add(event.label)
            for node in (node for nodes in event.recorder.checks.values() for node in nodes):
                if (info := node.failure_info) is not None:
                    yield f"{event.label}: {node.name}: {info.failure.title}: {info.failure.message} ({info.code_sample})"
    described = {f"{method.upper()} {path}" for path, methods in schema.raw_schema["paths"].items() for method in methods}
    yield from (f"{label}: was not asked" for label in described - called)


@pytest.mark.slow
def test_every_answer_is_described(small: SmallArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "TRIES", 10_000)  # because it tries wrong tokens more often than is allowed
    monkeypatch.setattr(context, "STARTS", 10_000)
    found = list(breaches(portal(small, tmp_path)))
    assert not found, "\n".join(found[:40])
