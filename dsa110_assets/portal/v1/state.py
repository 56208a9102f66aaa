"""The state of the platform: status, observations, the queue, checks, quarantine, thresholds and settings."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, Field

from dsa110_assets import settings as all_settings
from dsa110_assets.archive import quarantine
from dsa110_assets.archive.product import HELD, Product
from dsa110_assets.orchestration.watching import hosts
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal import overview, probes, queue
from dsa110_assets.portal import rows as archive_rows
from dsa110_assets.portal.v1 import paging
from dsa110_assets.portal.v1.context import Context, Portal
from dsa110_assets.portal.v1.products import Asset, Since, Span, Until, listed, place_of

router = APIRouter(tags=["state"])
ByPartition = Annotated[Literal["partition", "-partition"], Query(description="order by time; with - the latest come first")]
SCANNED = 200
"""The most products whose checks one request reads, because failed ones may be rare."""


class ObservationRow(BaseModel):
    """An observation that was taken up, and its progress."""

    observation: str = Field(description="start of its window (UTC)")
    state: Literal["imaged", "waiting", "held"] = Field(description="waiting: for `next_step`; held: by a failed blocking check")
    next_step: str | None = Field(description="the first asset that is not made yet")
    reason: str = Field(description="why it is held")
    pointing_dec_deg: float | None = Field(description="apparent declination of the pointing")
    products: dict[str, str] = Field(description="ids of its products by asset")
    figures: dict[str, float] = Field(description="figures of these products, such as rms_jy and flag_fraction; units in the names")


class HostRow(BaseModel):
    """A host and its free resources, as of its last sign of life."""

    name: str
    load: float = Field(description="processes that want to run, over one minute")
    processors: int
    memory_free_bytes: float
    memory_bytes: float
    scratch_free_bytes: float
    scratch_bytes: float
    silent_s: float = Field(description="age of these figures by the file server's clock; 0 for the portal's own host")
    stale: bool = Field(description="it has been silent for so long that it counts as gone")


class Queued(BaseModel):
    """An observation that is not done, or was completed recently."""

    observation: str
    state: Literal["collecting", "pending", "in progress", "completed", "failed"]
    step: str = Field(description="the asset it has reached")
    age_h: float = Field(description="how long it has been in this state")
    reason: str = Field(description="what it waits for, or why it failed")


class Queue(paging.Page[Queued]):
    """A page of the queue."""

    counts: dict[str, int] = Field(description="observations by state, on all pages")


class Check(BaseModel):
    """The verdict of one rule on one product when it was published."""

    product_id: str
    asset: str
    partition: str | None
    check: str
    passed: bool
    severity: Literal["ERROR", "WARN"]
    stops: bool = Field(description="nothing is made of what fails it")
    reason: str = Field(description="figure and limit; empty where it passed")
    figures: dict[str, Any]


class QuarantineRow(BaseModel):
    """Files in quarantine because they cannot be used, and why."""

    key: str
    paths: list[str]
    reason: str
    observation: str | None
    at: datetime
    released_at: datetime | None = Field(description="when it was released to be tried again")


class ThresholdRow(BaseModel):
    """A threshold in force."""

    name: str
    value: Any
    default: Any
    help: str = Field(description="what it is, with its unit where the name has none")


class Thresholds(BaseModel):
    """The thresholds in force, and what is wrong with their file, if anything."""

    path: str
    refused: str | None = Field(description="what is wrong with the file now; if anything, the last good one is in force")
    thresholds: list[ThresholdRow]


class SettingRow(BaseModel):
    """A setting; secrets are masked."""

    name: str = Field(description="its environment variable")
    value: str
    source: str
    kind: str
    limits: str
    help: str


@router.get("/health")
def show_health(portal: Portal) -> probes.Health:
    """Whether this portal can answer and the platform works, as its probes /ready and /status judge. 503 while the index is away."""
    found = probes.judge(portal.store, portal.history, portal.limits)
    if not found.ready:
        raise HTTPException(503, "; ".join(found.reasons))
    return found


@router.get("/status")
def show_status(portal: Portal) -> overview.Status:
    """What was processed, what waits, what failed, and what comes next."""
    state: overview.Status = jsonable(overview.status(portal.archive, portal.inbox, look=portal.look))
    return state


@router.get("/hosts")
def list_hosts(portal: Portal) -> list[HostRow]:
    """The free resources of the portal's host, and of every other on which a worker or the daemon runs, or ran within a week."""
    return [HostRow(**asdict(one), stale=one.is_stale) for one in hosts.known(portal.archive.root)]


