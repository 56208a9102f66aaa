"""What Dagster loads: the assets of the table below, and everything that keeps them going.

| group       | assets                                             | partitions  |
|-------------|----------------------------------------------------|-------------|
| catalogues  | source_catalog, sky_model, calibrator_catalog      | none        |
| ingest      | subband_group, measurement_set                     | 5 minutes   |
| calibration | caltables · calibrated_ms                          | night · 5 minutes |
| imaging     | tile_image · hour_mosaic · night_mosaic            | 5 minutes · hour · night |
| sources     | source_measurements · light_curves, variability    | hour · night |
| reports     | night_report                                       | night       |

Loading this touches no disk and needs no setting: a step that needs one says so when it runs.
"""

import dagster as dg

from dsa110_assets.orchestration import graph, housekeeping, jobs, redo, sensors
from dsa110_assets.orchestration.resources import Platform

defs = dg.Definitions(
    assets=graph.ASSETS,
    sensors=[
        sensors.inbox_sensor,
        sensors.automation_sensor,
        redo.settle_sensor,
        redo.accepted_sensor,
        redo.backfill_sensor,
        sensors.alert_sensor,
        sensors.failure_sensor,
        sensors.orphan_sensor,
    ],
    jobs=[*jobs.JOBS, *housekeeping.JOBS],
    schedules=housekeeping.SCHEDULES,
    resources={"platform": Platform()},
    executor=dg.in_process_executor,
)
