"""The metrics and the health probe are complete and agree with the status."""

from __future__ import annotations

import math
import re
from pathlib import Path

from dsa110_assets import settings
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import TransientError
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.portal import overview
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get, ask


def test_metrics_are_prometheus_text(get: Get) -> None:
    answer = get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r'[a-z][a-z0-9_]*(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (\S+)')
    values = {}
    typed = set()
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        if not line.startswith("#"):
            match = sample.fullmatch(line)
            assert match, line
            assert {name := line.split("{")[0].split()[0], re.sub("_(bucket|sum|count)$", "", name)} & typed, line
            values[line.rpartition(" ")[0]] = float(match[3])
    assert all(math.isfinite(value) for value in values.values())
    assert values['dsa110_products{asset="tile_image"}'] == 4
    assert values["dsa110_image_noise_jy"] == made.RMS_JY
    assert values["dsa110_flagged_fraction"] == made.FLAGGED  # the figure on the observations page
    assert values["dsa110_flagged_fraction_calibrated"] == made.FLAGGED_CALIBRATED
    assert values["dsa110_quarantined"] == 1


def test_requests_are_counted_by_route(tmp_path: Path) -> None:
    """Requests are counted by route and not by address, of which clients can make up any number. API routes include the mount point."""
    small = made.build(tmp_path)
    app = create_app(small.root, inbox=small.inbox)
    product = next(iter(small.products))
    for path in (f"/api/v1/products/{product}", f"/products/{product}", "/nowhere/1", "/nowhere/2", "/health"):
        ask(app, path)
    lines = [line for line in ask(app, "/metrics").text.splitlines() if line.startswith("dsa110_http_")]
    totals = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if "requests_total" in line}
    name = 'dsa110_http_requests_total{method="GET",route="'
    assert totals[f'{name}/api/v1/products/{{product_id}}",status="200"}}'] == 1
    assert totals[f'{name}other",status="404"}}'] == 2
    assert sum(totals.values()) == 5
    assert "dsa110_http_requests_in_progress 1.0" in lines  # this request
    assert 'dsa110_http_request_seconds_count{route="/health"} 1.0' in lines
    assert not any("nowhere" in line or product in line for line in lines)


def test_the_portal_shows_the_inbox_and_rarely_scans_it(tmp_path: Path, no_settings_of_this_machine: None) -> None:
    """Status, front page and metrics agree. A failed look is reported and hides nothing else."""
    small, looks = made.build(tmp_path), list[int]()
    configured = settings.load(inbox=small.inbox, archive=small.root)
    (small.inbox / "2026-01-26T23:00:00_sb01.uvh5").write_bytes(b"x")

    def look(archive: Archive) -> inbox.Inbox:
        looks.append(1)
        return plan.scan_for_display(archive, configured)

    def away(archive: Archive) -> inbox.Inbox:
        raise TransientError("the inbox is away")

    app = create_app(small.root, inbox=small.inbox, look=overview.at_most_every(3600.0, look))
    status = ask(app, "/api/v1/status").json
    assert status["inbox_groups"] == {"ready": 0, "waiting": 0, "unusable": 0}
    assert any("uvh5" in row["path"] for row in status["inbox_files"])
    assert 'dsa110_inbox_groups{state="ready"} 0.0\n' in ask(app, "/metrics").text
    assert ask(app, "/").status == 200
    assert len(looks) == 1
    app = create_app(small.root, inbox=small.inbox, look=overview.at_most_every(0.0, away))
    later = ask(app, "/api/v1/status").json
    assert (later["inbox_groups"], later["troubles"]) == (None, ["the inbox: the inbox is away"])
    assert later["products"] == status["products"]
    assert "the inbox is away" in ask(app, "/").text
