"""Orders about the archive: pinning, retention, releasing quarantined files, pausing ingest, draining, thresholds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel, Field

from dsa110_assets.archive import quarantine
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.watching import history
from dsa110_assets.portal.v1 import access
from dsa110_assets.portal.v1.context import Portal
from dsa110_assets.portal.v1.products import ProductId, ProductRow, row
from dsa110_assets.portal.v1.state import Thresholds, thresholds_of

router = APIRouter(tags=["control"])


class Pinning(BaseModel):
    """Why a product is kept."""

    reason: access.Reason


class Unpinning(BaseModel):
    """Unpin a product, so that retention applies to it again."""

    confirm: access.Confirm = None


class Retaining(BaseModel):
    """Remove what the retention policy no longer keeps."""

    confirm: access.Confirm = None


class Pausing(BaseModel):
    """Why ingest is paused, or the platform drained."""

    reason: access.Reason


class Ingest(BaseModel):
    """Whether arriving files are taken up."""

    paused: bool
    by: str | None = Field(default=None, description="who paused it")
    at: str | None = None
    reason: str | None = None


class Draining(BaseModel):
    """Whether the platform drains (begins nothing new), and the runs that are still unfinished."""

    draining: bool
    drained: bool = Field(description="nothing new is begun, and nothing runs any more")
    by: str | None = Field(default=None, description="who ordered the drain")
    at: str | None = None
    reason: str | None = None
    running: list[str] = Field(description="ids of the runs that are not done")
    queued: int = Field(description="runs that have not begun")


@router.post("/products/{product_id}/pin")
def pin_product(product_id: ProductId, body: Pinning, portal: Portal, actor: access.Controller) -> ProductRow:
    """Keep a product, and everything it was made from, from retention."""
    found = portal.store.get(product_id)
    with access.ordered(portal, actor, "pin", found.id, reason=body.reason) as order:
        pinned = portal.store.pin(found.id, f"{body.reason.strip()} ({actor.name})")
        order.told = f"{found.id} is pinned"
    return row(pinned)


@router.post("/products/{product_id}/unpin")
def unpin_product(product_id: ProductId, body: Unpinning, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Unpin a product, so that retention applies to it again."""
    found = portal.store.get(product_id)
    if not found.pinned:
        raise HTTPException(409, f"{found.id} is not pinned")
    if (rehearsal := access.rehearsed(body.confirm, f"unpin {found.id}", [found.id])) is not None:
        return rehearsal
    with access.ordered(portal, actor, "unpin", found.id) as order:
        portal.store.unpin(found.id)
        order.told = f"{found.id} is no longer pinned"
    return access.done(order.told, [found.id])


@router.post("/retention")
def retain(body: Retaining, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Remove data that are no longer needed; records stay. The rehearsal lists the products."""
    portal.starts.take()
    from dsa110_assets.orchestration.watching import housekeeping
    from dsa110_assets.thresholds import chosen_thresholds

    limits = chosen_thresholds(*portal.threshold_files())
    going = [decision.product for decision in housekeeping.apply_retention(portal.store, limits, dry_run=True) if decision.remove]
    told = f"remove the data of {len(going)} products, {sum(product.size_bytes for product in going) / 1e9:.3f} GB"
    if (rehearsal := access.rehearsed(body.confirm, told, [product.id for product in going])) is not None:
        return rehearsal
    with access.ordered(portal, actor, "retain", plan=told) as order:
        gone = [decision.product.id for decision in housekeeping.apply_retention(portal.store, limits, dry_run=False) if decision.remove]
        order.told = f"removed the data of {len(gone)} products"
    return access.done(order.told, gone)


@router.post("/quarantine/{key}/release")
def release_quarantined(
    key: Annotated[str, Path(max_length=40, pattern=r"^[0-9a-f]+$")], portal: Portal, actor: access.Controller
) -> access.Outcome:
    """Release the files of a record from quarantine, so that they are tried again."""
    one = quarantine.get(portal.store, key)
    if one.released_at is not None:
        raise HTTPException(409, f"{key} was released at {one.released_at.isoformat(timespec='seconds')}")
    with access.ordered(portal, actor, "release from quarantine", key) as order:
        freed = quarantine.release(portal.store, key)
        order.told = f"{sum(len(record.paths) for record in freed)} files are judged afresh"
    return access.done(order.told, [record.key for record in freed])


@router.get("/ingest")
def show_ingest(portal: Portal) -> Ingest:
    """Whether arriving files are taken up, or a person has paused ingest."""
    found = pausing.paused(portal.archive.root)
    return Ingest(paused=False) if found is None else Ingest(paused=True, by=found.by, at=found.at, reason=found.reason)


@router.post("/ingest/pause")
def pause_ingest(body: Pausing, portal: Portal, actor: access.Controller) -> Ingest:
    """Take up nothing more from the inbox, even after restarts; what was already taken up is processed."""
    with access.ordered(portal, actor, "pause ingest", reason=body.reason) as order:
        pausing.pause(portal.archive.root, actor.name, body.reason.strip())
        order.told = "ingest is paused"
    return show_ingest(portal)


@router.post("/ingest/resume")
def resume_ingest(portal: Portal, actor: access.Controller) -> Ingest:
    """Resume taking up what arrives."""
    with access.ordered(portal, actor, "resume ingest") as order:
        pausing.resume(portal.archive.root)
        order.told = "ingest goes on"
    return show_ingest(portal)


@router.get("/drain")
def show_drain(portal: Portal) -> Draining:
    """Whether the platform drains, and which runs are still going: poll this after `POST /drain/begin`."""
    found, home = pausing.paused(portal.archive.root, pausing.ALL), portal.require_settings().home_path
    running = [one.run_id for one in history.runs(home, history.RUNNING)]
    details = {} if found is None else asdict(found)
    queued = len(history.runs(home, ["QUEUED"]))
    return Draining(draining=found is not None, drained=found is not None and not running, running=running, queued=queued, **details)


@router.post("/drain/begin")
def drain(body: Pausing, portal: Portal, actor: access.Controller) -> Draining:
    """Begin nothing new, even after restarts; running runs finish, and queued ones wait."""
    with access.ordered(portal, actor, "drain", reason=body.reason) as order:
        pausing.pause(portal.archive.root, actor.name, body.reason.strip(), pausing.ALL)
        order.told = "nothing new is begun"
    return show_drain(portal)


@router.post("/drain/end")
def end_drain(portal: Portal, actor: access.Controller) -> Draining:
    """End a drain, so that the platform begins new work again."""
    with access.ordered(portal, actor, "end drain") as order:
        pausing.resume(portal.archive.root, pausing.ALL)
        order.told = "the platform goes on"
    return show_drain(portal)


@router.post("/thresholds/reload")
def reload_thresholds(portal: Portal, actor: access.Controller) -> Thresholds:
    """Read the thresholds file now; a wrong file is refused as a whole, and the last good one stays in force."""
    with access.ordered(portal, actor, "reload thresholds") as order:
        thresholds = thresholds_of(portal)
        order.told = thresholds.refused or f"{thresholds.path} is in force"
    return thresholds
