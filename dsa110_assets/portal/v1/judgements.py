"""People's judgements of sources."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from dsa110_assets.analyst_tables import place
from dsa110_assets.archive import judgements
from dsa110_assets.portal import curves
from dsa110_assets.portal.v1 import access
from dsa110_assets.portal.v1.context import Portal

router = APIRouter(tags=["sources"])
Source = Annotated[str, Field(min_length=1, max_length=200, description="a source's id")]


class Judging(BaseModel):
    """A person's judgement of a source."""

    source_id: Source
    verdict: Literal["real", "artefact", "unsure"]
    note: Annotated[str, Field(max_length=judgements.LONGEST_NOTE, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$", description="why")] = ""


class JudgementRow(BaseModel):
    """One person's judgement of a source, and when it was made. It belongs to the position on the sky."""

    source_id: str
    ra_deg: float
    dec_deg: float
    verdict: Literal["real", "artefact", "unsure"]
    note: str
    name: str = Field(description="who made it")
    at: datetime


@router.get("/judgements")
def list_judgements(
    portal: Portal, source_id: Annotated[str | None, Query(max_length=200, description="of this source; default: of all")] = None
) -> list[JudgementRow]:
    """Judgements of sources, oldest first."""
    said = judgements.judgements(portal.store)
    if source_id is not None:
        name, ra_deg, dec_deg = place(curves.light_curve(portal.archive, source_id))
        said = judgements.of_places(said, [name], [ra_deg], [dec_deg])[0]
    return [JudgementRow.model_validate(one, from_attributes=True) for one in said]


@router.post("/judgements", status_code=201)
def judge(body: Judging, portal: Portal, actor: access.Controller) -> JudgementRow:
    """Judge a source; earlier judgements are kept."""
    name, ra_deg, dec_deg = place(curves.light_curve(portal.archive, body.source_id))
    with access.ordered(portal, actor, "judge", name, verdict=body.verdict, note=body.note or None) as order:
        said = judgements.judge(portal.store, name, ra_deg, dec_deg, verdict=body.verdict, name=actor.name, note=body.note)
        order.told = f"{name} is {said.verdict}"
    return JudgementRow.model_validate(said, from_attributes=True)
