"""Ending a run, and requesting again what a run was to make."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.running import backfill
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.specification import launchpad
from dsa110_assets.orchestration.watching import history

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings


def cancel(home: Path, run: history.Run) -> None:
    """End a queued or running run. Raises NotFoundError if it has ended, ConfigurationError if its process cannot be reached from here."""
    if run.status not in history.UNFINISHED:
        raise NotFoundError(f"run {run.run_id} is not queued or running: it ended as {run.status}")
    with instances.open_instance(home) as instance:
        if run.began_at is not None and run.tags.get(instances.LANE_TAG) == "process":
            host, pid, *_ = (*run.tags.get(instances.LAUNCHER_TAG, "").split("/"), "", "")
            raise ConfigurationError(f"run {run.run_id} belongs to `dsa110 process` (process {pid} on {host}): end that with Ctrl-C")
        if not instance.run_coordinator.cancel_run(run.run_id):
            raise ConfigurationError(f"run {run.run_id}: its process does not answer; `dsa110 up` ends runs whose process is gone")


def retry(settings: "Settings", run: history.Run) -> str:
    """Queue what a failed or cancelled run was to make, as a backfill, for the same trial if it had one. Returns the backfill's id.

    Raises NotFoundError if the run did not fail, or was to make nothing that the graph has.
    """
    if run.status not in history.ENDED_BADLY:
        raise NotFoundError(f"run {run.run_id} did not fail: it is {run.status}")
    assets = tuple(name for name in graph.specifications() if name in run.assets)
    if not assets or run.partition is None:
        raise NotFoundError(f"run {run.run_id} made no partition of any known asset; `dsa110 process` makes what is missing")
    with instances.open_instance(settings.dagster_home) as instance:
        launch = backfill.Launch(None, assets, (run.partition,), config=_trial_config(instance, run.run_id))
        return str(backfill.hand_over(instance, launch, {**backfill.TAGS, "dsa110/retry": run.run_id}).backfill_id)


def _trial_config(instance: dg.DagsterInstance, run_id: str) -> dict[str, Any] | None:
    """The config of a run's assets by name, if the run was made for a trial; else None."""
    run = instance.get_run_by_id(run_id)
    run_config: dict[str, Any] = dict(run.run_config) if run is not None else {}
    by_asset = {name: op.get("config", {}) for name, op in run_config.get("ops", {}).items()}
    return by_asset if any(config.get(launchpad.TRIAL) for config in by_asset.values()) else None
