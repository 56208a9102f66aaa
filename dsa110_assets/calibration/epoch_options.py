"""The settings of comparing an observation with the sky. Their defaults are defined only here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class EpochOptions:
    """How every observation is compared with the sky."""

    model_sources: Annotated[int, Field(ge=1, le=10_000, description="sources of the field's model, brightest first")] = 100
    lost_below: Annotated[
        float, Field(gt=0, lt=1, description="a receptor that sees less than this part of the sky's amplitude is flagged")
    ] = 0.3
    outlier_sigma: Annotated[float, Field(gt=2, description="receptors that stand out by more are corrected in full")] = 5.0
    least_snr: Annotated[
        float, Field(gt=0, description="median signal-to-noise of a receptor's gain below which the field cannot be used to judge antennas")
    ] = 15.0
    max_scale_change: Annotated[
        float, Field(ge=0, le=0.9, description="largest departure of the flux scale from the reference sources that is corrected")
    ] = 0.35
    scale_sigma: Annotated[float, Field(gt=0, description="departures of the flux scale below so many sigma are not corrected")] = 3.0
    least_references: Annotated[int, Field(ge=2, description="fewest reference sources with which the flux scale is corrected")] = 3
