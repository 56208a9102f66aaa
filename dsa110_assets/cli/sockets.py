"""The place of local sockets: their address must fit into 107 bytes, for any TMPDIR."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from multiprocessing import process
from pathlib import Path

from dsa110_assets.errors import ConfigurationError

LONGEST_ADDRESS_BYTES = 107
"""The limit on Linux (sun_path, without its terminating byte)."""
LONGEST_PLACE_BYTES = LONGEST_ADDRESS_BYTES - 32
"""Longest path of the directory of temporary files: the rest is for what multiprocessing appends to it."""
SHORT = ("/tmp", "/var/tmp")


def use_short_socket_directory() -> None:
    """Make multiprocessing put its sockets in a directory with a short name, if that of temporary files has a long one.

    Raises ConfigurationError if there is no such directory.
    """
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) <= LONGEST_PLACE_BYTES:
        return
    short = next((folder for folder in SHORT if os.access(folder, os.W_OK | os.X_OK)), None)
    if short is None:
        raise ConfigurationError(f"TMPDIR={place} is too long a path for sockets; set it to one of at most {LONGEST_PLACE_BYTES} bytes")
    socket_directory = Path(tempfile.mkdtemp(prefix="dsa110-", dir=short))
    atexit.register(_remove, socket_directory, os.getpid())
    process.current_process()._config["tempdir"] = str(socket_directory)  # type: ignore[attr-defined]


def _remove(place: Path, maker: int) -> None:
    """Remove the directory at the end of the process that made it, but not of processes forked from that one."""
    if os.getpid() == maker:
        shutil.rmtree(place, ignore_errors=True)
