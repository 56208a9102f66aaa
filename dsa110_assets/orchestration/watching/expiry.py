"""Limits Dagster's history: runs that ended long ago are removed, with their events and the output of their steps.

Events about assets stay, because otherwise every old partition would look as if it were missing: only events that are about
no asset are removed. The archive keeps the provenance of the products that the removed runs made.
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
"""The most runs removed in one job: at 10 ms each the job ends within a minute; the rest are removed the next day."""
_events = sa.table("event_logs", sa.column("run_id"), sa.column("asset_key"))


def expire(dagster: dg.DagsterInstance, home: Path, before: datetime) -> int:
    """Remove the records of runs that ended before a time, and return their number. Runs that are not done stay, however old."""
    ended = dg.RunsFilter(statuses=list(instances.ENDED), updated_before=before)
    run_ids = [one.dagster_run.run_id for one in dagster.get_run_records(ended, limit=MOST, ascending=True)]
    url = os.environ.get(POSTGRES_VARIABLE, "").strip()
    database_url = normalise_url(url, POSTGRES_VARIABLE) if url else sa.URL.create("sqlite", database=str(home / EVENTS / "index.db"))
    engine = sa.create_engine(database_url)
    try:
        for run_id in run_ids:
            with engine.begin() as connection:
                connection.execute(sa.delete(_events).where(_events.c.run_id == run_id, _events.c.asset_key.is_(None)))
            for suffix in ("", "-wal", "-shm"):
                (home / EVENTS / f"{run_id}.db{suffix}").unlink(missing_ok=True)
            dagster.compute_log_manager.delete_logs(prefix=[run_id])
            dagster.run_storage.delete_run(run_id)  # last, because a run still listed is found again if the job breaks off here
    finally:
        engine.dispose()
    return len(run_ids)
