"""Options of the simulator: every setting, its default and its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator import fault_kinds
from dsa110_assets.simulator.fault_kinds import SignalFault

FaultKind = Literal["missing_subband", "truncated", "zero_length", "duplicate_same", "duplicate_different", "incomplete"]


@dataclass(frozen=True)
class Fault:
    """A planted fault of one file: `group` counts from 0 over all nights of the call."""

    kind: FaultKind
    group: int
    subband: int

    def touches(self, group: int) -> bool:
        """Whether the fault is active in the group with this index."""
        return self.group == group


@dataclass(frozen=True)
class FixedSource:
    """A constant source added explicitly to the sky: ICRS [deg], Stokes I [Jy] at 1.4 GHz, S ~ nu^spectral_index.

    With a major axis it is a Gaussian: FWHM [arcsec], the major axis at `pa_deg` east of ICRS north. Stokes Q is
    `stokes_q_fraction` of I.
    """

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    spectral_index: float = -0.7
    major_arcsec: float = 0.0
    minor_arcsec: float = 0.0
    pa_deg: float = 0.0
    stokes_q_fraction: float = 0.0


def parse_fault(text: str) -> Fault | SignalFault:
    """Parse a fault written as 'kind:group:subband', such as 'missing_subband:2:5', or in the notation of
    `fault_kinds.parse`.

    ConfigurationError lists the notations and the kinds.
    """
    kinds = get_args(FaultKind)
    name, *parts = text.split(":")
    if name in fault_kinds.KINDS:
        return fault_kinds.parse(text)
    if name not in kinds or len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ConfigurationError(
            f"fault {text!r}: write KIND:GROUP:SUBBAND with KIND one of {', '.join(kinds)}; or "
            f"{fault_kinds.FORM} and KIND one of {', '.join(fault_kinds.KINDS)}"
        )
    return Fault(name, int(parts[0]), int(parts[1]))  # type: ignore[arg-type]


@dataclass(frozen=True)
class SimulationOptions:
    """A simulated run: time, place, array, sky and instrument.

    The sky depends only on `seed` and ICRS position; noise, gains and name jitter on `seed` and the group's time.
    """

    start: Annotated[str, Field(description="UTC start of the first group's first integration")] = "2026-01-25T22:00:00"
    groups: Annotated[int, Field(ge=1, description="groups of 24 integrations per night")] = 12
    nights: Annotated[int, Field(ge=1, description="nights, each one sidereal day after the previous")] = 1
    dec_deg: Annotated[float, Field(ge=-40, le=90, description="apparent pointing declination [deg]")] = 16.27
    antennas: Annotated[int, Field(ge=2, le=96, description="active antennas; 96 are the real array")] = 24
    channels: Annotated[int, Field(ge=1, le=384, description="channels per subband (48 on the telescope)")] = 8
    subbands: Annotated[int, Field(ge=1, le=16, description="subbands, from sb00")] = 16
    integrations: Annotated[int, Field(ge=1, le=24, description="integrations per file (24 on the telescope)")] = 24
    seed: Annotated[int, Field(ge=0, description="seed of everything random")] = 1

    population: Annotated[bool, Field(description="fill the sky with a random population and the VLA calibrators")] = True
    fixed_sources: Annotated[tuple[FixedSource, ...], Field(description="further constant sources")] = ()
    flux_min_jy: Annotated[float, Field(ge=1e-4, description="faintest source of the random population [Jy]")] = 0.05
    flux_max_jy: Annotated[float, Field(le=100, description="brightest source of the random population [Jy]")] = 2.0
    source_density: Annotated[float, Field(ge=0, description="factor on the 1.4 GHz source counts")] = 1.0
    variables: Annotated[bool, Field(description="plant one flare and one ESE-like dip")] = True
    calibrator: Annotated[
        Literal["auto", "none"],
        Field(description="auto: add a synthetic calibrator where no listed one transits"),
    ] = "auto"

    gain_amplitude: Annotated[float, Field(gt=0, description="median |g| (raw units per sqrt Jy)")] = 0.068
    gain_scatter: Annotated[float, Field(ge=0, le=1, description="1: realistic gains and bandpasses; 0: all equal")] = 1.0
    gain_night_scatter: Annotated[float, Field(ge=0, le=0.3, description="re-draw from night to night, fraction")] = 0.03
    gain_drift: Annotated[float, Field(ge=0, le=0.3, description="daily sinusoidal drift, fraction and radian")] = 0.01
    dead_antennas: Annotated[int, Field(ge=-1, description="whole antennas that write zeros; -1: one in 24")] = -1
    dead_receptors: Annotated[int, Field(ge=-1, description="single receptors that see only noise; -1: one in 24")] = -1
    sefd_jy: Annotated[float, Field(gt=0, description="system equivalent flux density [Jy]")] = 6500.0
    noise_scale: Annotated[float, Field(ge=0, description="factor on the thermal noise; 0: none")] = 1.0
    rfi_tones: Annotated[int, Field(ge=0, description="persistent narrow-band transmitters in the 16-subband band")] = 2
    rfi_bursts: Annotated[float, Field(ge=0, description="mean number of broadband bursts per group")] = 1.0

    restart_every: Annotated[int, Field(ge=0, description="groups between correlator restarts; 0: never")] = 11
    restart_lost_s: Annotated[float, Field(ge=0, description="time lost at a restart [s]")] = 398.5
    faults: Annotated[tuple[Fault | SignalFault, ...], Field(description="faults to plant")] = ()
    antenna_order: Annotated[Literal["ascending", "scrambled"], Field(description="scrambled: rows with ant1 > ant2 occur")] = "ascending"
    negative_channel_width: Annotated[bool, Field(description="write channel_width as a negative scalar")] = False
    fs_table: Annotated[bool, Field(description="write extra_keywords/fs_table")] = True
    name_shift_s: Annotated[float, Field(description="shift of all name stamps [s]; -105: as after a restart")] = 0.0
    real_time: Annotated[bool, Field(description="deliver groups at the telescope's cadence")] = False

    def __post_init__(self) -> None:
        if 384 % self.channels:
            raise ConfigurationError(f"channels = {self.channels}: must divide 384 (8, 16, 24, 48, ...)")
        if self.flux_max_jy <= self.flux_min_jy:
            raise ConfigurationError(f"flux_max_jy = {self.flux_max_jy}: must exceed flux_min_jy = {self.flux_min_jy}")
        total = self.groups * self.nights
        for fault in self.faults:
            if isinstance(fault, SignalFault):
                if max(fault.first, fault.last or 0) >= total:
                    raise ConfigurationError(f"fault {fault.kind} in groups {fault.groups}: there are {total} groups")
            elif not (fault.group < total and fault.subband < self.subbands):
                raise ConfigurationError(
                    f"fault {fault.kind} at group {fault.group}, subband {fault.subband}: there are "
                    f"{total} groups and {self.subbands} subbands"
                )

    def file_faults(self, group: int) -> tuple[Fault, ...]:
        """File faults in the group with this index."""
        return tuple(f for f in self.faults if isinstance(f, Fault) and f.touches(group))

    def signal_faults(self, *kinds: str, group: int | None = None) -> tuple[SignalFault, ...]:
        """Signal faults of these kinds (all kinds if none is named) that are active in a group, or in any group if
        None, in the order of the call."""
        return tuple(
            f for f in self.faults if isinstance(f, SignalFault) and (not kinds or f.kind in kinds) and (group is None or f.touches(group))
        )


def perfect(**changes: Any) -> SimulationOptions:
    """Options of a perfect instrument: equal unit gains, no noise, RFI, dead receptors, population or variables.

    `changes` are applied on top, such as `fixed_sources`.
    """
    plain: dict[str, Any] = {
        "population": False, "variables": False, "calibrator": "none", "gain_amplitude": 1.0,
        "gain_scatter": 0.0,
        "gain_night_scatter": 0.0, "gain_drift": 0.0, "dead_antennas": 0, "dead_receptors": 0,
        "noise_scale": 0.0,
        "rfi_tones": 0, "rfi_bursts": 0.0,
    }  # fmt: skip
    return SimulationOptions(**plain | changes)
