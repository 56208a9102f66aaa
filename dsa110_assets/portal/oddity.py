"""Why a point of a light curve may be odd: the figures that shaped it beside their usual values, and other sources that moved then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsa110_assets.analyst_views import Image
from dsa110_assets.archive.light_curves import Nights
from dsa110_assets.errors import DsaError, NotFoundError
from dsa110_assets.photometry import quality
from dsa110_assets.plain_json import jsonable
from dsa110_assets.portal import tree
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    import pandas as pd

    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.product import LineageNode, Product

NIGHTS_AROUND = 30
"""Nights before and after an epoch with which it is compared."""
MOVED_SIGMA, MOVERS, MOVERS_DEG = 3.0, 12, 3.0
TILE_REACH_DEG = 2.5
LAST_NIGHTS = 5
"""Newest nights considered; of these the last whose file is whole gives the sources around a position."""


@dataclass(frozen=True)
class Fact:
    """One thing that shaped a point: its figure, the usual value, and whether the figure departs from it."""

    what: str
    figure: str
    usual: str
    odd: bool = False


@dataclass(frozen=True)
class TileUsed:
    """A tile of the point's mosaic: the distance of the source from its centre [deg], and the figures of its calibration and image."""

    product_id: str
    offset_deg: float
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """Everything known of a point: facts, the tiles, other sources that moved, and the products and files it comes from."""

    facts: tuple[Fact, ...]
    tiles: tuple[TileUsed, ...]
    movers: list[dict[str, Any]]
    moved_fraction: float | None
    compared: int
    lineage: list[tuple[int, LineageNode, bool]]


def card(archive: AnalystArchive, curve: Mapping[str, Any], point: Mapping[str, Any], flags: Mapping[str, str]) -> Card:
    """Return what shaped one point of a light curve, both in the form of `rows.light_curve_json`; `flags` are the quality bits in words."""
    try:
        mosaic: Product | None = archive.store.get(point["product_id"])
    except NotFoundError:
        mosaic = None
    moved = _moved(archive, curve, str(point["epoch"]))
    far = [row for row in moved if abs(row["sigma"]) > MOVED_SIGMA]
    return Card(
        tuple(_facts(curve["points"], point, flags)), tuple(_tiles(archive, mosaic, curve)),
        sorted(moved, key=lambda row: -abs(row["sigma"]))[:MOVERS], len(far) / len(moved) if moved else None, len(moved),
        tree.flat(archive.lineage(mosaic.id)) if mosaic else [],
    )  # fmt: skip


def _facts(points: list[dict[str, Any]], point: Mapping[str, Any], flags: Mapping[str, str]) -> Iterator[Fact]:
    others = [one for one in points if one["epoch"] != point["epoch"] and one["detected"]]

    def usual(name: str) -> tuple[float, float] | None:
        values = np.array([one[name] for one in others if one[name] is not None])
        return (float(np.median(values)), float(1.4826 * np.median(np.abs(values - np.median(values))))) if values.size > 1 else None

    flux, error = point["flux_jy"], point["error_jy"]
    level = usual("flux_jy")
    if flux is not None and error:
        pull = None if level is None else (flux - level[0]) / error
        comparison = "the only detection" if level is None else f"median {1e3 * level[0]:.3f} mJy: {pull:+.1f} of its errors away"
        yield Fact("Flux density", f"{1e3 * flux:.3f} ± {1e3 * error:.3f} mJy", comparison, pull is not None and abs(pull) > MOVED_SIGMA)
    else:
        yield Fact("Flux density", "not detected" if point["limit_jy"] is None else f"below {1e3 * point['limit_jy']:.3f} mJy", "")
    for name, what, unit, factor in (("rms_jy", "Local rms", "mJy/beam", 1e3), ("correction", "Ensemble's correction", "", 1.0)):
        value, typical = point[name], usual(name)
        if value is None:
            continue
        odd = typical is not None and abs(value - typical[0]) > 5 * max(typical[1], 0.01 * abs(typical[0]))
        comparison = "" if typical is None else f"median {factor * typical[0]:.4g} {unit}".strip()
        yield Fact(what, f"{factor * value:.4g} {unit}".strip(), comparison, odd)
    yield Fact("Reference sources", str(point["n_references"]), "at least 3 for a correction", point["n_references"] < 3)
    names = quality.decode(point["flags"])
    yield Fact("Flags", "; ".join(flags[name] for name in names) or "none", "", bool(names))


