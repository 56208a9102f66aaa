"""The execution of a step: one process at a time finds the inputs, opens a draft, and has the asset's body write into it."""

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
"""The number of lock files: enough that work on several hosts seldom shares one by chance."""
LOCK_S, LOOK_AGAIN_S = 600.0, 0.2
"""How long a lock is tried for, and the interval between tries. LOCK_S is longer than a stage takes; with the step's retries, it is
longer than a hung run lives."""
NAME_BYTES = 200
"""Longer than any host's name with two numbers, so that a short holder's name overwrites all of a longer one before it."""


def execute(context: dg.AssetExecutionContext, platform: "Platform", name: str, body: spec.Body) -> dg.MaterializeResult[Any] | None:
    """Make the asset `name` for the step's partition: find inputs, have `body` write the draft, judge, publish, report.

    A product that is up to date is reported again, not made again, so that a run the platform requested twice changes nothing; a
    run requested by hand makes it again. Returns None when the partition has nothing to be made from, and for a trial.
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
            context.log.info(f"{current.id} is up to date{'; retention has removed its data' if current.removed else ''}")
            return reporting.report(context, current)
        if removed := spec.without_data(archive, name, ingredients):
            raise WaitingError(recipes.waiting_for_removed_data(name, partition, removed))
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
    """Around a step: its run names this process, errors become Dagster's, the partition is locked, and freed memory is kept for reuse."""
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
    """Raise ConfigurationError for a run over a range: its first bad window would end the others, and its results would count for all."""
    if context.has_partition_key_range:
        first, last = context.partition_key_range
        raise ConfigurationError(
            f"{context.asset_key.to_user_string()} {first} to {last} in one run: every partition needs a separate run; "
            "launch the range as multiple runs, or with: dsa110 backfill --nights D1..D2 --asset A"
        )


def _is_up_to_date(context: dg.AssetExecutionContext, platform: "Platform", product: "Product", ingredients: recipes.Ingredients) -> bool:
    """Whether a product need not be made again: the run was not requested by hand, the product is not stale, and nothing needs data
    that retention removed from it."""
    archive, settings = platform.archive, platform.settings
    if instance.LANE_TAG not in context.run.tags or product.trial != archive.trial:
        return False
    if spec.assets()[product.asset].stale(archive, product, settings, ingredients) is not None:
        return False
    return not product.removed or plan.needed_again(archive, settings, product) is None


@contextmanager
def _quarantine_if_hung(context: dg.AssetExecutionContext, platform: "Platform", partition: str | None) -> Iterator[None]:
    """Quarantine an observation whose child process hung in the last attempt too: it would hang the next run as well."""
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
    """Let one process at a time make a partition of an asset, even if it was requested twice; the second then finds it up to date.

    The lock is one of a fixed number of files, so that they do not pile up, and is released when its process ends. A lock held by a
    process that gives no sign of life (a stopped process, or one on a host that the file server still waits for) is not waited for: what
    that process was about to publish comes second (`archive.publish`). Raises TransientError if a living process keeps the lock for
    LOCK_S: the step is then tried again, and a holder that makes no progress is ended meanwhile (see `hung`).
    """
    lock_directory, lock_name = archive.root / ".locks", f"{naming.in_trial(name, archive.trial)} {partition}"
    lock_directory.mkdir(exist_ok=True)
    own_name = instance.beat(instance.launcher(""))
    beats.keep(archive.root, own_name)
    path, until = lock_directory / f"{xxhash.xxh3_64_intdigest(lock_name.encode()) % LOCKS:04d}", time.monotonic() + LOCK_S
    while (descriptor := files.take_lock(path)) is None and not _is_lost(archive.root, path):
        if time.monotonic() > until:
            raise files.kept_by_another(path, lock_name, LOCK_S)
        time.sleep(LOOK_AGAIN_S)
    try:
        if descriptor is not None:
            os.pwrite(descriptor, own_name.ljust(NAME_BYTES).encode(), 0)
            os.fsync(descriptor)  # other hosts read the file while this one has it open
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_lost(root: Path, path: Path) -> bool:
    """Whether the process that holds a lock file, and wrote its name there, gives no sign of life."""
    holder = path.read_bytes().decode(errors="replace").strip()
    return bool(holder) and beats.lost(root, holder)
