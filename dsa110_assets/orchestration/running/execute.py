"""How a step is executed: one process at a time finds the inputs, opens a draft, and has the asset's body write into it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import xxhash

from dsa110_assets import heap, tracing
from dsa110_assets.archive import beats, files, lineage, naming, quarantine
from dsa110_assets.errors import ConfigurationError, OverrunError, WaitingError
from dsa110_assets.orchestration.planning import plan, requests
from dsa110_assets.orchestration.running import capacity, instance, measuring, policy, publishing, reporting
from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes, spec

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.resources import Platform

LOCKS = 4096
"""So many that work on several hosts seldom meets in one of them by chance."""
LOCK_S, LOOK_AGAIN_S = 600.0, 0.2
"""Longer than a stage takes; with what the step is retried, longer than a hung one lives. Until then it is tried so often."""
NAME_BYTES = 200
"""Longer than any host's name with two numbers: a shorter holder leaves nothing of a longer one before it."""


def execute(context: dg.AssetExecutionContext, platform: "Platform", name: str, body: spec.Body) -> dg.MaterializeResult[Any] | None:
    """Make the asset `name` for the step's partition: find inputs, have `body` write the draft, judge, publish, report.

    A product that is up to date is reported again, not made again, so that a run the platform asked for twice changes nothing; a
    run asked for by hand makes it anew. None when the partition has nothing to be made from, and for a trial.
    """
    from dsa110_assets.archive import integrity

    asset = spec.assets()[name]
    partition = context.partition_key if context.has_partition_key else None
    with _limits_and_errors(context, platform, name, partition) as (attempt, measured):
        archive, settings = platform.archive, platform.settings
        _refuse_range(context)
        integrity.settle(archive, naming.in_trial(name, archive.trial), partition)
        follows = archive.version(naming.in_trial(name, archive.trial), partition)
        with tracing.span("find inputs"):
            ingredients = asset.find(archive, settings, partition or "")
        if ingredients is None:
            measured.outcome = measuring.NOTHING
            reporting.report_nothing_made(context, plan.lacking(archive, settings, name, partition))
            return None
        attempt.request = asset.request(settings, partition, ingredients)
        measured.links += measuring.origins(archive, ingredients.products)
        current = archive.current(name, partition, check=True, removed=True)
        if current and _is_up_to_date(context, platform, current, ingredients):
            measured.outcome = measuring.UP_TO_DATE
            context.log.info(f"{current.id} is up to date{'; retention has taken its data' if current.removed else ''}")
            return reporting.report(context, current)
        if gone := spec.without_data(archive, name, ingredients):
            raise WaitingError(recipes.waiting_for_removed_data(name, partition, gone))
        capacity.require(platform, name, ingredients)
        with publishing.judged_draft(context, platform, asset, ingredients, follows) as draft:
            step = Step(context, platform, asset, ingredients, draft)
            draft.metadata.update(body(step))
            draft.metadata.update(step.seconds)
        measured.outcome, measured.product = measuring.MADE, draft.product
        return reporting.report(context, draft.product)


@contextmanager
def _limits_and_errors(
    context: dg.AssetExecutionContext, platform: "Platform", name: str, partition: str | None
) -> Iterator[tuple[requests.Attempt, measuring.Measured]]:
    """Around a step: its run names this process, errors become Dagster's, the partition is nobody else's, and memory is kept."""
    instance.lower_priority_of_backfill(context.run)
    with (
        requests.failure_recorded(context.instance, context.run.run_id) as attempt,
        measuring.measured(context, platform, name, partition) as measured,
        policy.as_dagster_errors(context.retry_number),
        _quarantine_if_hung(context, platform, partition),
    ):
        instance.claim(context.instance, context.run, platform.archive.root)
        with partition_lock(platform.archive, name, partition), heap.kept():
            yield attempt, measured


def _refuse_range(context: dg.AssetExecutionContext) -> None:
    """ConfigurationError for a run over a range: its first bad window would end the others, and its results would count for all."""
    if context.has_partition_key_range:
        first, last = context.partition_key_range
        raise ConfigurationError(
            f"{context.asset_key.to_user_string()} {first} to {last} in one run: every partition is a run of its own; "
            "launch the range as multiple runs, or with: dsa110 backfill --nights D1..D2 --asset A"
        )


def _is_up_to_date(context: dg.AssetExecutionContext, platform: "Platform", product: "Product", ingredients: recipes.Ingredients) -> bool:
    """Whether nothing is to be made: nobody asked for it by hand, it is not stale, and nothing needs what retention took of it."""
    archive, settings = platform.archive, platform.settings
    if instance.LANE_TAG not in context.run.tags or product.trial != archive.trial:
        return False
    if spec.assets()[product.asset].stale(archive, product, settings, ingredients) is not None:
        return False
    return not product.removed or plan.needed_again(archive, settings, product) is None


@contextmanager
def _quarantine_if_hung(context: dg.AssetExecutionContext, platform: "Platform", partition: str | None) -> Iterator[None]:
    """An observation whose child hung to the last attempt is quarantined: it would hang whoever comes next."""
    try:
        yield
    except OverrunError as error:
        raw = [] if platform.archive.trial else subband_files(platform, partition)
        if raw and policy.last_attempt(error, context.retry_number):
            reason = f"{context.asset_key.to_user_string()}: {str(error).splitlines()[0]}"
            quarantine.quarantine(platform.archive, raw, reason, partition)
        raise


def subband_files(platform: "Platform", partition: str | None) -> list[Path]:
    """The raw files of an observation, as its manifest names them; [] for hours and nights."""
    product = platform.archive.current("subband_group", partition) if partition else None
    return [Path(file.path) for file in lineage.raw_files(product)] if product else []


@contextmanager
def partition_lock(archive: "Archive", name: str, partition: str | None) -> Iterator[None]:
    """One process at a time makes a partition of an asset, whoever asked twice; the other then finds it up to date.

    The lock is one of a fixed number of files, so that they do not pile up, and dies with its process. One that is held by a process
    without a sign of life, on a host that the file server still waits for or in a process that is stopped, holds up nobody: what it
    was about to publish comes second (`archive.publish`). Raises TransientError if a living one keeps it for LOCK_S: the step is tried
    again then, and who holds the lock without going on is ended meanwhile (see `hung`).
    """
    places, what = archive.root / ".locks", f"{naming.in_trial(name, archive.trial)} {partition}"
    places.mkdir(exist_ok=True)
    me = instance.beat(instance.launcher(""))
    beats.keep(archive.root, me)
    path, until = places / f"{xxhash.xxh3_64_intdigest(what.encode()) % LOCKS:04d}", time.monotonic() + LOCK_S
    while (held := files.take_lock(path)) is None and not _is_lost(archive.root, path):
        if time.monotonic() > until:
            raise files.kept_by_another(path, what, LOCK_S)
        time.sleep(LOOK_AGAIN_S)
    try:
        if held is not None:
            os.pwrite(held, me.ljust(NAME_BYTES).encode(), 0)
            os.fsync(held)  # other hosts read it while this one has it open
        yield
    finally:
        if held is not None:
            os.close(held)


def _is_lost(root: Path, path: Path) -> bool:
    """Whether the process that holds a lock file, and wrote its name there, gives no sign of life."""
    holder = path.read_bytes().decode(errors="replace").strip()
    return bool(holder) and beats.lost(root, holder)
