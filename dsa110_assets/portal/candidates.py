"""Candidates: sources that vary, with thumbnails of light curves and people's judgements of each, as a page, CSV and rows for the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.archive import judgements
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.portal import parameters, render
from dsa110_assets.portal.rows import table_rows
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.judgements import Judgement

SHOWN = 200
KINDS = ("flare", "ese", "transient", "variable")
UNCLASSIFIED = "unclassified"
VERDICTS = (*judgements.VERDICTS, UNCLASSIFIED)
"""Verdicts by which candidates can be selected: the last judgement of one, or unclassified if nobody has judged it."""


def judged(archive: AnalystArchive, rows: Sequence[Mapping[str, Any]]) -> list[list[Judgement]]:
    """People's judgements of each of these candidates, oldest first."""
    places = ([row[name] for row in rows] for name in ("source_id", "ra_deg", "dec_deg"))
    return judgements.of_places(judgements.judgements(archive.store), *places)


def verdict(said: Sequence[Judgement]) -> str:
    """The verdict on a candidate with these judgements: the last one counts, whoever gave it."""
    return said[-1].verdict if said else UNCLASSIFIED


def candidate_rows(archive: AnalystArchive, rate: float, night: str | None = None) -> list[dict[str, Any]]:
    """Candidates of a night (None: the last searched) with people's judgements of each, the most significant first.

    Raises NotFoundError if no night was searched.
    """
    table = archive.variables(rate, night)
    rows = [row for row in table_rows(table) if row["kind"]]
    for row, said in zip(rows, judged(archive, rows), strict=True):
        row["said"] = said
        row["verdict"] = verdict(said)
        row["amplitude"] = row.get("m_max")
        row["date"] = render.date(row.get("deviation_mjd") or row.get("last_mjd"))
        row["position"] = astrometry.sexagesimal(row["ra_deg"], row["dec_deg"])
        row["product_id"] = table.meta["product_id"]
    return rows


def candidates(request: Request) -> Response:
    """Variable and transient candidates, with thumbnails of their light curves and people's judgements of them."""
    archive, filters = render.archive_of(request), _filters(request)
    try:
        rows = candidate_rows(archive, filters["rate"], filters["night"])
        origin = archive.variables(filters["rate"], filters["night"]).meta["product_id"]
    except NotFoundError:
        if filters["night"] is not None:
            raise
        rows, origin = [], None
    shown = _filtered(rows, filters)
    return render.page(
        "candidates.html", request, rows=shown[:SHOWN], total=len(rows), found=len(shown), origin=origin, wanted=filters, kinds=KINDS,
        verdicts=VERDICTS, query=request.url.query,
    )  # fmt: skip


def candidate_table(request: Request) -> Response:
    """The candidates of a page as CSV."""
    filters = _filters(request)
    rows = _filtered(candidate_rows(render.archive_of(request), filters["rate"], filters["night"]), filters)
    plain = [{**row, "said": "; ".join(_sentence(one) for one in row["said"])} for row in rows]
    return render.csv_file(plain, "candidates.csv")


def _sentence(judgement: Judgement) -> str:
    return f"{judgement.at:%Y-%m-%d} {judgement.name}: {judgement.verdict}{f' ({judgement.note})' if judgement.note else ''}"


def _filters(request: Request) -> dict[str, Any]:
    """The parameters that select candidates on a page. Raises ConfigurationError for an unknown kind or verdict."""
    filters = {
        "rate": parameters.number(request, "max_false_discovery_rate", 0.01, 1e-12, 1),
        "night": parameters.text(request, "night"),
        "kind": parameters.text(request, "kind"),
        "verdict": parameters.text(request, "verdict"),
    }
    for name, choices in (("kind", KINDS), ("verdict", VERDICTS)):
        if filters[name] not in (None, *choices):
            raise ConfigurationError(f"{name}={filters[name]!r}: choose from {', '.join(choices)}")
    return filters


def _filtered(rows: Sequence[dict[str, Any]], filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates of the requested kind and verdict."""
    return [row for row in rows if filters["kind"] in (None, row["kind"]) and filters["verdict"] in (None, row["verdict"])]


ROUTES = [Route("/candidates", candidates), Route("/candidates.csv", candidate_table)]
