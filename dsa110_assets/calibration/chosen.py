"""The tables that an observation is corrected by, read or interpolated from the sets chosen for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dsa110_assets.calibration import caltables, interpolation
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.select import Choice
from dsa110_assets.visibilities import measurement_set


def tables_for(choice: Choice, ms_path: Path) -> tuple[list[Gains], dict[str, Any]]:
    """Return the tables that the measurement set at `ms_path` is corrected by, in order, and figures that describe them. They are those
    of the chosen set, or one table interpolated between two sets."""
    figures = {
        "caltable_set": choice.nearest.set_id,
        "caltable_age_h": choice.age_h,
        "caltable_fallback": choice.fallback,
        "caltable_reason": choice.reason,
        "calibrator": _joined(chosen.calibrator for chosen in choice.sets),
        "anchor": _joined(chosen.anchor for chosen in choice.sets),
        "n_receptors_interpolated": 0,
        "receptors_not_interpolated": [],
        "receptors_of_one_set": [],
    }
    ordered = choice.in_time_order
    read = [[caltables.read(path) for path in chosen.paths] for chosen, _ in ordered]
    if len(read) == 1:
        return read[0], figures
    mids_mjd = ordered[0][0].mid_mjd, ordered[1][0].mid_mjd
    with measurement_set.opened(ms_path) as stored:
        interpolated = interpolation.interpolate(stored.frame, read[0], read[1], mids_mjd)
    return [interpolated.gains], figures | {
        "caltable_sets": [chosen.set_id for chosen, _ in ordered],
        "caltable_weights": [weight for _, weight in ordered],
        "caltable_ages_h": [(1 - weight) * (mids_mjd[1] - mids_mjd[0]) * 24 for _, weight in ordered],
        "n_receptors_interpolated": int((~interpolated.gains.flags).any(axis=(0, 2)).sum())
        - len(interpolated.nearest)
        - len(interpolated.one_sided),
        "receptors_not_interpolated": list(interpolated.nearest),
        "receptors_of_one_set": list(interpolated.one_sided),
    }


def _joined(names: Iterable[str]) -> str:
    """Return different names as one, a standard's (PB17:...) last, so that a mixed scale does not begin with a standard's name."""
    return " + ".join(sorted(set(names), reverse=True))
