"""Candidates: what varies, with thumbnails of light curves and what people said of each, as a page, CSV and rows for the API."""

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
"""By what candidates are chosen: what was last said of one, or that nobody said anything."""


def judged(archive: AnalystArchive, rows: Sequence[Mapping[str, Any]]) -> list[list[Judgement]]:
    """What people said of each of these candidates, oldest first."""
    places = ([row[name] for row in rows] for name in ("source_id", "ra_deg", "dec_deg"))
    return judgements.of_places(judgements.judgements(archive.store), *places)


def verdict(said: Sequence[Judgement]) -> str:
    """What holds of a candidate of which this was said: the last word, of whoever said it."""
    return said[-1].verdict if said else UNCLASSIFIED


def candidate_rows(archive: AnalystArchive, rate: float, night: str | None = None) -> list[dict[str, Any]]:
    """Candidates of a night (None: the last searched) with what people said of each, the most significant first.

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
    """Variable and transient candidates, with thumbnails of their light curves and what people said of them."""
    archive, wanted = render.archive_of(request), _wanted(request)
    try:
        rows = candidate_rows(archive, wanted["rate"], wanted["night"])
        origin = archive.variables(wanted["rate"], wanted["night"]).meta["product_id"]
    except NotFoundError:
        if wanted["night"] is not None:
            raise
        rows, origin = [], None
    shown = _filtered(rows, wanted)
    return render.page(
        "candidates.html", request, rows=shown[:SHOWN], total=len(rows), found=len(shown), origin=origin, wanted=wanted, kinds=KINDS,
        verdicts=VERDICTS, query=request.url.query,
    )  # fmt: skip


def candidate_table(request: Request) -> Response:
    """The candidates of a page as CSV."""
    wanted = _wanted(request)
    rows = _filtered(candidate_rows(render.archive_of(request), wanted["rate"], wanted["night"]), wanted)
    plain = [{**row, "said": "; ".join(_sentence(one) for one in row["said"])} for row in rows]
    return render.csv_file(plain, "candidates.csv")


def _sentence(one: Judgement) -> str:
    return f"{one.at:%Y-%m-%d} {one.name}: {one.verdict}{f' ({one.note})' if one.note else ''}"


def _wanted(request: Request) -> dict[str, Any]:
    """What a page of candidates is asked for. Raises ConfigurationError for a kind or verdict there is not."""
    wanted = {
        "rate": parameters.number(request, "max_false_discovery_rate", 0.01, 1e-12, 1),
        "night": parameters.text(request, "night"),
        "kind": parameters.text(request, "kind"),
        "verdict": parameters.text(request, "verdict"),
    }
    for name, known in (("kind", KINDS), ("verdict", VERDICTS)):
        if wanted[name] not in (None, *known):
            raise ConfigurationError(f"{name}={wanted[name]!r}: choose of {', '.join(known)}")
    return wanted


def _filtered(rows: Sequence[dict[str, Any]], wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates of the kind and verdict that are wanted."""
    return [row for row in rows if wanted["kind"] in (None, row["kind"]) and wanted["verdict"] in (None, row["verdict"])]


ROUTES = [Route("/candidates", candidates), Route("/candidates.csv", candidate_table)]
