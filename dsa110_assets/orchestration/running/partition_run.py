"""Making one partition through Dagster in the requesting process, and the outcome."""

import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets.archive.product import HELD
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.judging import checks
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.specification import partitions

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.settings import Settings

log = logging.getLogger(__name__)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
INTERRUPTED = "DagsterExecutionInterruptedError"
"""The error that Dagster raises for SIGINT and SIGTERM while it runs a step."""


@dataclass(frozen=True)
class Made:
    """A product that was made."""

    product_id: str
    asset: str
    partition: str | None
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A partition that could not be made, with the class of the error and its reason."""

    asset: str
    partition: str | None
    error_class: str
    reason: str


@dataclass
class Tally:
    """The outcomes of some partitions; `interrupted` says that a signal asked the work to end."""

    made: list[Made] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    waiting: list[plan.Waiting] = field(default_factory=list)
    failed_checks: list[checks.FailedCheck] = field(default_factory=list)
    up_to_date: int = 0
    interrupted: bool = False

    def judge(self, product: "Product") -> None:
        """Record the checks that a product failed."""
        if held := product.metadata.get(HELD):
            self.failed.append(Failed(product.asset, product.partition, "Held", f"{product.id}: {held}"))
        else:
            self.failed_checks += checks.failed([product])

    def add(self, other: "Tally") -> None:
        """Add the outcomes of another tally."""
        self.made += other.made
        self.failed += other.failed
        self.waiting += other.waiting
        self.failed_checks += other.failed_checks
        self.up_to_date += other.up_to_date


@dataclass(frozen=True)
class Task:
    """The assets of a partition that one run is to make; `number` is the partition's among those of its phase."""

    assets: tuple[str, ...]
    partition: str | None
    number: int = 0


class Runs:
    """Makes the requested partitions, one run each, in this process."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance) -> None:
        self.platform, self.instance = platform, instance

    @cached_property
    def _job(self) -> dg.JobDefinition:
        return graph.over(self.platform).resolve_implicit_global_asset_job_def()

    def make(self, task: Task) -> Tally:
        """Run what `task` names and return the outcome: products made and judged, or failures."""
        tally, partition = Tally(), task.partition
        before = {a: self.platform.archive.current(a, partition) for a in task.assets}
        partitions.tell(self.instance, partition)
        began = time.monotonic()
        try:
            result = self._execute(task.assets, partition)
        except dg.DagsterError as error:  # Dagster refused this run; the others can still be made
            log.exception("%s %s", task.assets[0], partition or "")
            tally.failed.append(Failed(task.assets[0], partition, type(error).__name__, " ".join(str(error).split())))
            return tally
        seconds = time.monotonic() - began
        for asset in task.assets:
            product = self.platform.archive.current(asset, partition)
            if product is not None and product != before[asset]:
                tally.made.append(Made(product.id, asset, partition, seconds / len(task.assets)))
                tally.judge(product)
        failures = _failures(result, partition)
        tally.interrupted = any(failed.error_class == INTERRUPTED for failed in failures)
        tally.failed += failures
        return tally

    def _execute(self, assets: Sequence[str], partition: str | None) -> dg.ExecuteInProcessResult:
        run_id = str(uuid.uuid4())
        with _sigterm_restored():
            return self._job.execute_in_process(
                run_config=QUIET,
                instance=self.instance,
                partition_key=partition,
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                raise_on_error=False,
                run_id=run_id,
                tags={instances.LANE_TAG: instances.PROCESS, instances.LAUNCHER_TAG: instances.launcher(run_id)},
            )


def in_a_fork(settings: "Settings") -> Callable[[Task], Tally]:
    """Return the function that makes a partition in a separate process. The process opens its own archive and instance, and logs
    warnings only, as the command does."""
    logging.getLogger("dsa110_assets").setLevel(logging.WARNING)
    return Runs(Platform(settings), instances.open_instance(settings.dagster_home)).make


@contextmanager
def _sigterm_restored() -> Iterator[None]:
    """Restore the handler of SIGTERM: Dagster sets it to that of SIGINT, which is ignored in processes a shell starts in the background."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failures(result: dg.ExecuteInProcessResult, partition: str | None) -> list[Failed]:
    """The failures of a run, with our own reason where `policy` decided the failure."""
    failures = []
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        data = event.step_failure_data
        error_class, reason = policy.failure(data)
        if error_class == "DagsterAssetCheckFailedError":
            continue  # its product is published and held; `Tally.judge` records it with its reasons
        if data.user_failure_data is None and error_class != INTERRUPTED:
            log.error("%s %s: %s", event.step_key, partition, data.error)
        failures.append(Failed(str(event.step_key), partition, error_class, reason))
    return failures
