"""Settings of the photometry stage; the single source of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class PhotometryOptions:
    """How positions are measured and sources found on one mosaic. Lengths in beams are FWHMs."""

    detect_sigma: Annotated[
        float,
        Field(gt=0, description="A flux above this many errors is a detection; limits are quoted at it."),
    ] = 5.0
    flood_sigma: Annotated[float, Field(gt=0, description="Blind islands grow down to this signal-to-noise.")] = 3.0
    fit_radius_beams: Annotated[float, Field(ge=0.3, le=3, description="Pixels this close to a position, in beams, are fitted.")] = 0.75
    joint_beams: Annotated[float, Field(ge=0, le=5, description="Positions closer than this, in beams, are solved together.")] = 2.0
    blend_beams: Annotated[float, Field(ge=0, le=5, description="Positions closer than this, in beams, are flagged BLENDED.")] = 1.5
    merge_beams: Annotated[float, Field(ge=0, le=1, description="Positions closer than this, in beams, share one flux.")] = 0.3
    edge_beams: Annotated[float, Field(ge=0, description="Missing pixels within this many beams flag EDGE.")] = 1.0
    box_beams: Annotated[
        float,
        Field(ge=5, description="Side of the boxes for local background and noise, in major-axis beams."),
    ] = 16.0
    resolved_radius_beams: Annotated[
        float,
        Field(
            ge=0.3, le=3, description="The same for a resolved source, in its own FWHMs: CLEAN moves brightness from the middle outwards."
        ),
    ] = 1.25
    resolved_sigma: Annotated[
        float,
        Field(gt=0, description="A new source is resolved if a free shape adds this many times the error of the flux added to a point."),
    ] = 3.0
    known_resolved_sigma: Annotated[
        float,
        Field(
            gt=0, description="The same for a known source without a size, which is tested every hour: chance must not make it resolved."
        ),
    ] = 5.0
    resolved_excess: Annotated[
        float,
        Field(ge=0, lt=1, description="Smallest share of flux a free shape must add: beams are known, and uniform in a mosaic, to 2 %."),
    ] = 0.02
    subtract_background: Annotated[bool, Field(description="Subtract the local median level before measuring.")] = True
    error_model: Annotated[
        Literal["correlated", "condon"],
        Field(description="Blind-fit errors: propagated from the measured noise correlation, or Condon (1997)."),
    ] = "correlated"
    de_ruiter: Annotated[float, Field(gt=0, description="Largest de Ruiter radius of an association.")] = 5.68
    systematic_arcsec: Annotated[float, Field(ge=0, description="Astrometric error added to every blind position, per axis [arcsec].")] = (
        1.5
    )
    max_separation_beams: Annotated[float, Field(gt=0, description="Largest separation of an association, in minor-axis beams.")] = 0.75


@dataclass(frozen=True)
class EnsembleOptions:
    """How epochs are brought to one flux scale."""

    reference_snr: Annotated[float, Field(gt=0, description="Median signal-to-noise required of a reference source.")] = 50.0
    lowest_snr: Annotated[float, Field(gt=0, description="Signal-to-noise down to which references are used if there are few.")] = 10.0
    min_references: Annotated[int, Field(ge=2, description="References an epoch needs; else its whole night is used.")] = 3
    max_references: Annotated[int, Field(ge=3, description="References used per epoch, brightest first.")] = 50
    baseline_epochs: Annotated[int, Field(ge=2, description="A reference's baseline is the trimmed mean of its first epochs.")] = 10
    clip_sigma: Annotated[float, Field(gt=1, description="Ratios further than this from the median are left out.")] = 3.0
    prior_fraction: Annotated[float, Field(ge=0, description="Fractional error assumed before the ensemble has measured it.")] = 0.03
    merge_arcsec: Annotated[
        float,
        Field(ge=0, description="New sources found separately within this distance are one source [arcsec]."),
    ] = 10.0
