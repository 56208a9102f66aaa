"""Making one partition of one asset in this process, by a separate run, for a command that requested only that."""

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance, partition_run, policy
from dsa110_assets.orchestration.specification import partitions

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings


def job(settings: "Settings") -> dg.JobDefinition:
    """The job from which `run` executes one step."""
    return graph.over(Platform(settings)).resolve_implicit_global_asset_job_def()


def run(
    job: dg.JobDefinition, dagster: dg.DagsterInstance, asset: str, partition: str | None, config: Mapping[str, Any], lane: str, who: str
) -> None:
    """Make an asset's partition with this run config, if it is not up to date. The run is tagged with `lane`. Raises ConfigurationError,
    a sentence about `who`, if it fails."""
    run_id = str(uuid.uuid4())
    partitions.tell(dagster, partition)
    done = job.execute_in_process(
        run_config={**partition_run.QUIET, "ops": {asset: {"config": dict(config)}}},
        instance=dagster,
        partition_key=partition,
        asset_selection=[dg.AssetKey(asset)],
        raise_on_error=False,
        run_id=run_id,
        tags={instance.LANE_TAG: lane, instance.LAUNCHER_TAG: instance.launcher(run_id)},
    )
    for event in done.all_events:
        if event.is_step_failure:
            error_class, reason = policy.failure(event.step_failure_data)
            if error_class != "DagsterAssetCheckFailedError":  # its product is published and held, as its checks say
                raise ConfigurationError(f"{who} could not make {asset} {partition or ''}: {error_class}: {reason}")