def _tiles(archive: AnalystArchive, mosaic: Product | None, curve: Mapping[str, Any]) -> Iterator[TileUsed]:
    """The tiles of a mosaic that reach the source, the nearest first."""
    from dsa110_assets.imaging import fits

    found = []
    for product_id in mosaic.inputs if mosaic else ():
        try:
            tile = archive.store.get(product_id)
            if tile.asset != "tile_image" or tile.removed:
                continue
            header = fits.read_header(Image.of(tile).path)[0]
        except DsaError:  # the tile's data are gone, although the mosaic is kept
            continue
        centre, here = np.deg2rad([header["CRVAL1"], header["CRVAL2"]]), np.deg2rad([curve["ra_deg"], curve["dec_deg"]])
        offset_deg = float(astrometry.separation_deg(*centre, *here))
        if offset_deg <= TILE_REACH_DEG:
            found.append(TileUsed(tile.id, offset_deg, tile.metadata))
    yield from sorted(found, key=lambda one: one.offset_deg)


def _moved(archive: AnalystArchive, curve: Mapping[str, Any], epoch: str) -> list[dict[str, Any]]:
    """For each source near this one, how far it was from its median at an epoch, in its errors, over the nights around that epoch."""
    products = archive.store.products("light_curves")
    night = epoch[:10]
    place = next((k for k, one in enumerate(products) if one.partition == night), None)
    if place is None:
        return []
    around = products[max(0, place - NIGHTS_AROUND) : place + NIGHTS_AROUND + 1]
    nights = Nights.to_read([one.path for one in around])
    here = within(products[place].path / nights.files[-1].name, curve["ra_deg"], curve["dec_deg"], MOVERS_DEG)
    names = [row["source_id"] for row in here if row["epoch"] == epoch and row["source_id"] != curve["source_id"]]
    if not names:
        return []
    rows = nights.of_sources(names[:200], ("source_id", "epoch", "flux_jy", "flux_err_jy", "detected"))
    rows = rows[rows["detected"].astype(bool) & (rows["flux_err_jy"] > 0)]
    found = []
    for name, curve_rows in rows.groupby("source_id"):
        then, others = curve_rows[curve_rows["epoch"] == epoch], curve_rows.loc[curve_rows["epoch"] != epoch, "flux_jy"]
        if len(then) and len(others) > 1:
            flux, error, level = float(then["flux_jy"].iloc[0]), float(then["flux_err_jy"].iloc[0]), float(others.median())
            found.append({"source_id": str(name), "flux_jy": flux, "median_jy": level, "sigma": (flux - level) / error})
    return found


def last_night(archive: AnalystArchive, ra_deg: float, dec_deg: float, radius_deg: float) -> list[dict[str, Any]]:
    """The sources of the last light curves within a radius of a place, nearest first, one row each."""
    products = archive.store.newest("light_curves", LAST_NIGHTS)[::-1]
    if not products:
        return []
    rows = within(Nights.to_read([product.path for product in products]).files[-1], ra_deg, dec_deg, radius_deg)
    return list({row["source_id"]: row for row in reversed(rows)}.values())[::-1]


def within(file: Path, ra_deg: float, dec_deg: float, radius_deg: float) -> list[dict[str, Any]]:
    """The rows of a table with ra_deg and dec_deg within a radius of a place, nearest first, with separation_arcsec.

    [] for a table that does not exist or has another format.
    """
    import pandas as pd

    try:
        frame: pd.DataFrame = pd.read_parquet(
            file, filters=[("dec_deg", ">=", dec_deg - radius_deg), ("dec_deg", "<=", dec_deg + radius_deg)]
        )
    except (OSError, ValueError):
        return []
    distance_deg = astrometry.separation_deg(
        np.deg2rad(frame["ra_deg"].to_numpy(np.float64)),
        np.deg2rad(frame["dec_deg"].to_numpy(np.float64)),
        np.deg2rad(ra_deg),
        np.deg2rad(dec_deg),
    )
    frame = frame.assign(separation_arcsec=3600 * distance_deg)[distance_deg <= radius_deg].sort_values("separation_arcsec", kind="stable")
    return [jsonable(row) for row in frame.to_dict("records")]
