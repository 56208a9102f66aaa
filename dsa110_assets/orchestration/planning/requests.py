"""What was asked of Dagster before: what is in hand, and how long what ended without being made rests.

A request is named by what it would make and of what (`spec.Asset.request`), on its run and on the run of whatever failed at it: other
inputs, settings or code are another request.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.running.instance import ENDED
from dsa110_assets.orchestration.watching import history

log = logging.getLogger(__name__)
Key = tuple[str, str | None]
PARTITION_TAG = "dagster/partition"
REQUEST_TAG = "dsa110/request"
"""On a run that was asked for: the name of what is made first."""
FAILED_TAG, ERROR_TAG = "dsa110/failed", "dsa110/error"
"""On a run that failed: the name of what it failed at, and the class of the error."""


def in_progress(runs: Sequence[dg.DagsterRun]) -> set[Key]:
    """(asset, partition) of what these runs make."""
    return {(key.to_user_string(), run.tags.get(PARTITION_TAG)) for run in runs for key in run.asset_selection or ()}


@dataclass(frozen=True)
class Past:
    """How many runs of a request ended and left it to be made, and for how long [s] it still rests; 0: it may be asked for."""

    ended: int = 0
    rests_s: float = 0.0


def past(instance: dg.DagsterInstance, requests: Sequence[str], now_s: float) -> dict[str, Past]:
    """What became of these requests, of those that were made before. `policy` says how long each rests."""
    found: dict[str, dict[str, dg.RunRecord]] = {}
    for tag in (REQUEST_TAG, FAILED_TAG) if requests else ():
        for record in instance.get_run_records(dg.RunsFilter(tags={tag: list(requests)}, statuses=list(ENDED))):
            found.setdefault(record.dagster_run.tags[tag], {})[record.dagster_run.run_id] = record
    return {request: _past(request, sorted(records.values(), key=_ended_s), now_s) for request, records in found.items()}


def _past(request: str, records: Sequence[dg.RunRecord], now_s: float) -> Past:
    tags = records[-1].dagster_run.tags
    failed_at_it = (tags.get(FAILED_TAG) or request) == request  # and not at what follows it in the same run
    pause_s = policy.pause_s(tags.get(ERROR_TAG) if failed_at_it else None, len(records))
    return Past(len(records), max(0.0, _ended_s(records[-1]) + pause_s - now_s))


def _ended_s(record: dg.RunRecord) -> float:
    return float(record.end_time or record.update_timestamp.timestamp())


@dataclass
class Attempt:
    """What a step is at: the name of its request, once it is known."""

    request: str = ""


@contextmanager
def failure_recorded(instance: dg.DagsterInstance, run_id: str) -> Iterator[Attempt]:
    """If the block fails for good, write on its run at what and with which class of error."""
    attempt = Attempt()
    try:
        yield attempt
    except dg.RetryRequested:
        raise
    except Exception as error:
        kind = error.metadata.get(history.ERROR_CLASS) if isinstance(error, dg.Failure) else None
        try:
            instance.add_run_tags(run_id, {FAILED_TAG: attempt.request, ERROR_TAG: str(kind.value) if kind else type(error).__name__})
        except Exception:
            log.exception("run %s: what it failed at could not be noted; it may be asked for again early", run_id)
        raise
