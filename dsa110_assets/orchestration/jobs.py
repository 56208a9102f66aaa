"""One job per grain: what sensors that ask for assets by name launch; a job's assets share their partitions."""

import dagster as dg

from dsa110_assets.orchestration import recipes

_NAMES: dict[recipes.Grain, str] = {
    "catalogue": "catalogues",
    "observation": "observations",
    "hour": "hours",
    "night": "nights",
}


def name(grain: recipes.Grain) -> str:
    """The job that makes assets of this grain."""
    return _NAMES[grain]


JOBS = [
    dg.define_asset_job(name(grain), selection=dg.AssetSelection.assets(*(r.asset for r in recipes.ORDER if r.grain == grain)))
    for grain in _NAMES
]
