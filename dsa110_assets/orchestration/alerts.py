"""Telling people: failed checks and failed runs go to the console, and to a webhook if there is one."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from dsa110_assets.archive.quarantine import quarantined
from dsa110_assets.errors import TransientError

if TYPE_CHECKING:
    from dsa110_assets.archive.quarantine import Quarantined
    from dsa110_assets.archive.store import Archive

log = logging.getLogger(__name__)
WEBHOOK_TIMEOUT_S = 10.0
PER_CHECK = 50


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
        records = instance.event_log_storage.get_asset_check_execution_history(
            key, limit=PER_CHECK, status={AssetCheckExecutionRecordStatus.FAILED}
        )
        known = seen.get(name)
        if known is not None:
            found += [(r.id, _alert(name, r.event)) for r in records if r.id > known and r.event is not None]
        seen[name] = max([r.id for r in records], default=known or 0)
    return [alert for _, alert in sorted(found, key=lambda pair: pair[0])], seen


def _alert(name: str, event: dg.EventLogEntry) -> Alert:
    assert event.dagster_event is not None
    evaluation = event.dagster_event.asset_check_evaluation_data
    metadata = {key: value.value for key, value in evaluation.metadata.items()}
    where = evaluation.partition or metadata.pop("partition", "")
    figures = ", ".join(f"{key} {value}" for key, value in metadata.items() if key != "reason")
    text = " · ".join(part for part in (evaluation.description or "", figures) if part)
    return Alert(f"check {name} failed {where}".strip(), text, evaluation.severity.value)


def put_aside(archive: "Archive", since: str | None) -> tuple[list[Alert], str]:
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
    if shortage and not before:
        return [Alert("ingest pauses: the disk is full", shortage, "ERROR")], shortage
    if before and not shortage:
        return [Alert("ingest resumes", "there is room on the disk again", "WARN")], ""
    return [], shortage or ""


def send(alerts: Sequence[Alert], webhook_url: str | None) -> None:
    """Write alerts to the log, and post each as JSON to the webhook. Raises TransientError if it does not take one."""
    for alert in alerts:
        log.warning("ALERT %s: %s", alert.title, alert.text)
        if webhook_url:
            _post(webhook_url, alert)


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
    except (urllib.error.URLError, OSError) as error:
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
    from dsa110_assets.orchestration import rules

    status = AssetCheckExecutionRecordStatus
    rows = []
    for asset, known in rules.RULES.items():
        for rule in known:
            key = dg.AssetCheckKey(dg.AssetKey(asset), rule.check)
            records = instance.event_log_storage.get_asset_check_execution_history(
                key, limit=limit, status={status.SUCCEEDED, status.FAILED}
            )
            failed = sorted((r for r in records if r.status == status.FAILED), key=lambda r: r.id)
            last = _alert(f"{asset}:{rule.check}", failed[-1].event).text if failed and failed[-1].event else ""
            if records:
                rows.append(CheckSummary(asset, rule.check, len(records) - len(failed), len(failed), last))
    return rows
