"""The page from which the platform is operated: signing in, orders, runs, quarantined files, and who ordered what."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.archive import audit, quarantine
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.watching import history
from dsa110_assets.portal import render
from dsa110_assets.portal.v1.services import list_services

RUNS, LINES, RECORDS = 25, 40, 100


def control(request: Request) -> Response:
    """Everything that can be ordered. Its forms are shown to users who have signed in; reading needs no token."""
    archive = render.archive_of(request)
    by_time = [name for name, asset in specifications().items() if asset.grain not in ("catalogue", "request")]
    return render.page(
        "control.html",
        request,
        assets=by_time,
        paused=pausing.paused(archive.root),
        services=list_services(),
        drained=pausing.paused(archive.root, pausing.ALL),
        runs=history.runs(request.app.state.home, newest=RUNS),
        unfinished=history.UNFINISHED,
        ended_badly=history.ENDED_BADLY,
        quarantined=quarantine.quarantined(archive.store)[:RECORDS],
        lines=list({line.order: line for line in reversed(audit.lines(archive.root, LINES))}.values())[::-1],
    )


ROUTES = [Route("/control", control)]
