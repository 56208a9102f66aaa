"""Routing of runs to workers, by tags that Dagster's Celery launcher reads; every other launcher ignores them.

An asset that reads the raw files goes to the hosts with the disks (`ingest`), an asset with a pool to the queue of that name (`imaging`,
`solving`), and housekeeping to its own queue. Any worker takes the rest. An observation continues on the host that made its
measurement set, which still has it in memory, as long as that host lives and has a place free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive import beats
from dsa110_assets.orchestration.specification import spec

if TYPE_CHECKING:
    from pathlib import Path

    from dsa110_assets.archive.store import Archive

QUEUE_TAG, PRIORITY_TAG = "dagster-celery/queue", "dagster-celery/run_priority"
ANY, INGEST, HOUSEKEEPING = "dagster", "ingest", "housekeeping"
_HOST, _NEED = "host.", "/"
"""Parts of the name of a host's own queue, host.NAME/NEED; NEED is the queue that the run would otherwise go to."""


def needed(assets: Sequence[str]) -> str:
    """The queue for a run of these assets, by their specifications."""
    specifications = [spec.assets()[name] for name in assets]
    if pools := [asset.pool for asset in specifications if asset.pool]:
        return pools[-1]
    return INGEST if any(asset.reads_raw_files for asset in specifications) else ANY


def of_host(host: str, queue: str) -> str:
    """A host's own queue for runs that would otherwise go to `queue`."""
    return f"{_HOST}{host}{_NEED}{queue}"


def host_of(queue: str) -> str | None:
    """The host that this queue belongs to; None for a queue shared by several hosts."""
    return queue.removeprefix(_HOST).partition(_NEED)[0] if queue.startswith(_HOST) else None


def anywhere(queue: str) -> str:
    """The shared queue for the same need, without the host."""
    return queue.removeprefix(_HOST).partition(_NEED)[2] if queue.startswith(_HOST) else queue


def tags(assets: Sequence[str]) -> dict[str, str]:
    """The tags of a run of these assets that any worker serving their queue may take."""
    return {QUEUE_TAG: needed(assets)}


@dataclass
class Hosts:
    """The living workers, and how many runs wait for or are at each. Queried once for all runs that are requested at one time."""

    workers: Mapping[str, Any]
    taken: dict[str, int]

    @classmethod
    def now(cls, root: "Path", unfinished: Sequence[dg.DagsterRun]) -> "Hosts":
        """The workers with a sign of life in the archive at `root`, and how many of their places these runs take."""
        workers = {name: beat for name, beat in beats.living(root).items() if isinstance(beat, dict)}
        hosts = [host_of(run.tags.get(QUEUE_TAG, "")) for run in unfinished]
        return cls(workers, {host: hosts.count(host) for host in workers})

    def tags(
        self, instance: dg.DagsterInstance, archive: "Archive", assets: Sequence[str], partition: str | None, maker: str
    ) -> dict[str, str]:
        """The tags of a run: for the host that made its first input, if that host serves the queue and has a place free, else for any host.

        `maker` is the tag that names the process that made a run: '<host>/...'.
        """
        queue = needed(assets)
        host = self._holder(instance, archive, assets, partition, maker) if self.workers else None
        worker = self.workers.get(host or "", {})
        if host is None or queue not in worker.get("queues", ()) or self.taken[host] >= worker.get("slots", 0):
            return {QUEUE_TAG: queue}
        self.taken[host] += 1
        return {QUEUE_TAG: of_host(host, queue)}

    def _holder(
        self, instance: dg.DagsterInstance, archive: "Archive", assets: Sequence[str], partition: str | None, maker: str
    ) -> str | None:
        """The host that made the first existing input that belongs to the same observation; None if there is none, or for other grains."""
        first = spec.assets()[assets[0]]
        for name in first.inputs if first.grain == "observation" else ():
            product = archive.current(name, partition) if spec.assets()[name].grain == first.grain else None
            run = instance.get_run_by_id(product.run_id) if product is not None else None
            if run is not None:
                return run.tags.get(maker, "").partition("/")[0]
        return None
