"""How each asset presents itself to Dagster: partitions, dependencies, group, owner, kinds, tags, checks."""

from typing import Any

import dagster as dg

from dsa110_assets.orchestration import automation, checks, plan, recipes
from dsa110_assets.orchestration.partitions import HOURS, NIGHTS, OBSERVATIONS, THIS_NIGHT_AND_BEFORE

OWNER = "team:dsa110"
_GRIDS: dict[recipes.Grain, dg.TimeWindowPartitionsDefinition | None] = {
    "catalogue": None, "observation": OBSERVATIONS, "hour": HOURS, "night": NIGHTS,
}  # fmt: skip
_GROUPS = {
    "catalogues": ("source_catalog", "sky_model", "calibrator_catalog"),
    "ingest": ("subband_group", "measurement_set"),
    "calibration": ("caltables", "calibrated_ms"),
    "imaging": ("tile_image", "hour_mosaic", "night_mosaic"),
    "sources": ("source_measurements", "light_curves", "variability"),
    "reports": ("night_report",),
}
_KINDS = {
    "source_catalog": {"parquet"}, "sky_model": {"parquet"}, "calibrator_catalog": {"parquet"},
    "subband_group": {"hdf5"}, "measurement_set": {"casacore", "aoflagger"}, "caltables": {"casacore", "numba"},
    "calibrated_ms": {"casacore", "numba"}, "tile_image": {"fits", "ducc"}, "hour_mosaic": {"fits"},
    "night_mosaic": {"fits", "hips"}, "source_measurements": {"parquet"}, "light_curves": {"parquet"},
    "variability": {"parquet"}, "night_report": {"html"},
}  # fmt: skip
_POOLS = {"tile_image": "imaging", "caltables": "solving"}
"""At most so many at a time as the pool allows: these take most of the machine."""


def asset(name: str) -> dict[str, Any]:
    """Arguments of `dg.asset` for the asset of this name; its docstring is the description."""
    recipe = recipes.RECIPES[name]
    told: dict[str, Any] = {
        "name": name,
        "partitions_def": _GRIDS[recipe.grain],
        "deps": [_dependency(upstream, name) for upstream in plan.UPSTREAM[name]],
        "group_name": next(group for group, members in _GROUPS.items() if name in members),
        "owners": [OWNER],
        "kinds": _KINDS[name],
        "tags": {"dsa110/grain": recipe.grain},
        "code_version": recipe.code_version,
        "check_specs": checks.specs(name, _GRIDS[recipe.grain]),
        "output_required": False,
    }
    if condition := automation.CONDITIONS.get(name):
        told["automation_condition"] = condition
    if name in _POOLS:
        told["pool"] = _POOLS[name]
    if name == "caltables":
        told["freshness_policy"] = checks.CALTABLES_FRESHNESS
    return told


def _dependency(upstream: str, downstream: str) -> dg.AssetDep:
    """A dependency; a light curve's night also looks back at the nights before it."""
    if downstream == "light_curves":
        return dg.AssetDep(upstream, partition_mapping=THIS_NIGHT_AND_BEFORE)
    return dg.AssetDep(upstream)
