"""Where local sockets lie: their address has to fit into 107 bytes, whatever TMPDIR says."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from multiprocessing import process
from pathlib import Path

from dsa110_assets.errors import ConfigurationError

LONGEST_ADDRESS_BYTES = 107
"""On Linux (sun_path, without its end)."""
LONGEST_PLACE_BYTES = LONGEST_ADDRESS_BYTES - 32
"""Of the directory of temporary files: the rest is what multiprocessing appends to it."""
SHORT = ("/tmp", "/var/tmp")


def fit() -> None:
    """Have multiprocessing make its sockets in a directory with a short name, where that of temporary files has a long one.

    Raises ConfigurationError where there is none.
    """
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) <= LONGEST_PLACE_BYTES:
        return
    short = next((folder for folder in SHORT if os.access(folder, os.W_OK | os.X_OK)), None)
    if short is None:
        raise ConfigurationError(f"TMPDIR={place} is too long a path for sockets; set it to one of at most {LONGEST_PLACE_BYTES} bytes")
    own = Path(tempfile.mkdtemp(prefix="dsa110-", dir=short))
    atexit.register(_remove, own, os.getpid())
    process.current_process()._config["tempdir"] = str(own)  # type: ignore[attr-defined]


def _remove(place: Path, maker: int) -> None:
    """At the end of the process that made it, and not of those forked from it."""
    if os.getpid() == maker:
        shutil.rmtree(place, ignore_errors=True)
