"""What each host has to spare: load, memory and scratch disk, told with a sign of life by the worker or the daemon that runs there.

    <archive>/.beats/.hosts/<host>     {"load": 1.2, "processors": 8, ...}, written anew every `beats.BEAT_S`

A host that falls silent keeps its last figures, with their age by the file server's clock.
"""

import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsa110_assets.archive import beats, files

FOLDER = f"{beats.DIRECTORY}/.hosts"
FORGOTTEN_S = 7 * 86400.0
"""A host that has been silent for so long is none of ours any more."""


_TOLD = ("load", "memory_free_bytes", "memory_bytes", "scratch_free_bytes", "scratch_bytes")


@dataclass(frozen=True)
class Host:
    """A host: load of the last minute, processors, memory, its scratch disk, and for how long it has been silent [s]."""

    name: str
    load: float
    processors: int
    memory_free_bytes: float
    memory_bytes: float
    scratch_free_bytes: float
    scratch_bytes: float
    silent_s: float = 0.0

    @property
    def is_stale(self) -> bool:
        """Whether it counts as gone: the figures are its last."""
        return self.silent_s > beats.LOST_S


def here() -> Host:
    """This machine now."""
    from dsa110_assets.orchestration.running import capacity

    told = capacity.meminfo_bytes()
    scratch = shutil.disk_usage(tempfile.gettempdir())
    return Host(
        os.uname().nodename, os.getloadavg()[0], os.cpu_count() or 1, told["MemAvailable"], told["MemTotal"], scratch.free, scratch.total
    )


def tell(root: Path) -> None:
    """Tell the archive at `root` what this host has to spare, now and for as long as this process lives or until `leave`."""
    beats.keep(root, os.uname().nodename, lambda: asdict(here()), FOLDER, FORGOTTEN_S)


def leave(root: Path) -> None:
    """Take this host back: what ran here has ended as it should."""
    beats.end(root, os.uname().nodename, FOLDER)


def known(root: Path) -> list[Host]:
    """This host, and all others that told of themselves, by name. A file that cannot be read is of no host."""
    found = [_told(path.name, files.read_json(path), silent_s) for path, silent_s in _ages_s(root / FOLDER).items()]
    own = here()
    return [own, *(one for one in found if one is not None and one.name != own.name)]


def _ages_s(folder: Path) -> dict[Path, float]:
    """For how long each host has been silent [s]; who may only read the archive goes by the clock of this machine."""
    try:
        return beats.ages_s(folder)
    except OSError:
        now_s = time.time()
        return {path: now_s - path.stat().st_mtime for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def _told(name: str, contents: Any, silent_s: float) -> Host | None:
    try:
        told = {one: float(contents[one]) for one in _TOLD}
        return Host(name, processors=int(contents["processors"]), silent_s=max(silent_s, 0.0), **told)
    except (KeyError, TypeError, ValueError):
        return None
