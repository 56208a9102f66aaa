"""Dagster's queue of runs, which can be stopped: while the platform drains, queued runs stay queued, also over restarts."""

from functools import cached_property
from pathlib import Path
from typing import Any

from dagster import QueuedRunCoordinator

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.ingest import pausing


class DrainableQueue(QueuedRunCoordinator[Any]):
    """The run coordinator that dagster.yaml names: Dagster's own, except that no run is taken from it while the archive drains.

    Its `max_concurrent_runs` has to be in its own configuration, because Dagster prefers a value under `concurrency: runs`.
    """

    def get_run_queue_config(self) -> Any:
        """The limits of dagster.yaml, or 0 runs while the archive drains; Dagster calls it before each look at the queue."""
        limits = super().get_run_queue_config()
        drained = self._root is not None and pausing.paused(self._root, pausing.ALL) is not None
        return limits._replace(max_concurrent_runs=0) if drained else limits

    @cached_property
    def _root(self) -> Path | None:
        """The archive's directory; None in a process without its settings, such as one that only reads."""
        from dsa110_assets import settings

        try:
            return settings.load().archive
        except ConfigurationError:
            return None
