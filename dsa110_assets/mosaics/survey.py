"""One HiPS of all nights: the weighted mean of their mosaics, updated as nights arrive.

Each tile names the mosaics it contains, so it can be updated independently. An interrupted update leaves some tiles
with a night and some without, but never a tile with a night twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io.fits import Header
from mocpy import MOC
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, NotFoundError
from dsa110_assets.imaging.fits import map_image, read_header, read_plane
from dsa110_assets.mosaics import hips
from dsa110_assets.mosaics.hips import LOWEST_ORDER
from dsa110_assets.mosaics.sky_tiles import SPHERE_DEG2, coverage_of, fullest_deg, order_of, tile_of, touched

IMAGE, WEIGHTS = "hips", "weights"
_UNITS = {IMAGE: "Jy/beam", WEIGHTS: "1/Jy^2"}
_DESCRIPTIONS = {
    IMAGE: "DSA-110 continuum, mean of all nights by the inverse square of their noise",
    WEIGHTS: "Weight of the mean of all nights: the sum of 1/sigma^2",
}
_SIGMA = 1.4826
"""Standard deviation of noise over its median absolute value."""


@dataclass(frozen=True)
class Night:
    """A night's mosaic: `mosaic.fits` and `noise.fits` of one grid, by the id of their product."""

    product_id: str
    mosaic_path: Path
    noise_path: Path


def write_survey(nights: Sequence[Night], directory: Path) -> dict[str, float]:
    """Bring the HiPS `hips` (mean, Jy/beam) and `weights` (1/Jy^2) in `directory` up to date with these nights, FITS tiles.

    Nights that tiles lack are added to them. A tile that contains a night that is not among these is made again, or removed if no
    night is left. Returns nights, tiles_changed, tiles, hips_order, sky_area_deg2. Raises BadDataError without nights, for a mosaic
    that cannot be read, and if existing tiles have another order than these nights' pixels require.
    """
    if not nights:
        raise BadDataError("a survey needs at least one night's mosaic")
    headers = {night.product_id: read_header(night.mosaic_path)[0] for night in nights}
    order = max(order_of(header) for header in headers.values())
    by_tile: dict[int, list[Night]] = defaultdict(list)
    for night in nights:
        for index in touched(map_image(night.mosaic_path), order):
            by_tile[index].append(night)
    roots = {name: directory / name for name in (IMAGE, WEIGHTS)}
    existing = _indices(roots[IMAGE], order)
    _require_order(roots[IMAGE], order)
    changed = [index for index, covering in sorted(by_tile.items()) if _update(roots, order, index, covering)]
    gone = [index for index in existing if index not in by_tile]
    for index in gone:
        _remove(roots, order, index)
    _renew_parents(roots, order, [*changed, *gone])
    return {"nights": float(len(nights)), "tiles_changed": float(len(changed) + len(gone)), **_describe(roots, order, headers)}


def _require_order(root: Path, order: int) -> None:
    finest = max((int(path.name.removeprefix("Norder")) for path in root.glob("Norder*")), default=order)
    if finest != order:
        raise BadDataError(f"{root} has tiles of order {finest}, these nights need {order}; write the survey into a new directory")


def _indices(root: Path, order: int) -> list[int]:
    return sorted(int(path.stem.removeprefix("Npix")) for path in (root / f"Norder{order}").glob("Dir*/Npix*.fits"))


def _update(roots: Mapping[str, Path], order: int, index: int, covering: Sequence[Night]) -> bool:
    """Update a tile. Return whether it had to change: it lacked one of the nights that cover it, or contained another."""
    required = {night.product_id: night for night in covering}
    mean, weight, contained = _stored_tile(roots, order, index)
    if contained == set(required):
        return False
    if not contained <= set(required):
        mean, weight, contained = np.zeros_like(mean), np.zeros_like(weight), set()
    total = mean * weight
    for name in sorted(set(required) - contained):
        value, share = _night_tile(required[name], order, index)
        total, weight = total + share * value, weight + share
    filled = weight > 0
    if not filled.any():
        return _remove(roots, order, index)
    mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=filled)
    cards = {f"NIGHT{number:03d}": name for number, name in enumerate(sorted(required), start=1)}
    for name, tile in ((IMAGE, mean), (WEIGHTS, np.where(filled, weight, np.nan))):
        hips.write_tile(tile.astype(np.float32), roots[name], order, index, {"BUNIT": _UNITS[name], **cards})
    return True


