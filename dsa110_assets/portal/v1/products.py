"""Products: everything published, by asset, time and state; their files, and what they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AfterValidator, BaseModel, Field

from dsa110_assets.analyst import known_asset
from dsa110_assets.archive import lineage as ancestry
from dsa110_assets.archive import naming, windows
from dsa110_assets.archive import rows as index_rows
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import BY_PARTITION, BY_PUBLICATION
from dsa110_assets.errors import NotFoundError
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal import files
from dsa110_assets.portal.v1 import paging
from dsa110_assets.portal.v1.context import Context, Portal

router = APIRouter(tags=["products"])
MOST_NODES = 5000
State = Literal["current", "superseded", "rejected", "all"]
Sort = Literal["partition", "-partition", "created_at", "-created_at"]


def _is_time(text: str) -> str:
    try:
        windows.key(text)
    except NotFoundError as error:
        raise ValueError(str(error)) from None
    return text


_TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?$"
Time = Annotated[str, Field(pattern=_TIME_PATTERN, examples=["2026-01-25", "2026-01-25T22:25"]), AfterValidator(_is_time)]
Since = Annotated[Time | None, Query(description="windows that start at this UTC time or later; a date alone means its first moment")]
Until = Annotated[Time | None, Query(description="windows that start at this UTC time or earlier; a date alone includes its whole day")]
Asset = Annotated[str | None, Query(max_length=100, pattern=r"^[a-z][a-z0-9_~]*$", description="only of this asset")]
ProductId = Annotated[str, Path(max_length=140, description="a product's id, such as tile_image-20260125T2225-v1")]


class ProductRow(BaseModel):
    """A published product: immutable, except for its state, and except that retention may remove its data."""

    product_id: str = Field(description="asset, partition and version, such as tile_image-20260125T2225-v1")
    asset: str
    partition: str | None = Field(description="start of its window (UTC), such as 2026-01-25T22:25, or its night; null for catalogues")
    version: int
    state: Literal["current", "superseded", "rejected"]
    reason: str | None = Field(description="why it was rejected")
    pinned: bool = Field(description="kept from retention, with all it was made from")
    removed: bool = Field(description="retention has removed its data; this record stays")
    trial: str = Field(description="the trial that made it; empty for science")
    created_at: datetime
    path: str = Field(description="its directory on the archive's disk")
    size_bytes: int
    digest: str = Field(description="xxh3_128 over all its files")
    inputs: list[str] = Field(description="ids of the products it was made from")
    code_version: str
    run_id: str = Field(description="the run of Dagster that made it")
    engines: dict[str, Any] = Field(description="versions of the software that computed it")
    settings: dict[str, Any] = Field(description="the settings that shaped it")
    metadata: dict[str, Any] = Field(description="its figures; units are in the names; `checks` are the verdicts of its rules")


class FileRow(BaseModel):
    """A file of a product."""

    name: str = Field(description="relative to the product's directory")
    size_bytes: int
    url: str | None = Field(description="where this portal serves it; null if the product is not current")


class RawFile(BaseModel):
    """A file of the correlator, as the observation's manifest names it."""

    path: str
    size_bytes: int | None
    digest: str | None
    subband: int | None


class GroupRow(ProductRow):
    """An observation's group of subband files."""

    files: list[RawFile]


class Node(BaseModel):
    """A product of a lineage, and what it was made from."""

    product_id: str
    asset: str
    partition: str | None
    state: str
    code_version: str
    depth: int = Field(description="steps from the requested product")
    inputs: list[str] = Field(description="ids of other nodes")
    files: list[RawFile] = Field(description="the subband files, where lineage ends")


class Lineage(BaseModel):
    """The ancestors of a product: each once, the nearest first."""

    product_id: str
    nodes: list[Node]
    truncated: bool = Field(description=f"there are more nodes: the list was cut at `depth`, or at {MOST_NODES} nodes")


def row(product: Product) -> ProductRow:
    """A product as a row of the API."""
    return ProductRow.model_validate({"product_id": product.id, **jsonable(product)})


@dataclass
class Span:
    """The requested part of a list of products, and its order."""

    since: Since = None
    until: Until = None
    sort: Annotated[Sort, Query(description="order; with - the last come first")] = "partition"
    cursor: paging.Cursor = None
    limit: paging.Limit = 100


OfTime = Annotated[Span, Depends()]


def listed(portal: Context, span: Span, asset: str | None, state: State = "current") -> tuple[list[Product], str | None]:
    """A page of products, and the cursor of the next."""
    by_time = span.sort.endswith("created_at")
    after = paging.decode(span.cursor, str, str) if by_time else paging.decode(span.cursor, str, str, int)
    found = portal.store.page(
        span.limit + 1,
        after,
        asset=known_asset(portal.store, asset), since=span.since, until=span.until, state=None if state == "all" else state,
        order=BY_PUBLICATION if by_time else BY_PARTITION, descending=span.sort.startswith("-"),
    )  # fmt: skip
    if len(found) <= span.limit:
        return found, None
    last = found[span.limit - 1]
    place = (last.created_at.isoformat(timespec="microseconds"), last.id) if by_time else place_of(last)
    return found[: span.limit], paging.encode(place)


