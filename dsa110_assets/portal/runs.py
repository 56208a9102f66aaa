"""The page of a run: what it was started to make, when, how it ended and why, and its trace."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.errors import NotFoundError
from dsa110_assets.orchestration.watching import history
from dsa110_assets.portal import render


def run(request: Request) -> Response:
    """The page of one run of Dagster, with the products it made."""
    home, run_id = request.app.state.home, request.path_params["run_id"]
    found = history.run(home, run_id)
    store = render.archive_of(request).store
    made = [one for asset in found.assets for one in store.versions(asset, found.partition) if one.run_id == run_id]
    why = [": ".join(parts) for parts in history.reasons(home, run_id)] or [history.why_failed(home, run_id)]
    return render.page(
        "run.html", request, run=found, made=made, reasons=why if found.status == history.FAILED else [],
        trace_id=found.tags.get(history.TRACE_TAG), unfinished=history.UNFINISHED, ended_badly=history.ENDED_BADLY,
    )  # fmt: skip


def kept(home: Path, run_ids: Iterable[str]) -> set[str]:
    """The ids of those runs that Dagster still has: runs of older products have expired, and another machine's are not here."""
    found = set()
    for run_id in set(run_ids):
        with suppress(NotFoundError):
            found.add(history.run(home, run_id).run_id)
    return found


ROUTES = [Route("/runs/{run_id}", run)]
