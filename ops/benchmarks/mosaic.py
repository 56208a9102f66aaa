"""An hour mosaic of 14 full-size tiles, compared with reproject. The tiles are synthetic, so that their fluxes are known.

A tile covers 4 degrees with 3 mJy noise and point sources under the primary beam, and lies 309 s of sidereal time east of the last.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare, run

TILES = 14
PEER_TILES = 3
"""Tiles for reproject, which takes half a minute per tile."""
FIELD_DEG = 4.0
PIXELS, MORE_PIXELS = 2500, 4000
"""Pixels a side of a full-scale tile as the platform makes it, and of a tile with 3.6 arcsec pixels."""
BEAM_ARCSEC = (45.0, 20.0)
STEP_DEG = 1.292
DEC_DEG = 16.27
NOISE_JY = 0.003
SOURCES = 400


def rows(data: Data, repeats: int) -> list[Row]:
    return [row for pixels in (PIXELS, MORE_PIXELS) for row in of_size(data, pixels, repeats)]


def of_size(data: Data, pixels: int, repeats: int) -> list[Row]:
    """Rows of both engines on tiles of `pixels` pixels a side."""
    folder = str(tiles(data, pixels))
    own, peer = str(data.scratch / "mosaic-own"), str(data.scratch / "mosaic-peer")
    stage = f"hour mosaic of {TILES} tiles of {pixels:,} pixels a side"
    measured = compare(
        [
            Contender(stage, "dsa110_assets", own_mosaic, {"folder": folder, "out": own},
                      "whole process: imports, reading, coadding, noise and weight maps and preview written", inputs=(folder,)),
            Contender(stage, "reproject_and_coadd", peer_mosaic, {"folder": folder, "out": peer},
                      f"reproject_interp, bilinear; {PEER_TILES} tiles, extrapolated to {TILES}", peer=True, most=1, inputs=(folder,)),
        ],
        repeats,
    )  # fmt: skip
    return [
        row if row.failed else replace(row, accuracy=run(fluxes, {"folder": folder, "mosaic": f"{out}/mosaic.fits", "number": number})[3])
        for row, out, number in zip(measured, (own, peer), (TILES, PEER_TILES), strict=True)
    ]


def tiles(data: Data, pixels: int = PIXELS) -> Path:
    """The folder of tiles, made once."""
    return derived.once(data.scratch / f"tiles-{TILES}-{pixels}", make_tiles, number=TILES, pixels=pixels)


def make_tiles(out: str, number: int, pixels: int) -> dict[str, Any]:
    """Write images t0.fits, ..., primary beams p0.fits, ... and sources.json (ra, dec [deg], flux [Jy]) into folder `out`."""
    import json
    import math

    import numpy as np
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    from dsa110_assets.imaging import fits, restoring
    from dsa110_assets.telescope import astrometry, beam

    folder = Path(out)
    folder.mkdir(parents=True)
    pixel = FIELD_DEG / pixels
    point = restoring.Beam(BEAM_ARCSEC[0] / 3600, BEAM_ARCSEC[1] / 3600, 20.0)
    form = np.linalg.inv(point.covariance)
    rng = np.random.default_rng(3)
    step = STEP_DEG / math.cos(math.radians(DEC_DEG))
    ra = 75 + rng.uniform(-1.5, step * (number - 1) + 1.5, SOURCES)
    dec = DEC_DEG + rng.uniform(-1.6, 1.6, SOURCES)
    flux = 0.05 * rng.pareto(1.2, SOURCES).clip(0, 50) + 0.05
    y, x = np.mgrid[:pixels, :pixels]
    for n in range(number):
        header = Header()
        for axis, kind, value, width in ((1, "RA---SIN", 75 + n * step, -pixel), (2, "DEC--SIN", DEC_DEG, pixel)):
            header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CDELT{axis}"] = kind, value, width
            header[f"CRPIX{axis}"], header[f"CUNIT{axis}"] = pixels // 2 + 1.0, "deg"
        header["RADESYS"], header["RESTFRQ"], header["BUNIT"] = "ICRS", 1.405e9, "Jy/beam"
        restoring.set_beam(header, point)
        wcs = WCS(header).celestial
        sky_ra, sky_dec = np.deg2rad(wcs.wcs_pix2world(x, y, 0))
        response = beam.power(astrometry.separation_deg(sky_ra, sky_dec, math.radians(75 + n * step), math.radians(DEC_DEG)), 1.405e9)
        noise = restoring.convolve(rng.standard_normal((pixels, pixels)).astype(np.float32), point.covariance, pixel)
        image = noise * (NOISE_JY / noise.std())
        reach = math.ceil(2.2 * point.bmaj_deg / pixel)
        for column, row, jy in zip(*wcs.wcs_world2pix(ra, dec, 0), flux, strict=True):
            if not (reach < column < pixels - reach and reach < row < pixels - reach):
                continue
            near = slice(int(row) - reach, int(row) + reach), slice(int(column) - reach, int(column) + reach)
            east, north = (column - x[near]) * pixel, (y[near] - row) * pixel
            image[near] += response[near] * jy * np.exp(-(form[0, 0] * east**2 + 2 * form[0, 1] * east * north + form[1, 1] * north**2) / 2)
        fits.write_image(image.astype(np.float32), header, folder / f"t{n}.fits")
        fits.write_image(response.astype(np.float32), header, folder / f"p{n}.fits")
    (folder / "sources.json").write_text(json.dumps(np.stack([ra, dec, flux], axis=1).tolist()))
    return {}


def inputs(folder: str, number: int = TILES) -> Any:
    from dsa110_assets.mosaics.coadd import TileInput

    place = Path(folder)
    return [TileInput(place / f"t{n}.fits", place / f"p{n}.fits", NOISE_JY, f"tile-{n}", 61000 + n / 280) for n in range(number)]


def own_mosaic(folder: str, out: str) -> dict[str, Any]:
    from dsa110_assets.mosaics import coadd, write

    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    write.write_mosaic(coadd.coadd(inputs(folder)), Path(out))
    return {}


def peer_mosaic(folder: str, out: str) -> dict[str, Any]:
    """sum(PB D) / sum(PB^2) on the same kind of grid, because reproject weights D / PB with PB^2."""
    import time

    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS
    from reproject import reproject_interp
    from reproject.mosaicking import reproject_and_coadd

    from dsa110_assets.imaging.fits import read_header
    from dsa110_assets.mosaics.grid import common_header

    began = time.perf_counter()
    os.makedirs(out, exist_ok=True)
    chosen = inputs(folder, PEER_TILES)
    grid = common_header([read_header(tile.image_path)[0] for tile in chosen])
    images, weights = [], []
    for tile in chosen:
        image, header = fits.getdata(tile.image_path, header=True)
        response = np.squeeze(fits.getdata(tile.primary_beam_path)).astype(np.float32)
        weight = np.where(response >= 0.2, response**2, 0)
        images.append((np.squeeze(image).astype(np.float32) / np.maximum(response, 0.05), WCS(header).celestial))
        weights.append(weight)
    shape = (grid["NAXIS2"], grid["NAXIS1"])
    mosaic, total = reproject_and_coadd(
        images, WCS(grid).celestial, shape_out=shape, input_weights=weights, reproject_function=reproject_interp, match_background=False
    )
    beam = {card: fits.getheader(chosen[0].image_path)[card] for card in ("BMAJ", "BMIN", "BPA")}
    for name, plane in (("mosaic", np.where(total > 0, mosaic, np.nan)), ("weights", total / NOISE_JY**2)):
        grid.update(beam)
        fits.writeto(f"{out}/{name}.fits", plane.astype(np.float32), grid, overwrite=True)
    return {"wall_s": (time.perf_counter() - began) * TILES / PEER_TILES}


def fluxes(folder: str, mosaic: str, number: int) -> dict[str, Any]:
    """Fitted peak over true flux of the 20 brightest isolated sources in the first `number` tiles: median and largest deviation."""
    import json

    import numpy as np
    import pandas as pd
    from scipy.spatial import cKDTree

    from dsa110_assets.imaging.fits import read_plane
    from dsa110_assets.photometry import forced
    from dsa110_assets.photometry.options import PhotometryOptions

    ra, dec, flux = np.array(json.loads((Path(folder) / "sources.json").read_text())).T
    points = np.stack([ra * np.cos(np.deg2rad(dec)), dec], axis=1)
    away = cKDTree(points).query(points, k=2)[0][:, 1]
    inside = (away > 0.06) & (np.abs(dec - DEC_DEG) < 1.0) & (ra > 75) & (ra < 75 + (number - 1) * STEP_DEG)
    chosen = np.flatnonzero(inside)[np.argsort(-flux[inside])[:20]]
    image, header = read_plane(Path(mosaic))
    noise = np.where(np.isfinite(image), np.float32(NOISE_JY), np.nan)
    places = pd.DataFrame({"ra_deg": ra[chosen], "dec_deg": dec[chosen]})
    found = forced.measure_forced(image, noise, header, places, PhotometryOptions())
    ratio = found["flux_jy"].to_numpy() / flux[chosen]
    worst = 100 * float(np.abs(ratio - 1).max())
    return {"flux ratio median": float(np.median(ratio)), "flux worst %": worst, "faintest Jy": float(flux[chosen].min())}
