"""Calibration tables: all sets, the one in force; rejecting, retiring, restoring and importing them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, Field

from dsa110_assets.analyst_times import moment
from dsa110_assets.archive import caltable_registry as registry
from dsa110_assets.archive import stale
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal.v1 import access, importing, paging
from dsa110_assets.portal.v1.context import Portal
from dsa110_assets.portal.v1.products import Since, Time, Until
from dsa110_assets.telescope import timegrid

router = APIRouter(tags=["calibration"])
ProductPart = Annotated[str, Path(max_length=140, pattern=r"^[a-z][A-Za-z0-9_~-]*$", description="a set's id is its product's id ...")]
NamePart = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9_.+:-]+$", description="... and its name in that product")]


class SetRow(BaseModel):
    """A set of tables of one transit."""

    set_id: str
    product_id: str
    calibrator: str
    anchor: str = Field(description="what its flux scale rests on")
    mid_mjd: float = Field(description="the transit, MJD UTC")
    valid_start_mjd: float
    valid_end_mjd: float
    dec_deg: float = Field(description="apparent declination of its strip")
    antennas: list[str]
    status: Literal["active", "rejected", "superseded"]
    reason: str | None = Field(description="why it was rejected")
    removed: bool = Field(description="retention has removed its tables")
    retired: list[tuple[float | None, float | None]] = Field(description="spans [MJD; null: open] for which it is not used")
    history: list[str] = Field(description="what was done to it by hand, by whom, when and why")
    figures: dict[str, Any] = Field(description="its quality")
    paths: list[str]


class SetInForce(BaseModel):
    """A set with which an observation at that time would be calibrated, and its share."""

    set_id: str
    calibrator: str
    anchor: str
    mid_mjd: float
    age_h: float = Field(description="from the transit to that time; negative: the transit comes later")
    status: str
    weight: float = Field(description="its share, where gains are interpolated between two")


class Rejecting(BaseModel):
    """Why a set is bad."""

    reason: access.Reason
    confirm: access.Confirm = None


class Retiring(Rejecting):
    """The span in which a set is not used: from, until, or both."""

    since: Time | None = None
    until: Time | None = None


class Restoring(BaseModel):
    """Undo a rejection and all retirements."""

    confirm: access.Confirm = None


class Importing(BaseModel):
    """Tables of one transit, made by CASA or a colleague, in a directory that the portal's machine can read."""

    directory: Annotated[
        str, Field(min_length=1, max_length=300, pattern=r"^/[^\x00-\x1f\x7f]*$", description="the folder that holds the tables")
    ]
    check: Annotated[
        str | None,
        Field(
            max_length=300, pattern=r"^/[^\x00-\x1f\x7f]*$", description="measurement set they are tried on; default: the archive's nearest"
        ),
    ] = None
    name: Annotated[str | None, Field(max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")] = None
    calibrator: Annotated[str | None, Field(max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+ -]*$")] = None


@router.get("/caltables")
def list_caltables(
    portal: Portal,
    since: Since = None,
    until: Until = None,
    status: Annotated[Literal["active", "rejected", "superseded"] | None, Query()] = None,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> paging.Page[SetRow]:
    """Sets of tables by the time of their transit, the latest first."""
    after = paging.decode(cursor, float, str)
    between = (_mjd(since) if since else 0.0, _mjd(until) + (1.0 if len(until) == 10 else 0.0) if until else 1e6)
    found = registry.sets(portal.store, status, between)
    items, following = paging.part(found, lambda one: (one.mid_mjd, one.set_id), after, limit, descending=True)
    return paging.Page(items=[_row(one) for one in items], next=following)


@router.get("/caltables/in-force")
def show_in_force(portal: Portal, at: Annotated[Time | None, Query(description="UTC time; default: now")] = None) -> list[SetInForce]:
    """The sets with which an observation at that time would be calibrated now, the nearest first; 404 with the reason if it would wait."""
    found = portal.archive.caltables(at=at or datetime.now(UTC))
    return [
        SetInForce(set_id=one.set_id, calibrator=one.calibrator, anchor=one.anchor, mid_mjd=one.mid_mjd,
                   age_h=float(one.age.to_value("hour")), status=one.status, weight=one.weight)
        for one in found.sets
    ]  # fmt: skip


@router.get("/caltables/{product_id}/{name}")
def show_caltables(product_id: ProductPart, name: NamePart, portal: Portal) -> SetRow:
    """One set."""
    return _row(registry.get(portal.store, f"{product_id}/{name}"))


@router.post("/caltables/import", status_code=200)
def import_caltables(body: Importing, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Register tables if a measurement set calibrated with them proves sound; takes minutes. 422 with the reasons if it does not."""
    settings = portal.require_settings()
    portal.starts.take()
    with access.ordered(portal, actor, "import caltables", body.directory, **body.model_dump(exclude={"directory"})) as order:
        set_id = importing.import_set(settings, body.directory, by=actor.name, check=body.check, name=body.name, calibrator=body.calibrator)
        order.told = f"{set_id} is registered"
    return access.done(order.told, [set_id])


@router.post("/caltables/{product_id}/{name}/reject")
def reject_caltables(product_id: ProductPart, name: NamePart, body: Rejecting, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Mark a set as bad: it is not used again, and exactly the products made with it become stale and are made again."""
    one = registry.get(portal.store, f"{product_id}/{name}")
    if one.status == registry.REJECTED:
        raise HTTPException(409, f"{one.set_id} is rejected already: {one.reason}")
    told, ids = f"reject {one.set_id}", stale.following(portal.store, registry.made_with(portal.store, one))
    if (rehearsal := access.rehearsed(body.confirm, told, ids)) is not None:
        return rehearsal
    with access.ordered(portal, actor, "reject caltables", one.set_id, reason=body.reason) as order:
        registry.reject(portal.store, one.set_id, f"{body.reason.strip()} ({actor.name})")
        order.told = f"rejected {one.set_id}; {len(ids)} products are stale"
    return access.done(order.told, ids)


@router.post("/caltables/{product_id}/{name}/retire")
def retire_caltables(product_id: ProductPart, name: NamePart, body: Retiring, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Exclude a set from calibrating observations of a span of time; what was made with it in that span becomes stale."""
    if body.since is None and body.until is None:
        raise HTTPException(422, "name since, until or both; to exclude a set at all times, reject it")
    one = registry.get(portal.store, f"{product_id}/{name}")
    span = tuple(None if text is None else _mjd(text) for text in (body.since, body.until))
    told = f"retire {one.set_id} from {body.since or 'ever'} until {body.until or 'ever'}"
    ids = stale.following(portal.store, registry.made_with(portal.store, one, (span[0], span[1])))
    if (rehearsal := access.rehearsed(body.confirm, told, ids)) is not None:
        return rehearsal
    with access.ordered(portal, actor, "retire caltables", one.set_id, **body.model_dump(exclude={"confirm"})) as order:
        registry.retire(portal.store, one.set_id, span[0], span[1], registry.line(told, actor.name, body.reason))
        order.told = f"retired {one.set_id}; {len(ids)} products are stale"
    return access.done(order.told, ids)


@router.post("/caltables/{product_id}/{name}/restore")
def restore_caltables(product_id: ProductPart, name: NamePart, body: Restoring, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Undo a rejection and all retirements of a set."""
    one = registry.get(portal.store, f"{product_id}/{name}")
    if one.status != registry.REJECTED and not one.retired:
        raise HTTPException(409, f"{one.set_id} is neither rejected nor retired")
    if (rehearsal := access.rehearsed(body.confirm, f"restore {one.set_id}", [one.set_id])) is not None:
        return rehearsal
    with access.ordered(portal, actor, "restore caltables", one.set_id) as order:
        now = registry.restore(portal.store, one.set_id, registry.line("restored", actor.name))
        order.told = f"{now.set_id} is {now.status} again"
    return access.done(order.told, [one.set_id])


def _row(entry: registry.RegisteredSet) -> SetRow:
    return SetRow.model_validate(jsonable(entry))


def _mjd(text: str) -> float:
    return timegrid.datetime_to_mjd(moment(text))
