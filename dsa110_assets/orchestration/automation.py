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
only = dg.AssetSelection.assets


def todo(recent: timedelta) -> dg.AutomationCondition[Any]:
    return _Condition.in_latest_time_window(recent) & _Condition.missing() & ~_Condition.execution_failed() & ~_Condition.in_progress()


def changed(recent: timedelta) -> dg.AutomationCondition[Any]:
    """Made before, but what it is made from has been made anew since."""
    return (
        _Condition.in_latest_time_window(recent)
        & ~_Condition.missing()
        & _Condition.any_deps_updated().since_last_handled()
        & ~_Condition.in_progress()
    )


def latched(moment: dg.AutomationCondition[Any]) -> dg.AutomationCondition[Any]:
    """From this moment on, until asked for: a tick that finds something in progress is not lost."""
    return moment.since_last_handled()


CATALOGUE = (
    (_Condition.missing() | _Condition.any_deps_updated().since_last_handled())
    & ~_Condition.execution_failed()
    & ~_Condition.any_deps_missing()
    & ~_Condition.in_progress()
).with_label("catalogue")


def held_up(upstream: str, comes: dg.AutomationCondition[Any]) -> dg.AutomationCondition[Any]:
    """Its run ended before its turn came, and what it waited for comes now."""
    return (
        _Condition.in_latest_time_window(RECENT)
        & _Condition.missing()
        & _Condition.execution_failed()
        & ~_Condition.in_progress()
        & _Condition.any_deps_match(comes).allow(only(upstream))
    )


_HELD = _Condition.any_checks_match(_Condition.check_failed(), blocking_only=True)
"""A failed blocking check. One that was never evaluated, for the product was reported after a crash, is no failure:
held products are known to the archive, and nothing is made from them."""

FOLLOWING = (
    (todo(RECENT_NIGHTS) | changed(RECENT_NIGHTS))
    & ~_Condition.any_deps_missing()
    & ~_Condition.any_deps_in_progress()
    & ~_Condition.any_deps_match(_HELD)
).with_label("when_inputs_pass")

NIGHT = (
    (todo(RECENT_NIGHTS) | changed(RECENT_NIGHTS))
    & latched(_Condition.cron_tick_passed(NIGHT_SETTLED) & ~_Condition.in_latest_time_window())
    & _Condition.any_deps_match(~_Condition.missing())
    & ~_Condition.any_deps_in_progress()
).with_label("night_when_over")
"""The night that is still running is the latest window: it is left alone."""
