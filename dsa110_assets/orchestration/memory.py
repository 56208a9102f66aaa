"""Memory that can still be had: of the machine, of the control groups this process is in, and of the setting.

<archive>/.memory/<host>-<pid>-<bytes>-<random>     what a process at work will hold at most; locked while it works
"""

import os
import platform
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dsa110_assets import heap
from dsa110_assets.archive import files

FOLDER, LOCK = ".memory", "lock"
GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")


class _Names(NamedTuple):
    """What a version of control groups calls its files, and the page cache in `memory.stat`, which gives way."""

    limit: str
    used: str
    cache: tuple[str, ...]


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_V2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))


@contextmanager
def reserved(root: Path, limit_gib: float | None, choose: Callable[[float], float]) -> Iterator[float]:
    """Memory for the time of the block: what `choose` makes of the available bytes, or what it raises.

    What other steps of this archive will still take on this host is not available: of two that look at the same time, both
    would otherwise find room for one.
    """
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    lock = files.wait_lock(folder / LOCK)
    try:
        free = available_bytes(None) - _spoken_for(folder)
        chosen = choose(free if limit_gib is None else min(free, limit_gib * 2**30))
        most = int(heap.held_bytes() + chosen)
        place = folder / f"{platform.node()}-{os.getpid()}-{most}-{uuid.uuid4().hex[:12]}"
        mine = files.wait_lock(place)
    finally:
        files.release_lock(lock)
    try:
        yield chosen
    finally:
        place.unlink(missing_ok=True)
        files.release_lock(mine)


def _spoken_for(folder: Path) -> float:
    """What other steps on this host have reserved and do not hold yet; what the dead left is cleared away."""
    total = 0.0
    for path in folder.glob(f"{platform.node()}-*"):
        descriptor = files.take_lock(path, create=False)
        if descriptor is not None:
            path.unlink()
            files.release_lock(descriptor)
            continue
        pid, most, _ = path.name.rsplit("-", 3)[1:]
        try:
            total += max(0, int(most) - heap.held_bytes(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile, or is another container's
    return total


def available_bytes(limit_gib: float | None, groups: Path = GROUPS, membership: Path = MEMBERSHIP, meminfo: Path = MEMINFO) -> float:
    """The least of what the machine and its swap, each control group with its limit, and the setting have left.

    Swap counts, also beyond a control group's memory: with it a machine too small for a step is slow, and not out of memory.
    """
    free, swap = _of_machine(meminfo)
    left = [free + swap, *(of_group + swap for of_group in _of_groups(groups, membership))]
    return min(left) if limit_gib is None else min(*left, limit_gib * 2**30)


def _of_machine(meminfo: Path) -> tuple[float, float]:
    """Free memory and free swap."""
    lines = (line.partition(":") for line in meminfo.read_text().splitlines())
    told = {name: float(value.split()[0]) * 1024 for name, _, value in lines}
    free = told.get("MemAvailable", float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return free, told.get("SwapFree", 0.0)


def _of_groups(groups: Path, membership: Path) -> Iterator[float]:
    """What is left in this process's group and in those it lies in, of either version, as far as they are to be seen.

    In a container they may be named as the host has them while the container's own lies at the top.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, own = line.split(":", 2)
        if number == "0":
            tops, names = (groups, groups / "unified"), _V2
        elif "memory" in controllers.split(","):
            tops, names = (groups / "memory", groups / controllers), _V1
        else:
            continue
        path = PurePosixPath(own.lstrip("/"))
        for top in dict.fromkeys(tops):
            for inner in (path, *path.parents):
                left = _left(top / inner, names)
                if left is not None:
                    yield left


def _left(group: Path, names: _Names) -> float | None:
    """What a group has left, its page cache included; None without a limit."""
    try:
        limit, used = (group / names.limit).read_text().strip(), float((group / names.used).read_text())
        told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return float(limit) - used + sum(float(told.get(name, 0)) for name in names.cache) if limit.isdigit() else None
