"""The state of every observation (collecting its subbands, pending, in progress, completed or failed) and how long it has been in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.archive import naming, quarantine
from dsa110_assets.archive.product import HELD
from dsa110_assets.orchestration.watching import history
from dsa110_assets.portal import overview

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.ingest.inbox import Inbox

COLLECTING, PENDING, IN_PROGRESS, COMPLETED, FAILED = "collecting", "pending", "in progress", "completed", "failed"
STATES = (COLLECTING, PENDING, IN_PROGRESS, COMPLETED, FAILED)
_OF_INBOX = {"waiting": COLLECTING, "ready": PENDING, "unusable": FAILED}


@dataclass(frozen=True)
class Observation:
    """An observation, its state and when it entered it; `step` is the asset it has reached, `reason` what it waits for
    or why it failed."""

    observation: str
    state: str
    step: str
    since: datetime
    reason: str = ""

    def age_h(self, now: datetime) -> float:
        """Hours in this state."""
        return (now - self.since).total_seconds() / 3600


def observations(
    store: Archive,
    home: Path,
    seen: Inbox | None,
    since: str | None,
    failed: Sequence[history.FailedRun] | None = None,
    taken_up: Sequence[Mapping[str, str]] | None = None,
) -> list[Observation]:
    """Every observation that is not done, and those completed from the night `since` on, newest first.

    `home` is Dagster's home, `seen` the contents of the inbox (None: it was not looked at). `failed` are the failed runs and
    `taken_up` the result of `overview.waiting`; both are read here if they are not given.
    """
    return unfinished(store, home, seen, {one.observation: one for one in _completed(store, since)}, failed, taken_up)


def unfinished(
    store: Archive,
    home: Path,
    seen: Inbox | None,
    completed: Mapping[str, Observation],
    failed: Sequence[history.FailedRun] | None = None,
    taken_up: Sequence[Mapping[str, str]] | None = None,
) -> list[Observation]:
    """Every observation that is not done, and those of `completed` for which nothing is under way."""
    found = dict(completed)
    found |= {one.observation: one for one in _in_the_inbox(seen)}
    found |= {one.observation: one for one in _accepted(store, overview.waiting(store) if taken_up is None else taken_up)}
    found |= {one.observation: one for one in _quarantined(store)}
    for run in history.failed(home, store) if failed is None else failed:
        if run.partition in found and set(run.assets) & set(overview.STEPS):
            found[run.partition] = Observation(run.partition, FAILED, run.assets[0], run.ended_at, run.reason)
    for under_way in history.runs(home, history.UNFINISHED):
        one = found.get(under_way.partition or "")
        if one is not None and set(under_way.assets) & set(overview.STEPS):
            found[one.observation] = _running(one, under_way)
    return sorted(found.values(), key=lambda one: one.observation, reverse=True)


def _running(observation: Observation, run: history.Run) -> Observation:
    if run.began_at is None:
        return replace(observation, state=PENDING, since=run.asked_at, reason=f"run {run.run_id[:8]} is queued")
    return replace(observation, state=IN_PROGRESS, since=run.began_at, reason=f"run {run.run_id[:8]} makes {', '.join(run.assets)}")


def _completed(store: Archive, since: str | None) -> Iterator[Observation]:
    *_, last = overview.STEPS
    for product in store.products(last, since, removed=True):
        if product.partition:
            held = product.metadata.get(HELD, "")
            yield Observation(product.partition, FAILED if held else COMPLETED, last, product.created_at, f"held: {held}" if held else "")


def _in_the_inbox(seen: Inbox | None) -> Iterator[Observation]:
    for candidate in seen.candidates if seen else ():
        with contextlib.suppress(OSError):  # the files were taken away in the meantime
            changed_s = max(header.path.stat().st_mtime for header in candidate.group.files.values())
            arrived = datetime.fromtimestamp(changed_s, UTC)
            yield Observation(candidate.observation, _OF_INBOX[candidate.state], overview.STEPS[0], arrived, candidate.reason)


def _accepted(store: Archive, taken_up: Sequence[Mapping[str, str]]) -> Iterator[Observation]:
    """The observations that were taken up and are not imaged; one that a check holds counts as failed."""
    held = {name.partition: (name.asset, why) for name, why in ((naming.parse_id(i), why) for i, why in store.held().items())}
    for row in taken_up:
        key, step = row["observation"], row["next"]
        before = store.current(overview.STEPS[overview.STEPS.index(step) - 1], key, removed=True)
        if before is None:  # taken away in the meantime
            continue
        asset, why = held.get(key, ("", ""))
        stopped = asset in overview.STEPS
        yield Observation(key, FAILED if stopped else PENDING, asset or step, before.created_at, f"held: {why}" if stopped else "")


def _quarantined(store: Archive) -> Iterator[Observation]:
    for record in quarantine.quarantined(store):
        if record.observation is not None:
            yield Observation(record.observation, FAILED, overview.STEPS[0], record.at, f"quarantined: {record.reason}")
