"""Mosaics on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.imaging.fits import Cards, write_image
from dsa110_assets.imaging.fitsbytes import Through
from dsa110_assets.imaging.preview import preview_png
from dsa110_assets.mosaics.coadd import Mosaic, weights


def write_mosaic(mosaic: Mosaic, directory: Path, cards: Cards | None = None) -> dict[str, Path]:
    """Write mosaic.fits, noise.fits, weights.fits and preview.png into an existing directory. Return paths by
    file name.

    `weights.fits` holds sum(PB^2 / sigma^2) in 1/Jy^2, so noise = weights^(-1/2) exactly.
    """
    kinds: dict[str, tuple[NDArray[np.float32], Through | None, str, str]] = {
        "mosaic.fits": (mosaic.image, None, "Jy/beam", "mosaic, corrected for the primary beam"),
        "noise.fits": (mosaic.noise, None, "Jy/beam", "noise sigma of the mosaic"),
        "weights.fits": (mosaic.noise, weights, "1/Jy^2", "sum of PB^2/sigma^2"),
    }

    def write(name: str) -> Path:
        plane, through, unit, kind = kinds[name]
        header = mosaic.header.copy()
        header["BUNIT"] = unit
        header["IMTYPE"] = kind
        return write_image(plane, header, directory / name, cards, through)

    # most of the time is spent in the kernel, on pages of the files
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(write, kinds)
        preview_png(mosaic.image, directory / "preview.png", noise=mosaic.noise, rms=mosaic.figures["measured_over_noise"])
        return {**dict(zip(kinds, done, strict=True)), "preview.png": directory / "preview.png"}
