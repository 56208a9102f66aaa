"""The conditions that raise alerts: each with its limits, its section of the runbook, and how it is found in the facts.

To add one, add an entry to `_ALL`, its limits to `thresholds`, and its section to ops/runbook.md. Tests fail if one of these is missing.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from sqlalchemy.exc import SQLAlchemyError

from dsa110_assets.archive import alerts
from dsa110_assets.archive.alerts import CRITICAL, INFO, WARNING, Finding
from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS
from dsa110_assets.errors import DsaError
from dsa110_assets.orchestration.watching import disks, history
from dsa110_assets.orchestration.watching.about import PRODUCTS, RUNS
from dsa110_assets.orchestration.watching.facts import Facts
from dsa110_assets.orchestration.watching.telling import Presentation
from dsa110_assets.plain_text import DAY_S, duration, size

log = logging.getLogger(__name__)
Topic = Literal["platform", "data", "calibration", "science"]
FEW_LISTED = 5
NEWS_H = 1.0
"""How long good news counts as news."""
UNPUBLISHED = "not published: "
"""How the failure reason of an observation that broke a HARD rule begins (`running.publishing`)."""


@dataclass(frozen=True)
class Found:
    """What a condition found: its subject ('' if there is only one), a description, the severity, and the page that shows it."""

    subject: str
    words: str
    severity: str = WARNING
    page: str = ""


@dataclass(frozen=True)
class Condition:
    """One condition that raises alerts. `limits` are the names of its thresholds, `page` shows it, `runbook` is its section there."""

    name: str
    title: str
    topic: Topic
    look: Callable[[Facts], Iterator[Found]]
    page: str
    runbook: str
    limits: tuple[str, ...] = ()
    tells_end: bool = True


def evaluate(facts: Facts) -> tuple[list[Finding], set[str]]:
    """The findings now, and the names of the conditions that could not be determined, which are themselves reported as a finding."""
    findings, unknown, troubles = list[Finding](), set[str](), dict[str, list[str]]()
    for entry in CONDITIONS.values():
        try:
            findings += [
                Finding(entry.name, result.subject, entry.topic, result.severity, result.words, result.page or entry.page)
                for result in entry.look(facts)
            ]
        except (DsaError, OSError, LookupError, ValueError, SQLAlchemyError) as error:
            log.warning("condition %s cannot be determined: %s", entry.name, error)
            unknown.add(entry.name)
            troubles.setdefault(" ".join(str(error).split()) or type(error).__name__, []).append(entry.title)
    if troubles:
        words = "; ".join(f"{why} (not known: {', '.join(titles)})" for why, titles in troubles.items())
        findings.append(Finding(BLIND, "", "platform", CRITICAL, words[:2000], "/"))
    return list({(entry.condition, entry.subject): entry for entry in findings}.values()), unknown


def presentations() -> dict[str, Presentation]:
    """How each condition is reported, by its name."""
    return {one.name: Presentation(one.title, one.runbook, one.tells_end, one.page) for one in (*CONDITIONS.values(), _BLIND)}


# -- calibration --


def _no_calibration(facts: Facts) -> Iterator[Found]:
    since = facts.uncalibrated_since
    if since is not None:
        age_h = (facts.moment - since).total_seconds() / 3600
        limits = facts.limits
        if age_h >= limits.no_calibration_warn_h:
            severity = CRITICAL if age_h >= limits.no_calibration_critical_h else WARNING
            yield Found("", f"no usable calibration for {age_h:.1f} h, since {since:%Y-%m-%d %H:%M} UTC", severity)


def _transit_unsolved(facts: Facts) -> Iterator[Found]:
    for name, at in facts.unsolved_transits:
        hours = facts.limits.transit_solved_h
        words = f"{name} crossed the strip at {at:%Y-%m-%d %H:%M} UTC and was observed; {hours:g} h later no table set from it is in force"
        yield Found(f"{name} {at:%Y-%m-%dT%H:%M}", words)


def _tables_registered(facts: Facts) -> Iterator[Found]:
    for product in facts.newest_since("caltables", NEWS_H):
        words = f"{product.metadata.get('n_sets', '?')} table sets of {product.partition} are registered"
        yield Found(product.id, words, INFO, f"{PRODUCTS}{product.id}")


# -- runs --


def _failures(facts: Facts) -> Iterator[Found]:
    since, limits = facts.now - timedelta(hours=1), facts.limits
    ended = [one for one in facts.runs if one.ended_at is not None and one.ended_at >= since and one.status in ("SUCCESS", history.FAILED)]
    bad = {one.run_id for one in ended if one.status == history.FAILED and not history.waits(facts.home, one.run_id)}
    numbers = Counter(asset for one in ended for asset in one.assets)
    failed = Counter(asset for one in ended if one.run_id in bad for asset in one.assets)
    for asset, number in numbers.items():
        if number >= limits.failures_of_runs and failed[asset] > limits.failures_warn * number:
            severity = CRITICAL if failed[asset] > limits.failures_critical * number else WARNING
            yield Found(asset, f"{failed[asset]} of {number} runs of the last hour failed ({failed[asset] / number:.0%})", severity)


def _run_failed(facts: Facts) -> Iterator[Found]:
    for run in facts.failed:
        subject = f"{', '.join(run.assets)} {run.partition or ''}".strip()
        yield Found(subject, f"{run.reason} (run {run.run_id})", page=f"{RUNS}{run.run_id}")


def _job_failed(facts: Facts) -> Iterator[Found]:
    began, last = alerts.watched_since(facts.archive), dict[str, history.Run]()
    for run in facts.runs:
        if not run.assets and run.ended_at is not None:
            last.setdefault(run.job, run)
    for job, run in last.items():
        if run.status == history.FAILED and run.ended_at is not None and run.ended_at >= began:
            yield Found(job, f"{history.why_failed(facts.home, run.run_id)} (run {run.run_id})", page=f"{RUNS}{run.run_id}")


def _retried(facts: Facts) -> Iterator[Found]:
    lacking = {(asset, run.partition): run for run in facts.failed for asset in run.assets}
    bad = Counter((asset, run.partition) for run in facts.runs if run.status in history.ENDED_BADLY for asset in run.assets)
    for (asset, partition), run in lacking.items():
        retries = bad[asset, partition] - 1
        if retries > facts.limits.max_retries:
            words = f"failed after {retries} retries: {run.reason}"
            yield Found(f"{asset} {partition or ''}".strip(), words, page=f"{RUNS}{run.run_id}")


def _run_silent(facts: Facts) -> Iterator[Found]:
    for run, age in facts.silent_runs(timedelta(minutes=facts.limits.run_silent_min)):
        what = f"{', '.join(run.assets) or run.job} {run.partition or ''}".strip()
        words = f"{what}: no event for {age.total_seconds() / 60:.0f} min (run {run.run_id}, {run.status.lower()})"
        yield Found(run.run_id[:8], words, page=f"{RUNS}{run.run_id}")


def _queue(facts: Facts) -> Iterator[Found]:
    if facts.waiting > facts.limits.queue_warn:
        severity = CRITICAL if facts.waiting > facts.limits.queue_critical else WARNING
        yield Found("", f"{facts.waiting} observations wait to be imaged", severity)


def _queue_empty(facts: Facts) -> Iterator[Found]:
    last = alerts.listed(facts.archive, [alerts.RESOLVED], condition="queue", limit=1)
    recent = [one for one in last if one.resolved_at is not None and one.resolved_at >= facts.now - timedelta(hours=NEWS_H)]
    if recent and facts.waiting == 0:
        yield Found(str(recent[0].id), "no observation waits any more", INFO)


# -- the machine and its services --


def _disk(facts: Facts) -> Iterator[Found]:
    for name, disk in facts.disks:
        space = f"{disk.path}: {size(disk.free_bytes)} free"
        critical, warn = (1e9 * find(facts.limits, disk.total_bytes) for find in (disks.critical_gb, disks.warn_gb))
        if disk.free_bytes < critical:
            consequence = "; ingest pauses until there is more" if name == "archive" else ""
            yield Found(name, f"{space}, below {size(critical)}{consequence}", CRITICAL)
        elif disk.free_bytes < warn:
            yield Found(name, f"{space}, below {size(warn)}")
        elif disk.full_in_days is not None and disk.full_in_days < facts.limits.disk_full_days:
            yield Found(name, f"{space}; full in {duration(DAY_S * disk.full_in_days)} at the rate of the last 24 h")


def _inbox_silent(facts: Facts) -> Iterator[Found]:
    last = facts.last_file
    if last is not None:
        age_min = (facts.now - last).total_seconds() / 60
        if age_min > facts.limits.inbox_silent_min:
            yield Found("", f"no file was written into {facts.settings.inbox} for {age_min:.0f} min, since {last:%Y-%m-%d %H:%M} UTC")


def _service_silent(facts: Facts) -> Iterator[Found]:
    daemon = facts.daemon
    if daemon:
        yield Found("daemon", f"Dagster's daemon: {daemon}; nothing is processed by itself", CRITICAL)
    for name, age_s in facts.silent_services:
        if name != CODE_SERVER or not facts.daemon_may_be_silent:  # the code server looks only when the daemon asks it to
            yield Found(name, f"{name} gave no sign of life for {duration(age_s)}", CRITICAL)


def _channel_silent(facts: Facts) -> Iterator[Found]:
    late = alerts.undelivered(facts.archive, facts.now - timedelta(minutes=facts.limits.channel_silent_min))
    for name, number in late.items():
        yield Found(name, f"channel {name} takes no alerts: {number} wait for it", WARNING)


def _backup(facts: Facts) -> Iterator[Found]:
    last, limit = facts.last_backup, timedelta(hours=facts.limits.backup_warn_h)
    if facts.now - (last or alerts.watched_since(facts.archive)) > limit:
        words = f"the newest verified one is of {last:%Y-%m-%d %H:%M} UTC" if last else "there is no verified one"
        yield Found("", f"{words}, in {facts.settings.backups_path}")


def _thresholds(facts: Facts) -> Iterator[Found]:
    if facts.refused:
        yield Found("", f"{facts.refused}; the limits last in force stay, or else the defaults")


# -- data --


def _quarantined(facts: Facts) -> Iterator[Found]:
    for entry in facts.recently_quarantined:
        names = [ascii(path.name)[1:-1] for path in entry.paths]
        listed = ", ".join(names[:FEW_LISTED]) + (f" and {len(names) - FEW_LISTED} more" if len(names) > FEW_LISTED else "")
        yield Found(entry.observation or listed, entry.reason)


def _held(facts: Facts) -> Iterator[Found]:
    for product_id, reason in facts.archive.held().items():
        yield Found(product_id, f"held: {reason}; nothing is made from it", page=f"{PRODUCTS}{product_id}")


def _check_failed(facts: Facts) -> Iterator[Found]:
    failures: dict[str, list[tuple[str, str, bool, str]]] = {}
    for product in facts.failing:
        for check, reason in product.metadata.get(VERDICTS, {}).items():
            if reason:
                error = check in product.metadata.get(FAILED_ERRORS, [check])
                failures.setdefault(f"{product.asset}:{check}", []).append((product.partition or "", reason, error, product.id))
    for subject, entries in failures.items():
        partition, reason, _, product_id = entries[-1]
        severity = WARNING if any(error for _, _, error, _ in entries) else INFO
        words = f"{reason} ({partition}; {len(entries)} in the last {facts.limits.recent_h:g} h)"
        yield Found(subject, words, severity, f"{PRODUCTS}{product_id}")


OFF = {
    "noise": (("tile_image", "rms", "sane"),),
    "flagging": (("measurement_set", "flag_fraction", ""),),
    "flux scale": (("tile_image", "flux_ratio", "flux_scale"), ("calibrated_ms", "flux_scale_drift", "flux_scale")),
    "astrometry": (("tile_image", "astrometry", "position"),),
}
"""For each quantity that can be off: asset, check, and the HARD rule that keeps the asset from being published ('' if there is none)."""


def _off(facts: Facts) -> Iterator[Found]:
    for what, places in OFF.items():
        for asset, check, hard in places:
            row = _outcomes(facts, asset, check, hard)
            if len(row) == facts.limits.off_in_a_row and all(reason for _, reason in row):
                partitions = ", ".join(partition for partition, _ in row)
                yield Found(what, f"{asset}:{check} of the last {len(row)} observations ({partitions}): {row[0][1]}", WARNING, "/trends")
                break


def _outcomes(facts: Facts, asset: str, check: str, hard: str) -> list[tuple[str, str]]:
    """The newest observations of an asset, latest first, each with the reason why its check failed ('' if it passed)."""
    number = facts.limits.off_in_a_row
    reasons = {one.partition or "": one.metadata.get(VERDICTS, {}).get(check, "") for one in facts.archive.newest(asset, number)}
    for one in facts.failed:
        if hard and asset in one.assets and f"{UNPUBLISHED}{hard}: " in one.reason:
            reasons[one.partition or ""] = one.reason
    return sorted(reasons.items(), reverse=True)[:number]


def _candidate(facts: Facts) -> Iterator[Found]:
    for product in facts.newest_since("variability", facts.limits.recent_h):
        number = product.metadata.get("n_candidates") or 0
        if number:
            kinds = {kind: product.metadata.get(f"n_{kind}") for kind in ("flare", "ese", "transient", "variable")}
            words = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
            yield Found(product.partition or "", f"{number} candidates in the night of {product.partition}: {words}")


def _night_complete(facts: Facts) -> Iterator[Found]:
    for product in facts.newest_since("night_report", NEWS_H):
        counts = product.metadata
        words = (
            f"{counts.get('n_observations', '?')} observations, {counts.get('n_images', '?')} images, {counts.get('n_errors', '?')} errors"
        )
        yield Found(product.partition or "", f"the night of {product.partition} is complete: {words}", INFO, f"/nights/{product.partition}")


CODE_SERVER, PORTAL = "code server", "portal"
BLIND = "blind"
_ALL: Sequence[Condition] = (
    Condition("no_calibration", "no usable calibration", "calibration", _no_calibration, "/calibration", "calibration-is-stale",
              ("no_calibration_warn_h", "no_calibration_critical_h", "calibration_stale_h")),
    Condition("transit_unsolved", "a transit was not solved", "calibration", _transit_unsolved, "/calibration", "a-transit-was-not-solved",
              ("transit_solved_h",)),
    Condition("failures", "many runs fail", "platform", _failures, "/control", "many-runs-fail",
              ("failures_warn", "failures_critical", "failures_of_runs")),
    Condition("run_failed", "run failed", "platform", _run_failed, "/#failed", "a-run-failed"),
    Condition("job_failed", "housekeeping failed", "platform", _job_failed, "/control", "housekeeping-failed"),
    Condition("retried", "retried again and again", "platform", _retried, "/#failed", "retried-again-and-again", ("max_retries",)),
    Condition("run_silent", "a run does not get on", "platform", _run_silent, "/control", "a-run-does-not-get-on", ("run_silent_min",)),
    Condition("queue", "observations wait", "platform", _queue, "/#queue", "observations-wait", ("queue_warn", "queue_critical")),
    Condition("queue_empty", "the queue is empty again", "platform", _queue_empty, "/#queue", "good-news", tells_end=False),
    Condition("disk", "the disk is full or filling", "platform", _disk, "/#room", "disk-fills-up",
              ("disk_warn_gb", "disk_critical_gb", "disk_full_days")),
    Condition("inbox_silent", "no new observations", "data", _inbox_silent, "/", "no-new-observations", ("inbox_silent_min",)),
    Condition("service_silent", "no sign of life", "platform", _service_silent, "/", "no-sign-of-life",
              ("service_silent_s", "part_silent_s", "daemon_silent_s")),
    Condition("channel_silent", "a channel takes no alerts", "platform", _channel_silent, "/alerts", "alerts", ("channel_silent_min",)),
    Condition("backup", "no recent backup", "platform", _backup, "/alerts", "no-recent-backup", ("backup_warn_h",)),
    Condition("thresholds", "thresholds are refused", "platform", _thresholds, "/alerts", "thresholds-are-refused"),
    Condition("quarantine", "quarantined", "data", _quarantined, "/#quarantined", "no-new-observations", ("recent_h",)),
    Condition("held", "a product is held", "data", _held, "/#held", "a-check-failed"),
    Condition("check_failed", "check failed", "data", _check_failed, "/#checks", "a-check-failed", ("recent_h",)),
    Condition("off", "off in a row", "data", _off, "/trends", "off-in-a-row", ("off_in_a_row",)),
    Condition("candidate", "candidates", "science", _candidate, "/candidates", "candidates", ("recent_h",), tells_end=False),
    Condition("tables_registered", "tables registered", "calibration", _tables_registered, "/calibration", "good-news", tells_end=False),
    Condition("night_complete", "night complete", "science", _night_complete, "/nights", "good-news", tells_end=False),
)  # fmt: skip
CONDITIONS = {one.name: one for one in _ALL}
_BLIND = Condition(BLIND, "something cannot be found out", "platform", lambda _: iter(()), "/", "something-cannot-be-found-out")
"""For the conditions that could not be determined."""
NAMES = (*CONDITIONS, BLIND)
TOPICS = get_args(Topic)
SILENCED = (*NAMES, *TOPICS, alerts.EVERYTHING)
"""What can be silenced: conditions, topics, or everything."""


def runbook(name: str) -> str:
    """The section of the runbook of a condition; the section on alerts for a condition that this version does not have."""
    return {**CONDITIONS, BLIND: _BLIND}[name].runbook if name in NAMES else "alerts"
