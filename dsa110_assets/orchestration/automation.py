"""When Dagster makes what by itself: declarative conditions, bounded to the last days.

A condition over all history would cost seconds at every tick, and a window without data must never hold up
its hour or night. Older nights belong to `dsa110 process` and to backfills. What failed is not asked for again
(the alerts say so), except an observation that waited for calibration, once new tables are there.
"""

from datetime import timedelta
from typing import Any

import dagster as dg

RECENT = timedelta(days=3)
RECENT_NIGHTS = timedelta(days=5)
HOUR_SETTLED = "20,35,50 * * * *"
"""Minutes at which finished hours are looked at: from 20 minutes on, late groups are in."""
NIGHT_SETTLED = "30 3,9 * * *"
CALIBRATION_TICK = "*/15 * * * *"

_Condition = dg.AutomationCondition
_only = dg.AssetSelection.assets


def _todo(recent: timedelta) -> dg.AutomationCondition[Any]:
    return _Condition.in_latest_time_window(recent) & _Condition.missing() & ~_Condition.execution_failed() & ~_Condition.in_progress()


def _changed(recent: timedelta) -> dg.AutomationCondition[Any]:
    """Made before, but what it is made from has been made anew since."""
    return (
        _Condition.in_latest_time_window(recent)
        & ~_Condition.missing()
        & _Condition.any_deps_updated().since_last_handled()
        & ~_Condition.in_progress()
    )


def _latched(moment: dg.AutomationCondition[Any]) -> dg.AutomationCondition[Any]:
    """From this moment on, until asked for: a tick that finds something in progress is not lost."""
    return moment.since_last_handled()


CATALOGUE = (
    (_Condition.missing() | _Condition.any_deps_updated().since_last_handled())
    & ~_Condition.execution_failed()
    & ~_Condition.any_deps_missing()
    & ~_Condition.in_progress()
).with_label("catalogue")

CALTABLES = (
    _Condition.in_latest_time_window(RECENT)
    & _Condition.cron_tick_passed(CALIBRATION_TICK)
    & _Condition.any_deps_match(_Condition.newly_updated()).allow(_only("measurement_set")).since_last_handled()
    & ~_Condition.any_deps_missing().allow(_only("sky_model", "calibrator_catalog"))
    & ~_Condition.in_progress()
).with_label("caltables_when_new_observations")
"""A run without a transit in its observations ends at once and makes nothing."""

_WAITED = (
    _Condition.in_latest_time_window(RECENT)
    & _Condition.missing()
    & _Condition.execution_failed()
    & ~_Condition.in_progress()
    & _Condition.any_deps_match(_Condition.newly_updated()).allow(_only("caltables"))
)
CALIBRATED_MS = (
    (_todo(RECENT) | _WAITED) & ~_Condition.any_deps_missing().ignore(_only("caltables")) & ~_Condition.any_deps_in_progress()
).with_label("observation_when_flagged")
"""Which tables it gets, and whether they are too old, is for the calibration code to decide and to record."""

_HELD_UP = (
    _Condition.in_latest_time_window(RECENT)
    & _Condition.missing()
    & _Condition.execution_failed()
    & ~_Condition.in_progress()
    & _Condition.any_deps_match(_Condition.newly_updated() | _Condition.will_be_requested()).allow(_only("calibrated_ms"))
)
"""Its run ended before its turn came, and what it waited for is there now or comes with it."""

TILE_IMAGE = (
    (_todo(RECENT) | _changed(RECENT) | _HELD_UP) & ~_Condition.any_deps_missing() & ~_Condition.any_deps_in_progress()
).with_label("image_when_calibrated")

_seen = _Condition.any_deps_match(~_Condition.missing()).allow(_only("subband_group", "measurement_set", "calibrated_ms"))
_settled_without = _Condition.any_deps_match(_Condition.execution_failed())
_PENDING = _Condition.missing() & _seen & ~_Condition.execution_failed() & ~_settled_without
"""A tile that will come: its observation was taken, and neither it nor anything before it has failed."""

HOUR_MOSAIC = (
    (_todo(RECENT) | _changed(RECENT))
    & _latched(_Condition.cron_tick_passed(HOUR_SETTLED))
    & _Condition.any_deps_match(~_Condition.missing())
    & ~_Condition.any_deps_match(_PENDING)
    & ~_Condition.any_deps_in_progress()
).with_label("hour_when_settled")

_HELD = _Condition.any_checks_match(_Condition.check_failed(), blocking_only=True)
"""A failed blocking check. One that was never evaluated, for the product was reported after a crash, is no failure:
held products are known to the archive, and nothing is made from them."""

FOLLOWING = (
    (_todo(RECENT_NIGHTS) | _changed(RECENT_NIGHTS))
    & ~_Condition.any_deps_missing()
    & ~_Condition.any_deps_in_progress()
    & ~_Condition.any_deps_match(_HELD)
).with_label("when_inputs_pass")

NIGHT = (
    (_todo(RECENT_NIGHTS) | _changed(RECENT_NIGHTS))
    & _latched(_Condition.cron_tick_passed(NIGHT_SETTLED) & ~_Condition.in_latest_time_window())
    & _Condition.any_deps_match(~_Condition.missing())
    & ~_Condition.any_deps_in_progress()
).with_label("night_when_over")
"""The night that is still running is the latest window: it is left alone."""

CONDITIONS: dict[str, dg.AutomationCondition[Any]] = {
    "source_catalog": CATALOGUE,
    "calibrator_catalog": CATALOGUE,
    "sky_model": CATALOGUE,
    "caltables": CALTABLES,
    "calibrated_ms": CALIBRATED_MS,
    "tile_image": TILE_IMAGE,
    "hour_mosaic": HOUR_MOSAIC,
    "source_measurements": FOLLOWING,
    "night_mosaic": NIGHT,
    "light_curves": NIGHT,
    "variability": FOLLOWING,
    "night_report": NIGHT,
}
