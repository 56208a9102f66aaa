"""Runs in every Python process of a live test's platform, so that the clock of its schedule can be moved forward.

Dagster's daemon reads the time for sensors, cron ticks and conditions through two mockable functions. These, and the clock of
the inbox, return the machine's time plus the seconds in the file that LIVE_TEST_CLOCK names. Nothing else is changed:
processes, files, deadlines and events use real time. So a test need not wait for the hours in which a night waits.

With LIVE_TEST_CLOCK_OF=sky only observing follows that clock: the inbox's clock, and which partitions exist. Dagster's runs,
ticks and heartbeats, and the pause before a retry, use the machine's time, so that waiting and silence can be measured.
"""

import os
import time
from datetime import UTC, datetime

CLOCK = os.environ.get("LIVE_TEST_CLOCK")

if CLOCK:
    import dagster._time
    from dagster._core.definitions.partitions import context

    from dsa110_assets.orchestration.ingest import inbox

    def shifted_s() -> float:
        with open(CLOCK) as handle:
            return time.time() + float(handle.read())

    def shifted(tz: str = "UTC") -> datetime:
        return datetime.fromtimestamp(shifted_s(), UTC)

    inbox.now_s = shifted_s
    if os.environ.get("LIVE_TEST_CLOCK_OF") == "sky":
        from dsa110_assets.orchestration.planning import requests

        past = requests.past
        requests.past = lambda instance, names, _: past(instance, names, time.time())
        context.get_current_datetime = shifted
    else:
        dagster._time._mockable_get_current_timestamp = shifted_s
        dagster._time._mockable_get_current_datetime = shifted
