"""Pages, resources and orders of a portal with its index in PostgreSQL are the same as with SQLite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.types import ASGIApp

from dsa110_assets import settings
from dsa110_assets.archive import audit, caltable_registry, judgements, quarantine, requested
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Answer, ask
from dsa110_assets_tests.portal.test_browser import MOSAIC, PAGES, SOURCE
from dsa110_assets_tests.portal.v1.test_control import BEARER, ME, SET, TILE, TOKEN

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
PLOTS = (
    "/timeline.json", "/timeline.json?since=2025-02-01&until=2026-01-26", "/timeline.json?since=2025-02-01&until=2026-01-26&colour=rms",
    "/trends/rms.json", "/trends/rms.json?since=2025-02-01&until=2026-01-26", "/trends/latency.json?since=2025-02-01&until=2026-01-26",
    f"/sources/{SOURCE}/chart.json", f"/sources/{SOURCE}/table.csv", "/candidates.csv", f"/products/{MOSAIC}/plot.png",
    f"/view/{MOSAIC}/overlay.json?kind=measurements", "/sky?plain=1", "/metrics", "/status", "/ready", "/trends/nothing.json",
)  # fmt: skip
OF_ONE = {
    "product_id": TILE, "observation": "2026-01-25T22:05", "source_id": quote(made.FAINT), "name": "3C138", "key": "0" * 16, "run_id": "0",
    "alert_id": "1", "silence_id": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Portal:
    app: ASGIApp
    small: made.SmallArchive
    url: str | None

    def ask(self, path: str, *, order: Any = None) -> Answer:
        if order is None:
            return ask(self.app, path)
        return ask(self.app, f"/api/v1/{path}", "POST", headers=(BEARER, ME), body=order)


def portal(place: Path, url: str | None) -> Portal:
    """A portal over a private archive, with a token and a Dagster home that was used once."""
    place.mkdir()
    small = made.build(place, url)
    instances.open_instance(place / "home").dispose()
    given: dict[str, Any] = {"DAGSTER_HOME": place / "home", "token": TOKEN, "database_url": url}
    configured = settings.load(inbox=small.inbox, archive=small.root, **given)
    from dsa110_assets.analyst import AnalystArchive

    return Portal(create_app(AnalystArchive(Archive(small.root, url)), inbox=small.inbox, settings=configured), small, url)


@pytest.fixture
def both(postgres_database: str, tmp_path: Path, no_settings_of_this_machine: None) -> tuple[Portal, Portal]:
    return portal(tmp_path / "sqlite", None), portal(tmp_path / "postgres", postgres_database)


def resources(app: ASGIApp) -> list[str]:
    """The paths of all readable resources, with an existing or possible value for each parameter."""
    paths = ask(app, "/api/v1/openapi.json").json["paths"]
    found = []
    for path, methods in paths.items():
        if "get" in methods:
            for name, value in OF_ONE.items():
                path = path.replace(f"{{{name}}}", value)
            found.append(f"/api/v1{path}")
    return found


def identities(answer: Answer) -> Any:
    """Identifying fields of the items of a list, or of one resource. Times and paths differ between two archives and are left out."""
    body = answer.json
    items = body.get("items", [body]) if isinstance(body, dict) else body
    names = ("product_id", "partition", "source_id", "set_id", "observation", "check", "state", "n_epochs", "flux_jy", "kind")
    return [{name: one[name] for name in names if isinstance(one, dict) and name in one} for one in items]


def test_pages_and_resources_are_those_of_sqlite(both: tuple[Portal, Portal]) -> None:
    sqlite, postgres = both
    assert (sqlite.small.root / "index.sqlite").exists()
    assert not (postgres.small.root / "index.sqlite").exists()
    for page in (*PAGES, *PLOTS):
        first, second = sqlite.ask(page), postgres.ask(page)
        assert (first.status, first.headers["content-type"]) == (second.status, second.headers["content-type"]), page
        assert second.status in (200, 303) or page in ("/status", "/trends/nothing.json"), (page, second.text[:500])
    paths = resources(postgres.app)
    assert len(paths) > 35
    for resource in paths:
        first, second = sqlite.ask(resource), postgres.ask(resource)
        assert first.status == second.status < 500, (resource, second.text[:500])
        if second.status == 200 and second.headers["content-type"] == "application/json":
            assert identities(first) == identities(second), resource


def test_lists_come_in_pages_that_hold_still(both: tuple[Portal, Portal]) -> None:
    for sort in ("partition", "-created_at"):
        listed = []
        for opened in both:
            cursor, found = "", []
            while cursor is not None:
                page = opened.ask(f"/api/v1/products?limit=3&sort={sort}{f'&cursor={quote(cursor)}' if cursor else ''}").json
                found += [row["product_id"] for row in page["items"]]
                cursor = page["next"]
            assert len(found) == len(set(found))
            listed.append(sorted(found))
        assert listed[0] == listed[1]


def test_orders_are_carried_out(both: tuple[Portal, Portal]) -> None:
    postgres = both[1]
    with Archive(postgres.small.root, postgres.url) as archive:
        (record,) = quarantine.quarantined(archive)
        for resource, body in (
            (f"products/{TILE}/pin", {"reason": "in the paper"}), ("ingest/pause", {"reason": "service"}), ("ingest/resume", {}),
            ("thresholds/reload", {}), (f"quarantine/{record.key}/release", {}),
            ("judgements", {"source_id": made.FAINT, "verdict": "artefact", "note": "beside"}),
            ("requested-mosaics", {"name": "virgo", "tiles": [TILE]}),
            ("runs", {"asset": "tile_image", "partitions": ["2026-01-25T22:05"]}),
            ("silences", {"what": "disk", "reason": "it is known"}),
        ):  # fmt: skip
            answer = postgres.ask(resource, order=body)
            assert answer.status in (200, 201, 202), (resource, answer.text)
        for resource, body in ((f"caltables/{SET}/reject", {"reason": "bad phases"}), ("retention", {}), (f"products/{TILE}/unpin", {})):
            rehearsal = postgres.ask(resource, order=body).json
            assert rehearsal["done"] is False, rehearsal
            assert postgres.ask(resource, order={**body, "confirm": rehearsal["confirm"]}).json["done"] is True
        assert not archive.get(TILE).pinned
        assert caltable_registry.get(archive, SET).status == caltable_registry.REJECTED
        assert pausing.paused(postgres.small.root) is None
        assert [judgement.verdict for judgement in judgements.judgements(archive)] == ["artefact"]
        assert requested.read(archive, "virgo") is not None
        assert quarantine.quarantined(archive) == []
    assert {line.state for line in audit.lines(postgres.small.root, 100)} == {"begun", "done"}
    assert f"/calibration/{SET}" in postgres.ask("/calibration").text
