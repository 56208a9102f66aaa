"""Space on disks, and how fast it fills. Does not import Dagster, because it is called often, and by commands that must start at once."""

import contextlib
import os
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa110_assets.thresholds import Thresholds

FILL_WINDOW = timedelta(hours=24)
SMALL_DISK_PART = 0.1
"""A disk smaller than ten times the critical threshold counts as full when less than this fraction of it is free."""


@dataclass(frozen=True)
class Disk:
    """Space on a file system, and the days until it is full at the rate of the last 24 h (None: not filling)."""

    path: str
    free_bytes: int
    total_bytes: int
    fill_bytes_per_day: float
    full_in_days: float | None


def disk(root: Path, published_bytes: int, inbox: Path | None, moment: datetime) -> Disk | None:
    """Space on the archive's file system; None if it cannot be read. The rate counts the bytes published (`published_bytes`) and, if the
    inbox is on the same file system, received in 24 h."""
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return None
    since = moment - FILL_WINDOW
    rate = float(published_bytes)
    if inbox is not None and inbox.is_dir() and inbox.stat().st_dev == root.stat().st_dev:
        rate += _received_bytes(inbox, since)
    full_in_days = usage.free / rate if rate > 0 else None
    return Disk(str(root), usage.free, usage.total, rate, full_in_days)


def _received_bytes(inbox: Path, since: datetime) -> int:
    """The total size of the inbox's files that changed since then; files that vanish meanwhile are left out."""
    total = 0
    with os.scandir(inbox) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.endswith(".hdf5") and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    total += status.st_size if status.st_mtime >= since.timestamp() else 0
    return total


def critical_gb(limits: "Thresholds", total_bytes: float) -> float:
    """The free space [GB] below which ingest pauses, on a disk of this size."""
    return min(limits.disk_critical_gb, total_bytes / 1e9 * SMALL_DISK_PART)


def warn_gb(limits: "Thresholds", total_bytes: float) -> float:
    """The free space [GB] below which a warning is raised, on a disk of this size: on a small disk, twice the critical one."""
    critical = critical_gb(limits, total_bytes)
    return limits.disk_warn_gb if critical == limits.disk_critical_gb else min(limits.disk_warn_gb, 2 * critical)
