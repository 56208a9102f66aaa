"""The sky of a night: its HiPS, coverage and sources, shown in Aladin Lite where an operator installed it, else drawn here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from dsa110_assets.errors import BadDataError, NotFoundError
from dsa110_assets.imaging.preview import encode_png
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal import files, parameters, render, viewer
from dsa110_assets.portal.remembered import remembered
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    import pandas as pd
    from astropy.wcs import WCS

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive

ASSET, ROOT, COVERAGE = "night_mosaic", "hips", "coverage.moc.fits"
WIDTH, HEIGHT = 960, 640
NARROWEST_DEG, WIDEST_DEG, ZOOM, PAN = 0.1, 180.0, 2.0, 0.4
"""Limits of the width of the window; the factor of one zoom step; one step of panning as a part of the width."""
LONGEST_DEG = 30.0
"""Longer coverage is not shown as a whole at first, because nothing could be made out."""
MARKED, NAMED, LISTED, OVERLAID = 400, 16, 50, 2000
"""How many of the brightest sources are marked, named beside their mark, listed below, and given to Aladin."""
NAME_WIDTH, NAME_HEIGHT = 190, 18
EDGE = 32
"""The palette's brightest level, with which the edge of the coverage is drawn."""
ALADIN_PLACES = ("node_modules/aladin-lite/dist/aladin.js", "dist/aladin.js", "aladin.js")
ALADIN_POLICY = (
    render.POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'") + "; connect-src 'self' data:; worker-src blob:"
)
"""Aladin's WebAssembly and its worker lie in its script as data: addresses. All else comes from this origin, as on every page."""
BLANK_PNG = encode_png(np.zeros((512, 512), np.uint8), transparent=True)
_STEPS_DEG = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
_STEPS_RA_DEG = (1 / 24, 1 / 12, 0.125, 0.25, 0.5, 1.25, 2.5, 5.0, 7.5, 15.0, 30.0, 45.0)
"""From ten seconds of right ascension to three hours."""


@dataclass(frozen=True)
class Window:
    """The part of the sky that is shown: ICRS centre and width [deg]."""

    ra_deg: float
    dec_deg: float
    fov_deg: float

    def query(self, **changes: float) -> str:
        """The window, with changes, as parameters of an address, limited to valid positions and widths."""
        ra, dec, fov = (changes.get(name, getattr(self, name)) for name in ("ra_deg", "dec_deg", "fov_deg"))
        fov = min(max(fov, NARROWEST_DEG), WIDEST_DEG)
        return urlencode({"ra": f"{ra % 360:.5f}", "dec": f"{min(max(dec, -90.0), 90.0):.5f}", "fov": f"{fov:.5g}"})

    def wcs(self) -> WCS:
        """The coordinates of its pixels."""
        from dsa110_assets.mosaics import hips_view

        return hips_view.window_wcs(self.ra_deg, self.dec_deg, self.fov_deg, WIDTH, HEIGHT)


def aladin_script(folder: Path | None) -> Path | None:
    """Aladin Lite's script in a folder into which npm installed it, or in Aladin's own folder; None if it is not there."""
    places = () if folder is None else (folder / name for name in ALADIN_PLACES)
    return next((place for place in places if place.is_file()), None)


def sky(request: Request) -> Response:
    """The sky of a night. Aladin draws it where installed, unless the request has `plain`."""
    archive = render.archive_of(request)
    nights = archive.store.nights(365, ASSET)
    night = parameters.text(request, "night") or (nights[0] if nights else None)
    if night is None:
        return render.page("sky.html", request, product=None)
    product = archive.store.current(ASSET, night)
    if product is None:
        raise NotFoundError(f"there is no mosaic of a night {night!r}: " + (f"the last one is of {nights[0]}" if nights else "none yet"))
    from dsa110_assets.mosaics import hips_view

    properties = hips_view.described(product.path / ROOT)
    if product.removed or not properties:
        raise NotFoundError(f"the HiPS of {product.id} is {'removed by retention' if product.removed else 'not there'}")
    window = _window(request, product.path, properties)
    rows = _sources(archive.store, night, window)
    wcs = window.wcs()
    aladin = aladin_script(request.app.state.aladin) is not None
    base = f"/sky?night={night}&"
    facts = {
        "hips": f"/sky/{product.id}/hips", "name": f"Night {night}", "sources": f"/sky/{product.id}/sources.json",
        "ra": window.ra_deg, "dec": window.dec_deg, "fov": window.fov_deg, "rms_mjy": _rms_mjy(product),
    }  # fmt: skip
    in_aladin = aladin and parameters.text(request, "plain") is None
    answer = render.page(
        "sky.html", request, product=product, night=night, told=properties, window=window, size=(WIDTH, HEIGHT), in_aladin=in_aladin,
        aladin=aladin, base=base, facts=jsonable(facts), marks=list(_marks(rows[:MARKED], wcs)), rows=rows[:LISTED], found=len(rows),
        lines=list(_graticule(window, wcs)), steps=_steps(window, base), area_deg2=product.metadata.get("sky_area_deg2"),
        where=astrometry.sexagesimal(window.ra_deg, window.dec_deg), others=_beside(nights, night),
    )  # fmt: skip
    if in_aladin:
        answer.headers["content-security-policy"] = ALADIN_POLICY
    return answer


