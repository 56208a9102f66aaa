"""`dsa110 process`: work off the whole graph, to completion, in this process and through Dagster.

Every step is a Dagster run of one partition, so events, checks and metadata are where the web UI looks for
them. What is up to date is not run; a partition that fails is reported and the others go on. Killed at any
moment and started again, it ends with the same products: only the archive decides what is still to do.
"""

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets import heap
from dsa110_assets.archive import files, rows
from dsa110_assets.archive.product import HELD
from dsa110_assets.errors import ConfigurationError, DsaError, WaitingError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.judging import checks
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import policy, reporting
from dsa110_assets.orchestration.specification import partitions, season, spec

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings

log = logging.getLogger(__name__)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
INTERRUPTED = "DagsterExecutionInterruptedError"
"""What Dagster makes of SIGINT and SIGTERM while it runs a step."""


@dataclass(frozen=True)
class Progress:
    """How far the work is: `done` of `total` partitions of the phase, and what is being made."""

    phase: str
    done: int
    total: int
    text: str


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


@dataclass(frozen=True)
class ProcessReport:
    """What `process` did: made, failed, waiting, put aside, and how many partitions were up to date.

    `planned` is what a dry run would do. A product that failed a blocking check is among `failed`, as 'Held';
    `failed_checks` are those of severity ERROR that failed on what is there and went on.
    """

    made: tuple[Made, ...] = ()
    failed: tuple[Failed, ...] = ()
    waiting: tuple[plan.Waiting, ...] = ()
    quarantined: tuple[str, ...] = ()
    up_to_date: int = 0
    failed_checks: tuple[checks.FailedCheck, ...] = ()
    planned: tuple[plan.Step, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all that was asked for is done; whether it is good is what `failed_checks` say."""
        return not self.failed and not self.waiting


@dataclass
class _Tally:
    made: list[Made] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    waiting: list[plan.Waiting] = field(default_factory=list)
    failed_checks: list[checks.FailedCheck] = field(default_factory=list)
    up_to_date: int = 0


def process(
    settings: "Settings",
    since: datetime | None = None,
    until: datetime | None = None,
    through: str | None = None,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
    instance: dg.DagsterInstance | None = None,
) -> ProcessReport:
    """Make everything that is missing or stale for observation windows in [since, until), up to asset `through`.

    Returns the report; raises ConfigurationError for what makes any work impossible (no inbox, unwritable
    archive, another `process` on the same archive). A dry run changes nothing and lists the steps.
    """
    from dsa110_assets.archive import integrity

    began = time.monotonic()
    span, wanted = plan.span(since, until), plan.phases(through)
    if dry_run:
        return _dry_run(settings, span, through)
    platform = Platform(settings)
    with _alone(platform), heap.kept():
        dagster = instance or instances.open_instance(settings.dagster_home)
        archive = platform.archive
        instances.close_orphans(dagster, archive.root)
        integrity.sweep(archive)
        seen, quarantined = plan.scan_and_quarantine(archive, settings)
        arrived = {c.observation: [header.path for header in c.group.files.values()] for c in seen.ready() if span.holds(c.observation)}
        if any(assets[0] == "subband_group" for _, assets in wanted):
            _read_ahead(arrived, list(arrived))
        tally = _Tally()
        tally.waiting += [
            plan.Waiting(c.observation, c.reason) for c in seen.candidates if c.state == "waiting" and span.holds(c.observation)
        ]
        tally.waiting += [plan.Waiting(path.name, reason) for path, reason in seen.waiting if not path.stem.endswith("_incomplete")]
        runner = _Runner(platform, dagster, tally)
        for grain, assets in wanted:
            fresh = arrived if assets[0] == "subband_group" else {}
            keys = plan.partitions(archive, grain, assets[0], span, list(arrived))
            for number, (key, there) in enumerate(plan.snapshots_in_portions(archive, assets, keys, lambda: runner.runs)):
                if progress:
                    progress(Progress(assets[-1], number, len(keys), key or ""))
                _read_ahead(fresh, keys[number + 1 :])
                runner.bring_up_to_date(there, assets, key, fresh=key in fresh)
            if progress:
                progress(Progress(assets[-1], len(keys), len(keys), ""))
        runner.report_to_dagster(wanted, span)
    return ProcessReport(
        made=tuple(tally.made),
        failed=tuple(tally.failed),
        waiting=tuple(tally.waiting),
        quarantined=tuple(quarantined),
        up_to_date=tally.up_to_date,
        failed_checks=tuple(tally.failed_checks),
        seconds=time.monotonic() - began,
    )


def _read_ahead(arrived: Mapping[str, Sequence[Path]], keys: Sequence[str | None]) -> None:
    """Have the disk fetch the files of the first of these observations while something else is done."""
    files.read_ahead(arrived.get(keys[0] or "", ()) if keys else ())


def _dry_run(settings: "Settings", span: plan.Span, through: str | None) -> ProcessReport:
    """The steps that would be taken; nothing is made, not even the archive."""
    from dsa110_assets.archive.store import MARKER, Archive

    if not (settings.archive / MARKER).exists():
        seen = plan.scan_without_archive(settings)
        keys = [c.observation for c in seen.ready() if span.holds(c.observation)]
        return ProcessReport(planned=tuple(plan.forecast_without_archive(keys, through)), waiting=_waiting(seen))
    archive = Archive(settings.archive, settings.database_url)
    seen = plan.scan_inbox_when_still(archive, settings)
    return ProcessReport(planned=tuple(plan.forecast(archive, settings, seen, span, through)), waiting=_waiting(seen))


def _waiting(seen: inbox.Inbox) -> tuple[plan.Waiting, ...]:
    return tuple(plan.Waiting(c.observation, c.reason) for c in seen.candidates if c.state == "waiting")


@contextmanager
def _alone(platform: Platform) -> Iterator[None]:
    """One `process` at a time on an archive: a second would make the same products. The lock dies with us."""
    root = platform.archive.root
    with ExitStack() as held:
        try:
            held.enter_context(
                files.exclusive_lock(
                    root / ".process.lock",
                    f"pid {os.getpid()}",
                    lambda other: f"`dsa110 process` already runs on {root} ({other}); wait for it",
                )
            )
        except OSError as error:
            raise ConfigurationError(f"DSA110_ARCHIVE={root} cannot be written ({error.strerror})") from error
        yield


class _Runner:
    """Runs partitions through Dagster in this process, and keeps the tally."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance, tally: _Tally) -> None:
        self.platform, self.instance, self.tally = platform, instance, tally
        self.quarantined = plan.quarantined_observations(platform.archive)
        self.runs = 0
        self.job = graph.over(platform).resolve_implicit_global_asset_job_def()

    def bring_up_to_date(self, archive: "Archive", assets: Sequence[str], partition: str | None, *, fresh: bool) -> None:
        """Run, in one run, from the first of these assets that is missing or stale to the last of them, by what `archive` holds.

        `fresh` says that the inbox holds files for the partition that its manifest does not name.
        """
        if (
            partition is not None
            and partition in self.quarantined
            and graph.specifications()[assets[0]].grain == "observation"
            and not fresh
        ):
            self.tally.waiting.append(plan.Waiting(partition, self.quarantined[partition]))
            return
        todo = self._todo(archive, assets, partition, fresh)
        done = [asset for asset in assets if asset not in todo]
        for asset in done:
            self._count(archive.current(asset, partition, removed=True))
        if not todo:
            return
        if reason := season.outside(graph.specifications()[todo[0]].grain, partition, inbox.now_s()):
            self.tally.waiting.append(plan.Waiting(f"{todo[0]} {partition}", reason))
        else:
            self._run(todo, partition)

    def _count(self, product: "Product | None") -> None:
        """An up-to-date product; what is wrong with it is told each time: it is no better for being old."""
        if product is not None:
            self.tally.up_to_date += 1
            self._judge(product)

    def _judge(self, product: "Product") -> None:
        """Tell what its checks said against a product."""
        if held := product.metadata.get(HELD):
            self.tally.failed.append(Failed(product.asset, product.partition, "Held", f"{product.id}: {held}"))
        else:
            self.tally.failed_checks += checks.failed([product])

    def _todo(self, archive: "Archive", assets: Sequence[str], partition: str | None, fresh: bool) -> list[str]:
        for number, asset in enumerate(assets):
            try:
                reason = plan.reason_to_make(archive, self.platform.settings, asset, partition)
            except WaitingError as error:
                self.tally.waiting.append(plan.Waiting(f"{asset} {partition or ''}".strip(), str(error)))
                return []
            except (DsaError, OSError) as error:
                self.tally.failed.append(_failed(asset, partition, error))
                return []
            if reason or (fresh and number == 0):
                return list(assets[number:])
        return []

    def _run(self, assets: Sequence[str], partition: str | None) -> None:
        before = {a: self.platform.archive.current(a, partition) for a in assets}
        self.runs += 1
        partitions.tell(self.instance, partition)
        began, run_id = time.monotonic(), str(uuid.uuid4())
        try:
            with _sigterm_restored():
                result = self.job.execute_in_process(
                    run_config=QUIET,
                    instance=self.instance,
                    partition_key=partition,
                    asset_selection=[dg.AssetKey(asset) for asset in assets],
                    raise_on_error=False,
                    run_id=run_id,
                    tags={instances.LANE_TAG: instances.PROCESS, instances.LAUNCHER_TAG: instances.launcher(run_id)},
                )
        except dg.DagsterError as error:  # it did not take this run; the others are no worse for it
            log.exception("%s %s", assets[0], partition or "")
            self.tally.failed.append(Failed(assets[0], partition, type(error).__name__, " ".join(str(error).split())))
            return
        seconds = time.monotonic() - began
        for asset in assets:
            product = self.platform.archive.current(asset, partition)
            if product is not None and product != before[asset]:
                self.tally.made.append(Made(product.id, asset, partition, seconds / len(assets)))
                self._judge(product)
        failures = _failures(result, partition)
        if any(failed.error_class == INTERRUPTED for failed in failures):
            raise KeyboardInterrupt  # Dagster catches the signal to end its run; the work as a whole ends too
        self.tally.failed += failures

    def report_to_dagster(self, wanted: Sequence[tuple[spec.Grain, Sequence[str]]], span: plan.Span) -> None:
        """Report products Dagster does not know of: a kill between index row and event, or a new DAGSTER_HOME."""
        for grain, assets in wanted:
            for asset in assets:
                key = dg.AssetKey(asset)
                if grain == "catalogue":
                    untold: list[str | None] = [None] if self.instance.get_latest_materialization_event(key) is None else []
                else:
                    there = self.platform.archive.partitions(asset, *span.windows(grain))
                    partitions.tell(self.instance, *there)
                    inside = [one for one in there if span.holds_partition(grain, one)]
                    known = {one for chunk in rows.chunks(inside) for one in self._told(key, chunk)}
                    untold = [one for one in inside if one not in known]
                for partition in untold:
                    product = self.platform.archive.current(asset, partition)
                    if product is not None:
                        self._tell(product)

    def _told(self, key: dg.AssetKey, partitions: Sequence[str]) -> Collection[str]:
        """Those of these partitions that Dagster knows: what it knows of others is not read."""
        return self.instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions)).keys()

    def _tell(self, product: "Product") -> None:
        """Report a product; where that fails the next `process` does it, and the other products are told now."""
        try:
            self.instance.report_runless_asset_event(_event(product))
        except (DsaError, OSError, dg.DagsterError) as error:
            log.error("%s: Dagster does not know of it yet: %s", product.id, error)


@contextmanager
def _sigterm_restored() -> Iterator[None]:
    """Dagster leaves SIGTERM as SIGINT is, and that is ignored in what a shell starts in the background."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failed(asset: str, partition: str | None, raised: DsaError | OSError) -> Failed:
    error = policy.as_dsa_error(raised)
    return Failed(asset, partition, type(error).__name__, str(error))


def _event(product: "Product") -> dg.AssetMaterialization:
    metadata: Mapping[str, Any] = reporting.materialization_metadata(product)
    tags = {reporting.VERSION_TAG: product.digest}
    return dg.AssetMaterialization(dg.AssetKey(product.asset), partition=product.partition, metadata=metadata, tags=tags)


def _failures(result: dg.ExecuteInProcessResult, partition: str | None) -> list[Failed]:
    """What failed in a run, in our own words where the failure was decided by `policy`."""
    found = []
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        data = event.step_failure_data
        error_class, reason = policy.failure(data)
        if error_class == "DagsterAssetCheckFailedError":
            continue  # its product is there, and held: told with its reasons below
        if data.user_failure_data is None and error_class != INTERRUPTED:
            log.error("%s %s: %s", event.step_key, partition, data.error)
        found.append(Failed(str(event.step_key), partition, error_class, reason))
    return found
