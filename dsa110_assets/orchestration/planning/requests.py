"""Earlier requests to Dagster: which are in progress, and how long a request rests whose run ended without making its product.

A request's name follows from its product and what that is made from (`spec.Asset.request`). Tags hold the name on its run and on the
run of any step that failed at it. With other inputs, settings or code it is another request.
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
"""On a requested run: the request of the asset that is made first."""
FAILED_TAG, ERROR_TAG = "dsa110/failed", "dsa110/error"
"""On a failed run: the request at which it failed, and the class of the error."""


def in_progress(runs: Sequence[dg.DagsterRun]) -> set[Key]:
    """(asset, partition) of everything that these runs make."""
    return {(key.to_user_string(), run.tags.get(PARTITION_TAG)) for run in runs for key in run.asset_selection or ()}


@dataclass(frozen=True)
class Past:
    """How many runs of a request ended without making it, and for how long [s] it still rests; 0: it may be requested now."""

    ended: int = 0
    rests_s: float = 0.0


def past(instance: dg.DagsterInstance, requests: Sequence[str], now_s: float) -> dict[str, Past]:
    """The `Past` of those of these requests that were made before. `policy` determines how long each rests."""
    by_request: dict[str, dict[str, dg.RunRecord]] = {}
    for tag in (REQUEST_TAG, FAILED_TAG) if requests else ():
        for record in instance.get_run_records(dg.RunsFilter(tags={tag: list(requests)}, statuses=list(ENDED))):
            by_request.setdefault(record.dagster_run.tags[tag], {})[record.dagster_run.run_id] = record
    return {request: _past(request, sorted(records.values(), key=_ended_s), now_s) for request, records in by_request.items()}


def _past(request: str, records: Sequence[dg.RunRecord], now_s: float) -> Past:
    tags = records[-1].dagster_run.tags
    failed_at_it = (tags.get(FAILED_TAG) or request) == request  # rather than at an asset that follows in the same run
    pause_s = policy.pause_s(tags.get(ERROR_TAG) if failed_at_it else None, len(records))
    return Past(len(records), max(0.0, _ended_s(records[-1]) + pause_s - now_s))


def _ended_s(record: dg.RunRecord) -> float:
    return float(record.end_time or record.update_timestamp.timestamp())


@dataclass
class Attempt:
    """The request a step is working on, by name, once it is known."""

    request: str = ""


@contextmanager
def failure_recorded(instance: dg.DagsterInstance, run_id: str) -> Iterator[Attempt]:
    """If the block fails for good, tag its run with the request it failed at and the class of the error."""
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
            log.exception("run %s: the step that failed could not be recorded; it may be requested again early", run_id)
        raise
