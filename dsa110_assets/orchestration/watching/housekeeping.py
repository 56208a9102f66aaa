"""Scheduled jobs that keep the archive whole: sweeping after crashes, backups, scans by digest, retention, expiry of history.

Each is a separate job, so that its failure is a failed run, which raises an alert (`conditions`).
"""

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import policy, routing
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
"""Every product's bytes are read once in this many days."""


@dg.op(
    description="Adopts products that were published but not indexed before a crash, and removes drafts that no process writes any more."
)
def sweep_after_crashes(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Sweep where the claims of dead processes point; in the first hour of the day everywhere, because a power cut may lose a claim too."""
    from dsa110_assets.archive import integrity

    with policy.as_dagster_errors(context.retry_number):
        swept = integrity.sweep(platform.archive, everywhere=_now().hour == 0)
    context.add_output_metadata({"adopted": len(swept.adopted), "removed": len(swept.removed), "left": len(swept.left)})


@dg.op(description="Saves the index, caltables, states, quarantine and Dagster's history, verifies and rotates.")
def back_up(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Make one backup in DSA110_BACKUPS."""
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
    """Compare a backup with its digests, and record that it is whole. Raises SilentWrongnessError if it is not."""
    from dsa110_assets.archive import alerts, backup

    if problems := backup.verify_backup(made.path):
        raise SilentWrongnessError(f"backup {made.path} is damaged: {problems[0]}; make another: dsa110 archive backup")
    alerts.remember(archive, facts.VERIFIED, made.path.name)


@dg.op(description="Compares the newest backup, and a part of the products, each once in four weeks, with their digests.")
def verify_part(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Verify today's part. A damaged product or backup fails the run, whose message names it and says how to make it again."""
    from dsa110_assets.archive import backup, integrity

    with policy.as_dagster_errors(context.retry_number):
        for newest in backup.backups(platform.settings.backups_path)[-1:]:
            _verify_backup(platform.archive, newest)
        today = _now().toordinal() % SCAN_DAYS
        chosen = [product for product in platform.archive.products(state=None) if scan_day(product) == today]
        findings = list(integrity.verify(platform.archive, chosen))
        if findings:
            damaged = "; ".join(f"{one.product.id}: {', '.join(one.problems)}" for one in findings)
            raise SilentWrongnessError(f"{damaged}. Make them again with: dsa110 archive verify --rebuild, then: dsa110 process")
    context.add_output_metadata({"products": len(chosen), "bytes": sum(product.size_bytes for product in chosen)})


@dg.op(description="Removes data that are no longer needed; products that are pinned, being read, or needed by something unfinished stay.")
def retain(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Apply retention by the thresholds in force."""
    with policy.as_dagster_errors(context.retry_number):
        decisions = apply_retention(platform.archive, platform.chosen_thresholds, dry_run=False)
    removed = [decision.product for decision in decisions if decision.remove]
    context.add_output_metadata({"removed": len(removed), "freed_bytes": sum(product.size_bytes for product in removed)})


@dg.op(description="Removes Dagster's records of runs that ended long ago; runs that are not done stay.")
def expire_history(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Remove runs, their events and their steps' output, by the threshold `history_days`."""
    before = _now() - timedelta(days=platform.chosen_thresholds.history_days)
    with policy.as_dagster_errors(context.retry_number):
        n_removed = expiry.expire(context.instance, platform.settings.home_path, before)
    context.add_output_metadata({"runs": n_removed, "before": before.isoformat()})


def apply_retention(archive: "Archive", thresholds: "Thresholds", *, dry_run: bool) -> "list[Decision]":
    """Apply retention with these thresholds and return its decisions. Assets that the thresholds do not name are kept as long as their
    specifications say."""
    from dsa110_assets.archive import retention

    specifications = graph.specifications()
    days = {name: asset.keep_days for name, asset in specifications.items() if asset.keep_days is not None}
    limits = thresholds.model_copy(update={"retention_days": days | thresholds.retention_days})
    return retention.retain(archive, limits, spec.consumers(specifications), dry_run=dry_run)


def scan_day(product: "Product") -> int:
    """The day of the scan cycle, from 0 to SCAN_DAYS - 1, on which a product is read."""
    return int(product.digest[-8:], 16) % SCAN_DAYS


def dagster_to_back_up(settings: "Settings") -> "Dagster | None":
    """The place to back up Dagster's history from; None if the settings name no home that exists."""
    from dsa110_assets.archive.backup import Dagster

    home = settings.dagster_home
    return Dagster(home, os.environ.get(POSTGRES_VARIABLE, "").strip() or None) if home is not None and home.is_dir() else None


def _now() -> datetime:
    return datetime.fromtimestamp(inbox.now_s(), UTC)


TAGS = {routing.QUEUE_TAG: routing.HOUSEKEEPING}


@dg.job(name="sweep", tags=TAGS)
def sweep_job() -> None:
    """Sweep after crashes."""
    sweep_after_crashes()


@dg.job(name="backup", tags=TAGS)
def backup_job() -> None:
    """Back up everything that cannot be computed again."""
    back_up()


@dg.job(name="verify", tags=TAGS)
def verify_job() -> None:
    """Verify a part of the archive by digest."""
    verify_part()


@dg.job(name="retention", tags=TAGS)
def retention_job() -> None:
    """Remove data that are no longer needed."""
    retain()


@dg.job(name="history")
def history_job() -> None:
    """Remove old runs."""
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
"""Daily jobs run hours after the night's last products."""
