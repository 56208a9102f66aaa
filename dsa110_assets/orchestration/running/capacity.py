"""Free disk space and memory, which are checked before a stage starts rather than when it has failed half-way."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dsa110_assets import heap
from dsa110_assets.errors import ResourceError
from dsa110_assets.orchestration.specification import spec
from dsa110_assets.orchestration.watching import disks

if TYPE_CHECKING:
    from dsa110_assets.orchestration.resources import Platform
    from dsa110_assets.orchestration.specification.recipes import Ingredients

MEMORY_BYTES = 0.5e9
"""The memory that every step needs; the specifications of larger steps state what they need in addition."""
GB_A_RUN = 3.0
"""Memory allowed for each run: the largest step on the observatory's own data, an image, takes 2 GiB."""
GROUPS, MEMBERSHIP, MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")


def disk_shortage(platform: "Platform") -> str | None:
    """Why ingest pauses: the archive's disk is almost full; None while there is room."""
    usage = shutil.disk_usage(platform.archive.root)
    least_gb = disks.critical_gb(platform.thresholds, usage.total)
    if usage.free / 1e9 >= least_gb:
        return None
    return (
        f"{platform.archive.root}: {usage.free / 1e9:.1f} GB free, below {least_gb:.1f} GB; ingest waits: free some space, and it resumes"
    )


def require_disk(platform: "Platform") -> None:
    """Raise ResourceError while the archive's disk is almost full."""
    if shortage := disk_shortage(platform):
        raise ResourceError(shortage)


def require(platform: "Platform", asset: str, ingredients: "Ingredients") -> None:
    """Raise ResourceError unless disk and memory suffice for `asset` to be made from these ingredients."""
    require_disk(platform)
    needs, sizes = spec.assets()[asset], input_bytes(ingredients)
    memory, limit_gib = MEMORY_BYTES + needs.memory_per_input * max(sizes, default=0.0), platform.settings.memory_limit_gib
    if memory > available_bytes(limit_gib):
        heap.give_back()
    if memory > (available := available_bytes(limit_gib)):
        raise ResourceError(
            f"{asset}: needs at least {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; "
            "work resumes when others have ended; run fewer at a time, add swap, or raise DSA110_MEMORY_LIMIT_GIB"
        )
    disk, free = needs.disk_per_input * sum(sizes), shutil.disk_usage(platform.archive.root).free
    if disk > free:
        raise ResourceError(f"{asset}: needs {disk / 1e9:.1f} GB on disk, {free / 1e9:.1f} GB are free; free some space, and work resumes")


def fitting_runs() -> int:
    """How many runs this machine makes at a time: one for each core that this process may use, as far as memory allows."""
    return max(1, min(len(os.sched_getaffinity(0)), int(available_bytes(math.inf) / 1e9 / GB_A_RUN)))


def input_bytes(ingredients: "Ingredients") -> list[float]:
    """Bytes of visibilities in each input of a stage: its own size, or for a manifest that of the files it names."""
    return [max(p.size_bytes, float(p.metadata.get("size_gb", 0.0)) * 1e9) for p in ingredients.products]


def meminfo_bytes() -> dict[str, float]:
    """The kernel's figures of this machine's memory [bytes], by the kernel's names."""
    lines = (line.partition(":") for line in MEMINFO.read_text().splitlines())
    return {name: float(value.split()[0]) * 1024 for name, _, value in lines}


def available_bytes(limit_gib: float) -> float:
    """The smallest of the bytes left by the machine, by each control group with a limit, and by the setting, swap included."""
    free_bytes = meminfo_bytes()
    swap = free_bytes.get("SwapFree", 0.0)
    return min(free_bytes["MemAvailable"] + swap, limit_gib * 2**30, *(left + swap for left in _of_groups()))


def _of_groups() -> Iterator[float]:
    """The bytes that this process's control group (version 2) and its parents have left. Page cache is reclaimable, and counts as free.

    In a container, groups may have the names they have on the host although the container's own group lies at the top.
    """
    own = PurePosixPath(next((line[4:] for line in MEMBERSHIP.read_text().splitlines() if line.startswith("0::/")), ""))
    for group in (GROUPS / inner for inner in (own, *own.parents)):
        if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()).isdigit():
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            yield (
                float(limit)
                - float((group / "memory.current").read_text())
                + sum(float(statistics.get(name, 0)) for name in ("active_file", "inactive_file"))
            )
