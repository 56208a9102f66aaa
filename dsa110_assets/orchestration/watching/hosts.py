"""The spare capacity of each host: load, memory and scratch disk, reported with a sign of life by the worker or daemon that runs there.

    <archive>/.beats/.hosts/<host>     {"load": 1.2, "processors": 8, ...}, rewritten every `beats.BEAT_S`

For a host that falls silent, its last figures remain, with their age by the file server's clock.
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
"""A host that has been silent for this long no longer belongs to the platform."""


_FIGURES = ("load", "memory_free_bytes", "memory_bytes", "scratch_free_bytes", "scratch_bytes")


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
        """Whether the host counts as gone, so that the figures are its last."""
        return self.silent_s > beats.LOST_S


def here() -> Host:
    """The figures of this machine now."""
    from dsa110_assets.orchestration.running import capacity

    memory = capacity.meminfo_bytes()
    scratch = shutil.disk_usage(tempfile.gettempdir())
    return Host(
        os.uname().nodename,
        os.getloadavg()[0],
        os.cpu_count() or 1,
        memory["MemAvailable"],
        memory["MemTotal"],
        scratch.free,
        scratch.total,
    )


def tell(root: Path) -> None:
    """Report the spare capacity of this host to the archive at `root`, now and for as long as this process lives or until `leave`."""
    beats.keep(root, os.uname().nodename, lambda: asdict(here()), FOLDER, FORGOTTEN_S)


def leave(root: Path) -> None:
    """Remove this host's report, because the process that ran here has ended in order."""
    beats.end(root, os.uname().nodename, FOLDER)


def known(root: Path) -> list[Host]:
    """This host first, then all others that reported their figures, by name. A file that cannot be read is left out."""
    hosts = [_parsed(path.name, files.read_json(path), silent_s) for path, silent_s in _ages_s(root / FOLDER).items()]
    own = here()
    return [own, *(one for one in hosts if one is not None and one.name != own.name)]


def _ages_s(folder: Path) -> dict[Path, float]:
    """How long each host has been silent [s]; if the archive is read-only here, by the clock of this machine."""
    try:
        return beats.ages_s(folder)
    except OSError:
        now_s = time.time()
        return {path: now_s - path.stat().st_mtime for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def _parsed(name: str, contents: Any, silent_s: float) -> Host | None:
    try:
        figures = {one: float(contents[one]) for one in _FIGURES}
        return Host(name, processors=int(contents["processors"]), silent_s=max(silent_s, 0.0), **figures)
    except (KeyError, TypeError, ValueError):
        return None
