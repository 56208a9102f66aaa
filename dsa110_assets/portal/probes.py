"""Probes with which a load balancer, Kubernetes or an outside monitor asks whether all is well. The API gives the same judgement.

/health   200 while this process answers; it checks nothing else, because a restart of the portal would mend nothing else
/ready    200 while the index answers too, so that pages can be shown; else 503
/status   200 while the platform works: the daemon lives, and ingest was not failing for an hour; else 503 with the reasons
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsa110_assets import __version__
from dsa110_assets.archive.index import Index
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import DsaError
from dsa110_assets.orchestration.watching import history, signs
from dsa110_assets.thresholds import Thresholds

INGEST = "inbox"
FAILING = timedelta(hours=1)
PATHS = ("/health", "/ready", "/status")


class Health(BaseModel):
    """Whether this portal can answer, whether the platform behind it works, and the reasons if not."""

    status: str = Field(description="ok; not ready: the index does not answer; failing: the platform does not work")
    version: str
    ready: bool = Field(description="the index answers, so pages and this API work")
    working: bool = Field(description="the daemon gives signs of life, and its look at the inbox succeeded within the last hour")
    reasons: list[str] = Field(description="why it is not ready, or not working, and what to do")


def judge(store: Archive, home: Path, limits: Thresholds, now: datetime | None = None) -> Health:
    """The judgement now. It does not wait for an index that does not answer."""
    moment, unready, failing = now or datetime.now(UTC), list[str](), list[str]()
    index = Index(store.index.url, store.index.archive_id, patience_s=0.0)
    try:
        index.read(lambda _: None)
    except (DsaError, OSError, SQLAlchemyError) as error:
        unready.append(f"the index does not answer: {error}")
    finally:
        index.close()
    try:
        failing += _failing(store, home, limits, moment) if not unready else []
    except (DsaError, OSError, ValueError, SQLAlchemyError) as error:
        failing.append(f"Dagster's state cannot be read: {error}")
    state = "not ready" if unready else "failing" if failing else "ok"
    return Health(status=state, version=__version__, ready=not unready, working=not (unready or failing), reasons=[*unready, *failing])


def _failing(store: Archive, home: Path, limits: Thresholds, now: datetime) -> list[str]:
    """Reasons why the platform does not work by itself; [] if it does."""
    if history.heartbeat(home) is None:
        return ["Dagster's daemon never ran here; dsa110 up starts it"]
    if why := signs.daemon_problem(store, home, limits, now):
        return [f"Dagster's daemon: {why}; restart it (runbook: No sign of life)"]
    last = history.sensor_success(home, now - timedelta(days=1)).get(INGEST)
    if last is None or now - last > FAILING:
        duration = "a day" if last is None else f"{(now - last) / timedelta(hours=1):.1f} h"
        return [f"the look at the inbox has not succeeded for {duration}; its ticks in Dagster's web UI say why (sensor {INGEST})"]
    return []


def _judged(request: Request) -> Health:
    state = request.app.state
    return judge(state.archive.store, state.home, state.limits()[0])


def health(request: Request) -> Response:
    """Answer that this process is alive."""
    return JSONResponse({"status": "ok", "version": __version__})


def ready(request: Request) -> Response:
    """Answer whether this portal can serve pages: 200 or 503."""
    found = _judged(request)
    return JSONResponse(found.model_dump(), 200 if found.ready else 503)


def status(request: Request) -> Response:
    """Answer whether the platform works: 200 or 503."""
    found = _judged(request)
    return JSONResponse(found.model_dump(), 200 if found.working else 503)
