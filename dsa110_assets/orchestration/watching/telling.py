"""What is to be sent of alerts, to which channel and when: decided from how they stand, by limits and channels alone."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive.alerts import CRITICAL, INFO, SEVERITIES, Alert, Decision, Standing
from dsa110_assets.orchestration.watching.about import About

if TYPE_CHECKING:
    from dsa110_assets.settings import Channel
    from dsa110_assets.thresholds import Thresholds

RAISED, REPEATED, ESCALATED, RESOLVED = "raised", "repeated", "escalated", "resolved"
MOST_NAMED = 20
"""Alerts that one message names; it counts the others."""


@dataclass(frozen=True)
class Told:
    """How a condition is told of: its title, its section of the runbook, whether its end is worth a message, and its page."""

    title: str
    runbook: str
    tells_end: bool = True
    page: str = "/alerts"


@dataclass(frozen=True)
class Post:
    """Where and how to tell: the channels, the portal's address, what each condition is called, and what the alert of a page is about."""

    channels: "Mapping[str, Channel]"
    portal: str
    told: Mapping[str, Told]
    about: Callable[[str], About] = lambda _: About()


def decide(standing: Standing, limits: "Thresholds", post: Post, at: datetime) -> Decision:
    """The messages to be sent now, those of one condition together, and the alerts they tell of."""
    heard = [one for one in standing.active if not any(silence.covers(one) for silence in standing.silences)]
    over = [one for one in standing.resolved if one.told_at and not any(silence.covers(one) for silence in standing.silences)]
    messages, told, escalated = list[tuple[str, datetime | None, Mapping[str, Any]]](), set[int](), set[int]()
    for condition, (fresh, again) in _news(heard, standing, limits, at).items():
        for kind, those in ((RAISED, fresh), (REPEATED, again)):
            messages += to_channels(kind, condition, those, post, at)
        told |= {one.id for one in (*fresh, *again)}
    for condition, those in _by_condition(one for one in heard if _is_overdue(one, limits, at)).items():
        messages += to_channels(ESCALATED, condition, those, post, at)
        escalated |= {one.id for one in those}
    for condition, those in _by_condition(over).items():
        if condition not in post.told or post.told[condition].tells_end:
            messages += to_channels(RESOLVED, condition, those, post, at)
    return Decision(messages, told, escalated)


def _news(heard: Sequence[Alert], standing: Standing, limits: "Thresholds", at: datetime) -> dict[str, tuple[list[Alert], list[Alert]]]:
    """By condition, the alerts nobody was told of yet, and those to be told of again. Unless one is critical they wait a while after
    the last message about their condition, for others that may come."""
    found = {}
    for condition, those in _by_condition(heard).items():
        fresh = [one for one in those if one.told_at is None or one.id in standing.risen]
        last, waits = standing.told.get(condition), timedelta(minutes=limits.group_min)
        if last is not None and at - last < waits and all(one.severity != CRITICAL for one in fresh):
            continue
        found[condition] = fresh, [one for one in those if one not in fresh and _is_due_again(one, limits, at)]
    return found


def _is_due_again(one: Alert, limits: "Thresholds", at: datetime) -> bool:
    known = one.severity == INFO or one.acknowledged_at is not None or one.told_at is None
    return not known and one.told_at is not None and at - one.told_at >= timedelta(hours=limits.repeat_h)


def _is_overdue(one: Alert, limits: "Thresholds", at: datetime) -> bool:
    waits = one.severity == CRITICAL and one.acknowledged_at is None and one.escalated_at is None and one.told_at is not None
    return waits and at - one.began_at >= timedelta(minutes=limits.escalate_min)


def _by_condition(those: "Iterator[Alert] | Sequence[Alert]") -> dict[str, list[Alert]]:
    found: dict[str, list[Alert]] = defaultdict(list)
    for one in those:
        found[one.condition].append(one)
    return dict(found)


def to_channels(
    kind: str, condition: str, those: Sequence[Alert], post: Post, at: datetime
) -> Iterator[tuple[str, datetime | None, Mapping[str, Any]]]:
    """One message for each channel that listens to any of these alerts."""
    for name, channel in post.channels.items():
        wanted = [one for one in those if _listens(channel, one, kind)]
        if wanted:
            worst = max((one.severity for one in wanted), key=SEVERITIES.index)
            yield name, None if worst == CRITICAL else quiet_until(channel.quiet, at), contents(kind, condition, wanted, worst, post)


def _listens(channel: "Channel", one: Alert, kind: str) -> bool:
    """Whether an alert is for a channel. Who is only escalated to hears how that ended."""
    escalated = kind == ESCALATED or (kind == RESOLVED and one.escalated_at is not None)
    if channel.escalation != (kind == ESCALATED) and not (channel.escalation and escalated):
        return False
    return SEVERITIES.index(one.severity) >= SEVERITIES.index(channel.severity) and (not channel.topics or one.topic in channel.topics)


def quiet_until(span: str, at: datetime) -> datetime | None:
    """The end of the quiet hours `HH:MM-HH:MM` (UTC) that `at` is in; None if it is in none."""
    if not span:
        return None
    begin, end = (timedelta(hours=int(text[:2]), minutes=int(text[3:])) for text in span.split("-"))
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (-1, 0):
        first = midnight + timedelta(days=day) + begin
        last = first + (end - begin) % timedelta(days=1)
        if first <= at < last:
            return last
    return None


def contents(kind: str, condition: str, those: Sequence[Alert], severity: str, post: Post) -> dict[str, Any]:
    """A message as it is kept, and posted as JSON: `text` is for people, the other fields for programs."""
    known = post.told.get(condition, Told(condition.replace("_", " "), "alerts"))
    what = f"{known.title}: {those[0].subject}" if len(those) == 1 and those[0].subject else known.title
    many = f" ({len(those)})" if len(those) > 1 else ""
    prefix = {RAISED: "", REPEATED: "still: ", ESCALATED: "nobody acknowledged: ", RESOLVED: "over: "}[kind]
    pages, runbook = {one.page for one in those}, f"{post.portal}/runbook#{known.runbook}"
    page = f"{post.portal}{those[0].page if len(pages) == 1 else known.page}"
    lines = [f"{one.subject}: {one.words}" if len(those) > 1 and one.subject else one.words for one in those[:MOST_NAMED]]
    lines += [f"and {len(those) - MOST_NAMED} more"] if len(those) > MOST_NAMED else []
    ids, abouts = [one.id for one in those], [post.about(one.page) for one in those]
    if kind != RESOLVED:
        lines += [f"See {page}", f"What to do: {runbook}"]
        lines += [f"Acknowledge: dsa110 alerts ack {' '.join(map(str, ids[:MOST_NAMED]))}"] if severity != INFO else []
    return {
        "title": f"{prefix}{what}{many}", "text": "\n".join(lines), "severity": severity, "kind": kind, "condition": condition,
        "topic": those[0].topic, "subjects": [one.subject for one in those], "alerts": ids, "link": page, "runbook": runbook,
        "run_ids": [one.run_id for one in abouts], "trace_ids": [one.trace_id for one in abouts],
        "since": min(one.began_at for one in those).isoformat(timespec="seconds"),
    }  # fmt: skip
