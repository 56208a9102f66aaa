"""What libraries take for granted and a service, container or batch job may lack: a home, and room for compiled kernels.

casacore refuses to work where HOME is not set. Numba refuses to load a kernel it can keep nowhere: beside the source
where that may be written, else in the user's cache directory. `complete` fills both in for this process and its children.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

HOME, KERNELS = "HOME", "NUMBA_CACHE_DIR"
_SOURCES = Path(__file__).parent
completed: set[str] = set()
"""The variables that `complete` filled in."""


def complete() -> None:
    """Name a home directory and a place for compiled kernels in the environment, each where there is none.

    Nothing is written but, where kernels can be kept nowhere else, a directory of this user's in the temporary one.
    """
    if not os.environ.get(HOME, "").strip():
        os.environ[HOME] = _home_of_account()
        completed.add(HOME)
    if kernels_place() is None and (own := _temporary()) is not None:
        os.environ[KERNELS] = str(own)
        completed.add(KERNELS)
        if "numba" in sys.modules:  # it has read its settings already
            sys.modules["numba"].config.CACHE_DIR = str(own)


def kernels_place() -> Path | None:
    """Where Numba will keep compiled kernels: as told, beside the sources, or in the user's cache; None where it can nowhere."""
    told = os.environ.get(KERNELS)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if told and _writable(Path(told)):
        return Path(told)
    folders = [_SOURCES, *(Path(entry.path) for entry in os.scandir(_SOURCES) if entry.is_dir() and entry.name.isidentifier())]
    if all(_writable(folder / "__pycache__") for folder in folders if folder.name != "__pycache__"):
        return _SOURCES
    return Path(cache, "numba") if _writable(Path(cache, "numba")) else None


def place(path: Path) -> Path:
    """An absolute path, in which `~` is the account's home, `~name` another's.

    Raises ValueError, with the remedy, where there is no such account, and for a name that is not UTF-8, which neither a
    database's address nor JSON can hold.
    """
    try:
        found = path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{path}: there is no account of that name; write the whole path") from None
    shown = str(found).encode("utf-8", "replace").decode()
    if shown != str(found):
        raise ValueError(f"{shown}: its name is not UTF-8; rename it, or lead a link there")
    return found


def is_nowhere() -> bool:
    """Whether the current directory has been removed: relative paths then mean nothing."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _home_of_account() -> str:
    """The home directory of the account, as `~` has it; the root directory for a number without an account."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or "/"
    except KeyError:
        return "/"


def _writable(place: Path) -> bool:
    """Whether this user may write into a directory, or make it."""
    there = next((path for path in (place, *place.parents) if os.path.exists(path)), place)
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def _temporary() -> Path | None:
    """A directory in the temporary one that nobody else can write, for kernels found there are run; None if there is none."""
    import tempfile

    try:
        place = Path(tempfile.gettempdir(), f"dsa110-kernels-{os.getuid()}")
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        return place if ours else Path(tempfile.mkdtemp(prefix="dsa110-kernels-"))
    except OSError:
        return None
