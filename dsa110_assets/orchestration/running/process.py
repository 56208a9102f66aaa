"""`dsa110 process`: bring the whole graph up to date, to completion, without a daemon but through Dagster.

Every step is a Dagster run of one partition, so events, checks and metadata are where the web UI looks for
them. Partitions that are up to date are not run; a partition that fails is reported and the others go on. Killed at any
moment and started again, it ends with the same products: only the archive decides what is still to be done.

Neighbouring observations are made side by side if requested (`SideBySide`): while one of them reads and writes, the
others compute. The plan, its order and the report are the same either way.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets import forks, heap
from dsa110_assets.archive import files, rows
from dsa110_assets.errors import ConfigurationError, DsaError, ResourceError, TransientError, WaitingError
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.judging import checks
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import policy, reporting
from dsa110_assets.orchestration.running.partition_run import Failed, Made, Runs, Tally, Task, in_a_fork
from dsa110_assets.orchestration.specification import partitions, season, spec

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """The progress of the work: `done` of `total` partitions of the phase, and what is being made."""

    phase: str
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class ProcessReport:
    """What `process` did: products made, failed, waiting, quarantined, and how many partitions were up to date.

    `planned` are the steps a dry run would take. A product that failed a blocking check is among `failed`, as 'Held';
    `failed_checks` are checks of severity ERROR that failed on published products without holding them.
    """

    made: tuple[Made, ...] = ()
    failed: tuple[Failed, ...] = ()
    waiting: tuple[plan.Waiting, ...] = ()
    quarantined: tuple[str, ...] = ()
    up_to_date: int = 0
    failed_checks: tuple[checks.FailedCheck, ...] = ()
    planned: tuple[plan.PlannedStep, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything requested was done. `failed_checks` say whether it is good."""
        return not self.failed and not self.waiting


@dataclass(frozen=True)
class SideBySide:
    """How many observations are made at a time, in forks of a process that has imported `preload`."""

    at_once: int
    preload: str


def process(
    settings: "Settings",
    since: datetime | None = None,
    until: datetime | None = None,
    through: str | None = None,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
    instance: dg.DagsterInstance | None = None,
    *,
    side_by_side: SideBySide | None = None,
) -> ProcessReport:
    """Make everything that is missing or stale for observation windows in [since, until), up to asset `through`.

    Runs are made in this process, one after another, unless `side_by_side` is given. Returns the report. Raises ConfigurationError
    if no work is possible (no inbox, unwritable archive, another `process` on the same archive). A dry run changes nothing
    and lists the steps.
    """
    from dsa110_assets.archive import integrity

    began = time.monotonic()
    span, phases = plan.span(since, until), plan.phases(through)
    if dry_run:
        return _dry_run(settings, span, through)
    platform, tally = Platform(settings), Tally()
    with _alone(platform), heap.kept(), _crew(settings, side_by_side) as crew:
        dagster = instance or instances.open_instance(settings.dagster_home)
        archive = platform.archive
        instances.close_orphans(dagster, archive.root)
        integrity.sweep(archive)
        scan, quarantined = plan.scan_and_quarantine(archive, settings)
        arrived = {c.observation: [header.path for header in c.group.files.values()] for c in scan.ready() if span.holds(c.observation)}
        if any(assets[0] == "subband_group" for _, assets in phases):
            _read_ahead(arrived, list(arrived))
            if crew is not None and len(arrived) > 1:
                crew.warm_up()
        tally.waiting += [
            plan.Waiting(c.observation, c.reason) for c in scan.candidates if c.state == "waiting" and span.holds(c.observation)
        ]
        tally.waiting += [plan.Waiting(path.name, reason) for path, reason in scan.waiting if not path.stem.endswith("_incomplete")]
        runner = _Runner(platform, dagster, tally, crew, side_by_side.at_once if side_by_side else 1)
        for grain, assets in phases:
            fresh = arrived if assets[0] == "subband_group" else {}
            keys = plan.partitions(archive, grain, assets[0], span, list(arrived))
            snapshots = plan.snapshots_in_portions(archive, assets, keys, lambda: runner.runs)
            runner.bring_up_to_date(grain, assets, _one_by_one(snapshots, assets[-1], keys, fresh, progress), fresh)
            if progress:
                progress(Progress(assets[-1], len(keys), len(keys), ""))
        runner.report_to_dagster(phases, span)
    return ProcessReport(
        made=tuple(tally.made),
        failed=tuple(tally.failed),
        waiting=tuple(tally.waiting),
        quarantined=tuple(quarantined),
        up_to_date=tally.up_to_date,
        failed_checks=tuple(tally.failed_checks),
        seconds=time.monotonic() - began,
    )


