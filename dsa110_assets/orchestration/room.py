"""Room to work in: disk and memory are looked at before a stage starts, not when it has failed half-way."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets import heap
from dsa110_assets.errors import ResourceError

if TYPE_CHECKING:
    from dsa110_assets.orchestration.recipes import Ingredients
    from dsa110_assets.orchestration.resources import Platform

SMALL_DISK_PART = 0.1
"""A disk smaller than ten times the threshold is full when less than this part of it is free."""
DISK_PER_INPUT = {"measurement_set": 1.2, "calibrated_ms": 1.2}
"""Bytes written per byte of the inputs (measured 0.91 at full scale): all other products are small beside visibilities."""
MEMORY_PER_INPUT = {"measurement_set": 0.3, "caltables": 0.9, "calibrated_ms": 0.7, "tile_image": 4.9}
"""Peak memory per byte of the largest input, measured at full scale: 0.6 GiB for 2.3 GB of files in the smallest parts, 1.2 and
0.9 for a set of 1.4 GB, 2.4 for a calibrated one of 0.5 GB."""


def disk_shortage(platform: "Platform") -> str | None:
    """Why ingest pauses: the archive's disk is all but full; None while there is room."""
    usage = shutil.disk_usage(platform.archive.root)
    critical_gb = min(platform.thresholds.disk_critical_gb, usage.total / 1e9 * SMALL_DISK_PART)
    if usage.free / 1e9 >= critical_gb:
        return None
    return f"{platform.archive.root}: {usage.free / 1e9:.1f} GB free, below {critical_gb:.1f} GB; ingest waits: free some, it resumes"


def require_disk(platform: "Platform") -> None:
    """Raise ResourceError while the archive's disk is all but full."""
    if shortage := disk_shortage(platform):
        raise ResourceError(shortage)


def require(platform: "Platform", asset: str, ingredients: "Ingredients") -> None:
    """Raise ResourceError unless disk and memory suffice to make `asset` from these ingredients."""
    require_disk(platform)
    sizes = input_bytes(ingredients)
    disk, free = DISK_PER_INPUT.get(asset, 0.0) * sum(sizes), shutil.disk_usage(platform.archive.root).free
    if disk > free:
        raise ResourceError(f"{asset}: needs {disk / 1e9:.1f} GB on disk, {free / 1e9:.1f} GB are free; free some, work resumes")
    memory = MEMORY_PER_INPUT.get(asset, 0.0) * max(sizes, default=0.0)
    available = available_memory_bytes(platform.settings.memory_limit_gib)
    if memory > available:
        heap.give_back()
        available = available_memory_bytes(platform.settings.memory_limit_gib)
    if memory > available:
        raise ResourceError(
            f"{asset}: needs about {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; "
            "work resumes when others have ended; run fewer at a time, add swap, or raise DSA110_MEMORY_LIMIT_GIB"
        )


def input_bytes(ingredients: "Ingredients") -> list[float]:
    """Bytes of visibilities in each input of a stage: its own, and for a manifest those of the files it names."""
    return [max(p.size_bytes, float(p.metadata.get("size_gb", 0.0)) * 1e9) for p in ingredients.products]


def available_memory_bytes(limit_gib: float | None) -> float:
    """Memory that can still be had: of the machine and its swap, of the container, and within the setting's limit."""
    found = [_meminfo_bytes()]
    limit, used = (_cgroup_bytes(name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        found.append(limit - used)
    if limit_gib is not None:
        found.append(limit_gib * 2**30)
    return min(found)


def _meminfo_bytes(path: Path = Path("/proc/meminfo")) -> float:
    """Free memory and swap: with swap a machine too small for a stage is slow, and not out of memory."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    told = {name: float(value.split()[0]) * 1024 for name, _, value in lines}
    free = told.get("MemAvailable", float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return free + told.get("SwapFree", 0.0)


def _cgroup_bytes(name: str) -> float | None:
    """A figure of this process's control group (version 2); None without one or without a limit."""
    try:
        text = Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return None
    return float(text) if text.isdigit() else None
