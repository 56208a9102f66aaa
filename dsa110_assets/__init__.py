"""DSA-110 continuum sky as an asset graph. Analysts start at `open_archive()`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsa110_assets import surroundings

if TYPE_CHECKING:
    from pathlib import Path

    from dsa110_assets.analyst import AnalystArchive

__version__ = "0.1.0"

surroundings.complete()


def open_archive(path: str | Path | None = None, trial: str | None = None) -> AnalystArchive:
    """Open the archive for analysis: from `path`, or from DSA110_ARCHIVE; with `trial` as that trial left it.

    Raises ConfigurationError when there is no archive there, naming the setting, and NotFoundError for an unknown trial.
    """
    from dsa110_assets.analyst import open_archive as _open

    return _open(path, trial)
