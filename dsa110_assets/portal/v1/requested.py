"""Mosaics that people request by a name: list, show, request, delete."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, BaseModel, Field

from dsa110_assets.archive.requested import ASSET
from dsa110_assets.orchestration.requested import requested_mosaics
from dsa110_assets.orchestration.requested.requesting import LARGEST_RADIUS_DEG, MosaicSelection
from dsa110_assets.portal.v1 import access
from dsa110_assets.portal.v1.context import Portal
from dsa110_assets.portal.v1.runs import Started

router = APIRouter(tags=["requested mosaics"])
NAME = r"^[a-z0-9][a-z0-9_]{0,30}$"
Name = Annotated[str, Path(pattern=NAME, description="the name of the request")]
Text = Annotated[str, Field(max_length=140)]


class Wanted(BaseModel):
    """What a mosaic is made of: the tiles of a span of time, tiles by name, or those around a calibrator's transit."""

    name: Annotated[str, Field(pattern=NAME, description="the name to give it")]
    since: Annotated[AwareDatetime | None, Field(description="observations that begin at this time (UTC) or later ...")] = None
    until: Annotated[AwareDatetime | None, Field(description="... and before this one")] = None
    tiles: Annotated[list[Text], Field(max_length=2000, description="instead of a time: tiles by product id or partition")] = Field(
        default_factory=list
    )
    calibrator: Annotated[str, Field(max_length=40, description="instead of both: the tiles around its transit, centred on it")] = ""
    at: Annotated[AwareDatetime | None, Field(description="the transit nearest to this time; default: to the newest tile")] = None
    timespan_min: Annotated[float, Field(gt=0, le=1440, description="minutes around the transit")] = 60.0
    centre_deg: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=360)], Annotated[float, Field(ge=-90, le=90)]] | None,
        Field(description="right ascension and declination of its middle, ICRS; default: where its tiles are"),
    ] = None
    radius_deg: Annotated[float, Field(gt=0, le=LARGEST_RADIUS_DEG, description="about the middle")] = 1.0
    tier: Annotated[Literal["science", "quick"], Field(description="quick: a quarter of the pixels")] = "science"


class RequestRow(BaseModel):
    """A request and its mosaic."""

    name: str
    partition: str = Field(description="its partition in Dagster")
    since: datetime
    until: datetime
    tiles: list[str] = Field(description="partitions it is limited to; empty: all of its span of time")
    centre_deg: tuple[float, float] | None
    radius_deg: float
    calibrator: str
    tier: Literal["science", "quick"]
    by: str = Field(description="who requested it")
    created_at: datetime
    product_id: str | None = Field(description="its mosaic; null until it is made")
    due: str = Field(description="why it is to be made (again); empty if it is as requested")


class Deleting(BaseModel):
    """Remove a request and its data."""

    confirm: access.Confirm = None


@router.get("/requested-mosaics")
def list_requested(portal: Portal) -> list[RequestRow]:
    """Every request, by name."""
    return [_row(one) for one in requested_mosaics.listed(portal.store, portal.require_settings())]


@router.get("/requested-mosaics/{name}")
def show_requested(name: Name, portal: Portal) -> RequestRow:
    """One request."""
    return _row(requested_mosaics.show(portal.store, portal.require_settings(), name))


@router.post("/requested-mosaics", status_code=202)
def request_mosaic(body: Wanted, portal: Portal, actor: access.Controller) -> Started:
    """Request a mosaic; the daemon makes it. The same request again makes it again."""
    settings = portal.require_settings().model_copy(update={"dagster_home": portal.home()})
    portal.starts.take()
    fields = body.model_dump(exclude={"name"}) | {"tiles": tuple(body.tiles)}
    with access.ordered(portal, actor, "request mosaic", body.name, **body.model_dump(exclude_defaults=True)) as order:
        launch = requested_mosaics.hand_over(settings, portal.store, body.name, MosaicSelection(**fields), actor.name)
        order.told = f"backfill {launch.backfill_id}: {ASSET} {launch.partitions[0]}"
    return Started.model_validate(launch, from_attributes=True)


@router.post("/requested-mosaics/{name}/delete")
def delete_requested(name: Name, body: Deleting, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Remove a request and the data of its mosaics; records stay."""
    settings = portal.require_settings().model_copy(update={"dagster_home": portal.home()})
    one = requested_mosaics.show(portal.store, settings, name)
    ids = [one.product.id] if one.product else []
    if (rehearsal := access.rehearsed(body.confirm, f"delete the requested mosaic {name}", ids)) is not None:
        return rehearsal
    with access.ordered(portal, actor, "delete requested mosaic", name) as order:
        requested_mosaics.delete(settings, name)
        order.told = f"deleted the requested mosaic {name}"
    return access.done(order.told, ids)


def _row(standing: requested_mosaics.Standing) -> RequestRow:
    return RequestRow.model_validate(
        {
            **vars(standing.request),
            "tiles": list(standing.request.tiles),
            "partition": standing.request.partition,
            "product_id": standing.product and standing.product.id,
            "due": standing.due,
        }
    )
