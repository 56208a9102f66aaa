"""Settings of flagging; the single source of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class FlaggingOptions:
    """How raw visibilities are flagged."""

    clip_amplitude: Annotated[
        float, Field(ge=0, description="flag cross-correlations above this raw amplitude, whose unit is arbitrary; 0: no clip")
    ] = 0.0
    dead_fraction: Annotated[
        float,
        Field(gt=0, le=1, description="a receptor with more than this fraction of its samples flagged is dead"),
    ] = 0.95
    engine: Annotated[
        Literal["own", "aoflagger", "none"], Field(description="engine that finds interference: own SumThreshold kernels, or AOFlagger")
    ] = "own"
    threshold_sigma: Annotated[
        float, Field(ge=3, le=100, description="own engine: first threshold of SumThreshold, in standard deviations")
    ] = 6.0
    mad_sigma: Annotated[
        float,
        Field(ge=0, description="flag single amplitudes this many robust sigma above the usual; 0: none"),
    ] = 7.0
    extend_fraction: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="flag a whole spectrum, time series or channel once more than this is flagged",
        ),
    ] = 0.5
