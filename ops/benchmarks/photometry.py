"""Forced fluxes at 100,000 positions on an hour mosaic, compared with the same sum in a Python loop over numpy windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import derived
import mosaic
from common import Contender, Data, Row, compare

POSITIONS = 100_000
SAMPLE = 2000


def rows(data: Data, repeats: int) -> list[Row]:
    made = derived.once(data.scratch / f"hour-mosaic-{mosaic.PIXELS}", mosaic.own_mosaic, folder=str(mosaic.tiles(data)))
    at = {"folder": str(made), "tiles": str(mosaic.tiles(data))}
    places = derived.once(data.scratch / f"positions-{mosaic.PIXELS}.parquet", positions_of, **at)
    stage, arguments = f"forced photometry of {POSITIONS:,} positions", {"folder": str(made), "places": str(places)}
    return compare(
        [
            Contender(stage, "dsa110_assets, measuring", own, {**arguments, "whole": False},
                      "warm: images read, imports and JIT cache loaded; the mosaic's noise and the errors included"),
            Contender(stage, "dsa110_assets, whole process", own, {**arguments, "whole": True}, "imports, reading, measuring"),
            Contender(stage, "numpy loop, one position at a time", peer, arguments, f"extrapolated from {SAMPLE:,}; flux only",
                      peer=True, most=1),
        ],
        repeats,
    )  # fmt: skip


def scene(folder: str, places: str) -> tuple[Any, Any, Any, Any]:
    """Mosaic, noise, header and positions."""
    import pandas as pd

    from dsa110_assets.imaging.fits import read_plane

    image, header = read_plane(Path(folder) / "mosaic.fits")
    noise, _ = read_plane(Path(folder) / "noise.fits")
    return image, noise, header, pd.read_parquet(places)


def positions_of(folder: str, tiles: str, out: str) -> dict[str, Any]:
    """Write the positions: the sources of the tiles, then random pixels with data."""
    import json

    import numpy as np
    import pandas as pd
    from astropy.wcs import WCS

    from dsa110_assets.imaging.fits import read_plane

    image, header = read_plane(Path(folder) / "mosaic.fits")
    rng = np.random.default_rng(5)
    sources = np.array(json.loads((Path(tiles) / "sources.json").read_text()))
    filled = np.flatnonzero(np.isfinite(image.ravel()))
    places = rng.choice(filled, POSITIONS - len(sources))
    ra, dec = WCS(header).celestial.wcs_pix2world(places % image.shape[1], places // image.shape[1], 0)
    pd.DataFrame({"ra_deg": np.r_[sources[:, 0], ra], "dec_deg": np.r_[sources[:, 1], dec]}).to_parquet(out)
    return {}


def own(folder: str, places: str, whole: bool) -> dict[str, Any]:
    import time

    import numpy as np

    from dsa110_assets.photometry import forced
    from dsa110_assets.photometry.options import PhotometryOptions

    image, noise, header, positions = scene(folder, places)
    if not whole:
        corner = [np.ascontiguousarray(plane[:2000, :2000]) for plane in (image, noise)]  # memory layout of the whole: same kernels
        forced.measure_forced(*corner, header, positions[:100], PhotometryOptions())
    began = time.perf_counter()
    found = forced.measure_forced(image, noise, header, positions, PhotometryOptions())
    took = time.perf_counter() - began
    pull = (found["flux_jy"] / found["flux_err_jy"]).to_numpy()[2000:]
    figures = {"robust sd of empty places / error": float(1.4826 * np.nanmedian(np.abs(pull - np.nanmedian(pull))))}
    return figures if whole else {**figures, "wall_s": took}


def peer(folder: str, places: str) -> dict[str, Any]:
    import time

    import numpy as np

    from dsa110_assets.photometry.geometry import Geometry

    image, noise, header, positions = scene(folder, places)
    geometry = Geometry.from_header(header, (image.shape[0], image.shape[1]))
    a, b, c = geometry.central_form()
    x, y = geometry.to_pixels(positions["ra_deg"].to_numpy(), positions["dec_deg"].to_numpy())
    began, reach = time.perf_counter(), 10
    for n in range(SAMPLE):
        i, j = round(float(x[n])), round(float(y[n]))
        near = slice(max(j - reach, 0), j + reach + 1), slice(max(i - reach, 0), i + reach + 1)
        v, u = np.mgrid[near[0].start : min(near[0].stop, image.shape[0]), near[1].start : min(near[1].stop, image.shape[1])]
        kernel = np.exp(-0.5 * (a * (u - x[n]) ** 2 + 2 * b * (u - x[n]) * (v - y[n]) + c * (v - y[n]) ** 2))
        weight = kernel / noise[near] ** 2
        np.nansum(weight * image[near]) / np.nansum(weight * kernel)
    return {"wall_s": (time.perf_counter() - began) * POSITIONS / SAMPLE}
