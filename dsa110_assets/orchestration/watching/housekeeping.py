"""What keeps the archive whole by the clock: sweeping after crashes, backups, scans by digest, retention.

Each is a job of its own, so that its failure is a failed run, which is told (`conditions`).
"""

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.specification import spec
from dsa110_assets.orchestration.watching import expiry, facts
from dsa110_assets.orchestration.watching.history import POSTGRES_VARIABLE

if TYPE_CHECKING:
    from dsa110_assets.archive.backup import Backup, Dagster
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.retention import Decision
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds

SCAN_DAYS = 28
"""Every product's bytes are read once in so many days."""


@dg.op(description="Adopts what was published but not indexed before a crash, and removes what nobody writes any more.")
def sweep_after_crashes(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Where dead claims point; in the first hour of the day everywhere, for a power cut may take a claim too."""
    from dsa110_assets.archive import integrity

    with policy.as_dagster_errors(context.retry_number):
        swept = integrity.sweep(platform.archive, everywhere=_now().hour == 0)
    context.add_output_metadata({"adopted": len(swept.adopted), "removed": len(swept.removed), "left": len(swept.left)})


@dg.op(description="Saves the index, caltables, states, quarantine and Dagster's history, verifies and rotates.")
def back_up(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """One backup into DSA110_BACKUPS."""
    from dsa110_assets.archive import backup

    settings = platform.settings
    with policy.as_dagster_errors(context.retry_number):
        keep = platform.thresholds.keep_backups
        made = backup.backup(platform.archive, settings.backups_path, keep=keep, dagster=dagster_to_back_up(settings))
        _verify_backup(platform.archive, made)
    context.add_output_metadata(
        {"path": dg.MetadataValue.path(str(made.path)), "size_bytes": made.size_bytes, "left_out": list(made.left_out)}
    )


def _verify_backup(archive: "Archive", made: "Backup") -> None:
    """Compare a backup with its digests, and remember that it is whole. Raises SilentWrongnessError if it is not."""
    from dsa110_assets.archive import alerts, backup

    if problems := backup.verify_backup(made.path):
        raise SilentWrongnessError(f"backup {made.path} is damaged: {problems[0]}; make another: dsa110 archive backup")
    alerts.remember(archive, facts.VERIFIED, made.path.name)


@dg.op(description="Compares the newest backup, and a part of the products, each once in four weeks, with their digests.")
def verify_part(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Today's part. A damaged product or backup fails the run, which names it and how it is made again."""
    from dsa110_assets.archive import backup, integrity

    with policy.as_dagster_errors(context.retry_number):
        for newest in backup.backups(platform.settings.backups_path)[-1:]:
            _verify_backup(platform.archive, newest)
        today = _now().toordinal() % SCAN_DAYS
        chosen = [product for product in platform.archive.products(state=None) if scan_day(product) == today]
        found = list(integrity.verify(platform.archive, chosen))
        if found:
            damaged = "; ".join(f"{one.product.id}: {', '.join(one.problems)}" for one in found)
            raise SilentWrongnessError(f"{damaged}. Make them again with: dsa110 archive verify --rebuild, then: dsa110 process")
    context.add_output_metadata({"products": len(chosen), "bytes": sum(product.size_bytes for product in chosen)})


@dg.op(description="Removes data that are no longer needed; what is pinned, read or needed by something unfinished stays.")
def retain(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Retention by the thresholds in force."""
    with policy.as_dagster_errors(context.retry_number):
        decisions = apply_retention(platform.archive, platform.chosen_thresholds, dry_run=False)
    gone = [decision.product for decision in decisions if decision.remove]
    context.add_output_metadata({"removed": len(gone), "freed_bytes": sum(product.size_bytes for product in gone)})


@dg.op(description="Removes what Dagster keeps of runs that ended long ago; those that are not done stay.")
def expire_history(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Runs, their events and their steps' output, by the threshold `history_days`."""
    before = _now() - timedelta(days=platform.chosen_thresholds.history_days)
    with policy.as_dagster_errors(context.retry_number):
        gone = expiry.expire(context.instance, platform.settings.home_path, before)
    context.add_output_metadata({"runs": gone, "before": before.isoformat()})


def apply_retention(archive: "Archive", thresholds: "Thresholds", *, dry_run: bool) -> "list[Decision]":
    """What retention decides by these thresholds; assets they do not name are kept as long as their specifications say."""
    from dsa110_assets.archive import retention

    known = graph.specifications()
    days = {name: asset.keep_days for name, asset in known.items() if asset.keep_days is not None}
    limits = thresholds.model_copy(update={"retention_days": days | thresholds.retention_days})
    return retention.retain(archive, limits, spec.consumers(known), dry_run=dry_run)


def scan_day(product: "Product") -> int:
    """The day of the scan's round on which a product is read."""
    return int(product.digest[-8:], 16) % SCAN_DAYS


def dagster_to_back_up(settings: "Settings") -> "Dagster | None":
    """Where Dagster's history is to be saved from, if the settings name a home."""
    from dsa110_assets.archive.backup import Dagster

    home = settings.dagster_home
    return Dagster(home, os.environ.get(POSTGRES_VARIABLE, "").strip() or None) if home is not None and home.is_dir() else None


def _now() -> datetime:
    return datetime.fromtimestamp(inbox.now_s(), UTC)


@dg.job(name="sweep")
def sweep_job() -> None:
    """After crashes."""
    sweep_after_crashes()


@dg.job(name="backup")
def backup_job() -> None:
    """All that cannot be computed again."""
    back_up()


@dg.job(name="verify")
def verify_job() -> None:
    """A part of the archive, by digest."""
    verify_part()


@dg.job(name="retention")
def retention_job() -> None:
    """What is no longer needed."""
    retain()


@dg.job(name="history")
def history_job() -> None:
    """Old runs."""
    expire_history()


JOBS = [sweep_job, backup_job, verify_job, retention_job, history_job]
SCHEDULES = [
    dg.ScheduleDefinition(job=job, cron_schedule=cron, execution_timezone="UTC", default_status=dg.DefaultScheduleStatus.RUNNING)
    for job, cron in (
        (sweep_job, "5 * * * *"),
        (backup_job, "40 10 * * *"),
        (verify_job, "10 11 * * *"),
        (retention_job, "40 11 * * *"),
        (history_job, "10 12 * * *"),
    )
]
"""Daily work comes hours after the night's last products."""
