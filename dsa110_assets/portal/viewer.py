"""The viewer that pans and zooms images: the server sends small tiles of the memory-mapped file, the page's script puts them together."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dsa110_assets.analyst_views import MAIN_IMAGES, Image
from dsa110_assets.errors import BadDataError, ConfigurationError, NotFoundError
from dsa110_assets.imaging import fits
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal import files, oddity, parameters, render
from dsa110_assets.telescope import astrometry, timegrid

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.product import Product

FloatArray = NDArray[np.floating[Any]]
TILE = 256
DEEPEST = 8
"""The deepest level. Each level halves the picture: at the eighth, one tile is 65536 pixels wide."""
STRETCHES = ("asinh", "linear", "sqrt", "log")
LOWEST, HIGHEST = -3.0, 15.0
"""Default limits of the shown values, in units of the rms."""
MARKED, EPOCHS, CUTOUT, BLANK = 1500, 24, 160, 0
IMMUTABLE = "private, max-age=86400, immutable"


@lru_cache(maxsize=24)
def opened(path: Path) -> tuple[FloatArray, WCS]:
    """The pixels of a FITS image, memory-mapped rather than read, and their celestial coordinates. Cached: products never change."""
    from astropy.wcs import WCS

    data, header = fits.map_plane(path)
    return data, WCS(header).celestial


def window(data: FloatArray, level: int, x: int, y: int) -> FloatArray:
    """The tile (x, y) of a level: means of 2^level by 2^level pixels, at most TILE by TILE of them, row 0 in the south.

    The mean is of the pixels that are not blank; NaN where all are. Raises NotFoundError for a tile outside the image.
    """
    side, step = TILE << level, 1 << level
    if not (0 <= x * side < data.shape[1] and 0 <= y * side < data.shape[0]):
        raise NotFoundError(f"an image of {data.shape[1]} by {data.shape[0]} pixels has no tile {x}, {y} at level {level}")
    part = np.asarray(data[y * side : (y + 1) * side, x * side : (x + 1) * side], dtype=np.float32)
    if step == 1:
        return part
    ny, nx = (-(-length // step) for length in part.shape)
    whole = np.full((ny * step, nx * step), np.nan, np.float32)
    whole[: part.shape[0], : part.shape[1]] = part
    blocks = whole.reshape(ny, step, nx, step)
    good = np.isfinite(blocks)
    number = good.sum(axis=(1, 3))
    total = np.where(good, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)


def levels(pixels: FloatArray, low: float, high: float, stretch: str) -> NDArray[np.uint8]:
    """Pixels as 8-bit levels: 0 where blank, 1 at `low` and below, 255 at `high` and above, by a stretch of STRETCHES between.

    asinh and log stretch by a factor of ten and a thousand, as in DS9.
    """
    part = np.clip((np.nan_to_num(pixels, nan=low) - low) / (high - low), 0, 1)
    if stretch == "sqrt":
        part = np.sqrt(part)
    elif stretch == "log":
        part = np.log1p(1000 * part) / np.log1p(1000)
    elif stretch == "asinh":
        part = np.arcsinh(10 * part) / np.arcsinh(10)
    return np.where(np.isfinite(pixels), 1 + np.rint(254 * part), BLANK).astype(np.uint8)


def png(shown: NDArray[np.uint8], *, grey: bool = False) -> bytes:
    """Levels as PNG, north up; `grey` inverts them to dark on light, as a picture for people."""
    from PIL import Image as Pillow

    turned = np.ascontiguousarray(np.where(shown == BLANK, 200, 255 - shown) if grey else shown)[::-1].astype(np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(turned)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def view(request: Request) -> Response:
    """The page of the viewer for one image of a product."""
    archive, product = _product(request)
    names = image_files(product)
    if not names:
        raise NotFoundError(f"{product.id} holds no image")
    name = parameters.text(request, "file") or names[0]
    data, wcs = opened(files.product_file(archive.store, product.id, name))
    rms_jy = Image.of(product).rms.value if name in MAIN_IMAGES or "residual" in name else _substitute_rms(data)
    place = _place(request)
    centre = [float(v) for v in wcs.world_to_pixel_values(*place)] if place else [data.shape[1] / 2, data.shape[0] / 2]
    scale_arcsec = float(3600 * np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    facts = {
        "product": product.id, "file": name, "width": data.shape[1], "height": data.shape[0], "tile": TILE, "deepest": DEEPEST,
        "low": LOWEST * rms_jy, "high": HIGHEST * rms_jy, "scale": scale_arcsec, "centre": centre, "close": place is not None,
        "epochs": [{"id": one.id, "partition": one.partition} for one in _epochs(archive, product)],
    }  # fmt: skip
    return render.page(
        "view.html", request, product=product, names=names, name=name, facts=jsonable(facts), stretches=STRETCHES,
        carta=carta_link(request, product, name), carta_page=f"/carta/{product.id}?file={quote(name)}",
    )  # fmt: skip


def carta(request: Request) -> Response:
    """CARTA with one image, inside a page of the portal."""
    _, product = _product(request)
    names = image_files(product)
    name = parameters.text(request, "file") or (names[0] if names else "")
    if name not in names:
        raise NotFoundError(f"{product.id} holds no image {name!r}; it holds {', '.join(names) or 'none'}")
    link = carta_link(request, product, name)
    if link is None:
        raise NotFoundError("the address of CARTA is not set: set DSA110_CARTA_URL to it, such as http://host:3002")
    answer = render.page("carta.html", request, product=product, names=names, name=name, link=link)
    parts = urlsplit(link)
    answer.headers["content-security-policy"] = f"{render.POLICY}; frame-src {parts.scheme}://{parts.netloc}"
    return answer


def image_files(product: Product) -> list[str]:
    """The FITS images of a product, the main one first."""
    if product.removed:
        return []
    names = [
        name for name, _ in files.listing(product, 2000) if name.endswith(".fits") and "/" not in name and not name.endswith(".moc.fits")
    ]
    return sorted(names, key=lambda name: (name not in MAIN_IMAGES, name))


def tile(request: Request) -> Response:
    """A tile of an image as PNG levels."""
    archive, product = _product(request)
    data, _ = _image(request, archive, product)
    level, x, y = (parameters.integer(request, name, 0, 0, most) for name, most in (("level", DEEPEST), ("x", 10**6), ("y", 10**6)))
    low, high = _limits(request)
    stretch = parameters.text(request, "stretch") or STRETCHES[0]
    if stretch not in STRETCHES:
        raise ConfigurationError(f"stretch={stretch!r}: choose from {', '.join(STRETCHES)}")
    return Response(
        png(levels(window(data, level, x, y), low, high, stretch)), media_type="image/png", headers={"cache-control": IMMUTABLE}
    )


def _limits(request: Request) -> tuple[float, float]:
    low, high = (parameters.number(request, name, default, -1e6, 1e6) for name, default in (("low", -0.005), ("high", 0.03)))
    if not low < high:
        raise ConfigurationError(f"low={low:g} is not below high={high:g}")
    return low, high


def at(request: Request) -> Response:
    """The sky position of (x, y) and the value of its pixel; x and y count from 0 at the centre of the south-eastern pixel."""
    archive, product = _product(request)
    data, wcs = _image(request, archive, product)
    x, y = (parameters.number(request, name, 0, -1e6, 1e6) for name in ("x", "y"))
    ra, dec = (float(value) for value in wcs.pixel_to_world_values(x, y))
    if not (np.isfinite(ra) and np.isfinite(dec)):
        return JSONResponse({"text": None, "ra_deg": None, "dec_deg": None, "value": None})
    column, row = round(x), round(y)
    inside = 0 <= column < data.shape[1] and 0 <= row < data.shape[0]
    value = float(data[row, column]) if inside else float("nan")
    return JSONResponse(jsonable({"text": astrometry.sexagesimal(ra, dec), "ra_deg": ra % 360, "dec_deg": dec, "value": value}))


def place(request: Request) -> Response:
    """The place (x, y) of a sky position in an image, and whether it is inside."""
    archive, product = _product(request)
    data, wcs = _image(request, archive, product)
    position = _place(request)
    if position is None:
        raise ConfigurationError("give the position as ra and dec: degrees, or 05h21m09.9s and 16d38m22s")
    x, y = (float(value) for value in wcs.world_to_pixel_values(*position))
    inside = bool(np.isfinite(x) and 0 <= x < data.shape[1] and 0 <= y < data.shape[0])
    return JSONResponse(jsonable({"x": x, "y": y, "inside": inside, "width": data.shape[1], "height": data.shape[0]}))


def overlay(request: Request) -> Response:
    """The sources in an image: the brightest of the `catalogue`, or of those measured in its hour (`measurements`)."""
    archive, product = _product(request)
    data, wcs = _image(request, archive, product)
    kind = parameters.text(request, "kind") or "catalogue"
    rows = [
        {"x": x, "y": y, "name": row["source_id"], "jy": row.get("flux_jy"), "found": row.get("detected", True)}
        for row, x, y in marked(archive, product, kind, data, wcs)
    ]
    return JSONResponse(jsonable({"kind": kind, "marks": rows}))


def region(request: Request) -> Response:
    """The sources measured in an image as a DS9 region file, which CARTA reads too."""
    archive, product = _product(request)
    data, wcs = _image(request, archive, product)
    kind = parameters.text(request, "kind") or "measurements"
    lines = ["# Region file format: DS9", "icrs"]
    for row, _, _ in marked(archive, product, kind, data, wcs):
        name = "".join(letter for letter in row["source_id"] if letter.isprintable() and letter not in "{}")
        lines.append(f'circle({row["ra_deg"]:.6f},{row["dec_deg"]:.6f},30") # text={{{name}}}')
    headers = {"content-disposition": f'attachment; filename="{product.id}.reg"'}
    return PlainTextResponse("\n".join(lines) + "\n", headers=headers)


def marked(
    archive: AnalystArchive, product: Product, kind: str, data: FloatArray, wcs: WCS
) -> Iterator[tuple[dict[str, Any], float, float]]:
    """The brightest rows of a kind within an image, each with its (x, y)."""
    if kind == "catalogue":
        table, name = archive.store.current("source_catalog"), "source_catalog.parquet"
    elif kind == "measurements":
        key = product.partition or ""
        hour = key if len(key) == len("2026-01-25T22:00") else None
        table, name = archive.store.current("source_measurements", f"{key[:13]}:00" if hour else None), "source_measurements.parquet"
    else:
        raise ConfigurationError(f"kind={kind!r}: choose from catalogue, measurements")
    if table is None:
        return
    corners = wcs.pixel_to_world_values(data.shape[1] / 2, data.shape[0] / 2)
    reach = float(np.hypot(*data.shape) / 2 * np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    rows = oddity.within(Path(table.path) / name, float(corners[0]), float(corners[1]), min(reach, 179.0))
    rows.sort(key=lambda row: -(row.get("flux_jy") or 0))
    for row in rows[: 4 * MARKED]:
        x, y = (float(value) for value in wcs.world_to_pixel_values(row["ra_deg"], row["dec_deg"]))
        if np.isfinite(x) and 0 <= x < data.shape[1] and 0 <= y < data.shape[0]:
            yield row, x, y


def cutout(request: Request) -> Response:
    """The pixels around a position of an image as a small picture, dark on light."""
    archive, product = _product(request)
    position = _place(request)
    if position is None:
        raise ConfigurationError("give the position to cut out as ra and dec")
    size_arcmin = parameters.number(request, "size", 8.0, 0.1, 120.0)
    found = Image.of(product)
    data, wcs = opened(files.product_file(archive.store, product.id, found.path.name))
    rms = found.rms.value
    part = cut(data, wcs, *position, size_arcmin / 60)
    return Response(
        png(levels(part, LOWEST * rms, HIGHEST * rms, "linear"), grey=True), media_type="image/png", headers={"cache-control": IMMUTABLE}
    )


def cut(data: FloatArray, wcs: WCS, ra_deg: float, dec_deg: float, size_deg: float) -> FloatArray:
    """A square around a position, sampled by nearest pixels to CUTOUT by CUTOUT; NaN outside the image.

    Raises NotFoundError for a position outside the image.
    """
    x, y = (float(value) for value in wcs.world_to_pixel_values(ra_deg, dec_deg))
    if not (np.isfinite(x) and -0.5 <= x < data.shape[1] and -0.5 <= y < data.shape[0]):
        raise NotFoundError(f"RA {ra_deg:.4f}, Dec {dec_deg:.4f} deg lies outside this image")
    half = size_deg / np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) / 2
    offsets = (np.arange(CUTOUT) + 0.5) / CUTOUT * 2 * half - half
    columns, rows = np.rint(x + offsets).astype(int), np.rint(y + offsets).astype(int)
    inside = np.outer((rows >= 0) & (rows < data.shape[0]), (columns >= 0) & (columns < data.shape[1]))
    low_row, low_column = max(rows.min(), 0), max(columns.min(), 0)
    block = np.asarray(data[low_row : rows.max() + 1, low_column : columns.max() + 1], dtype=np.float32)
    taken = block[np.clip(rows - low_row, 0, block.shape[0] - 1)][:, np.clip(columns - low_column, 0, block.shape[1] - 1)]
    return np.where(inside, taken, np.nan).astype(np.float32)


def carta_link(request: Request, product: Product, name: str) -> str | None:
    """The address at which CARTA shows a file; None if the settings do not give CARTA's address."""
    address = request.app.state.carta
    return None if address is None else f"{address.rstrip('/')}/?folder={quote(str(product.path))}&file={quote(name)}"