def _beside(nights: Sequence[str], night: str) -> dict[str, str]:
    """The nights before and after `night`, as Earlier and Later; `nights` has the newest first."""
    if night not in nights:
        return {}
    place = nights.index(night)
    later = {"Later": nights[place - 1]} if place else {}
    return {**({"Earlier": nights[place + 1]} if place + 1 < len(nights) else {}), **later}


def _window(request: Request, folder: Path, properties: dict[str, str]) -> Window:
    """The requested window of the mosaic in a folder; the whole mosaic where the request names none."""
    from dsa110_assets.analyst import position

    whole = _whole(folder, float(properties["hips_initial_ra"]), float(properties["hips_initial_dec"]))
    ra, dec = (parameters.text(request, name) for name in ("ra", "dec"))
    place = (whole.ra_deg, whole.dec_deg) if ra is None and dec is None else position(ra, dec)
    return Window(place[0] % 360, place[1], parameters.number(request, "fov", whole.fov_deg, NARROWEST_DEG, WIDEST_DEG))


@lru_cache(maxsize=8)
def _whole(folder: Path, ra_deg: float, dec_deg: float) -> Window:
    """A window that holds a night's coverage; where the coverage is too long to be shown at once, a window within the data."""
    from mocpy import MOC

    if (folder / COVERAGE).is_file():
        coverage = MOC.from_fits(folder / COVERAGE)
        middle = coverage.barycenter()
        reach_deg = float(coverage.largest_distance_from_coo_to_vertices(middle).to_value("deg"))
        if 2 * reach_deg <= LONGEST_DEG:
            return Window(float(middle.ra.deg), float(middle.dec.deg), max(2.1 * reach_deg * WIDTH / HEIGHT / 1.4, NARROWEST_DEG))
    return Window(ra_deg, dec_deg, LONGEST_DEG / 2)


def _rms_mjy(product: Product) -> float | None:
    value = product.metadata.get("rms_jy")
    return None if value is None else 1000 * float(value)


def _steps(window: Window, base: str) -> dict[str, str]:
    """The addresses of the links around the picture, by direction."""
    far = PAN * window.fov_deg
    along_ra = min(far / max(np.cos(np.deg2rad(window.dec_deg)), 0.05), 90.0)
    moves = {
        "East": {"ra_deg": window.ra_deg + along_ra}, "West": {"ra_deg": window.ra_deg - along_ra},
        "North": {"dec_deg": window.dec_deg + far}, "South": {"dec_deg": window.dec_deg - far},
        "Closer": {"fov_deg": window.fov_deg / ZOOM}, "Wider": {"fov_deg": window.fov_deg * ZOOM},
    }  # fmt: skip
    return {name: f"{base}{window.query(**change)}&plain=1" for name, change in moves.items()}


def _table(store: Archive, night: str) -> pd.DataFrame:
    """The sources of a night, brightest first: those of its light curves, or the catalogue's where it has none."""
    from dsa110_assets.photometry.nightrows import FILE

    curves, catalogue = store.current("light_curves", night), store.current("source_catalog")
    if curves is not None and not curves.removed and (curves.path / FILE).is_file():
        return _read(curves.path / FILE)
    if catalogue is None or catalogue.removed:
        raise NotFoundError("there are neither light curves of this night nor a catalogue")
    return _read(catalogue.path / "source_catalog.parquet")


