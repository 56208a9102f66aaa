"""Choose calibration for an observation: same strip, same antennas, nearest in time in either direction.

Where gains are to be interpolated, the nearest set and the nearest one on the other side of the observation are chosen.
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
            description="interpolate gains between the transits before and after an observation, which processes everything since the "
            "last transit twice; for past nights, and fields too faint to correct gains with"
        ),
    ] = False


@dataclass(frozen=True)
class CaltableSet:
    """A set of caltables solved together; times are MJD UTC. `paths` are its tables in the order in which they are
    applied; `antennas` the names of all antennas in the solved data, dead or not; `dec_deg` the apparent pointing
    declination; `anchor` what its flux scale rests on; `status` active, rejected or superseded; `retired` the spans [from, until)
    in which it must not be used."""

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
    """The chosen `sets` with their `weights`, which sum to 1: the nearest one, and where gains are interpolated also the one on the
    other side of the observation. `age_h` >= 0 is the nearest one's distance in time in either direction; `fallback` means that the
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
    """Return the active set nearest in time to an observation at `mjd` (UTC), before or after it.

    Only sets are considered that are of the same strip, have at least the observation's `antennas` (names) and status "active", and
    are within `max_age_days`. A set whose validity includes the observation is preferred; one whose validity does not is a
    fallback. Raises WaitingError with the numbers of refused sets and the reasons if no set is left, or if only a fallback is left and
    a calibrator transit at `due_transit_mjd` is nearer and still to be solved. With `options.interpolate`, the nearest set
    on the other side of the observation is added, see `_across`.
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
    distance_d = abs(best.mid_mjd - mjd)
    if fallback and due_transit_mjd is not None and abs(due_transit_mjd - mjd) < distance_d:
        raise WaitingError(
            f"the transit at MJD {due_transit_mjd:.4f} is nearer than {best.set_id} "
            f"({distance_d * 24:.1f} h away, outside its validity); waiting for its calibration"
        )
    reason = _described(best, mjd)
    if fallback:
        reason += ", outside its validity: last known good"
    across = _across(usable, best, mjd) if options.interpolate and not fallback else None
    if across is None:
        return Choice((best,), (1.0,), distance_d * 24, fallback, reason)
    weight = abs(across.mid_mjd - mjd) / abs(across.mid_mjd - best.mid_mjd)
    reason += f", interpolated with {_described(across, mjd)}; weights {weight:.2f} and {1 - weight:.2f}"
    return Choice((best, across), (weight, 1 - weight), distance_d * 24, fallback, reason)


def _described(candidate: CaltableSet, mjd: float) -> str:
    side = "before" if candidate.mid_mjd <= mjd else "after"
    away_h = abs(candidate.mid_mjd - mjd) * 24
    return f"{candidate.set_id} ({candidate.calibrator}, {candidate.anchor}), {away_h:.1f} h {side} the observation"


def _across(usable: Sequence[CaltableSet], best: CaltableSet, mjd: float) -> CaltableSet | None:
    """Return the nearest set on the other side of the observation whose validity overlaps that of `best` between the two transits; None
    if there is none, or if the transit of `best` is within the observation.

    So at every time between the two transits at least one set is valid, and at some times both are. Two transits of one calibrator are
    a sidereal day apart, hardly less than both validities together. A set whose validity was cut for a standard's overlaps with none.
    """
    if abs(best.mid_mjd - mjd) * 86400 <= GROUP_S / 2:
        return None

    def overlaps(candidate: CaltableSet) -> bool:
        first, last = sorted((best, candidate), key=lambda table_set: table_set.mid_mjd)
        return max(first.mid_mjd, last.valid_start_mjd) < min(first.valid_end_mjd, last.mid_mjd)

    later = best.mid_mjd <= mjd
    fitting = [candidate for candidate in usable if (candidate.mid_mjd > mjd if later else candidate.mid_mjd < mjd) and overlaps(candidate)]
    return min(fitting, key=lambda candidate: (abs(candidate.mid_mjd - mjd), candidate.set_id), default=None)


def _valid(candidate: CaltableSet, mjd: float) -> bool:
    return candidate.valid_start_mjd <= mjd <= candidate.valid_end_mjd


def _refusal(candidate: CaltableSet, mjd: float, dec_deg: float, antennas: Set[str], options: ChooseOptions) -> str:
    """Return the reason why `candidate` must not be applied, '' if it may be."""
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
