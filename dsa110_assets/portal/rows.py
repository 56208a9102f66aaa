"""Contents of the archive as rows of JSON, for programs: missing values are null, units are in the names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.archive.product import VERDICTS, LineageNode, Product
from dsa110_assets.errors import NotFoundError
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal import curves

if TYPE_CHECKING:
    from astropy.table import QTable
    from astropy.timeseries import TimeSeries


@dataclass(frozen=True)
class CheckRow:
    """The verdict of one rule on one product: `severity` is ERROR or WARN, `stops` means that nothing is made of what fails it;
    `reason` gives figure and limit and is empty where it passed."""

    product_id: str
    asset: str
    partition: str | None
    check: str
    passed: bool
    severity: str
    stops: bool
    reason: str
    figures: dict[str, Any]


def product_row(product: Product) -> dict[str, Any]:
    """A product as a JSON object."""
    return {"product_id": product.id, **jsonable(product)}


def light_curve_json(archive: AnalystArchive, source: str) -> dict[str, Any]:
    """A light curve as a JSON object: facts of the source, and one object per point."""
    curve = curves.light_curve(archive, source)
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


def kept_points(curve: Mapping[str, Any], without: Collection[str]) -> list[dict[str, Any]]:
    """The points of a light curve (as JSON) without the epochs in `without`. Raises NotFoundError for an epoch it does not have."""
    _require_epochs(curve["source_id"], {point["epoch"] for point in curve["points"]}, without)
    return [point for point in curve["points"] if point["epoch"] not in without]


def leaving_out(curve: TimeSeries, without: Collection[str]) -> TimeSeries:
    """A light curve without the points of these epochs. Raises NotFoundError for an epoch it does not have."""
    _require_epochs(curve.meta["source_id"], set(curve["epoch"]), without)
    return curve[~np.isin(curve["epoch"], list(without))] if without else curve


def _require_epochs(source_id: str, known: Collection[str], required: Iterable[str]) -> None:
    for epoch in required:
        if epoch not in known:
            raise NotFoundError(f"{source_id} has no point of epoch {epoch!r}; its page lists them")


def spectrum_json(table: QTable) -> dict[str, Any]:
    """A spectrum as a JSON object: facts of it, and one object per subband."""
    meta = table.meta
    facts = {name: meta[name] for name in ("source_id", "epoch", "product_id", "response")}
    law = {
        "spectral_index": meta["index"], "spectral_index_err": meta["index_err"], "flux_jy": float(meta["level"].to_value("Jy")),
        "flux_err_jy": float(meta["level_err"].to_value("Jy")), "frequency_hz": float(meta["pivot"].to_value("Hz")),
    }  # fmt: skip
    return {**facts, **jsonable(law), "subbands": table_rows(table)}


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
    """A lineage tree as nested JSON objects; a product that occurs again is listed without its branch."""
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


def check_rows(products: Iterable[Product]) -> list[CheckRow]:
    """The verdicts of the rules on these products, as recorded when they were published."""
    from dsa110_assets.orchestration.graph import specifications
    from dsa110_assets.orchestration.judging import rules

    return [
        CheckRow(
            product.id, product.asset, product.partition, verdict.check, verdict.passed, verdict.severity.name, verdict.hard,
            verdict.reason, verdict.figures,
        )
        for product in products
        if product.asset in specifications() and VERDICTS in product.metadata
        for verdict in rules.from_metadata(product.asset, product.metadata)
    ]  # fmt: skip
