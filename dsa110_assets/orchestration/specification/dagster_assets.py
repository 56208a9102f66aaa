"""How an asset presents itself to Dagster: partitions, dependencies, group, owner, kinds, tags, checks."""

import inspect
from collections.abc import Iterator
from typing import Any

import dagster as dg

from dsa110_assets.orchestration.judging import rules
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.running.execute import execute
from dsa110_assets.orchestration.specification import launchpad, spec
from dsa110_assets.orchestration.specification.partitions import HOURS, NIGHTS, NOT_BY_WINDOW, OBSERVATIONS, REQUESTS, THIS_NIGHT_AND_BEFORE

OWNER = "team:dsa110"
GRAIN_TAG = "dsa110/grain"
_GRIDS: dict[spec.Grain, dg.TimeWindowPartitionsDefinition | dg.DynamicPartitionsDefinition | None] = {
    "catalogue": None, "observation": OBSERVATIONS, "hour": HOURS, "night": NIGHTS, "request": REQUESTS,
}  # fmt: skip


def definition(asset: spec.Asset, body: spec.Body) -> dg.AssetsDefinition:
    """Return the Dagster definition of an asset; the docstring of its body is the description.

    It has no backfill policy, so that Dagster makes a range as one run per partition, named in the run's tags. These runs share the
    machine according to their lanes, a window without data or with bad data does not affect the others, and each is retried by
    itself. Where there is nothing to make a partition from, nothing is yielded: the partition stays unmaterialised and its
    dependents are skipped, without failing the run or a backfill over empty windows.
    """
    grid = _GRIDS[asset.grain]
    mapping = THIS_NIGHT_AND_BEFORE if asset.nights_before else NOT_BY_WINDOW if asset.grain == "request" else None

    @dg.multi_asset(
        name=asset.name,
        specs=[
            dg.AssetSpec(
                asset.name,
                deps=[dg.AssetDep(name, partition_mapping=mapping) for name in asset.inputs],
                description=inspect.getdoc(body),
                skippable=True,
                group_name=body.__module__.rpartition(".")[2],
                owners=[OWNER],
                kinds=set(asset.kinds),
                tags={GRAIN_TAG: asset.grain},
                code_version=asset.code_version,
                freshness_policy=asset.freshness,
            )
        ],
        partitions_def=grid,
        check_specs=rules.check_specs(asset.name, asset.rules, grid),
        config_schema=launchpad.schema(asset),
        pool=asset.pool,
        can_subset=True,  # makes the checks optional as well as the asset
    )
    def step(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Iterator[Any]:
        with policy.as_dagster_errors(context.retry_number):
            config = context.op_execution_context.op_config
            step_platform = launchpad.platform_for(platform, {name: value for name, value in config.items() if name not in asset.asks})
            if asset.keep_request is not None:
                asset.keep_request(step_platform.archive, context.partition_key, config)
        result = execute(context, step_platform, asset.name, body)
        if result is not None:
            yield result

    return step
