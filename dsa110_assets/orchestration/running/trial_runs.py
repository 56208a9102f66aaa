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
    """Make, for the trial `name`, the partitions of `asset` that science has in [since, until), with `changes` to the settings (by
    dotted names), and the assets that follow from them up to `through`. Returns the products that the trial made.

    Products that the trial made before and that are up to date are not made again. Raises NotFoundError if science has no such
    partition, and ConfigurationError for wrong names or settings and, naming the partition, for a step that failed.
    """
    chain = _chain(asset, through or asset)
    platform = Platform(settings).for_trial(name, changes)
    archive = platform.archive
    assert isinstance(archive, Trial)
    span = plan.Span(since, until)
    first = graph.specifications()[asset].grain
    keys: list[str | None] = [k or None for k in archive.partitions(asset, *span.windows(first)) if not k or span.holds_partition(first, k)]
    if not keys:
        raise NotFoundError(
            f"there is no {asset} in that time to make a trial of; dsa110 products --asset {asset} lists those in the archive"
        )
    job = by_command.job(settings)
    made: list[Product] = []
    with instance.open_instance(settings.dagster_home) as dagster:
        for step in chain:
            partitions = _partitions(keys, graph.specifications()[step].grain)
            for number, partition in enumerate(partitions):
                progress(process.Progress(step, number, len(partitions), partition or ""))
                made += _run(job, dagster, archive, step, partition)
            progress(process.Progress(step, len(partitions), len(partitions), ""))
    return made


def _chain(asset: str, through: str) -> list[str]:
    """The assets on the paths from `asset` to `through`, in the order of the graph."""
    specifications = graph.specifications()
    for name in (asset, through):
        if name not in specifications:
            raise ConfigurationError(f"{name}: no such asset; there are {', '.join(specifications)}")
    after, before = {asset}, {through}
    for name, one in specifications.items():
        after |= {name} if after & set(one.inputs) else set()
    for name in reversed(specifications):
        before |= set(specifications[name].inputs) if name in before else set()
    if through != asset and specifications[through].grain == "request":
        raise ConfigurationError(
            f"{through} has no windows that follow from those of {asset}; its trial is made by itself: --asset {through}"
        )
    if through not in after:
        raise ConfigurationError(f"{through} is not made from {asset}; name an asset that is")
    return [name for name in specifications if name in after & before]


def _partitions(keys: Sequence[str | None], grain: spec.Grain) -> list[str | None]:
    """The partitions of a grain that contain these keys."""
    key_of = {"hour": timegrid.hour_of, "night": timegrid.night_of}.get(grain, str)
    return list(dict.fromkeys(None if key is None else key_of(key) for key in keys))


def _run(job: dg.JobDefinition, dagster: dg.DagsterInstance, archive: Trial, asset: str, partition: str | None) -> "list[Product]":
    """Make one partition of one asset for the trial."""
    before = _own(archive, asset, partition)
    by_command.run(job, dagster, asset, partition, {launchpad.TRIAL: archive.trial}, "trial", f"the trial {archive.trial}")
    after = _own(archive, asset, partition)
    return [after] if after is not None and after != before else []


def _own(archive: "Archive", asset: str, partition: str | None) -> "Product | None":
    product = archive.current(asset, partition)
    return product if product is not None and product.trial else None
