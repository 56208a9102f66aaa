"""Settings of the search for variables; the single source of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from dsa110_assets.photometry.quality import Quality

VARIABILITY_FILE = "variability.parquet"


@dataclass(frozen=True)
class VariabilityOptions:
    """The conditions under which a source is a candidate."""

    max_false_discovery_rate: Annotated[float, Field(gt=0, lt=1, description="Expected share of false candidates.")] = 0.01
    min_modulation: Annotated[float, Field(ge=0, description="Smallest |m| = 2|a-b|/(a+b) of the most significant pair of epochs.")] = 0.26
    small_modulation: Annotated[
        float,
        Field(ge=0, description="The same for a change beyond doubt, whose p-value with total errors is at most `small_chance`."),
    ] = 0.05
    small_chance: Annotated[
        float, Field(ge=0, lt=1, description="Largest p-value of a candidate that changes by less than `min_modulation`.")
    ] = 1e-9
    baseline_sigma: Annotated[float, Field(gt=0, description="Points this far off the baseline make a flare or a dip.")] = 3.0
    neighbour_deg: Annotated[
        float,
        Field(gt=0, description="A source this close that was measured shows that a place was observed [deg]."),
    ] = 0.5
    artefact_fraction: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="A new source fainter than this fraction of a bright neighbour may be a remnant of its sidelobes.",
        ),
    ] = 0.015
    artefact_radius_deg: Annotated[float, Field(gt=0, description="How far a bright source's sidelobes are taken to matter [deg].")] = 1.5
    exclude_quality: Annotated[
        int,
        Field(
            ge=0,
            description="Points with any of these quality bits are left out (1 edge, 8 none, 16 confused, 1024 suspect tiles, "
            "2048 new where too many sources are found in the negative image).",
        ),
    ] = int(Quality.EDGE | Quality.NAN | Quality.CONFUSED | Quality.TILE_SUSPECT | Quality.DOUBTFUL_NEW)