def _one_by_one(
    snapshots: "Iterator[tuple[str | None, Archive]]",
    phase: str,
    keys: Sequence[str | None],
    fresh: Mapping[str, Sequence[Path]],
    progress: Callable[[Progress], None] | None,
) -> "Iterator[tuple[str | None, Archive]]":
    """Yield the same pairs. Before each, report progress and have the disk fetch the files that the next one will read."""
    for number, (key, archive) in enumerate(snapshots):
        if progress:
            progress(Progress(phase, number, len(keys), key or ""))
        _read_ahead(fresh, keys[number + 1 :])
        yield key, archive


def _crew(settings: "Settings", side_by_side: SideBySide | None) -> AbstractContextManager[forks.Forks | None]:
    """The forks that make observations side by side; None if that was not requested."""
    if side_by_side is None or side_by_side.at_once < 2:
        return nullcontext()
    return forks.Forks(side_by_side.preload, partial(in_a_fork, settings))


def _read_ahead(arrived: Mapping[str, Sequence[Path]], keys: Sequence[str | None]) -> None:
    """Have the disk fetch the files of the first of these observations in the background."""
    files.read_ahead(arrived.get(keys[0] or "", ()) if keys else ())


def _dry_run(settings: "Settings", span: plan.Span, through: str | None) -> ProcessReport:
    """A report of the steps that would be taken. Nothing is made, not even the archive."""
    from dsa110_assets.archive.store import MARKER, Archive

    if not (settings.archive / MARKER).exists():
        scan = plan.scan_without_archive(settings)
        keys = [c.observation for c in scan.ready() if span.holds(c.observation)]
        return ProcessReport(planned=tuple(plan.forecast_without_archive(keys, through)), waiting=_waiting(scan))
    archive = Archive(settings.archive, settings.database_url)
    scan = plan.scan_inbox_when_still(archive, settings)
    return ProcessReport(planned=tuple(plan.forecast(archive, settings, scan, span, through)), waiting=_waiting(scan))


def _waiting(scan: inbox.Inbox) -> tuple[plan.Waiting, ...]:
    return tuple(plan.Waiting(c.observation, c.reason) for c in scan.candidates if c.state == "waiting")


