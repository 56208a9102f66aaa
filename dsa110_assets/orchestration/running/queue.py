"""Dagster's queue of runs, with a tap: while the platform drains, what is queued stays queued, over restarts, too."""

from functools import cached_property
from pathlib import Path
from typing import Any

from dagster import QueuedRunCoordinator

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.ingest import pausing


class DrainableQueue(QueuedRunCoordinator[Any]):
    """The run coordinator that dagster.yaml names: Dagster's own, of which nothing is taken while the archive drains.

    Its `max_concurrent_runs` has to be in its own configuration: Dagster prefers what stands under `concurrency: runs`.
    """

    def get_run_queue_config(self) -> Any:
        """The limits of dagster.yaml; asked for before each look at the queue."""
        limits = super().get_run_queue_config()
        drained = self._root is not None and pausing.paused(self._root, pausing.ALL) is not None
        return limits._replace(max_concurrent_runs=0) if drained else limits

    @cached_property
    def _root(self) -> Path | None:
        """The archive; None in a process without its settings, such as one that only looks."""
        from dsa110_assets import settings

        try:
            return settings.load().archive
        except ConfigurationError:
            return None
