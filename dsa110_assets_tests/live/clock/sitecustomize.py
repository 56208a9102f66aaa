"""Runs in every Python process of a live test's platform: the clock its schedule reads can be moved forward.

Dagster names two functions through which its daemon reads the time for sensors, cron ticks and conditions; they, and
the inbox's own, return the machine's time plus the seconds in the file LIVE_TEST_CLOCK names. Nothing else is
touched: processes, files, deadlines and events live in real time. So hours in which a night waits need not pass.

With LIVE_TEST_CLOCK_OF=sky only what is observed goes by that clock: the inbox's, and which partitions there are. Dagster's runs,
ticks and signs of life, and how long what failed rests, keep the machine's time, so that waiting and silence can be measured.
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
