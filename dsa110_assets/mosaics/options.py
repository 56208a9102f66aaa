"""Options of coadding tiles. Their defaults are defined only here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class CoaddOptions:
    """Options of `common_header` and `coadd`."""

    pixel_arcsec: Annotated[float, Field(ge=0, le=600, description="pixel size [arcsec]; 0 = the finest of the tiles")] = 0.0
    pb_cutoff: Annotated[
        float,
        Field(ge=0.01, lt=1, description="primary-beam response below which a tile's pixel is left out"),
    ] = 0.2
    beam_tolerance: Annotated[
        float,
        Field(ge=0, le=1, description="largest relative spread of tile beams coadded without convolving"),
    ] = 0.02
    max_pixels: Annotated[int, Field(ge=10_000, description="most pixels in a mosaic; beyond it pixels are made coarser")] = 400_000_000
    threads: Annotated[int, Field(ge=0, description="threads; 0 = all processors this process may use")] = 0
