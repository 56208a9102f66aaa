"""Light curves as thumbnails. A page has up to two hundred, so candidates are drawn together from one reading of the nights."""

from __future__ import annotations

import threading
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.errors import NotFoundError
from dsa110_assets.portal import curves, render
from dsa110_assets.portal.remembered import remembered

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive

WIDTH, HEIGHT, POINTS = 180, 44, 120
_STYLE = (
    "path{stroke:#0b5fa5}.bars{opacity:.5}.points{stroke-width:4;stroke-linecap:round}"
    "@media(prefers-color-scheme:dark){path{stroke:#7ab8f0}}"
)
RENEWED_S = 300
"""Browsers request thumbnails again after this time, because a night adds points."""
TOGETHER = 200
"""How many candidates are drawn together, the most significant ones."""
_drawing = threading.Lock()


def spark(request: Request) -> Response:
    """A light curve as a thumbnail."""
    archive, name = render.archive_of(request), request.path_params["source"]
    version = curves.version(archive)
    with _drawing:  # a page requests many at once: one request draws them, the others wait for it
        drawn = _of_candidates(archive, version).get(name) or _of_source(archive, name, version)
    return Response(drawn, media_type="image/svg+xml", headers={"cache-control": f"private, max-age={RENEWED_S}"})


@remembered(8 << 20, lambda drawn: sum(len(one) for one in drawn.values()))
def _of_candidates(archive: AnalystArchive, version: str) -> dict[str, bytes]:
    """The thumbnails of the last night's candidates by source, from the light curves of this version."""
    try:
        table = archive.variables()
        names = np.unique(np.asarray(table["source_id"], str)[np.asarray(table["kind"], str) != ""][:TOGETHER])
        points = archive.light_curves(list(names))
    except NotFoundError:  # no search exists yet, or the light curves are not those that were searched
        return {}
    bounds = np.searchsorted(np.asarray(points["source_id"], str), names)
    parts = zip(bounds, [*bounds[1:], len(points)], strict=True)
    return {str(name): _drawn(str(name), points["mjd"].value[a:b], points[a:b]) for name, (a, b) in zip(names, parts, strict=True)}


@remembered(8 << 20, len)
def _of_source(archive: AnalystArchive, name: str, version: str) -> bytes:
    """The thumbnail of a light curve of this version."""
    curve = curves.light_curve(archive, name)
    return _drawn(name, curve.time.mjd, curve)


def _drawn(name: str, at: Any, points: Any) -> bytes:
    flux, error = (points[column].to_value("mJy") for column in ("flux", "error"))
    good = np.asarray(points["detected"]) & np.isfinite(flux) & np.isfinite(error)
    return sparkline(name, at[good], flux[good], error[good])


def sparkline(name: str, at: Any, flux: Any, error: Any) -> bytes:
    """SVG of points with error bars: time to the right, flux [mJy] upwards, scaled to the picture; of more than POINTS the extremes."""
    shown = _extremes(flux)
    at, flux, error = at[shown], flux[shown], error[shown]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    if not len(at):
        return f"{head}<title>{escape(name)}: never detected</title></svg>".encode()
    low, high = float((flux - error).min()), float((flux + error).max())
    wide, tall = max(float(np.ptp(at)), 1e-9), max(high - low, 1e-9)
    x = 4 + (WIDTH - 8) * ((at - at.min()) / wide if len(at) > 1 else np.full(len(at), 0.5))
    y, y0, y1 = (4 + (HEIGHT - 8) * (high - value) / tall for value in (flux, flux - error, flux + error))
    bars = "".join(f"M{a:.1f} {c:.1f}V{d:.1f}" for a, c, d in zip(x, y0, y1, strict=True))
    points = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))
    marks = f'<path class="bars" d="{bars}"/><path class="points" d="{points}"/>'
    return f"{head}<title>{escape(name)}: {low:.3g} to {high:.3g} mJy</title><style>{_STYLE}</style>{marks}</svg>".encode()


def _extremes(values: Any) -> NDArray[np.intp]:
    """Indices of all values; of more than POINTS, those of the lowest and highest in each of POINTS / 2 parts, so that outliers stay."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), POINTS // 2)
    return np.unique([part[pick(values[part])] for part in parts for pick in (np.argmin, np.argmax)])


ROUTES = [Route("/sources/{source:path}/spark.svg", spark, name="spark")]
