"""The tables an observation is corrected by, made of those that were chosen for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dsa110_assets.calibration import caltables, interpolation
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.select import Choice
from dsa110_assets.visibilities import measurement_set


def tables_for(choice: Choice, ms_path: Path) -> tuple[list[Gains], dict[str, Any]]:
    """The tables that the measurement set at `ms_path` is corrected by, in order, and figures of what they are: those of the
    chosen set, or one that is interpolated between two sets."""
    figures = {
        "caltable_set": choice.nearest.set_id,
        "caltable_age_h": choice.age_h,
        "caltable_fallback": choice.fallback,
        "caltable_reason": choice.reason,
        "calibrator": _joined(one.calibrator for one in choice.sets),
        "anchor": _joined(one.anchor for one in choice.sets),
        "n_receptors_interpolated": 0,
        "receptors_not_interpolated": [],
        "receptors_of_one_set": [],
    }
    ordered = choice.in_time_order
    read = [[caltables.read(path) for path in one.paths] for one, _ in ordered]
    if len(read) == 1:
        return read[0], figures
    mids_mjd = ordered[0][0].mid_mjd, ordered[1][0].mid_mjd
    with measurement_set.opened(ms_path) as stored:
        made = interpolation.interpolate(stored.frame, read[0], read[1], mids_mjd)
    return [made.gains], figures | {
        "caltable_sets": [one.set_id for one, _ in ordered],
        "caltable_weights": [weight for _, weight in ordered],
        "caltable_ages_h": [(1 - weight) * (mids_mjd[1] - mids_mjd[0]) * 24 for _, weight in ordered],
        "n_receptors_interpolated": int((~made.gains.flags).any(axis=(0, 2)).sum()) - len(made.nearest) - len(made.one_sided),
        "receptors_not_interpolated": list(made.nearest),
        "receptors_of_one_set": list(made.one_sided),
    }


def _joined(names: Iterable[str]) -> str:
    """Different names as one, a standard's (PB17:...) last: who sees what a mixed scale begins with takes it for no standard's."""
    return " + ".join(sorted(set(names), reverse=True))
