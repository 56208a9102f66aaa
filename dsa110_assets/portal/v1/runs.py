"""Dagster's runs: list, show, start, cancel, retry."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, Field, StrictBool

from dsa110_assets.orchestration.watching import history
from dsa110_assets.portal.v1 import access, paging
from dsa110_assets.portal.v1.context import Portal

router = APIRouter(tags=["runs"])
Status = Literal["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING", "SUCCESS", "FAILURE", "CANCELED", "MANAGED"]
RunId = Annotated[str, Path(max_length=64, pattern=r"^[0-9a-zA-Z-]+$", description="a run's full id")]
Partition = Annotated[
    str, Field(max_length=16, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2})?$", examples=["2026-01-25T22:25"])
]
Option = bool | int | float | Annotated[str, Field(max_length=200)] | None
NIGHT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
ASKED_BY = "dsa110/asked_by"


class RunRow(BaseModel):
    """A run of Dagster."""

    run_id: str
    status: Status = Field(description="Dagster's word for its state")
    assets: list[str] = Field(description="what it makes")
    partition: str | None
    lane: str = Field(description="live, backfill, process or trial: how it shares the machine")
    asked_at: datetime
    began_at: datetime | None
    ended_at: datetime | None


class RunDetail(RunRow):
    """A run, with why it failed."""

    reasons: list[str] = Field(description="class and message of the error of each failed step")
    tags: dict[str, str]


class Start(BaseModel):
    """What to make: nights, or partitions of one asset; for a trial, with options other than the platform's settings."""

    asset: Annotated[
        str | None,
        Field(
            max_length=63, pattern=r"^[a-z][a-z0-9_]*$", description="default for nights: ingest, after which the platform makes the rest"
        ),
    ] = None
    first_night: Annotated[
        str | None, Field(pattern=NIGHT, description="first of the nights to make, from data in the inbox or the archive")
    ] = None
    last_night: Annotated[str | None, Field(pattern=NIGHT, description="default: the first")] = None
    partitions: Annotated[list[Partition], Field(max_length=2000, description="instead of nights: these windows of the asset")] = Field(
        default_factory=list
    )
    trial: Annotated[
        str | None, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,30}$", description="make the partitions for this trial, beside science")
    ] = None
    options: dict[Annotated[str, Field(max_length=80)], Option] = Field(
        default_factory=dict, description="settings of a trial by dotted names", examples=[{"imaging.robust": 0}]
    )
    dry_run: StrictBool = Field(default=False, description="say what would be queued, and change nothing")


class Started(BaseModel):
    """What was queued as a backfill in Dagster, or what a dry run would queue."""

    backfill_id: str | None = Field(description="null for a dry run")
    assets: list[str]
    partitions: list[str]
    left_out: list[str] = Field(description="windows with data but without a partition, and why")


class Cancelling(BaseModel):
    """End a run."""

    confirm: access.Confirm = None


@router.get("/runs")
def list_runs(
    portal: Portal,
    status: Annotated[list[Status] | None, Query(max_length=9, description="only in these states; may be repeated")] = None,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> paging.Page[RunRow]:
    """Runs, the last requested first; none before Dagster has any."""
    after = paging.decode(cursor, str)
    found = history.runs(portal.require_settings().home_path, status or (), limit + 1, str(after[0]) if after else None)
    items = [RunRow.model_validate(_as_row(run)) for run in found[:limit]]
    return paging.Page(items=items, next=paging.encode((found[limit - 1].run_id,)) if len(found) > limit else None)


@router.get("/runs/{run_id}")
def show_run(run_id: RunId, portal: Portal) -> RunDetail:
    """One run, and why it failed if it did."""
    home = portal.require_settings().home_path
    run = history.run(home, run_id)
    reasons = [": ".join(parts) for parts in history.reasons(home, run_id)] if run.status == history.FAILED else []
    return RunDetail.model_validate({**_as_row(run), "reasons": reasons, "tags": dict(run.tags)})


@router.post("/runs", status_code=202)
def start_runs(body: Start, portal: Portal, actor: access.Controller) -> Started:
    """Make nights, or partitions of an asset, again. New products replace the present ones, unless for a trial; the daemon runs it."""
    if (body.first_night is None) == (not body.partitions):
        raise HTTPException(422, "name either first_night (and last_night) or partitions")
    if body.partitions and body.asset is None:
        raise HTTPException(422, "partitions belong to an asset: name it")
    if (body.trial or body.options) and not body.partitions:
        raise HTTPException(422, "a trial needs partitions: name them")
    settings = portal.require_settings().model_copy(update={"dagster_home": portal.home()})
    portal.starts.take()
    from dsa110_assets.orchestration.running import backfill
    from dsa110_assets.orchestration.running.instance import open_instance

    if body.partitions:
        launches = [backfill.of_partitions(settings, body.asset or "", body.partitions, body.trial, body.options)]
    else:
        assert body.first_night is not None
        launches = backfill.backfill(settings, body.first_night, body.last_night or body.first_night, body.asset, dry_run=True)
    (launch,) = launches
    if not body.dry_run:
        arguments = body.model_dump(exclude_defaults=True)
        with (
            access.ordered(portal, actor, "start runs", ", ".join(launch.assets), **arguments) as order,
            open_instance(settings.dagster_home) as dagster,
        ):
            launch = backfill.hand_over(dagster, launch, {**backfill.TAGS, ASKED_BY: actor.name})
            order.told = f"backfill {launch.backfill_id}: {len(launch.partitions)} partitions"
    return Started.model_validate(launch, from_attributes=True)


@router.post("/runs/{run_id}/cancel")
def cancel_run(run_id: RunId, body: Cancelling, portal: Portal, actor: access.Controller) -> access.Outcome:
    """End a queued or running run; unfinished products are never published."""
    home = portal.home()
    run = history.run(home, run_id)
    if run.status not in history.UNFINISHED:
        raise HTTPException(409, f"run {run_id} is not queued or running: it ended as {run.status}")
    if (rehearsal := access.rehearsed(body.confirm, f"cancel run {run_id} of {_name(run)}", [run_id])) is not None:
        return rehearsal
    from dsa110_assets.orchestration.running import runs

    with access.ordered(portal, actor, "cancel run", run_id) as order:
        runs.cancel(home, run)
        order.told = f"cancelled run {run_id} of {_name(run)}"
    return access.done(order.told, [run_id])


@router.post("/runs/{run_id}/retry", status_code=202)
def retry_run(run_id: RunId, portal: Portal, actor: access.Controller) -> Started:
    """Queue again what a failed or cancelled run was to make."""
    settings = portal.require_settings().model_copy(update={"dagster_home": portal.home()})
    run = history.run(portal.home(), run_id)
    if run.status not in history.ENDED_BADLY:
        raise HTTPException(409, f"run {run_id} did not fail: it is {run.status}")
    portal.starts.take()
    from dsa110_assets.orchestration.running import runs

    with access.ordered(portal, actor, "retry run", run_id) as order:
        backfill_id = runs.retry(settings, run)
        order.told = f"backfill {backfill_id} of {_name(run)}"
    return Started(backfill_id=backfill_id, assets=list(run.assets), partitions=[run.partition or ""], left_out=[])


def _as_row(run: history.Run) -> dict[str, object]:
    from dsa110_assets.orchestration.running.instance import LANE_TAG

    return {**vars(run), "assets": list(run.assets), "lane": run.tags.get(LANE_TAG, "")}


def _name(run: history.Run) -> str:
    return f"{', '.join(run.assets)} {run.partition or ''}".strip()
