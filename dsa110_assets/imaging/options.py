"""Settings of a tile's imaging; the single source of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class ImagingOptions:
    """Options of `make_tile`."""

    field_deg: Annotated[float, Field(gt=0, le=20, description="side of the square image [deg]")] = 4.0
    pixel_arcsec: Annotated[float, Field(ge=0, le=600, description="pixel size [arcsec]; 0 = from the beam's minor axis")] = 0.0
    pixels_per_beam: Annotated[
        float,
        Field(
            ge=2.5,
            le=10,
            description="pixels across the dirty beam's lobe if pixel_arcsec is 0, at least 3.5 across the restoring beam; "
            "points lose 0.8 % at 4.5, 0.3 % at 6",
        ),
    ] = 6.0
    max_pixels: Annotated[int, Field(ge=64, le=16384, description="largest side of the image [pixels]")] = 6000
    weighting: Annotated[
        Literal["natural", "uniform", "briggs"],
        Field(description="imaging weights (visibility weights always apply)"),
    ] = "briggs"
    robust: Annotated[float, Field(ge=-2, le=2, description="Briggs robustness, as in CASA and WSClean")] = 0.5
    min_uv_lambda: Annotated[float, Field(ge=0, description="leave out baselines shorter than this [wavelengths]")] = 0.0
    smearing: Annotated[
        float,
        Field(
            ge=0,
            le=0.1,
            description="largest share of a source's amplitude lost by averaging, on any baseline, at the edge of the field; its flux "
            "in the image loses less than half of that; 0 = no averaging",
        ),
    ] = 0.02
    epsilon: Annotated[
        float,
        Field(ge=1e-12, le=1e-2, description="relative accuracy of gridding; below 1e-5 computes in double"),
    ] = 1e-4
    clean_iterations: Annotated[int, Field(ge=0, description="largest number of minor iterations; 0 = dirty image only")] = 50_000
    clean_gain: Annotated[float, Field(gt=0, le=1, description="minor loop gain")] = 0.1
    major_gain: Annotated[float, Field(gt=0, le=1, description="share of the peak cleaned before residuals are computed again")] = 0.95
    max_major_cycles: Annotated[int, Field(ge=1, le=50, description="largest number of major cycles")] = 12
    auto_mask_sigma: Annotated[
        float,
        Field(
            ge=0,
            description="clean anywhere down to this many rms, then only where there are components; 0 = no mask",
        ),
    ] = 5.0
    auto_threshold_sigma: Annotated[float, Field(ge=0, description="final clean depth in rms of the residual")] = 1.0
    threshold_jy: Annotated[float, Field(ge=0, description="never clean deeper than this [Jy/beam]")] = 0.0
    deconvolver: Annotated[
        Literal["clark", "quick"],
        Field(
            description="clark: with exact residuals; quick: within the image alone except for the brightest points, good to a few per cent"
        ),
    ] = "clark"
    drift_terms: Annotated[int, Field(ge=0, le=8, description="terms that follow sources through the beam; 0 = a static beam")] = 4
    spectral_index: Annotated[
        float, Field(ge=-3, le=3, description="of a typical source: without it a wide band leaves sidelobes of 1 %")
    ] = -0.7
    pblimit: Annotated[
        float,
        Field(ge=0.01, lt=1, description="primary-beam response below which the corrected image is blank"),
    ] = 0.2
    threads: Annotated[int, Field(ge=0, description="threads; 0 = all processors this process may use")] = 0