@router.get("/observations")
def list_observations(
    portal: Portal,
    since: Since = None,
    until: Until = None,
    sort: ByPartition = "-partition",
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> paging.Page[ObservationRow]:
    """Observations that were taken up, with the products of each step; the latest first."""
    first, *steps = overview.STEPS
    found, following = listed(portal, Span(since, until, sort, cursor, limit), first)
    keys = [group.partition or "" for group in found]
    made: dict[str, dict[str, Product]] = {group.partition or "": {first: group} for group in found}
    for step in steps if keys else ():
        for product in portal.store.products(step, min(keys), max(keys), removed=True):
            made.get(product.partition or "", {})[step] = product
    return paging.Page(items=[_observation(key, made[key]) for key in keys], next=following)


def _observation(key: str, made: dict[str, Product]) -> ObservationRow:
    missing = next((step for step in overview.STEPS if step not in made), None)
    why = next((str(product.metadata[HELD]) for product in made.values() if product.metadata.get(HELD)), "")
    metadata = {name: value for product in made.values() for name, value in product.metadata.items()}
    figures = {name: float(value) for name, value in metadata.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    return ObservationRow(
        observation=key, state="held" if why else "waiting" if missing else "imaged", next_step=missing, reason=why,
        pointing_dec_deg=figures.get("pointing_dec_deg"), products={step: product.id for step, product in made.items()},
        figures={name: value for name, value in jsonable(figures).items() if value is not None},
    )  # fmt: skip


@router.get("/queue")
def list_queue(
    portal: Portal,
    state: Annotated[Literal["collecting", "pending", "in progress", "completed", "failed"] | None, Query()] = None,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> Queue:
    """Observations that are not done, including those in the inbox, and those completed since the last night with data; newest first."""
    after = paging.decode(cursor, str)
    night = next(iter(portal.store.nights(1, "subband_group")), None)
    seen = portal.look(portal.store) if portal.look else None
    found, now = queue.observations(portal.store, portal.require_settings().home_path, seen, night), datetime.now(UTC)
    counts = {known: sum(one.state == known for one in found) for known in queue.STATES}
    kept = [one for one in found if state in (None, one.state)]
    items, following = paging.part(kept, lambda one: (one.observation,), after, limit, descending=True)
    entries = [{"observation": o.observation, "state": o.state, "step": o.step, "age_h": o.age_h(now), "reason": o.reason} for o in items]
    return Queue(items=[Queued.model_validate(one) for one in entries], next=following, counts=counts)


@router.get("/checks")
def list_checks(
    portal: Portal,
    asset: Asset = None,
    since: Since = None,
    until: Until = None,
    failed: Annotated[bool, Query(description="only failed checks")] = True,
    severity: Annotated[Literal["ERROR", "WARN"] | None, Query()] = None,
    sort: ByPartition = "-partition",
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> paging.Page[Check]:
    """Verdicts of rules on current products, the latest first. Failures are rare: a page may be short, even empty, yet have a `next`."""
    examined, following = listed(portal, Span(since, until, sort, cursor, SCANNED), asset)
    items: list[Check] = []
    for product in examined:
        verdicts = [Check.model_validate(jsonable(one)) for one in archive_rows.check_rows([product])]
        items += [one for one in verdicts if not (failed and one.passed) and severity in (None, one.severity)]
        if len(items) >= limit:  # a product's checks stay together
            more = following is not None or product is not examined[-1]
            return paging.Page(items=items, next=paging.encode(place_of(product)) if more else None)
    return paging.Page(items=items, next=following)


@router.get("/quarantine")
def list_quarantine(
    portal: Portal,
    released: Annotated[bool, Query(description="include records that were released")] = False,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> paging.Page[QuarantineRow]:
    """Records of files that were quarantined because they cannot be used, the last first."""
    after = paging.decode(cursor, str, str)
    found = quarantine.quarantined(portal.store, released=released)
    items, following = paging.part(found, lambda one: (one.at.isoformat(), one.key), after, limit, descending=True)
    return paging.Page(items=[quarantine_row(one) for one in items], next=following)


def quarantine_row(one: quarantine.Quarantined) -> QuarantineRow:
    """A record as a row of the API, with file names made printable, because they may be any bytes."""
    shown = [path if path.isprintable() else ascii(path)[1:-1] for path in map(str, one.paths)]
    return QuarantineRow.model_validate({**jsonable(one), "paths": shown})


@router.get("/quarantine/{key}")
def show_quarantined(key: Annotated[str, Path(max_length=40)], portal: Portal) -> QuarantineRow:
    """One record of quarantine."""
    return quarantine_row(quarantine.get(portal.store, key))


@router.get("/thresholds")
def show_thresholds(portal: Portal) -> Thresholds:
    """The thresholds in force; their file is read again when it has changed."""
    return thresholds_of(portal)


def thresholds_of(portal: Context) -> Thresholds:
    """The thresholds in force, and what is wrong with their file."""
    from dsa110_assets.thresholds import refused_thresholds

    files, limits = portal.threshold_files(), portal.thresholds()
    rows = [
        ThresholdRow(name=name, value=jsonable(getattr(limits, name)), default=jsonable(field.get_default(call_default_factory=True)),
                     help=field.description or "")
        for name, field in type(limits).model_fields.items()
    ]  # fmt: skip
    return Thresholds(path=str(files[0]), refused=refused_thresholds(*files), thresholds=rows)


@router.get("/settings")
def list_settings(portal: Portal) -> list[SettingRow]:
    """Every setting of this portal: its value, where that came from, its range and what it means. Secrets are masked."""
    return [SettingRow.model_validate(one, from_attributes=True) for one in all_settings.describe(portal.require_settings())]
