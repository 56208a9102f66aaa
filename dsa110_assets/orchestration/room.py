"""Room to work in: disk and memory are looked at before a stage starts, not when it has failed half-way."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dsa110_assets import heap
from dsa110_assets.errors import ResourceError
from dsa110_assets.orchestration import memory, spec

if TYPE_CHECKING:
    from dsa110_assets.orchestration.recipes import Ingredients
    from dsa110_assets.orchestration.resources import Platform

SMALL_DISK_PART = 0.1
"""A disk smaller than ten times the threshold is full when less than this part of it is free."""
MEMORY_BYTES, LEAST_BYTES = 0.5e9, 0.2e9
"""What any step needs in memory, with its large arrays there and with them in a file; the larger ones say what in addition."""


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


@contextmanager
def granted(platform: "Platform", asset: str, ingredients: "Ingredients") -> Iterator[bool]:
    """Room for `asset` to be made from these ingredients: whether its large arrays have to be in a file, for want of memory.

    Raises ResourceError unless disk and memory suffice for that.
    """
    require_disk(platform)
    needs = spec.assets()[asset]
    root, limit_gib, sizes = platform.archive.root, platform.settings.memory_limit_gib, input_bytes(ingredients)
    largest = max(sizes, default=0.0)
    at_ease = MEMORY_BYTES + needs.memory_per_input * largest
    least = LEAST_BYTES + needs.least_per_input * largest

    def choose(available: float) -> float:
        if least > available:
            raise ResourceError(
                f"{asset}: needs at least {least / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; "
                "work resumes when others have ended; run fewer at a time, add swap, or raise DSA110_MEMORY_LIMIT_GIB"
            )
        return at_ease if at_ease <= available else least

    if at_ease > memory.available_bytes(limit_gib):
        heap.give_back()
    with memory.reserved(root, limit_gib, choose) as taken:
        in_file = taken < at_ease
        disk = needs.disk_per_input * sum(sizes) + at_ease * in_file
        free = shutil.disk_usage(root).free
        if disk > free:
            raise ResourceError(f"{asset}: needs {disk / 1e9:.1f} GB on disk, {free / 1e9:.1f} GB are free; free some, work resumes")
        yield in_file


def input_bytes(ingredients: "Ingredients") -> list[float]:
    """Bytes of visibilities in each input of a stage: its own, and for a manifest those of the files it names."""
    return [max(p.size_bytes, float(p.metadata.get("size_gb", 0.0)) * 1e9) for p in ingredients.products]
