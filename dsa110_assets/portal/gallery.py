"""Galleries of tiles and mosaics, filtered by time, place and quality, page by page over years."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.archive import windows
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.portal import curves, files, parameters, render, viewer
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive

PAGE, CHUNK, LOOKED_THROUGH = 24, 96, 960
"""Pictures per page; products read from the index at a time; and products examined before the reader is asked whether to go on."""
TILE = "tile_image"
"""The asset that requested mosaics are made of."""
STRIP_DEG = 0.5
REACH_DEG, TURN_DEG_PER_DAY = 1.5, 360.985647
"""How far from the beam's middle a position may lie to be in an image, and how fast the sky turns over the beam."""


def gallery(request: Request) -> Response:
    """Previews of the images of one kind that pass the filters, newest first."""
    from dsa110_assets.orchestration.graph import specifications

    store = render.archive_of(request).store
    assets = [one.name for one in specifications().values() if one.image]
    asset = parameters.text(request, "asset") or assets[0]
    if asset not in assets:
        raise ConfigurationError(f"asset={asset!r}: choose from {', '.join(assets)}")
    filters = _filters(request)
    shown, looked, older = _page(store, asset, filters)
    items = [(one, _downloads(one)) for one in shown]
    return render.page(
        "gallery.html", request, asset=asset, assets=assets, items=items, wanted=filters, looked=looked, older=older,
        of_tiles=asset == TILE,
        query=[(key, value) for key, value in request.query_params.items() if key != "until" and value],
    )  # fmt: skip


def _filters(request: Request) -> dict[str, Any]:
    """The filters of a request. Raises ConfigurationError for a wrong place or number, NotFoundError for a wrong time or unknown source."""
    from dsa110_assets.analyst import position

    given = {name: parameters.text(request, name) for name in ("since", "until", "source", "ra", "dec")}
    since = None if given["since"] is None else windows.first(given["since"])
    place = None if given["ra"] is None and given["dec"] is None else position(given["ra"], given["dec"])
    if given["source"] is not None:
        found = curves.light_curve(render.archive_of(request), given["source"]).meta
        place = float(found["ra"].to_value("deg")), float(found["dec"].to_value("deg"))
    rms = parameters.text(request, "max_rms")
    strip = parameters.text(request, "strip")
    return {
        **given, "first": since, "place": place, "checks": parameters.text(request, "checks"), "max_rms": rms, "strip": strip,
        "rms_mjy": None if rms is None else parameters.number(request, "max_rms", 0, 1e-3, 1e6),
        "strip_deg": None if strip is None else parameters.number(request, "strip", 0, -90, 90),
    }  # fmt: skip


def _page(store: Archive, asset: str, filters: Mapping[str, Any]) -> tuple[list[Product], int, str | None]:
    """The next products that pass the filters, how many were examined, and the partition from which older ones follow (None: no more)."""
    shown: list[Product] = []
    looked, until = 0, filters["until"]
    for product in _newest_first(store, asset, until):
        if filters["first"] is not None and (product.partition or "") < filters["first"]:
            return shown, looked, None
        if len(shown) == PAGE or looked == LOOKED_THROUGH:
            return shown, looked, product.partition
        looked += 1
        if fits(product, filters):
            shown.append(product)
    return shown, looked, None


def _newest_first(store: Archive, asset: str, until: str | None) -> Iterator[Product]:
    """The current products of an asset from a partition backwards; the index is read a few at a time."""
    last: str | None = None
    while True:
        found = [one for one in store.newest(asset, CHUNK, last or until) if last is None or (one.partition or "") < last]
        yield from found
        if not found or not found[-1].partition:
            return
        last = found[-1].partition


def fits(product: Product, wanted: Mapping[str, Any]) -> bool:
    """Whether a product has the requested strip, quality and place."""
    figures = product.metadata
    rms, dec = figures.get("rms_jy"), figures.get("pointing_dec_deg")
    if wanted["rms_mjy"] is not None and not (isinstance(rms, float) and 1e3 * rms <= wanted["rms_mjy"]):
        return False
    if wanted["strip_deg"] is not None and not (isinstance(dec, float) and abs(dec - wanted["strip_deg"]) <= STRIP_DEG):
        return False
    if wanted["checks"] is not None and bool(figures.get("n_failed_checks")) != (wanted["checks"] == "failed"):
        return False
    return wanted["place"] is None or _holds(product, *wanted["place"])


def _holds(product: Product, ra_deg: float, dec_deg: float) -> bool:
    """Whether a position passed the meridian within REACH_DEG of the beam's middle while a product was observed."""
    dec, start, end = (product.metadata.get(name) for name in ("pointing_dec_deg", "mjd_start", "mjd_end"))
    if not (isinstance(dec, float) and isinstance(start, float) and isinstance(end, float)):
        return False
    ((ra_then, dec_then),) = np.rad2deg(astrometry.meridian_icrs_rad([(start + end) / 2], np.deg2rad(dec)))
    along_deg = abs((ra_deg - ra_then + 180) % 360 - 180) * np.cos(np.deg2rad(dec_deg))
    swept_deg = (end - start) / 2 * TURN_DEG_PER_DAY * np.cos(np.deg2rad(dec_deg))
    return bool(abs(dec_deg - dec_then) <= REACH_DEG and along_deg <= REACH_DEG + swept_deg)


def _downloads(product: Product) -> list[tuple[str, str]]:
    """(label, address) of each file of an image that can be downloaded."""
    root = f"/files/{product.id}"
    listed = [name for name, _ in files.listing(product)]
    found = [(name.removesuffix(".fits").replace("-", " ") + " FITS", f"{root}/{name}") for name in viewer.image_files(product)[:2]]
    if "preview.png" in listed:
        found.append(("PNG", f"{root}/preview.png"))
    found.append(("region", f"/view/{product.id}/sources.reg"))
    if "coverage.moc.fits" in listed:
        found.append(("MOC", f"{root}/coverage.moc.fits"))
    return found


ROUTES = [Route("/gallery", gallery)]
