"""Dagster's history, bounded: runs that ended long ago go, with their events and the output of their steps.

What was materialised stays known to Dagster, or every old partition would look as if it were missing: only events that are about
no asset go. The archive keeps the provenance of what they made.
"""

import logging
import os
from datetime import datetime
from pathlib import Path

import dagster as dg
import sqlalchemy as sa

from dsa110_assets.archive.index import normalise_url
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching.history import EVENTS, POSTGRES_VARIABLE

log = logging.getLogger(__name__)
MOST = 5000
"""Runs of one time: at 10 ms each a tick's job ends in a minute; the rest goes the next day."""
_events = sa.table("event_logs", sa.column("run_id"), sa.column("asset_key"))


def expire(dagster: dg.DagsterInstance, home: Path, before: datetime) -> int:
    """Remove what is kept of runs that ended before a time; how many they were. Those that are not done stay, however old."""
    ended = dg.RunsFilter(statuses=list(instances.ENDED), updated_before=before)
    found = [one.dagster_run.run_id for one in dagster.get_run_records(ended, limit=MOST, ascending=True)]
    url = os.environ.get(POSTGRES_VARIABLE, "").strip()
    place = normalise_url(url, POSTGRES_VARIABLE) if url else sa.URL.create("sqlite", database=str(home / EVENTS / "index.db"))
    engine = sa.create_engine(place)
    try:
        for run_id in found:
            with engine.begin() as connection:
                connection.execute(sa.delete(_events).where(_events.c.run_id == run_id, _events.c.asset_key.is_(None)))
            for ending in ("", "-wal", "-shm"):
                (home / EVENTS / f"{run_id}.db{ending}").unlink(missing_ok=True)
            dagster.compute_log_manager.delete_logs(prefix=[run_id])
            dagster.run_storage.delete_run(run_id)  # last: a run that is listed is looked for again
    finally:
        engine.dispose()
    return len(found)
