"""The pages: each gathers what the archive says and fills one template."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.archive import naming, requested, trials
from dsa110_assets.archive.product import LineageNode, Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import NotFoundError
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.portal import files, overview, parameters, plots, rows
from dsa110_assets.telescope import timegrid

GALLERY, SOURCE_ROWS, NIGHT_ROWS, NIGHT_CHOICES = 8, 500, 100, 400
TRIAL_PRODUCTS = 50
UNTRUSTED = "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"
IMMUTABLE = "private, max-age=86400, immutable"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _figure(value: Any) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e4 else f"{value:.10g}"  # days of the MJD have many digits
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, list | tuple):
        return ", ".join(_figure(entry) for entry in value) or "none"
    return str(value)


_templates = Environment(
    loader=PackageLoader("dsa110_assets.portal"), autoescape=select_autoescape(), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_templates.filters.update(size=_size, figure=_figure)


def _page(template: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
    text = _templates.get_template(template).render(path=request.url.path, **values)
    return HTMLResponse(text, status)


def error_page(request: Request, status: int, sentence: str) -> Response:
    """A page that says, in one sentence, why there is no other."""
    return _page("error.html", request, status, code=status, sentence=sentence)


def image_assets() -> list[str]:
    """The assets that are images, in the graph's order."""
    return [asset.name for asset in specifications().values() if asset.image]


def front(request: Request) -> Response:
    """Tonight: what came in, what became of it, what needs a person."""
    archive = _archive(request)
    state = overview.of(request)
    newest = [p for asset in image_assets() for p in archive.store.newest(asset, GALLERY)]
    newest.sort(key=lambda product: (product.created_at, product.id), reverse=True)
    return _page("front.html", request, state=state, gallery_products=newest[:GALLERY])


def observations(request: Request) -> Response:
    """The observations of a night, step by step."""
    store = _archive(request).store
    nights = store.nights(NIGHT_CHOICES, "subband_group")
    night = parameters.text(request, "night") or (nights[0] if nights else None)
    shown = [asset.name for asset in specifications().values() if asset.grain == "observation"]
    found: dict[str, dict[str, Product]] = {}
    if night is not None:
        _require_night(store, night, "subband_group")
        for asset in shown:
            for product in store.products(asset, night, night):
                found.setdefault(product.partition or "", {})[asset] = product
    return _page(
        "observations.html", request, night=night, nights=nights,
        rows=sorted(found.items()), assets=shown,
    )  # fmt: skip


def image(request: Request) -> Response:
    """The image of an observation, hour or night window, or of a product id."""
    key = request.path_params["key"]
    archive = _archive(request)
    for asset in image_assets():
        try:
            found = archive.product(asset, key)
        except NotFoundError as error:
            reason = error
            continue
        if found.id == key or found.partition == key:
            return RedirectResponse(request.url_for("product", product_id=found.id).path, 303)
    raise reason


def product(request: Request) -> Response:
    """One product: its facts, its picture, its files, where it comes from and what was made from it."""
    archive = _archive(request)
    found = archive.store.get(request.path_params["product_id"])
    names = [] if found.removed else files.listing(found)
    return _page(
        "product.html", request, product=found, files=names,
        has_image=found.asset in image_assets() and bool(names),
        lineage=flat(archive.lineage(found.id)), dependents=archive.store.dependents(found.id),
        served=found.state == "current" and not found.removed,
    )  # fmt: skip


def product_plot(request: Request) -> Response:
    """An image product drawn on sky coordinates, PNG."""
    archive = _archive(request)
    found = archive.store.get(request.path_params["product_id"])
    if found.asset not in image_assets() or found.removed:
        raise NotFoundError(f"{found.id} is no image")
    png = plots.image_png(found)
    return Response(png, media_type="image/png", headers={"cache-control": IMMUTABLE})


def product_file(request: Request) -> Response:
    """A file of a current product. Its HTML runs sandboxed: it may hold names from outside."""
    parts = request.path_params
    path = files.product_file(_archive(request).store, parts["product_id"], parts["name"])
    media_type = files.MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    headers = {"cache-control": IMMUTABLE}
    if media_type.startswith(("text/html", "image/svg")):
        headers["content-security-policy"] = UNTRUSTED
    inline = media_type.startswith(("text/", "image/"))
    name = path.name if inline else f"{parts['product_id']}-{path.name}"
    return FileResponse(
        path, media_type=media_type, filename=name, headers=headers,
        content_disposition_type="inline" if inline else "attachment",
    )  # fmt: skip


def sources(request: Request) -> Response:
    """Sources with light curves, searched by name or position."""
    archive = _archive(request)
    name, cone = parameters.text(request, "name"), parameters.cone(request)
    if name is not None:
        curve = archive.light_curve(name)
        # a name may hold what ends a path: '#', '?', '%'
        return RedirectResponse(request.url_for("source", source=quote(curve.meta["source_id"])).path, 303)
    try:
        table = archive.sources(**cone)
        found, total = rows.table_rows(table[:SOURCE_ROWS]), len(table)
        origin, left_out = table.meta["product_id"], table.meta["left_out"]
    except NotFoundError:
        if any(cone.values()):
            raise
        found, total, origin, left_out = [], 0, None, []
    return _page("sources.html", request, rows=found, total=total, origin=origin, left_out=left_out, cone=cone)


