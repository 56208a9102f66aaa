"""The assets themselves, without what drives them: all that a run in this process or a backfill needs."""

import dagster as dg

from dsa110_assets.orchestration.assets import calibration, catalogues, imaging, ingest, night, sources
from dsa110_assets.orchestration.resources import Platform

ASSETS = (
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
)


def over(platform: Platform) -> dg.Definitions:
    """The assets over a platform with settings of its own."""
    return dg.Definitions(assets=ASSETS, resources={"platform": platform}, executor=dg.in_process_executor)
