"""The definitions that Dagster loads: the assets, and the sensors, jobs and schedules that run them.

The assets are in the modules of `orchestration/assets`, one module for each group; the README's table of assets agrees with their
specifications. Loading this module touches no disk and needs no setting: a step that lacks one reports it when it runs.
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