def source(request: Request) -> Response:
    """One source: its light curve, point by point, each down to the files it came from."""
    curve = rows.light_curve_json(_archive(request), request.path_params["source"])
    products = sorted({point["product_id"] for point in curve["points"]})
    trees = {name: flat(_archive(request).lineage(name)) for name in products[:50]}
    return _page("source.html", request, curve=curve, lineages=trees)


def source_plot(request: Request) -> Response:
    """A light curve as SVG."""
    curve = _archive(request).light_curve(request.path_params["source"])
    return Response(plots.light_curve_svg(curve), media_type="image/svg+xml")


def candidates(request: Request) -> Response:
    """Variable and transient candidates of the latest night."""
    rate = parameters.number(request, "max_false_discovery_rate", 0.01, 1e-12, 1)
    try:
        table = _archive(request).variables(rate)
        found, origin = rows.table_rows(table), table.meta["product_id"]
    except NotFoundError:
        found, origin = [], None
    return _page("candidates.html", request, rows=found, origin=origin, rate=rate)


def calibration(request: Request) -> Response:
    """The calibration sets there are, and the one in force."""
    from dsa110_assets.archive import caltable_registry

    archive = _archive(request)
    sets = sorted(caltable_registry.sets(archive.store), key=lambda entry: entry.mid_mjd, reverse=True)
    strip = overview.pointing_dec_deg(archive)
    state = overview.of(request)
    times = {entry.set_id: timegrid.mjd_to_datetime(entry.mid_mjd) for entry in sets}
    return _page("calibration.html", request, sets=sets, times=times, strip=strip, state=state)


def nights(request: Request) -> Response:
    """The nights with data and their reports, so many at a time, from the last one (not after `until`) backwards."""
    store = _archive(request).store
    known = store.nights(NIGHT_ROWS + 1, until=parameters.text(request, "until"))
    shown, earlier = known[:NIGHT_ROWS], known[NIGHT_ROWS:]
    found: dict[str, dict[str, int]] = {key: {} for key in shown}
    for (asset, key), number in (store.tally(shown[-1], shown[0]) if shown else {}).items():
        found[key][asset] = number
    return _page("nights.html", request, nights=list(found.items()), earlier=earlier)


def night(request: Request) -> Response:
    """One night: its report, as published, and its products."""
    store = _archive(request).store
    key = request.path_params["night"]
    _require_night(store, key)
    report = store.current("night_report", key)
    page = next((name for name, _ in files.listing(report) if name.endswith(".html")), None) if report else None
    return _page(
        "night.html",
        request,
        night=key,
        products=store.products(since=key, until=key),
        report=report,
        page=page,
    )


def trials_and_requests(request: Request) -> Response:
    """What is made beside science: trials with their products, and requested mosaics."""
    store = _archive(request).store
    told = [(one, trials.told(one.settings), _of_trial(store, one.name)) for one in trials.definitions(store)]
    asked = [(one, requested.told(one), store.current(requested.ASSET, one.partition)) for one in requested.requests(store)]
    return _page("trials.html", request, trials=told, requests=asked, most=TRIAL_PRODUCTS)


def _of_trial(store: Archive, trial: str) -> list[Product]:
    """What a trial made, asset by asset: all products of an archive are too many to look through."""
    return [product for asset in specifications() for product in store.products(naming.in_trial(asset, trial))]


def flat(node: LineageNode) -> list[tuple[int, LineageNode, bool]]:
    """A lineage tree as lines of (depth, node, whether its branch is shown above already)."""
    lines: list[tuple[int, LineageNode, bool]] = []
    seen: set[str] = set()
    stack = [(0, node)]
    while stack:
        depth, part = stack.pop()
        name = part.product.id if part.product else None
        again = name in seen
        lines.append((depth, part, again))
        if name is not None and not again:
            seen.add(name)
            stack.extend((depth + 1, child) for child in reversed(part.children))
    return lines


def _require_night(store: Archive, night: str, asset: str | None = None) -> None:
    last = store.nights(1, asset)
    if not last or night > last[0] or store.nights(1, asset, until=night) != [night]:
        raise NotFoundError(f"no data of a night {night!r}: " + (f"the last one is {last[0]}" if last else "there is none yet"))


def _archive(request: Request) -> AnalystArchive:
    archive: AnalystArchive = request.app.state.archive
    return archive


ROUTES = [
    Route("/", front),
    Route("/observations", observations),
    Route("/images/{key:path}", image),
    Route("/products/{product_id}", product, name="product"),
    Route("/products/{product_id}/plot.png", product_plot, name="product_plot"),
    Route("/files/{product_id}/{name:path}", product_file, name="product_file"),
    Route("/sources", sources),
    Route("/sources/{source:path}/plot.svg", source_plot, name="source_plot"),
    Route("/sources/{source:path}", source, name="source"),
    Route("/candidates", candidates),
    Route("/calibration", calibration),
    Route("/trials", trials_and_requests),
    Route("/nights", nights),
    Route("/nights/{night}", night, name="night"),
]