@remembered(64 << 20, lambda table: int(table.memory_usage(deep=True).sum()))
def _read(file: Path) -> pd.DataFrame:
    """One row for each source of a table file, the brightest first: source_id, ra_deg, dec_deg, flux_jy, detected. Files never change."""
    import pandas as pd
    import pyarrow.parquet as pq

    columns = ("source_id", "ra_deg", "dec_deg", "flux_jy", "detected")
    try:
        existing = set(pq.read_schema(file).names)
        frame = pd.read_parquet(file, columns=[name for name in columns if name in existing])
    except (OSError, ValueError) as error:
        raise BadDataError(f"{file} cannot be read: {error}; run: dsa110 archive verify") from error
    if "detected" not in frame:
        frame["detected"] = True
    frame["detected"] = frame["detected"].astype(bool)
    frame = frame.sort_values(["detected", "flux_jy"], ascending=False, kind="stable")
    return frame.drop_duplicates("source_id").reset_index(drop=True)


def _sources(store: Archive, night: str, window: Window) -> list[dict[str, Any]]:
    """The sources in a window, brightest first."""
    try:
        table = _table(store, night)
    except NotFoundError:
        return []
    distance_deg = astrometry.separation_deg(
        np.deg2rad(table["ra_deg"].to_numpy(float)), np.deg2rad(table["dec_deg"].to_numpy(float)),
        np.deg2rad(window.ra_deg), np.deg2rad(window.dec_deg),
    )  # fmt: skip
    near = table[distance_deg <= window.fov_deg * float(np.hypot(WIDTH, HEIGHT)) / WIDTH / 2]
    x, y = window.wcs().wcs_world2pix(near["ra_deg"], near["dec_deg"], 0)
    inside = (np.abs(np.asarray(x) - WIDTH / 2) <= WIDTH / 2) & (np.abs(np.asarray(y) - HEIGHT / 2) <= HEIGHT / 2)
    return [jsonable(row) for row in near[inside].to_dict("records")]


def _marks(rows: Sequence[dict[str, Any]], wcs: WCS) -> Iterator[dict[str, Any]]:
    """For each source its place in the picture (y downwards), the radius of its mark, which grows with the logarithm of the flux density,
    and whether its name has room beside it."""
    named: list[tuple[float, float]] = []
    for row in rows:
        x, y = (float(value) for value in wcs.wcs_world2pix(row["ra_deg"], row["dec_deg"], 0))
        flux_jy = row["flux_jy"] if row["flux_jy"] is not None else 0.0
        radius = 5 + 3 * float(np.clip(np.log10(max(flux_jy, 1e-4) / 1e-3), 0, 4))
        y = HEIGHT - 1 - y
        free = len(named) < NAMED and all(abs(x - other_x) > NAME_WIDTH or abs(y - other_y) > NAME_HEIGHT for other_x, other_y in named)
        if free:
            named.append((x, y))
        yield {**row, "x": x, "y": y, "r": radius, "named": free}


def _graticule(window: Window, wcs: WCS) -> Iterator[dict[str, Any]]:
    """Lines of right ascension and declination: the path of each, its name, and where the name is written."""
    wide = max(np.cos(np.deg2rad(window.dec_deg)), 0.05)
    dec_step = _step(_STEPS_DEG, window.fov_deg / 5)
    ra_step = _step(_STEPS_RA_DEG, window.fov_deg / 5 / wide)
    half_ra, half_dec = min(window.fov_deg / wide, 180.0), min(window.fov_deg, 180.0)
    decs = np.arange(np.ceil((window.dec_deg - half_dec) / dec_step), (window.dec_deg + half_dec) / dec_step + 1) * dec_step
    ras = np.arange(np.ceil((window.ra_deg - half_ra) / ra_step), (window.ra_deg + half_ra) / ra_step) * ra_step
    along = np.linspace(-1, 1, 181)
    for dec in decs[np.abs(decs) < 90]:
        line = _line(wcs, window.ra_deg + half_ra * along, np.full(along.size, dec))
        if line:
            yield {"path": line[0], "name": f"{dec:+.4g}°", "x": line[1][0], "y": line[1][1]}
    for ra in ras:
        line = _line(wcs, np.full(along.size, ra), np.clip(window.dec_deg + half_dec * along, -90, 90))
        if line:
            yield {"path": line[0], "name": _hours(ra % 360), "x": line[1][0], "y": line[1][1]}


def _step(steps: Sequence[float], wanted_deg: float) -> float:
    return next((step for step in steps if step >= wanted_deg), steps[-1])


def _hours(ra_deg: float) -> str:
    seconds = round(ra_deg * 240)
    hours, minutes, seconds = seconds // 3600 % 24, seconds // 60 % 60, seconds % 60
    return f"{hours:02d}h{minutes:02d}m" + (f"{seconds:02d}s" if seconds else "")


