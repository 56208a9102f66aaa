"""Telling people: failed checks and failed runs go to the console, and to a webhook if there is one."""

import http.client
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive.quarantine import quarantined
from dsa110_assets.errors import TransientError, WaitingError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.running.instance import events
from dsa110_assets.orchestration.running.internals import AssetCheckExecutionRecord, AssetCheckExecutionRecordStatus

if TYPE_CHECKING:
    from dsa110_assets.archive.quarantine import Quarantined
    from dsa110_assets.archive.store import Archive

log = logging.getLogger(__name__)
WEBHOOK_TIMEOUT_S = 10.0
PER_CHECK = 50
SENT_TAG = "dsa110/alert"
"""On a failed run: whether the webhook has taken its alert, where it did not at once."""
_REFUSED = frozenset({400, 413, 422})
"""Answers that say something of the alert, not of the webhook."""


@dataclass(frozen=True)
class Alert:
    """Something a person should know: where, what, and how bad."""

    title: str
    text: str
    severity: str
    link: str = ""


def failed_checks(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey], cursor: Mapping[str, Any]
) -> tuple[list[Alert], dict[str, Any]]:
    """Check failures newer than the cursor, oldest first, and the new cursor.

    The cursor maps 'asset:check' to the last event seen. A check that is not in it yet starts from its newest
    failure: history is not alerted about. Reads the history of each check, which both storages have.
    """
    found: list[tuple[int, Alert]] = []
    seen = dict(cursor)
    for key in checks:
        name = f"{key.asset_key.to_user_string()}:{key.name}"
        known = seen.get(name)
        records = _failures_since(instance, key, known)
        if known is not None:
            found += [(r.id, _alert(name, r.event)) for r in records if r.id > known and r.event is not None]
        seen[name] = max([r.id for r in records], default=known or 0)
    return [alert for _, alert in sorted(found, key=lambda pair: pair[0])], seen


def _failures_since(instance: dg.DagsterInstance, key: dg.AssetCheckKey, known: int | None) -> list[AssetCheckExecutionRecord]:
    """A check's failures, the newest first, at least to the one that is known: after days without a webhook there are many."""
    failed = {AssetCheckExecutionRecordStatus.FAILED}
    found: list[AssetCheckExecutionRecord] = []
    while True:
        before = found[-1].id if found else None
        page = list(instance.event_log_storage.get_asset_check_execution_history(key, PER_CHECK, before, failed))
        found += page
        if len(page) < PER_CHECK or known is None or page[-1].id <= known:
            return found


def _alert(name: str, event: dg.EventLogEntry) -> Alert:
    assert event.dagster_event is not None
    evaluation = event.dagster_event.asset_check_evaluation_data
    metadata = {key: value.value for key, value in evaluation.metadata.items()}
    where = evaluation.partition or metadata.pop("partition", "")
    figures = ", ".join(f"{key} {value}" for key, value in metadata.items() if key != "reason")
    text = " · ".join(part for part in (evaluation.description or "", figures) if part)
    return Alert(f"check {name} failed {where}".strip(), text, evaluation.severity.value)


def new_quarantines(archive: "Archive", since: str | None) -> tuple[list[Alert], str]:
    """Quarantines newer than `since` (an ISO time), oldest first, and the newest's time; None starts from now."""
    records = quarantined(archive)
    newest = max([record.at.isoformat() for record in records], default=since or "")
    new = [] if since is None else [record for record in records if record.at.isoformat() > since]
    return [Alert(f"quarantined {_names(record)}", record.reason, "WARN") for record in new], newest


def _names(record: "Quarantined") -> str:
    if record.observation is not None:
        return record.observation
    return ", ".join(ascii(path.name)[1:-1] for path in record.paths)


def disk_changes(shortage: str | None, before: str | None) -> tuple[list[Alert], str]:
    """An alert when the disk has become short, one when it is no more, and the state to compare with next time."""
    return _changes(shortage, before, "ingest pauses: the disk is full", "ingest resumes", "there is room on the disk again")


def thresholds_changes(refused: str | None, before: str | None) -> tuple[list[Alert], str]:
    """An alert when the thresholds file is refused, one when it is right again, and the state to compare with next time."""
    title = "thresholds are refused: the limits last in force stay, or else the defaults"
    return _changes(refused, before, title, "thresholds are right again", "they are in force from now on")


def _changes(trouble: str | None, before: str | None, begins: str, ends: str, over: str) -> tuple[list[Alert], str]:
    if trouble and not before:
        return [Alert(begins, trouble, "ERROR")], trouble
    if before and not trouble:
        return [Alert(ends, over, "WARN")], ""
    return [], trouble or ""


