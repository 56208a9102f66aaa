"""Dagster's daemon, alone: a second one on the same DAGSTER_HOME would submit the same runs again.

Dagster itself only logs that another daemon is sending heartbeats. The lock is held by the daemon's process and
dies with it, so a daemon that was killed is followed at once.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsa110_assets.archive import files
from dsa110_assets.errors import ConfigurationError

LOCK = "daemon.lock"


@contextmanager
def daemon_lock(home: Path) -> Iterator[None]:
    """Hold the daemon's lock of a Dagster home. Raises ConfigurationError, naming the holder, if it is taken."""
    me = f"pid {os.getpid()} on {os.uname().nodename}"
    with files.exclusive_lock(home / LOCK, me, lambda holder: f"DAGSTER_HOME={home}: its daemon runs already ({holder}); stop that first"):
        yield


def main() -> int:
    """Run the daemon until a signal ends it; 1, with one sentence on stderr, if there is one already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="workspace.yaml that names the code server")
    given = parser.parse_args()
    try:
        home = os.environ.get("DAGSTER_HOME", "").strip()
        if not home:
            raise ConfigurationError("DAGSTER_HOME is not set: it names the directory of Dagster's configuration and state")
        with daemon_lock(Path(home)):
            from dsa110_assets import logs, settings
            from dsa110_assets.orchestration.running import internals

            form = settings.log_form()
            logs.configure(form)
            internals.run_daemon(str(given.workspace), form)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