def _epochs(archive: AnalystArchive, product: Product) -> list[Product]:
    """The images of other nights to blink with, the newest first: of the same kind and nearest in sidereal time; one for each night."""
    key = product.partition or ""
    found = []
    for night in archive.store.nights(EPOCHS, product.asset):
        if night == key[:10]:
            continue
        nearest = [one for one in archive.store.products(product.asset, night, night) if one.partition]
        if nearest:
            start = timegrid.parse_key(key)
            found.append(min(nearest, key=lambda one: _sidereal_difference_s(timegrid.parse_key(one.partition or ""), start)))
    return found


def _sidereal_difference_s(one: Any, other: Any) -> float:
    """The difference of two times in the sidereal day [s]: the sky returns to the same place four minutes earlier each night."""
    turned = (one - other).total_seconds() % SIDEREAL_DAY_S
    return float(min(turned, SIDEREAL_DAY_S - turned))


SIDEREAL_DAY_S = 86164.0905


def _product(request: Request) -> tuple[AnalystArchive, Product]:
    archive = render.archive_of(request)
    return archive, archive.store.get(request.path_params["product_id"])


def _image(request: Request, archive: AnalystArchive, product: Product) -> tuple[FloatArray, WCS]:
    name = parameters.text(request, "file") or Image.of(product).path.name
    if not name.endswith(".fits"):
        raise NotFoundError(f"{name} is not a FITS image")
    data, wcs = opened(files.product_file(archive.store, product.id, name))
    if not wcs.has_celestial:
        raise BadDataError(f"{product.id}: {name} has no celestial coordinates")
    return data, wcs


def _place(request: Request) -> tuple[float, float] | None:
    """The position that a request names [deg]; None if it names none."""
    from dsa110_assets.analyst import position

    given = [parameters.text(request, name) for name in ("ra", "dec")]
    return None if given == [None, None] else position(*given)


def _substitute_rms(data: FloatArray) -> float:
    """A scale in place of an rms, in units of the pixels: the 99.5th percentile of |pixels| over HIGHEST; 1 if that is 0 or undefined."""
    sample = np.asarray(data[:: max(1, data.shape[0] // 400), :: max(1, data.shape[1] // 400)])
    sample = sample[np.isfinite(sample)]
    return float(np.percentile(np.abs(sample), 99.5)) / HIGHEST or 1.0 if sample.size else 1.0


ROUTES = [
    Route("/view/{product_id}", view, name="view"),
    Route("/view/{product_id}/tile.png", tile, name="tile"),
    Route("/view/{product_id}/at.json", at),
    Route("/view/{product_id}/place.json", place),
    Route("/view/{product_id}/overlay.json", overlay),
    Route("/view/{product_id}/sources.reg", region, name="region"),
    Route("/carta/{product_id}", carta, name="carta"),
    Route("/cutout/{product_id}.png", cutout, name="cutout"),
]