def _line(wcs: WCS, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[str, tuple[float, float]] | None:
    """A line as an SVG path within the picture, and its first point there; None if less than two points are inside."""
    x, y = (np.asarray(value) for value in wcs.wcs_world2pix(ra % 360, dec, 0))
    y = HEIGHT - 1 - y
    inside = np.isfinite(x) & (x >= 0) & (x <= WIDTH) & (y >= 0) & (y <= HEIGHT)
    if inside.sum() < 2:
        return None
    parts, before = [], False
    for one_x, one_y, here in zip(x, y, inside, strict=True):
        if here:
            parts.append(f"{'L' if before else 'M'}{one_x:.1f} {one_y:.1f}")
        before = bool(here)
    first = int(np.flatnonzero(inside)[0])
    return "".join(parts), (min(max(float(x[first]), 4.0), WIDTH - 70.0), min(max(float(y[first]), 14.0), HEIGHT - 6.0))


def window_png(request: Request) -> Response:
    """The HiPS in a window with the edge of its coverage: the picture behind the marks, PNG."""
    product = _product(request)
    from dsa110_assets.mosaics import hips_view

    root = product.path / ROOT
    properties = hips_view.described(root)
    window = _window(request, product.path, properties)
    wcs = window.wcs()
    order = hips_view.order_for(window.fov_deg / WIDTH, int(properties["hips_order"]))
    levels = hips_view.shades_in(root, wcs, WIDTH, HEIGHT, order)
    if (product.path / COVERAGE).is_file():
        from mocpy import MOC

        levels[hips_view.outline(MOC.from_fits(product.path / COVERAGE), wcs, WIDTH, HEIGHT)] = EDGE
    picture = encode_png(np.ascontiguousarray(levels[::-1]))
    return Response(picture, media_type="image/png", headers={"cache-control": viewer.IMMUTABLE})


def overlay(request: Request) -> Response:
    """The brightest sources of a night, for Aladin: names, positions, flux densities."""
    product = _product(request)
    rows = _table(render.archive_of(request).store, product.partition or "")[:OVERLAID]
    sources = jsonable(rows[["source_id", "ra_deg", "dec_deg", "flux_jy", "detected"]].to_dict("records"))
    return JSONResponse({"sources": sources}, headers={"cache-control": "no-cache"})


def hips_file(request: Request) -> Response:
    """A file of a night's HiPS, as sky browsers request them. A tile outside the coverage is blank, not an error."""
    product, name = _product(request), request.path_params["name"]
    try:
        path = files.product_file(render.archive_of(request).store, product.id, f"{ROOT}/{name}")
    except NotFoundError:
        if name == "Norder3/Allsky.png":
            return Response(_allsky(product.path / ROOT), media_type="image/png", headers={"cache-control": viewer.IMMUTABLE})
        if name.startswith("Norder") and name.endswith(".png"):
            return Response(BLANK_PNG, media_type="image/png", headers={"cache-control": viewer.IMMUTABLE})
        raise
    media_type = files.MEDIA_TYPES.get(path.suffix, "text/plain; charset=utf-8")
    return FileResponse(path, media_type=media_type, headers={"cache-control": viewer.IMMUTABLE})


@remembered(2 << 20, len)
def _allsky(root: Path) -> bytes:
    from dsa110_assets.mosaics import hips_view

    return encode_png(hips_view.allsky(root), transparent=True)


def aladin(request: Request) -> Response:
    """Aladin Lite's script, as installed by the operator."""
    path = aladin_script(request.app.state.aladin)
    if path is None:
        raise NotFoundError("Aladin Lite is not installed: set DSA110_ALADIN to the folder into which npm installed it")
    return FileResponse(path, media_type="text/javascript; charset=utf-8")


def _product(request: Request) -> Product:
    """The requested mosaic of a night. Raises NotFoundError for a product without a HiPS."""
    found = render.archive_of(request).store.get(request.path_params["product_id"])
    if found.asset != ASSET or not has_hips(found):
        raise NotFoundError(f"{found.id} has no HiPS")
    return found


def has_hips(product: Product) -> bool:
    """Whether the HiPS of a night's mosaic exists."""
    return not product.removed and (product.path / ROOT / "properties").is_file()


ROUTES = [
    Route("/sky", sky),
    Route("/sky/aladin.js", aladin),
    Route("/sky/{product_id}/window.png", window_png, name="sky_window"),
    Route("/sky/{product_id}/sources.json", overlay),
    Route("/sky/{product_id}/hips/{name:path}", hips_file),
]
