"""One job per grain, launched by the sensors that request assets by name; a job's assets share their partitions."""

import dagster as dg

from dsa110_assets.orchestration.specification.dagster_assets import GRAIN_TAG
from dsa110_assets.orchestration.specification.spec import GRAINS, Grain


def name(grain: Grain) -> str:
    """The job that makes assets of this grain."""
    return f"{grain}s"


JOBS = [dg.define_asset_job(name(grain), selection=dg.AssetSelection.tag(GRAIN_TAG, grain)) for grain in GRAINS]
