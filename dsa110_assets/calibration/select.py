"""Choosing calibration for an observation: same strip, same antennas, nearest in time in both directions.

Or, where gains are to be interpolated, the nearest and the one across the observation.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dsa110_assets.errors import WaitingError
from dsa110_assets.telescope.timegrid import GROUP_S


@dataclass(frozen=True)
class ChooseOptions:
    """Which calibration may be applied to which observation."""

    max_dec_offset_deg: Annotated[float, Field(gt=0, le=0.5, description="largest declination difference of one strip [deg]")] = 0.5
    max_age_days: Annotated[float, Field(gt=0, description="older tables are never applied [d]")] = 30.0
    interpolate: Annotated[
        bool,
        Field(
            description="interpolate gains between the transits before and after an observation, which makes everything since the "
            "last transit twice; for nights of the past, and fields too faint to correct gains by"
        ),
    ] = False


@dataclass(frozen=True)
class CaltableSet:
    """A set of caltables solved together; times are MJD UTC. `paths` are its tables in the order in which they
    apply; `antennas` the names of all antennas the solved data had, dead or not; `dec_deg` the apparent pointing
    declination; `anchor` what its flux scale rests on; `status` active, rejected or superseded; `retired` are spans [from, until)
    in which it may not be used."""

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
    retired: tuple[tuple[float, float], ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Choice:
    """The chosen `sets` with their `weights`, which sum to 1: the nearest one, and where gains are interpolated also the one
    across the observation. `age_h` >= 0 is the nearest one's distance in time in either direction; `fallback` means that the
    observation lies outside its validity; `reason` is one sentence for people."""

    sets: tuple[CaltableSet, ...]
    weights: tuple[float, ...]
    age_h: float
    fallback: bool
    reason: str

    @property
    def nearest(self) -> CaltableSet:
        """The set nearest in time."""
        return self.sets[0]

    @property
    def in_time_order(self) -> tuple[tuple[CaltableSet, float], ...]:
        """The sets with their weights, the earlier one first."""
        return tuple(sorted(zip(self.sets, self.weights, strict=True), key=lambda one: one[0].mid_mjd))


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
    solved and nearer, or nothing is left at all: WaitingError, saying what was refused and why. With
    `options.interpolate` the nearest set across the observation joins it, see `_across`.
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
            f"no calibration for declination {dec_deg:.2f} deg at MJD {mjd:.4f} ({why}); it waits for a calibrator transit of this strip"
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
    reason = _told(best, mjd)
    if fallback:
        reason += ", outside its validity: last known good"
    other = _across(usable, best, mjd) if options.interpolate and not fallback else None
    if other is None:
        return Choice((best,), (1.0,), away_d * 24, fallback, reason)
    weight = abs(other.mid_mjd - mjd) / abs(other.mid_mjd - best.mid_mjd)
    reason += f", interpolated with {_told(other, mjd)}; weights {weight:.2f} and {1 - weight:.2f}"
    return Choice((best, other), (weight, 1 - weight), away_d * 24, fallback, reason)


def _told(candidate: CaltableSet, mjd: float) -> str:
    side = "before" if candidate.mid_mjd <= mjd else "after"
    away_h = abs(candidate.mid_mjd - mjd) * 24
    return f"{candidate.set_id} ({candidate.calibrator}, {candidate.anchor}), {away_h:.1f} h {side} the observation"


def _across(usable: Sequence[CaltableSet], best: CaltableSet, mjd: float) -> CaltableSet | None:
    """The nearest set on the other side of the observation whose validity overlaps `best`'s between the two transits; None if
    there is none, or if the observation holds the transit of `best`.

    So at every time between the two one of them is valid, and at some both are: two transits of one calibrator follow each other
    after a sidereal day, hardly less than both validities. A set whose validity gave way to a standard's overlaps with none.
    """
    if abs(best.mid_mjd - mjd) * 86400 <= GROUP_S / 2:
        return None

    def overlaps(one: CaltableSet) -> bool:
        first, last = sorted((best, one), key=lambda known: known.mid_mjd)
        return max(first.mid_mjd, last.valid_start_mjd) < min(first.valid_end_mjd, last.mid_mjd)

    later = best.mid_mjd <= mjd
    fitting = [one for one in usable if (one.mid_mjd > mjd if later else one.mid_mjd < mjd) and overlaps(one)]
    return min(fitting, key=lambda one: (abs(one.mid_mjd - mjd), one.set_id), default=None)


def _valid(candidate: CaltableSet, mjd: float) -> bool:
    return candidate.valid_start_mjd <= mjd <= candidate.valid_end_mjd


def _refusal(candidate: CaltableSet, mjd: float, dec_deg: float, antennas: Set[str], options: ChooseOptions) -> str:
    """Why `candidate` may not be applied, '' if it may."""
    if candidate.status != "active":
        return f"with status {candidate.status}"
    if any(start <= mjd < end for start, end in candidate.retired):
        return "retired for that time"
    if abs(candidate.dec_deg - dec_deg) > options.max_dec_offset_deg:
        return "of another declination strip"
    if not antennas <= candidate.antennas:
        return "without some of the observation's antennas"
    if abs(candidate.mid_mjd - mjd) > options.max_age_days:
        return f"more than {options.max_age_days:g} days away"
    return ""
