"""Looking at Dagster's state without changing it: also where its home may not be written, or lies on a read-only mount.

Dagster itself cannot: it opens its SQLite databases for writing, and may bring them up to date.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg

from dsa110_assets.archive import databases
from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.orchestration.instance import DATABASES, EVENTS, RUNS, not_writable, open_instance

log = logging.getLogger(__name__)


@contextmanager
def instance_of(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of a home directory, for reading. Of one that may not be written, a copy: the runs, and the events of those
    that did not succeed.
    """
    if not_writable(home) is None:
        with open_instance(home) as instance:
            yield instance
        return
    with tempfile.TemporaryDirectory(prefix="dsa110-dagster-") as folder:
        copy = Path(folder)
        shutil.copyfile(home / "dagster.yaml", copy / "dagster.yaml")
        for path in (home / part for part in DATABASES if (home / part).exists()):
            databases.dump_sqlite(path, copy / path.relative_to(home))
        for run_id in _unsuccessful(copy / RUNS):
            if (home / EVENTS / f"{run_id}.db").exists():
                _copy_events(home / EVENTS / f"{run_id}.db", copy / EVENTS / f"{run_id}.db")
        with open_instance(copy) as instance:
            yield instance


def _copy_events(source: Path, target: Path) -> None:
    """The events of one run; of one whose database is damaged, none."""
    try:
        databases.dump_sqlite(source, target)
    except SilentWrongnessError as error:
        log.error("run %s: its events cannot be read: %s", source.stem, error)


def _unsuccessful(runs: Path) -> list[str]:
    """The runs of a database that have not succeeded."""
    if not runs.exists():
        return []
    with closing(databases.connect_to_read(runs)) as connection:
        return [str(row[0]) for row in connection.execute("SELECT run_id FROM runs WHERE status <> 'SUCCESS'")]