@contextmanager
def _alone(platform: Platform) -> Iterator[None]:
    """Allow one `process` at a time on an archive: a second would make the same products. The lock ends with this process."""
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
    """Plans partitions, runs them in this process or side by side, and keeps the tally."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance, tally: Tally, crew: forks.Forks | None, at_once: int) -> None:
        self.platform, self.instance, self.tally, self.crew, self.at_once = platform, instance, tally, crew, at_once
        self.quarantined = plan.quarantined_observations(platform.archive)
        self.runs = 0
        self.here = Runs(platform, instance)

    def bring_up_to_date(
        self, grain: spec.Grain, assets: Sequence[str], keys: "Iterable[tuple[str | None, Archive]]", fresh: Container[str | None]
    ) -> None:
        """For each of these partitions of a phase, make in one run the assets from the first that is missing or stale to the last.

        Each key comes with the archive to query about it. `fresh` are the keys for which the inbox holds files that their manifests do
        not name.
        """
        tallies: list[Tally] = []

        def tasks() -> Iterator[Task]:
            for key, archive in keys:
                tallies.append(Tally())
                if todo := self._planned(tallies[-1], grain, archive, assets, key, fresh=key in fresh):
                    self.runs += 1
                    yield Task(tuple(todo), key, len(tallies) - 1)

        for task, outcome in self._made(tasks(), grain):
            if outcome.interrupted:
                raise KeyboardInterrupt  # Dagster catches the signal and ends only its run, so the rest of the work is ended here
            tallies[task.number].add(outcome)
        for tally in tallies:
            self.tally.add(tally)

    def _made(self, tasks: Iterator[Task], grain: spec.Grain) -> Iterator[tuple[Task, Tally]]:
        """Make each task and yield it with its outcome: several observations side by side, everything else one after another.

        Hours and nights build on those before them. A single observation is not worth a separate process.
        """
        first = list(islice(tasks, 2 if grain == "observation" else 1))
        all_tasks = chain(first, tasks)
        if self.crew is None or not (len(first) > 1 or self.crew.are_there):
            yield from ((task, self.here.make(task)) for task in all_tasks)
            return
        for task, outcome in self.crew.each(all_tasks, self.at_once if grain == "observation" else 1):
            yield task, self._lost(task, outcome) if isinstance(outcome, forks.Lost) else outcome

    def _lost(self, task: Task, lost: forks.Lost) -> Tally:
        """The tally of a run whose process was killed. Also reports the run to Dagster as failed: nothing else would end it."""
        instances.close_orphans(self.instance, self.platform.archive.root)
        step = plan.next_step(self.platform.archive, self.platform.settings, task.assets, task.partition)
        if step is None:
            return Tally()
        error = ResourceError if lost.exitcode == -signal.SIGKILL else TransientError
        why = (
            f"its process {lost.how}{': memory is short, perhaps' if error is ResourceError else ''}; start it again, and the work goes on"
        )
        return Tally(failed=[Failed(step.asset, task.partition, error.__name__, why)])

    def _planned(
        self, tally: Tally, grain: spec.Grain, archive: "Archive", assets: Sequence[str], partition: str | None, *, fresh: bool
    ) -> list[str]:
        """The assets of a partition that are to be made, given what `archive` holds. The others are recorded in `tally`."""
        if partition is not None and partition in self.quarantined and grain == "observation" and not fresh:
            tally.waiting.append(plan.Waiting(partition, self.quarantined[partition]))
            return []
        todo = self._todo(tally, archive, assets, partition, fresh)
        for asset in assets:
            if asset not in todo and (product := archive.current(asset, partition, removed=True)) is not None:
                tally.up_to_date += 1
                tally.judge(product)  # its failed checks are reported each time: an old product still has its faults
        if todo and (reason := season.outside(grain, partition, inbox.now_s())):
            tally.waiting.append(plan.Waiting(f"{todo[0]} {partition}", reason))
            return []
        return todo

    def _todo(self, tally: Tally, archive: "Archive", assets: Sequence[str], partition: str | None, fresh: bool) -> list[str]:
        for number, asset in enumerate(assets):
            try:
                reason = plan.reason_to_make(archive, self.platform.settings, asset, partition)
            except WaitingError as error:
                tally.waiting.append(plan.Waiting(f"{asset} {partition or ''}".strip(), str(error)))
                return []
            except (DsaError, OSError) as error:
                tally.failed.append(_failed(asset, partition, error))
                return []
            if reason or (fresh and number == 0):
                return list(assets[number:])
        return []

    def report_to_dagster(self, phases: Sequence[tuple[spec.Grain, Sequence[str]]], span: plan.Span) -> None:
        """Report products Dagster does not know of, after a kill between index row and event, or with a new DAGSTER_HOME."""
        for grain, assets in phases:
            for asset in assets:
                key = dg.AssetKey(asset)
                if grain == "catalogue":
                    unreported: list[str | None] = [None] if self.instance.get_latest_materialization_event(key) is None else []
                else:
                    present = self.platform.archive.partitions(asset, *span.windows(grain))
                    partitions.tell(self.instance, *present)
                    inside = [one for one in present if span.holds_partition(grain, one)]
                    reported = {one for chunk in rows.chunks(inside) for one in self._reported(key, chunk)}
                    unreported = [one for one in inside if one not in reported]
                for partition in unreported:
                    product = self.platform.archive.current(asset, partition)
                    if product is not None:
                        self._report(product)

    def _reported(self, key: dg.AssetKey, partitions: Sequence[str]) -> Collection[str]:
        """Those of these partitions that Dagster knows of. Only records of these partitions are read."""
        return self.instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions)).keys()

    def _report(self, product: "Product") -> None:
        """Report a product. If that fails, log the error and go on with the other products; the next `process` tries again."""
        try:
            self.instance.report_runless_asset_event(_event(product))
        except (DsaError, OSError, dg.DagsterError) as error:
            log.error("%s: Dagster does not know of it yet: %s", product.id, error)


def _failed(asset: str, partition: str | None, raised: DsaError | OSError) -> Failed:
    error = policy.as_dsa_error(raised)
    return Failed(asset, partition, type(error).__name__, str(error))


def _event(product: "Product") -> dg.AssetMaterialization:
    metadata: Mapping[str, Any] = reporting.materialization_metadata(product)
    tags = {reporting.VERSION_TAG: product.digest}
    return dg.AssetMaterialization(dg.AssetKey(product.asset), partition=product.partition, metadata=metadata, tags=tags)