def _stored_tile(roots: Mapping[str, Path], order: int, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64], set[str]]:
    """Return mean and weight (0 where blank) of the stored tile, and the nights in it: none unless both files name the same nights."""
    try:
        read = [read_plane(hips.tile_path(roots[name], order, index, "fits")) for name in (IMAGE, WEIGHTS)]
    except (NotFoundError, BadDataError):  # a tile that cannot be read is made again
        read = []
    names = [{str(header[key]) for key in header if key.startswith("NIGHT")} for _, header in read]
    if not names or names[0] != names[1]:
        return np.zeros((hips.SIDE, hips.SIDE)), np.zeros((hips.SIDE, hips.SIDE)), set()
    mean, weight = (np.nan_to_num(plane.astype(np.float64)) for plane, _ in read)
    return mean, weight, names[0]


def _night_tile(night: Night, order: int, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a night's pixels in a tile and their weights, both 0 where it has no data."""
    value, sigma = (tile_of(map_image(path), order, index).astype(np.float64) for path in (night.mosaic_path, night.noise_path))
    good = np.isfinite(value) & (sigma > 0)
    return np.where(good, value, 0), np.divide(1, sigma**2, out=np.zeros_like(sigma), where=good)


def _remove(roots: Mapping[str, Path], order: int, index: int) -> bool:
    """Remove a tile. Return whether it existed."""
    paths = [hips.tile_path(root, order, index, "fits") for root in roots.values()]
    existed = any(path.is_file() for path in paths)
    for path in paths:
        path.unlink(missing_ok=True)
    return existed


def _renew_parents(roots: Mapping[str, Path], order: int, changed: Iterable[int]) -> None:
    """Write again the coarser tiles above changed ones, order by order."""
    for level in range(order - 1, LOWEST_ORDER - 1, -1):
        changed = sorted({index // 4 for index in changed})
        for name, root in roots.items():
            for index in changed:
                paths = {child: hips.tile_path(root, level + 1, child, "fits") for child in range(4 * index, 4 * index + 4)}
                children = {child: read_plane(path)[0] for child, path in paths.items() if path.is_file()}
                if children:
                    hips.write_tile(hips.parent_of(children), root, level, index, {"BUNIT": _UNITS[name]})
                else:
                    hips.tile_path(root, level, index, "fits").unlink(missing_ok=True)


def _describe(roots: Mapping[str, Path], order: int, headers: Mapping[str, Header]) -> dict[str, float]:
    """Write coverage and properties of both HiPS. Return the survey's figures. One tile is in memory at a time."""
    indices = _indices(roots[IMAGE], order)
    images = [_named(header, name) for name, header in sorted(headers.items())]
    area_deg2 = 0.0
    for name, root in roots.items():
        coverage, pixels, levels = MOC.new_empty(order), {}, []
        for index in indices:
            tile, _ = read_plane(hips.tile_path(root, order, index, "fits"))
            coverage = coverage.union(coverage_of({index: tile}, order))
            pixels[index] = int(np.isfinite(tile).sum())
            levels.append(float(np.nanmedian(np.abs(tile))))
        fullest = max(indices, key=lambda index: pixels[index])
        described = hips.HipsDescription(
            name="survey" if name == IMAGE else "survey/weights",
            description=_DESCRIPTIONS[name],
            formats="fits",
            unit=_UNITS[name],
            order=order,
            sky_fraction=float(coverage.sky_fraction),
            cuts=(-3 * _SIGMA * float(np.median(levels)), 20 * _SIGMA * float(np.median(levels))) if name == IMAGE else (0.0, max(levels)),
            at_deg=fullest_deg({fullest: read_plane(hips.tile_path(root, order, fullest, "fits"))[0]}, order),
        )
        size = sum(path.stat().st_size for path in root.rglob("Npix*.fits"))
        hips.write_properties(root, described, images, size)
        coverage.save(root / "Moc.fits", format="fits", overwrite=True)
        area_deg2 = described.sky_fraction * SPHERE_DEG2
    return {"tiles": float(len(indices)), "hips_order": float(order), "sky_area_deg2": area_deg2}


def _named(header: Header, product_id: str) -> Header:
    named = header.copy()
    named["PRODUCT"] = product_id
    return named
