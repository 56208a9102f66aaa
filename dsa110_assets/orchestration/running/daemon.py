"""Dagster's daemon, of which only one may run: a second one on the same DAGSTER_HOME, or on another host for the same archive, would
submit the same runs again.

Dagster itself only logs that another daemon is sending heartbeats. The daemon's process holds the lock, which is
released when the process ends, so a daemon that was killed can be replaced at once.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.archive import files
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration import NO_HOME
from dsa110_assets.orchestration.watching import signs

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive


@contextmanager
def daemon_lock(home: Path, archive: Path | None = None) -> Iterator[None]:
    """Hold the daemon's lock of a Dagster home, and of the archive if it exists, because each of several hosts has its own home.

    Raises ConfigurationError, naming the holder, if a lock is taken.
    """
    own_name = f"pid {os.getpid()} on {os.uname().nodename}"
    locks = {"DAGSTER_HOME": home / signs.LOCK}
    if archive is not None and archive.is_dir():
        locks["DSA110_ARCHIVE"] = archive / f".{signs.LOCK}"
    with ExitStack() as held:
        for name, lock in locks.items():
            refusal = f"{name}={lock.parent}: its daemon runs already"
            held.enter_context(files.exclusive_lock(lock, own_name, lambda holder, why=refusal: f"{why} ({holder}); stop that first"))  # type: ignore[misc]
        yield


def _archive() -> "Archive":
    from dsa110_assets import settings
    from dsa110_assets.archive.store import Archive

    configured = settings.load()
    return Archive(configured.archive, configured.database_url, patience_s=signs.EVERY_S)


def main() -> int:
    """Run the daemon until a signal ends it. Returns 1, with one sentence on stderr, if a daemon runs already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-w", "--workspace", type=Path, required=True, help="workspace.yaml that names the code server")
    arguments = parser.parse_args()
    try:
        home = os.environ.get("DAGSTER_HOME", "").strip()
        if not home:
            raise ConfigurationError(NO_HOME)
        archive = os.environ.get("DSA110_ARCHIVE", "").strip()
        with daemon_lock(Path(home), Path(archive) if archive else None):
            from dsa110_assets import logs, settings
            from dsa110_assets.orchestration.running import internals, watchdog

            form = settings.log_form()
            logs.configure(form)
            with watchdog.watched(Path(home)), signs.heartbeat_given(_archive):
                internals.run_daemon(str(arguments.workspace), form, int(signs.EVERY_S))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
