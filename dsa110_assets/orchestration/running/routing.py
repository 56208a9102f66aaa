"""Which workers are to take a run, said in tags that Dagster's Celery launcher reads; every other launcher passes them over.

An asset that reads the raw files goes where the disks are (`ingest`), one with a pool to the queue of that name (`imaging`,
`solving`), housekeeping to its own. What says nothing is taken by every worker. An observation goes on on the host that made its
measurement set, whose memory still holds it, as long as that host lives and has a place free.
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
"""A host's own queue: host.NAME/NEED, with what it is taken from at the end."""


def needed(assets: Sequence[str]) -> str:
    """The queue of a run of these assets, by their specifications."""
    known = [spec.assets()[name] for name in assets]
    if pools := [asset.pool for asset in known if asset.pool]:
        return pools[-1]
    return INGEST if any(asset.reads_raw_files for asset in known) else ANY


def of_host(host: str, queue: str) -> str:
    """A host's own queue for what could go to this one."""
    return f"{_HOST}{host}{_NEED}{queue}"


def host_of(queue: str) -> str | None:
    """The host whose own queue this is; None for one that several may take from."""
    return queue.removeprefix(_HOST).partition(_NEED)[0] if queue.startswith(_HOST) else None


def anywhere(queue: str) -> str:
    """The same need without the host."""
    return queue.removeprefix(_HOST).partition(_NEED)[2] if queue.startswith(_HOST) else queue


def tags(assets: Sequence[str]) -> dict[str, str]:
    """The tags of a run of these assets that any worker may take who serves their queue."""
    return {QUEUE_TAG: needed(assets)}


@dataclass
class Hosts:
    """The workers that live, and how many runs wait for or are at each: asked once, for all that is requested at one time."""

    workers: Mapping[str, Any]
    taken: dict[str, int]

    @classmethod
    def now(cls, root: "Path", unfinished: Sequence[dg.DagsterRun]) -> "Hosts":
        """The workers with a sign of life in the archive at `root`, and what these runs take of their places."""
        workers = {name: told for name, told in beats.living(root).items() if isinstance(told, dict)}
        hosts = [host_of(run.tags.get(QUEUE_TAG, "")) for run in unfinished]
        return cls(workers, {host: hosts.count(host) for host in workers})

    def tags(
        self, instance: dg.DagsterInstance, archive: "Archive", assets: Sequence[str], partition: str | None, maker: str
    ) -> dict[str, str]:
        """The tags of a run: to the host that made what it begins with, if that serves the queue and has a place free, else to any.

        `maker` is the tag that tells who ran a run: '<host>/...'.
        """
        queue = needed(assets)
        host = self._holder(instance, archive, assets, partition, maker) if self.workers else None
        told = self.workers.get(host or "", {})
        if host is None or queue not in told.get("queues", ()) or self.taken[host] >= told.get("slots", 0):
            return {QUEUE_TAG: queue}
        self.taken[host] += 1
        return {QUEUE_TAG: of_host(host, queue)}

    def _holder(
        self, instance: dg.DagsterInstance, archive: "Archive", assets: Sequence[str], partition: str | None, maker: str
    ) -> str | None:
        """The host that made the input of an observation's step that is of the same observation."""
        first = spec.assets()[assets[0]]
        for name in first.inputs if first.grain == "observation" else ():
            product = archive.current(name, partition) if spec.assets()[name].grain == first.grain else None
            run = instance.get_run_by_id(product.run_id) if product is not None else None
            if run is not None:
                return run.tags.get(maker, "").partition("/")[0]
        return None
