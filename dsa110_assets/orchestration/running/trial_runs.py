"""Trials from the shell and from Python: part of the graph made again with other settings, beside science."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive.trials import Trial
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import by_command, instance, process
from dsa110_assets.orchestration.specification import launchpad, spec
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


def make(
    settings: "Settings",
    name: str,
    changes: Mapping[str, Any],
    asset: str,
    through: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Callable[[process.Progress], None] = lambda now: None,
) -> "list[Product]":
    """Make the partitions of `asset` that science has in [since, until) for the trial `name`, with `changes` to the settings (by
    dotted names), and what follows from them up to `through`. Returns what the trial made.

    What the trial has made before and is up to date is not made again. Raises NotFoundError where science has no such partition,
    ConfigurationError for wrong names or settings, and, naming the partition, for a step that failed.
    """
    chain = _chain(asset, through or asset)
    platform = Platform(settings).for_trial(name, changes)
    archive = platform.archive
    assert isinstance(archive, Trial)
    span = plan.Span(since, until)
    first = graph.specifications()[asset].grain
    keys: list[str | None] = [k or None for k in archive.partitions(asset, *span.windows(first)) if not k or span.holds_partition(first, k)]
    if not keys:
        raise NotFoundError(f"there is no {asset} in that time to make a trial of; dsa110 products --asset {asset} lists what there is")
    job = by_command.job(settings)
    made: list[Product] = []
    with instance.open_instance(settings.dagster_home) as dagster:
        for one in chain:
            partitions = _partitions(keys, graph.specifications()[one].grain)
            for number, partition in enumerate(partitions):
                progress(process.Progress(one, number, len(partitions), partition or ""))
                made += _run(job, dagster, archive, one, partition)
            progress(process.Progress(one, len(partitions), len(partitions), ""))
    return made


def _chain(asset: str, through: str) -> list[str]:
    """The assets on the ways from one to the other, in the order of the graph."""
    known = graph.specifications()
    for name in (asset, through):
        if name not in known:
            raise ConfigurationError(f"{name}: no such asset; there are {', '.join(known)}")
    after, before = {asset}, {through}
    for name, one in known.items():
        after |= {name} if after & set(one.inputs) else set()
    for name in reversed(known):
        before |= set(known[name].inputs) if name in before else set()
    if through != asset and known[through].grain == "request":
        raise ConfigurationError(f"{through} has no windows that {asset} tells; its trial is made by itself: --asset {through}")
    if through not in after:
        raise ConfigurationError(f"{through} is not made from {asset}; a trial goes on to what is")
    return [name for name in known if name in after & before]


def _partitions(keys: Sequence[str | None], grain: spec.Grain) -> list[str | None]:
    """The partitions of a grain that hold these."""
    of = {"hour": timegrid.hour_of, "night": timegrid.night_of}.get(grain, str)
    return list(dict.fromkeys(None if key is None else of(key) for key in keys))


def _run(job: dg.JobDefinition, dagster: dg.DagsterInstance, archive: Trial, asset: str, partition: str | None) -> "list[Product]":
    """Make one partition of one asset for the trial."""
    before = _own(archive, asset, partition)
    by_command.run(job, dagster, asset, partition, {launchpad.TRIAL: archive.trial}, "trial", f"the trial {archive.trial}")
    after = _own(archive, asset, partition)
    return [after] if after is not None and after != before else []


def _own(archive: "Archive", asset: str, partition: str | None) -> "Product | None":
    found = archive.current(asset, partition)
    return found if found is not None and found.trial else None
