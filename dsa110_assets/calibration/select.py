"""Choosing calibration for an observation: same strip, same antennas, nearest in time in both directions."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dsa110_assets.errors import WaitingError


@dataclass(frozen=True)
class ChooseOptions:
    """Which calibration may be applied to which observation."""

    max_dec_offset_deg: Annotated[
        float, Field(gt=0, le=0.5, description="largest declination difference of one strip [deg]")
    ] = 0.5
    max_age_days: Annotated[float, Field(gt=0, description="older tables are never applied [d]")] = 30.0


@dataclass(frozen=True)
class CaltableSet:
    """A set of caltables solved together; times are MJD UTC. `paths` are its tables in the order in which they
    apply; `antennas` the names of all antennas the solved data had, dead or not; `dec_deg` the apparent pointing
    declination; `anchor` what its flux scale rests on; `status` active, rejected or superseded."""

    set_id: str
    paths: tuple[Path, ...]
    mid_mjd: float
    valid_start_mjd: float
    valid_end_mjd: float
    dec_deg: float
    antennas: frozenset[str]
    calibrator: str
    anchor: str
    status: str


@dataclass(frozen=True)
class Choice:
    """The chosen set; `age_h` >= 0 is the distance in time in either direction; `fallback` means that the
    observation lies outside the set's validity; `reason` is one sentence for people."""

    set: CaltableSet
    age_h: float
    fallback: bool
    reason: str


def choose(
    sets: Sequence[CaltableSet],
    mjd: float,
    dec_deg: float,
    antennas: Set[str],
    options: ChooseOptions,
    *,
    due_transit_mjd: float | None = None,
) -> Choice:
    """The active set nearest in time to an observation at `mjd` (UTC), before or after it.

    Only sets of the same strip, with at least the observation's `antennas` (names), status "active", and no
    older than `max_age_days`. A set whose validity holds the observation goes before one whose does not: that
    is a fallback. Where only a fallback is left and a calibrator transit at `due_transit_mjd` is still to be
    solved and nearer, or nothing is left at all: WaitingError, saying what was refused and why.
    """
    refused: dict[str, int] = {}
    usable: list[CaltableSet] = []
    for candidate in sets:
        reason = _refusal(candidate, mjd, dec_deg, antennas, options)
        if reason:
            refused[reason] = refused.get(reason, 0) + 1
        else:
            usable.append(candidate)
    if not usable:
        why = "; ".join(f"{n} {reason}" for reason, n in sorted(refused.items())) or "none registered"
        raise WaitingError(
            f"no calibration for declination {dec_deg:.2f} deg at MJD {mjd:.4f} ({why}); "
            "it waits for a calibrator transit of this strip"
        )

    def order(candidate: CaltableSet) -> tuple[bool, float, str]:
        return not _valid(candidate, mjd), abs(candidate.mid_mjd - mjd), candidate.set_id

    best = min(usable, key=order)
    fallback = not _valid(best, mjd)
    away_d = abs(best.mid_mjd - mjd)
    if fallback and due_transit_mjd is not None and abs(due_transit_mjd - mjd) < away_d:
        raise WaitingError(
            f"the transit at MJD {due_transit_mjd:.4f} is nearer than {best.set_id} "
            f"({away_d * 24:.1f} h away, outside its validity); waiting for its calibration"
        )
    side = "before" if best.mid_mjd <= mjd else "after"
    reason = f"{best.set_id} ({best.calibrator}, {best.anchor}), {away_d * 24:.1f} h {side} the observation"
    if fallback:
        reason += ", outside its validity: last known good"
    return Choice(best, away_d * 24, fallback, reason)


def _valid(candidate: CaltableSet, mjd: float) -> bool:
    return candidate.valid_start_mjd <= mjd <= candidate.valid_end_mjd


def _refusal(
    candidate: CaltableSet, mjd: float, dec_deg: float, antennas: Set[str], options: ChooseOptions
) -> str:
    """Why `candidate` may not be applied, '' if it may."""
    if candidate.status != "active":
        return f"with status {candidate.status}"
    if abs(candidate.dec_deg - dec_deg) > options.max_dec_offset_deg:
        return "of another declination strip"
    if not antennas <= candidate.antennas:
        return "without some of the observation's antennas"
    if abs(candidate.mid_mjd - mjd) > options.max_age_days:
        return f"more than {options.max_age_days:g} days away"
    return ""