def place_of(product: Product) -> tuple[str, str, int]:
    """A product's place in the order of partitions."""
    return product.partition or "", naming.in_trial(product.asset, product.trial), product.version


def _page(portal: Context, span: Span, asset: str | None, state: State = "current") -> paging.Page[ProductRow]:
    found, following = listed(portal, span, asset, state)
    return paging.Page(items=[row(product) for product in found], next=following)


@router.get("/products")
def list_products(
    portal: Portal,
    span: OfTime,
    asset: Asset = None,
    state: Annotated[State, Query(description="in this state, or in all")] = "current",
) -> paging.Page[ProductRow]:
    """Products by asset, time and state."""
    return _page(portal, span, asset, state)


@router.get("/products/{product_id}")
def show_product(product_id: ProductId, portal: Portal) -> ProductRow:
    """One product, in any state."""
    return row(portal.store.get(product_id))


@router.get("/products/{product_id}/files")
def list_files(product_id: ProductId, portal: Portal) -> list[FileRow]:
    """A product's files, and where to fetch them; none after retention has removed them."""
    product = portal.store.get(product_id)
    served = product.state == "current" and not product.removed
    there = [] if product.removed else files.listing(product, 1000)
    return [FileRow(name=name, size_bytes=size, url=f"/files/{product.id}/{quote(name)}" if served else None) for name, size in there]


@router.get("/products/{product_id}/dependents")
def list_dependents(product_id: ProductId, portal: Portal) -> list[ProductRow]:
    """The products made directly from a product, in any state."""
    return [row(product) for product in portal.store.dependents(product_id)]


@router.get("/products/{product_id}/lineage")
def show_lineage(
    product_id: ProductId, portal: Portal, depth: Annotated[int, Query(ge=1, le=10_000, description="most steps back")] = 10
) -> Lineage:
    """What a product was made from, down to the subband files."""
    start = portal.store.get(product_id)
    nodes, layer, seen = [_node(start, 0)], [start], {start.id}
    for level in range(1, depth + 1):
        missing = sorted({i for product in layer for i in product.inputs} - seen)
        layer = _by_ids(portal, missing[: MOST_NODES - len(nodes)])
        seen |= {product.id for product in layer}
        nodes += [_node(product, level) for product in layer]
        if not layer or len(nodes) == MOST_NODES:
            break
    more = {i for product in layer for i in product.inputs} - seen
    return Lineage(product_id=start.id, nodes=nodes, truncated=bool(more) or len(nodes) == MOST_NODES)


def _by_ids(portal: Context, ids: Sequence[str]) -> list[Product]:
    store = portal.store
    return list(store.index.read(lambda c: index_rows.by_ids(c, store.root, ids)).values())


def _node(product: Product, depth: int) -> Node:
    return Node(
        product_id=product.id, asset=product.asset, partition=product.partition, state=product.state,
        code_version=product.code_version, depth=depth, inputs=list(product.inputs), files=_raw_files(product),
    )  # fmt: skip


def _raw_files(product: Product) -> list[RawFile]:
    return [RawFile.model_validate(leaf, from_attributes=True) for leaf in ancestry.raw_files(product)]


@router.get("/groups")
def list_groups(
    portal: Portal,
    span: OfTime,
) -> paging.Page[ProductRow]:
    """Groups of subband files that were taken up; those still in the inbox are in `/queue`."""
    return _page(portal, span, "subband_group")


@router.get("/groups/{observation}")
def show_group(observation: Annotated[str, Path(max_length=20, examples=["2026-01-25T22:25"])], portal: Portal) -> GroupRow:
    """An observation's group and its files."""
    product = portal.archive.product("subband_group", observation)
    return GroupRow.model_validate({**row(product).model_dump(), "files": _raw_files(product)})


@router.get("/measurement-sets")
def list_measurement_sets(
    portal: Portal,
    span: OfTime,
    calibrated: Annotated[bool, Query(description="the calibrated, averaged ones")] = False,
) -> paging.Page[ProductRow]:
    """Measurement sets of observations."""
    return _page(portal, span, "calibrated_ms" if calibrated else "measurement_set")


@router.get("/images")
def list_images(
    portal: Portal,
    span: OfTime,
) -> paging.Page[ProductRow]:
    """Images of observations."""
    return _page(portal, span, "tile_image")


@router.get("/mosaics")
def list_mosaics(
    portal: Portal,
    span: OfTime,
    of: Annotated[Literal["hour", "night"], Query(description="of hours or of nights")] = "hour",
) -> paging.Page[ProductRow]:
    """Mosaics of hours or of nights."""
    return _page(portal, span, f"{of}_mosaic")
