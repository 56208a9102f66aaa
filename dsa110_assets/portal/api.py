"""The JSON interface: the same answers as the pages, for programs. Missing values are null."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.archive.product import LineageNode, Product
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal import overview, parameters

MOST_ROWS = 10_000


def products(request: Request) -> JSONResponse:
    """Products: `asset`, `since`, `until`, `state` (current), `limit`, `offset`."""
    store = _archive(request).store
    wanted = (
        parameters.text(request, "asset"),
        parameters.text(request, "since"),
        parameters.text(request, "until"),
        parameters.text(request, "state") or "current",
    )
    offset = parameters.integer(request, "offset", 0, 0, 10**9)
    limit = parameters.integer(request, "limit", 1000, 1, MOST_ROWS)
    rows = [product_row(product) for product in store.products(*wanted, limit=limit, offset=offset)]
    return JSONResponse({"total": sum(store.count(*wanted).values()), "offset": offset, "products": rows})


def sources(request: Request) -> JSONResponse:
    """Sources with light curves, within `radius` of (`ra`, `dec`) if given; degrees or sexagesimal."""
    table = _archive(request).sources(**cone(request))
    limit = parameters.integer(request, "limit", 1000, 1, MOST_ROWS)
    told = {name: table.meta[name] for name in ("product_id", "left_out")}
    return JSONResponse({"total": len(table), "sources": table_rows(table[:limit]), **told})


def light_curve(request: Request) -> JSONResponse:
    """One source's light curve; fluxes in Jy, times as MJD (UTC)."""
    return JSONResponse(light_curve_json(_archive(request), request.path_params["source"]))


def variables(request: Request) -> JSONResponse:
    """Candidates with a false-discovery rate of at most `max_false_discovery_rate` (0.01)."""
    rate = parameters.number(request, "max_false_discovery_rate", 0.01, 1e-12, 1)
    table = _archive(request).variables(rate)
    return JSONResponse({"candidates": table_rows(table), "product_id": table.meta["product_id"]})


def lineage(request: Request) -> JSONResponse:
    """What a product was made from, as a tree down to the subband files."""
    return JSONResponse(lineage_json(_archive(request).lineage(request.path_params["product_id"])))


def status(request: Request) -> JSONResponse:
    """What was processed, what waits, what failed, what comes next."""
    return JSONResponse(jsonable(overview.of(request).as_json()))


def product_row(product: Product) -> dict[str, Any]:
    """A product as a JSON object."""
    return {"product_id": product.id, **jsonable(product)}


def light_curve_json(archive: AnalystArchive, source: str) -> dict[str, Any]:
    """A light curve as a JSON object: facts of the source, and one object per point."""
    curve = archive.light_curve(source)
    meta = {
        "source_id": curve.meta["source_id"],
        "product_id": curve.meta["product_id"],
        "left_out": curve.meta["left_out"],
        "ra_deg": float(curve.meta["ra"].to_value("deg")),
        "dec_deg": float(curve.meta["dec"].to_value("deg")),
    }
    points = table_rows(curve, {"time": curve.time.mjd})
    for point in points:
        point["mjd"] = point.pop("time")
    return {**meta, "points": points}


def table_rows(table: Any, instead: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows of an astropy table as JSON objects; a column's unit is in its name: flux_jy, ra_deg."""
    columns: dict[str, list[Any]] = {}
    for name in table.colnames:
        values = (instead or {}).get(name, table[name])
        unit = getattr(values, "unit", None)
        key = f"{name}_{str(unit).lower()}" if unit is not None and str(unit) else name
        columns[key] = jsonable(getattr(values, "value", values))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def lineage_json(node: LineageNode) -> dict[str, Any]:
    """A lineage tree as nested JSON objects; a product that occurs again is named without its branch."""
    seen: set[str] = set()

    def branch(part: LineageNode) -> dict[str, Any]:
        if part.product is None:
            return {"file": jsonable(part.file)}
        product = part.product
        row = {
            "product_id": product.id, "asset": product.asset, "partition": product.partition,
            "state": product.state, "code_version": product.code_version, "path": str(product.path),
        }  # fmt: skip
        if product.id in seen:
            return {**row, "shown_above": True}
        seen.add(product.id)
        return {**row, "inputs": [branch(child) for child in part.children]}

    return branch(node)


def cone(request: Request) -> dict[str, str | None]:
    """The cone search of a request's parameters."""
    return {name: parameters.text(request, name) for name in ("ra", "dec", "radius")}


def _archive(request: Request) -> AnalystArchive:
    archive: AnalystArchive = request.app.state.archive
    return archive


ROUTES = [
    Route("/api/products", products),
    Route("/api/sources", sources),
    Route("/api/lightcurve/{source:path}", light_curve),
    Route("/api/variables", variables),
    Route("/api/lineage/{product_id:path}", lineage),
    Route("/api/status", status),
]
