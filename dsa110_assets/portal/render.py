"""Tools of every page: the templates, the formats of numbers, times and ages, and the archive of a request."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.plain_text import duration, size
from dsa110_assets.telescope import timegrid

POLICY = (
    "default-src 'self'; script-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
"""The content security policy: what the browser lets a page do, whatever the page contains."""


def figure(value: Any) -> str:
    """A figure of a product as text: a dash where there is none."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e4 else f"{value:.10g}"  # days of the MJD have many digits
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, list | tuple):
        return ", ".join(figure(entry) for entry in value) or "none"
    return str(value)


def moment(at: datetime | None) -> str:
    """A time to the minute, in UTC."""
    return "never" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def date(mjd: float | None) -> str:
    """An MJD as a time to the minute, in UTC."""
    return "an unknown date" if mjd is None else moment(timegrid.mjd_to_datetime(mjd))


def rate(value: float | None) -> str:
    """A rate of false discoveries as text; it is never written as zero, because a rate below 1e-16 cannot be determined."""
    return "–" if value is None else "< 1e-16" if value < 1e-16 else f"{value:.1g}"


_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters that are invisible or reverse the direction of text: with them one name may look like another."""


def plain(value: Any) -> Any:
    """A value as a page shows it: text with its hidden characters written out, such as \\u202e; anything else unchanged."""
    if type(value) is not str or value.isprintable():
        return value
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), value)


_templates = Environment(
    loader=PackageLoader("dsa110_assets.portal"), autoescape=select_autoescape(), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, finalize=plain,
)  # fmt: skip
_templates.filters.update(size=size, figure=figure, duration=duration, moment=moment, rate=rate)


def page(template: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
    """The answer to a request: a template filled with these values."""
    return HTMLResponse(_templates.get_template(template).render(path=request.url.path, **values), status)


def csv_file(rows: Sequence[Mapping[str, Any]], name: str) -> Response:
    """Rows as a CSV file to save; text that a spreadsheet would take for a formula is marked as text."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value for key, value in row.items()}
            for row in rows
        )
    return Response(
        buffer.getvalue(), media_type="text/csv; charset=utf-8", headers={"content-disposition": f'attachment; filename="{name}"'}
    )


def archive_of(request: Request) -> AnalystArchive:
    """The archive that the application serves."""
    archive: AnalystArchive = request.app.state.archive
    return archive
