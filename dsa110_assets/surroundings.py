"""Environment that libraries require and a service, container or batch job may lack: a home, and a place for compiled kernels.

casacore refuses to work if HOME is not set. Numba refuses to load a kernel that it cannot store: beside the source
if that is writable, else in the user's cache directory. `complete` sets both for this process and its children.
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
"""The variables that `complete` has set."""


def complete() -> None:
    """Set a home directory and a place for compiled kernels in the environment, each if it is missing.

    Nothing is written, except a directory of this user in the temporary directory if kernels can be stored nowhere else.
    """
    if not os.environ.get(HOME, "").strip():
        os.environ[HOME] = _home_of_account()
        completed.add(HOME)
    if kernels_place() is None and (folder := _temporary()) is not None:
        os.environ[KERNELS] = str(folder)
        completed.add(KERNELS)
        if "numba" in sys.modules:  # it has read its settings already
            sys.modules["numba"].config.CACHE_DIR = str(folder)


def kernels_place() -> Path | None:
    """The place where Numba will store compiled kernels: as configured, beside the sources, or in the user's cache; None if nowhere."""
    configured = os.environ.get(KERNELS)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if configured and _writable(Path(configured)):
        return Path(configured)
    folders = [_SOURCES, *(Path(entry.path) for entry in os.scandir(_SOURCES) if entry.is_dir() and entry.name.isidentifier())]
    if all(_writable(folder / "__pycache__") for folder in folders if folder.name != "__pycache__"):
        return _SOURCES
    return Path(cache, "numba") if _writable(Path(cache, "numba")) else None


def place(path: Path) -> Path:
    """The absolute path, in which `~` is the account's home and `~name` another's.

    Raises ValueError, with the remedy, if there is no such account, and for a name that is not UTF-8, because neither a
    database's address nor JSON can contain it.
    """
    try:
        found = path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{path}: there is no account of that name; write the whole path") from None
    shown = str(found).encode("utf-8", "replace").decode()
    if shown != str(found):
        raise ValueError(f"{shown}: its name is not UTF-8; rename it, or use a link to it")
    return found


def is_nowhere() -> bool:
    """Whether the current directory has been removed, so that relative paths have no meaning."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _home_of_account() -> str:
    """The home directory of the account, as for `~`; the root directory for a user id without an account."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or "/"
    except KeyError:
        return "/"


def _writable(place: Path) -> bool:
    """Whether this user may write into a directory, or may make it."""
    existing = next((path for path in (place, *place.parents) if os.path.exists(path)), place)
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)


def _temporary() -> Path | None:
    """A directory in the temporary directory that nobody else can write, because kernels found there are executed; None if impossible."""
    import tempfile

    try:
        place = Path(tempfile.gettempdir(), f"dsa110-kernels-{os.getuid()}")
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        return place if ours else Path(tempfile.mkdtemp(prefix="dsa110-kernels-"))
    except OSError:
        return None
