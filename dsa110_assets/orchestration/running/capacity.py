"""Room to work in: disk and memory are looked at before a stage starts, not when it has failed half-way."""

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
"""What any step needs in memory; the larger ones say what in addition."""
GB_A_RUN = 3.0
"""The largest step of the observatory's own data, an image, takes 2 GiB."""
GROUPS, MEMBERSHIP, MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")


def disk_shortage(platform: "Platform") -> str | None:
    """Why ingest pauses: the archive's disk is all but full; None while there is room."""
    usage = shutil.disk_usage(platform.archive.root)
    least_gb = disks.critical_gb(platform.thresholds, usage.total)
    if usage.free / 1e9 >= least_gb:
        return None
    return f"{platform.archive.root}: {usage.free / 1e9:.1f} GB free, below {least_gb:.1f} GB; ingest waits: free some, it resumes"


def require_disk(platform: "Platform") -> None:
    """Raise ResourceError while the archive's disk is all but full."""
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
        raise ResourceError(f"{asset}: needs {disk / 1e9:.1f} GB on disk, {free / 1e9:.1f} GB are free; free some, work resumes")


def fitting_runs() -> int:
    """How many runs this machine makes at a time: one for each core that this process may use, as far as memory lasts."""
    return max(1, min(len(os.sched_getaffinity(0)), int(available_bytes(math.inf) / 1e9 / GB_A_RUN)))


def input_bytes(ingredients: "Ingredients") -> list[float]:
    """Bytes of visibilities in each input of a stage: its own, and for a manifest those of the files it names."""
    return [max(p.size_bytes, float(p.metadata.get("size_gb", 0.0)) * 1e9) for p in ingredients.products]


def meminfo_bytes() -> dict[str, float]:
    """What the kernel says of this machine's memory, by its own names [bytes]."""
    lines = (line.partition(":") for line in MEMINFO.read_text().splitlines())
    return {name: float(value.split()[0]) * 1024 for name, _, value in lines}


def available_bytes(limit_gib: float) -> float:
    """The least of what the machine, each control group with a limit, and the setting have left, swap included."""
    free_bytes = meminfo_bytes()
    swap = free_bytes.get("SwapFree", 0.0)
    return min(free_bytes["MemAvailable"] + swap, limit_gib * 2**30, *(left + swap for left in _of_groups()))


def _of_groups() -> Iterator[float]:
    """What this process's control group (version 2) and those it lies in have left; page cache gives way, and counts as free.

    In a container they may be named as the host has them while the container's own lies at the top.
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
