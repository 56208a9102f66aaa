"""The pages: each gathers data from the archive and fills one template."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from dsa110_assets.archive import naming, requested, trials
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import NotFoundError
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.portal import (
    alerts,
    calibration,
    candidates,
    control,
    files,
    front,
    gallery,
    parameters,
    plots,
    render,
    runs,
    sky,
    skyview,
    success,
    thumbnails,
    timeline,
    tree,
    viewer,
)

NIGHT_ROWS = 60
TRIAL_PRODUCTS = 50
UNTRUSTED = (
    "sandbox allow-popups allow-top-navigation-by-user-activation; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"
)
"""A report may contain names from outside: it may run no script, and may leave the page only when a link is clicked."""


def error_page(request: Request, status: int, sentence: str) -> Response:
    """A page that says in one sentence why the requested one cannot be shown."""
    return render.page("error.html", request, status, code=status, sentence=sentence)


def image_assets() -> list[str]:
    """The assets that are images, in the graph's order."""
    return [asset.name for asset in specifications().values() if asset.image]


def image(request: Request) -> Response:
    """The image of an observation, hour or night window, or of a product id."""
    key = request.path_params["key"]
    archive = render.archive_of(request)
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
    archive = render.archive_of(request)
    found = archive.store.get(request.path_params["product_id"])
    names = [] if found.removed else files.listing(found)
    return render.page(
        "product.html", request, product=found, files=names, runs=runs.kept(request.app.state.home, [found.run_id]),
        has_image=found.asset in image_assets() and bool(names),
        lineage=tree.flat(archive.lineage(found.id)), dependents=archive.store.dependents(found.id),
        served=found.state == "current" and not found.removed, images=viewer.image_files(found) if found.asset in image_assets() else [],
    )  # fmt: skip


def product_plot(request: Request) -> Response:
    """An image product drawn on sky coordinates, PNG."""
    archive = render.archive_of(request)
    found = archive.store.get(request.path_params["product_id"])
    if found.asset not in image_assets() or found.removed:
        raise NotFoundError(f"{found.id} is not an image")
    png = plots.image_png(found)
    return Response(png, media_type="image/png", headers={"cache-control": viewer.IMMUTABLE})


def product_file(request: Request) -> Response:
    """A file of a current product. HTML and SVG are sandboxed, because they may contain names from outside."""
    parts = request.path_params
    path = files.product_file(render.archive_of(request).store, parts["product_id"], parts["name"])
    media_type = files.MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    headers = {"cache-control": viewer.IMMUTABLE}
    if media_type.startswith(("text/html", "image/svg")):
        headers["content-security-policy"] = UNTRUSTED
    inline = media_type.startswith(("text/", "image/"))
    name = path.name if inline else f"{parts['product_id']}-{path.name}"
    return FileResponse(
        path, media_type=media_type, filename=name, headers=headers,
        content_disposition_type="inline" if inline else "attachment",
    )  # fmt: skip


def nights(request: Request) -> Response:
    """The nights with data and their reports, NIGHT_ROWS at a time, from the last one (not after `until`) backwards."""
    store = render.archive_of(request).store
    known = store.nights(NIGHT_ROWS + 1, until=parameters.text(request, "until"))
    shown, earlier = known[:NIGHT_ROWS], known[NIGHT_ROWS:]
    found: dict[str, dict[str, int]] = {key: {} for key in shown}
    for (asset, key), number in (store.tally(shown[-1], shown[0]) if shown else {}).items():
        found[key][asset] = number
    return render.page("nights.html", request, nights=list(found.items()), earlier=earlier)


def night(request: Request) -> Response:
    """One night: its trends, its published report and its products."""
    store = render.archive_of(request).store
    key = request.path_params["night"]
    require_night(store, key)
    report = store.current("night_report", key)
    page = next((name for name, _ in files.listing(report) if name.endswith(".html")), None) if report else None
    mosaic = store.current(skyview.ASSET, key)
    return render.page(
        "night.html", request, night=key, products=store.products(since=key, until=key), report=report, page=page,
        trends=timeline.TRENDS, has_sky=mosaic is not None and skyview.has_hips(mosaic),
    )  # fmt: skip


def trials_and_requests(request: Request) -> Response:
    """Products made beside science: trials with their products, and requested mosaics."""
    store = render.archive_of(request).store
    defined = [(one, trials.describe(one.settings), _of_trial(store, one.name)) for one in trials.definitions(store)]
    requests = [(one, requested.describe(one), store.current(requested.ASSET, one.partition)) for one in requested.requests(store)]
    return render.page("trials.html", request, trials=defined, requests=requests, most=TRIAL_PRODUCTS)


def _of_trial(store: Archive, trial: str) -> list[Product]:
    """The products of a trial, read asset by asset because an archive has too many products to look through all."""
    return [product for asset in specifications() for product in store.products(naming.in_trial(asset, trial))]


def require_night(store: Archive, night: str, asset: str | None = None) -> None:
    """Raise NotFoundError unless a night has products (of the asset, if given)."""
    last = store.nights(1, asset)
    if not last or night > last[0] or store.nights(1, asset, until=night) != [night]:
        raise NotFoundError(f"no data of a night {night!r}: " + (f"the last one is {last[0]}" if last else "there is none yet"))


ROUTES = [
    Route("/", front.front),
    Route("/images/{key:path}", image),
    Route("/products/{product_id}", product, name="product"),
    Route("/products/{product_id}/plot.png", product_plot, name="product_plot"),
    Route("/files/{product_id}/{name:path}", product_file, name="product_file"),
    *gallery.ROUTES,
    *timeline.ROUTES,
    *viewer.ROUTES,
    *thumbnails.ROUTES,
    *sky.ROUTES,
    *candidates.ROUTES,
    *skyview.ROUTES,
    *calibration.ROUTES,
    *control.ROUTES,
    *alerts.ROUTES,
    *success.ROUTES,
    *runs.ROUTES,
    Route("/trials", trials_and_requests),
    Route("/nights", nights),
    Route("/nights/{night}", night, name="night"),
]
