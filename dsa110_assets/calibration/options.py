"""The settings of choosing and solving transits. Their defaults are defined only here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

REFANT_CHAIN = (103, *range(104, 117), *range(68, 103), *range(1, 52))
"""Stations in the order in which they are tried as reference antenna."""

SAME_STRIP_DEG = 0.05
"""Pointing is stable to 0.001 deg within a campaign."""


@dataclass(frozen=True)
class TransitOptions:
    """Which calibrator transits are solved, and for how long their tables are valid."""

    max_dec_offset_deg: Annotated[
        float, Field(gt=0, le=1.4, description="largest declination difference between a calibrator and the pointing [deg]")
    ] = 1.0
    min_flux_jy: Annotated[
        float, Field(ge=0, description="least flux density of a calibrator at 1.4 GHz, before the primary beam [Jy]")
    ] = 1.0
    min_share: Annotated[
        float,
        Field(ge=0, le=1, description="least apparent flux of a calibrator over that of the night's best of the strip: the noise of "
              "a fainter one's tables would outweigh the age of the best one's"),
    ] = 0.2  # fmt: skip
    most: Annotated[int, Field(ge=0, le=1000, description="most calibrators solved of a strip and night, the best; 0: all")] = 0
    validity_days: Annotated[
        float,
        Field(gt=0, le=30, description="tables are valid for so long before and after their transit, and are used outside only if no other "
              "tables are valid; half a day: until the next transit of the same calibrator is nearer [d]"),
    ] = 0.5  # fmt: skip


@dataclass(frozen=True)
class SolveOptions:
    """How calibrator transits are solved."""

    gain_solint_s: Annotated[float, Field(gt=0, description="length of a gain solution [s]; inf: one per transit")] = 60.0
    min_snr_bandpass: Annotated[float, Field(ge=0, description="least SNR of bandpass solutions; those below are flagged")] = 5.0
    min_snr_gain: Annotated[float, Field(ge=0, description="least SNR of gain solutions; those below are flagged")] = 3.0
    min_baselines_per_antenna: Annotated[int, Field(ge=2, description="antennas with fewer are not solved")] = 4
    min_uv_wavelengths: Annotated[float, Field(ge=0, description="shortest uv distance used")] = 0.0
    max_uv_wavelengths: Annotated[float, Field(gt=0, description="longest uv distance used")] = float("inf")
    refant_chain: Annotated[tuple[int, ...], Field(description="stations tried in turn as reference antenna")] = REFANT_CHAIN
    solve_delays: Annotated[bool, Field(description="split a delay per receptor off the bandpass")] = False
    min_primary_beam: Annotated[
        float, Field(gt=0, le=1, description="integrations with less primary-beam response on the calibrator are left out")
    ] = 0.5
    model_sources: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            description="field sources in the model beside the calibrator, brightest first; gains absorb part of the others",
        ),
    ] = 100
    field_rounds: Annotated[
        int,
        Field(
            ge=0,
            le=20,
            description="most rounds of correcting the field and the calibrator by the transit itself; 0: trust the catalogue",
        ),
    ] = 12
    tolerance: Annotated[float, Field(gt=0, lt=1e-2, description="relative change that ends iterations")] = 1e-8
    max_iterations: Annotated[int, Field(ge=2, description="limit of iterations of one fit")] = 500
    max_rounds: Annotated[int, Field(ge=1, description="most rounds of alternating between bandpass and gains")] = 30
