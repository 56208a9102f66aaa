"""The page of alerts (current and past, with who acknowledged them), and the runbook, to whose sections alerts link."""

from __future__ import annotations

import itertools
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import dsa110_assets
from dsa110_assets.archive import alerts
from dsa110_assets.errors import NotFoundError
from dsa110_assets.orchestration.watching import about, conditions
from dsa110_assets.portal import parameters, render, runs

HISTORY, FIGURES_DAYS = 50, 30
RUNBOOKS = (
    Path(dsa110_assets.__file__).parents[1] / "ops" / "runbook.md",
    Path(sys.prefix) / "share" / "doc" / "dsa110-assets" / "runbook.md",
)
"""Where the runbook lies in a working tree, and where installation puts it."""


def alerts_page(request: Request) -> Response:
    """Current alerts, silences, and the last HISTORY alerts that are over, the latest begun first (with ids below `before`)."""
    store, home, now = render.archive_of(request).store, request.app.state.home, datetime.now(UTC)
    before = parameters.text(request, "before")
    over = alerts.listed(store, [alerts.RESOLVED], limit=HISTORY + 1, before=int(before) if before and before.isdecimal() else None)
    active = alerts.current(store)
    abouts = {one.id: about.about(store, home, one.page) for one in active}
    return render.page(
        "alerts.html", request, now=now, active=active, about=abouts,
        runs=runs.kept(home, (one.run_id for one in abouts.values() if one.run_id)), over=over[:HISTORY],
        earlier=over[HISTORY - 1].id if len(over) > HISTORY else None, silences=alerts.silences(store), days=FIGURES_DAYS,
        figures=alerts.figures(store, now - timedelta(days=FIGURES_DAYS)), late=alerts.undelivered(store, now),
        told=conditions.presentations(), runbook=conditions.runbook, choices=conditions.SILENCED, looked_at=alerts.looked_at(store),
    )  # fmt: skip


def runbook_page(request: Request) -> Response:
    """The runbook as a page. Its headings are the anchors to which alerts link."""
    return render.page("runbook.html", request, text=runbook_html())


def runbook_html() -> str:
    """Return the runbook as HTML. HTML inside its text is escaped, not interpreted. Raises NotFoundError if it is not installed."""
    from markdown_it import MarkdownIt

    path = next((path for path in RUNBOOKS if path.is_file()), None)
    if path is None:
        raise NotFoundError("the runbook is not installed here; it is ops/runbook.md in the source tree")
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(path.read_text(encoding="utf-8"))
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(following.content))
        for part in token.children or ():
            if part.type == "link_open" and not str(part.attrs["href"]).startswith(("http", "#")):
                part.attrs = {"class": "soft"}  # it links to a file of the source tree, which is not served here
    return str(reader.renderer.render(tokens, reader.options, {}))


def anchor(heading: str) -> str:
    """The anchor of a heading in an address, formed as GitHub forms it."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).strip().replace(" ", "-")


ROUTES = [Route("/alerts", alerts_page), Route("/runbook", runbook_page)]
