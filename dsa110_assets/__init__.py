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
    """Open the archive for analysis: at `path`, or at DSA110_ARCHIVE; with `trial`, that trial's products replace the science products.

    Raises ConfigurationError, which names the setting, if there is no archive there, and NotFoundError for an unknown trial.
    """
    from dsa110_assets.analyst import open_archive as _open

    return _open(path, trial)
