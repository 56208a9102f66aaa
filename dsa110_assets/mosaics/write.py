"""Mosaics on disk."""

from __future__ import annotations

from pathlib import Path

from dsa110_assets.imaging.fits import Cards, write_image
from dsa110_assets.imaging.preview import preview_png
from dsa110_assets.mosaics.coadd import Mosaic


def write_mosaic(mosaic: Mosaic, directory: Path, cards: Cards | None = None) -> dict[str, Path]:
    """Write mosaic.fits, noise.fits, weights.fits and preview.png into an existing directory; paths by
    file name.

    `weights.fits` holds sum(PB^2 / sigma^2) in 1/Jy^2, so noise = weights^(-1/2) exactly.
    """
    images = {
        "mosaic.fits": (mosaic.image, "Jy/beam", "mosaic, corrected for the primary beam"),
        "noise.fits": (mosaic.noise, "Jy/beam", "noise sigma of the mosaic"),
        "weights.fits": (mosaic.weights, "1/Jy^2", "sum of PB^2/sigma^2"),
    }
    written = {}
    for name, (data, unit, kind) in images.items():
        header = mosaic.header.copy()
        header["BUNIT"] = unit
        header["IMTYPE"] = kind
        written[name] = write_image(data, header, directory / name, cards)
    written["preview.png"] = directory / "preview.png"
    preview_png(mosaic.image / mosaic.noise * mosaic.figures["rms_jy"], written["preview.png"])
    return written
