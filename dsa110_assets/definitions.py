"""What Dagster loads: the assets, and everything that keeps them going.

The assets are the modules of `orchestration/assets`, one a group; the README's table of them says the same as their
specifications. Loading this touches no disk and needs no setting: a step that needs one says so when it runs.
"""

import dagster as dg

from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.ingest.sensor import inbox_sensor
from dsa110_assets.orchestration.planning import planner
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.specification import jobs
from dsa110_assets.orchestration.watching import housekeeping, sensors

defs = dg.Definitions(
    assets=graph.ASSETS,
    sensors=[
        inbox_sensor,
        planner.planner_sensor,
        sensors.alert_sensor,
        sensors.orphan_sensor,
    ],
    jobs=[*jobs.JOBS, *housekeeping.JOBS],
    schedules=housekeeping.SCHEDULES,
    resources={"platform": Platform()},
    executor=dg.in_process_executor,
)