def of_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Alert:
    """What to say of a run that failed, in the steps' own words; one that only waits is a warning."""
    reasons, waiting, ending = [], True, ""
    for entry in events(instance, run.run_id, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        event = entry.dagster_event
        if event is None or not event.is_step_failure:
            ending = (event.message if event else None) or ending
            continue
        error_class, reason = policy.failure(event.step_failure_data)
        reasons.append(f"{event.step_key}: {error_class}: {reason}")
        waiting &= error_class == WaitingError.__name__
    what, severity = ("run waits", "WARN") if reasons and waiting else ("run failed", "ERROR")
    partition = run.tags.get("dagster/partition", "")
    text = "; ".join(reasons) or ending or "its events tell no reason, or cannot be read; see the run in Dagster's web UI"
    return Alert(f"{what} {partition}".strip(), text, severity, run.run_id)


def send_of_run(instance: dg.DagsterInstance, run: dg.DagsterRun, webhook_url: str | None) -> None:
    """Alert about a failed run. If the webhook does not take it now, the run's tag says so, for `send_late`."""
    try:
        send([of_run(instance, run)], webhook_url)
    except TransientError as error:
        log.warning("run %s: %s", run.run_id, error)
        instance.add_run_tags(run.run_id, {SENT_TAG: "not yet"})
        return
    if SENT_TAG in run.tags:  # a retry inherits its parent's tags
        instance.add_run_tags(run.run_id, {SENT_TAG: "sent"})


def send_late(instance: dg.DagsterInstance, webhook_url: str | None) -> int:
    """Alert about failed runs of which the webhook took no alert at the time, the oldest first; how many.

    Raises TransientError if it still does not; those already sent are not sent again.
    """
    late = dg.RunsFilter(tags={SENT_TAG: "not yet"}, statuses=[dg.DagsterRunStatus.FAILURE])
    runs = instance.get_runs(filters=late)
    for run in reversed(runs):
        send([of_run(instance, run)], webhook_url)
        instance.add_run_tags(run.run_id, {SENT_TAG: "sent"})
    return len(runs)


def send(alerts: Sequence[Alert], webhook_url: str | None) -> list[Alert]:
    """Write alerts to the log, and post each as JSON to the webhook. Returns those it did not take for now.

    Raises TransientError if it took none. One that it refuses for what is in it stands in the log and in no other's way.
    """
    for number, alert in enumerate(alerts):
        log.warning("ALERT %s: %s", alert.title, alert.text)
        try:
            if webhook_url:
                _post(webhook_url, alert)
        except TransientError as error:
            if number == 0:
                raise
            log.warning("%d alerts are left: %s", len(alerts) - number, error)
            return list(alerts[number:])
    return []


def _post(url: str, alert: Alert) -> None:
    """`text` is what Slack, Mattermost and the like show; the other fields are for programs."""
    body = json.dumps(
        {
            "text": f"{alert.title}\n{alert.text}",
            "title": alert.title,
            "severity": alert.severity,
            "link": alert.link,
        }
    ).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        if error.code in _REFUSED:
            log.error("the webhook refuses the alert %s (%s)", alert.title, error)
            return
        raise TransientError(f"the webhook did not take an alert ({error}); it will be sent again") from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(f"the webhook did not take an alert ({error}); it will be sent again") from error


@dataclass(frozen=True)
class CheckSummary:
    """How often one check passed and failed, and what it said when it last failed."""

    asset: str
    check: str
    passed: int
    failed: int
    last_failure: str


def check_summary(instance: dg.DagsterInstance, limit: int = 100_000) -> list[CheckSummary]:
    """Every check's outcomes so far, in the order of the graph; checks that never ran are left out."""
    status = AssetCheckExecutionRecordStatus
    rows = []
    for asset in graph.specifications().values():
        for rule in asset.rules:
            key = dg.AssetCheckKey(dg.AssetKey(asset.name), rule.check)
            records = instance.event_log_storage.get_asset_check_execution_history(
                key, limit=limit, status={status.SUCCEEDED, status.FAILED}
            )
            failed = sorted((r for r in records if r.status == status.FAILED), key=lambda r: r.id)
            last = _alert(f"{asset.name}:{rule.check}", failed[-1].event).text if failed and failed[-1].event else ""
            if records:
                rows.append(CheckSummary(asset.name, rule.check, len(records) - len(failed), len(failed), last))
    return rows
