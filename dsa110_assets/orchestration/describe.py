"""How each asset presents itself to Dagster: partitions, dependencies, group, owner, kinds, tags, checks."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from dsa110_assets.orchestration import automation, checks, plan, recipes
from dsa110_assets.orchestration.partitions import HOURS, NIGHTS, OBSERVATIONS, THIS_NIGHT_AND_BEFORE
from dsa110_assets.orchestration.resources import Platform

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
    "subband_group": {"hdf5"}, "measurement_set": {"casacore", "numba"}, "caltables": {"casacore", "numba"},
    "calibrated_ms": {"casacore", "numba"}, "tile_image": {"fits", "ducc"}, "hour_mosaic": {"fits"},
    "night_mosaic": {"fits", "hips"}, "source_measurements": {"parquet"}, "light_curves": {"parquet"},
    "variability": {"parquet"}, "night_report": {"html"},
}  # fmt: skip
_POOLS = {"tile_image": "imaging", "caltables": "solving"}
"""At most so many at a time as the pool allows: these take most of the machine."""

Body = Callable[[dg.AssetExecutionContext, Platform], dg.MaterializeResult[Any] | None]


def asset(name: str) -> Callable[[Body], dg.AssetsDefinition]:
    """Make a body the asset of this name; its docstring is the description.

    It has no backfill policy: then Dagster makes a range as one run for each partition, named in the run's tags. They share the
    machine as the lanes say, one window without data or with bad data is nobody else's, and each is tried again by itself.
    The body returns what it made, or None where there was nothing to make it from: the partition then stays
    unmaterialised and what hangs on it is skipped, without failing the run or a backfill over empty windows.
    """
    recipe = recipes.RECIPES[name]

    def decorate(body: Body) -> dg.AssetsDefinition:
        spec = dg.AssetSpec(
            name,
            deps=[_dependency(upstream, name) for upstream in plan.UPSTREAM[name]],
            description=inspect.getdoc(body),
            skippable=True,
            group_name=next(group for group, members in _GROUPS.items() if name in members),
            owners=[OWNER],
            kinds=_KINDS[name],
            tags={"dsa110/grain": recipe.grain},
            code_version=recipe.code_version,
            automation_condition=automation.CONDITIONS.get(name),
            freshness_policy=checks.CALTABLES_FRESHNESS if name == "caltables" else None,
        )

        @dg.multi_asset(
            name=name,
            specs=[spec],
            partitions_def=_GRIDS[recipe.grain],
            check_specs=checks.specs(name, _GRIDS[recipe.grain]),
            pool=_POOLS.get(name),
            can_subset=True,  # what makes a check optional as well as its asset
        )
        def step(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Any]:
            made = body(context, platform)
            if made is not None:
                yield made

        return step

    return decorate


def _dependency(upstream: str, downstream: str) -> dg.AssetDep:
    """A dependency; a night's light curves follow from the measurements of the night before too."""
    if downstream == "light_curves":
        return dg.AssetDep(upstream, partition_mapping=THIS_NIGHT_AND_BEFORE)
    return dg.AssetDep(upstream)
