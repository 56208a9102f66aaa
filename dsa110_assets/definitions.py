"""What Dagster loads: the assets of the design's table, and everything that keeps them going.

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

from dsa110_assets.orchestration import jobs, redo, sensors
from dsa110_assets.orchestration.assets import calibration, catalogues, imaging, ingest, night, sources
from dsa110_assets.orchestration.resources import Platform


def build(platform: Platform) -> dg.Definitions:
    """The definitions over a platform: the environment's, or one with settings of its own (`dsa110 process`)."""
    return dg.Definitions(
        assets=[
            catalogues.source_catalog,
            catalogues.calibrator_catalog,
            catalogues.sky_model,
            ingest.subband_group,
            ingest.measurement_set,
            calibration.caltables,
            calibration.calibrated_ms,
            imaging.tile_image,
            imaging.hour_mosaic,
            imaging.night_mosaic,
            sources.source_measurements,
            sources.light_curves,
            sources.variability,
            night.night_report,
        ],
        sensors=[
            sensors.inbox_sensor,
            sensors.automation_sensor,
            redo.settle_sensor,
            redo.backfill_sensor,
            sensors.alert_sensor,
            sensors.failure_sensor,
        ],
        jobs=jobs.JOBS,
        resources={"platform": platform},
        executor=dg.in_process_executor,
    )


defs = build(Platform())
