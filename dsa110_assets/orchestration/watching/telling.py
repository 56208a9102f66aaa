"""The messages to be sent about alerts, to which channel and when, decided only from the state of the alerts, limits and channels."""

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
"""The number of alerts that one message names; it counts the others."""


@dataclass(frozen=True)
class Presentation:
    """How a condition is reported: its title, its section of the runbook, whether its end is worth a message, and its page."""

    title: str
    runbook: str
    tells_end: bool = True
    page: str = "/alerts"


@dataclass(frozen=True)
class Post:
    """Where and how to report: the channels, the portal's address, how each condition is reported, and what the alert of a page is
    about."""

    channels: "Mapping[str, Channel]"
    portal: str
    presentations: Mapping[str, Presentation]
    about: Callable[[str], About] = lambda _: About()


def decide(standing: Standing, limits: "Thresholds", post: Post, at: datetime) -> Decision:
    """The messages to send now, those about one condition together, and the ids of the alerts that they report and escalate."""
    unsilenced = [one for one in standing.active if not any(silence.covers(one) for silence in standing.silences)]
    ended = [one for one in standing.resolved if one.told_at and not any(silence.covers(one) for silence in standing.silences)]
    messages, reported, escalated = list[tuple[str, datetime | None, Mapping[str, Any]]](), set[int](), set[int]()
    for condition, (new, repeated) in _news(unsilenced, standing, limits, at).items():
        for kind, alerts in ((RAISED, new), (REPEATED, repeated)):
            messages += to_channels(kind, condition, alerts, post, at)
        reported |= {one.id for one in (*new, *repeated)}
    for condition, alerts in _by_condition(one for one in unsilenced if _is_overdue(one, limits, at)).items():
        messages += to_channels(ESCALATED, condition, alerts, post, at)
        escalated |= {one.id for one in alerts}
    for condition, alerts in _by_condition(ended).items():
        if condition not in post.presentations or post.presentations[condition].tells_end:
            messages += to_channels(RESOLVED, condition, alerts, post, at)
    return Decision(messages, reported, escalated)


def _news(
    unsilenced: Sequence[Alert], standing: Standing, limits: "Thresholds", at: datetime
) -> dict[str, tuple[list[Alert], list[Alert]]]:
    """By condition, the alerts not reported yet, and those to be reported again. Unless one of the new ones is critical, they wait a
    while after the last message about their condition, so that further alerts can join them."""
    news = {}
    for condition, alerts in _by_condition(unsilenced).items():
        new = [one for one in alerts if one.told_at is None or one.id in standing.risen]
        last, pause = standing.last_reported.get(condition), timedelta(minutes=limits.group_min)
        if last is not None and at - last < pause and all(one.severity != CRITICAL for one in new):
            continue
        news[condition] = new, [one for one in alerts if one not in new and _is_due_again(one, limits, at)]
    return news


def _is_due_again(alert: Alert, limits: "Thresholds", at: datetime) -> bool:
    not_repeated = alert.severity == INFO or alert.acknowledged_at is not None or alert.told_at is None
    return not not_repeated and alert.told_at is not None and at - alert.told_at >= timedelta(hours=limits.repeat_h)


def _is_overdue(alert: Alert, limits: "Thresholds", at: datetime) -> bool:
    unanswered = alert.severity == CRITICAL and alert.acknowledged_at is None and alert.escalated_at is None and alert.told_at is not None
    return unanswered and at - alert.began_at >= timedelta(minutes=limits.escalate_min)


def _by_condition(alerts: "Iterator[Alert] | Sequence[Alert]") -> dict[str, list[Alert]]:
    by_condition: dict[str, list[Alert]] = defaultdict(list)
    for alert in alerts:
        by_condition[alert.condition].append(alert)
    return dict(by_condition)


def to_channels(
    kind: str, condition: str, those: Sequence[Alert], post: Post, at: datetime
) -> Iterator[tuple[str, datetime | None, Mapping[str, Any]]]:
    """Yield one message for each channel that listens to any of these alerts: (channel, not before, contents)."""
    for name, channel in post.channels.items():
        relevant = [one for one in those if _listens(channel, one, kind)]
        if relevant:
            worst = max((one.severity for one in relevant), key=SEVERITIES.index)
            yield name, None if worst == CRITICAL else quiet_until(channel.quiet, at), contents(kind, condition, relevant, worst, post)


def _listens(channel: "Channel", alert: Alert, kind: str) -> bool:
    """Whether an alert is for a channel. A channel for escalations only also receives the end of an escalated alert."""
    escalated = kind == ESCALATED or (kind == RESOLVED and alert.escalated_at is not None)
    if channel.escalation != (kind == ESCALATED) and not (channel.escalation and escalated):
        return False
    return SEVERITIES.index(alert.severity) >= SEVERITIES.index(channel.severity) and (not channel.topics or alert.topic in channel.topics)


def quiet_until(span: str, at: datetime) -> datetime | None:
    """The end of the quiet hours `HH:MM-HH:MM` (UTC) if `at` is within them; else None."""
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
    """A message as it is stored and posted as JSON: `text` is for people, the other fields are for programs."""
    presentation = post.presentations.get(condition, Presentation(condition.replace("_", " "), "alerts"))
    title = f"{presentation.title}: {those[0].subject}" if len(those) == 1 and those[0].subject else presentation.title
    count = f" ({len(those)})" if len(those) > 1 else ""
    prefix = {RAISED: "", REPEATED: "still: ", ESCALATED: "nobody acknowledged: ", RESOLVED: "over: "}[kind]
    pages, runbook = {one.page for one in those}, f"{post.portal}/runbook#{presentation.runbook}"
    page = f"{post.portal}{those[0].page if len(pages) == 1 else presentation.page}"
    lines = [f"{one.subject}: {one.words}" if len(those) > 1 and one.subject else one.words for one in those[:MOST_NAMED]]
    lines += [f"and {len(those) - MOST_NAMED} more"] if len(those) > MOST_NAMED else []
    ids, abouts = [one.id for one in those], [post.about(one.page) for one in those]
    if kind != RESOLVED:
        lines += [f"See {page}", f"What to do: {runbook}"]
        lines += [f"Acknowledge: dsa110 alerts ack {' '.join(map(str, ids[:MOST_NAMED]))}"] if severity != INFO else []
    return {
        "title": f"{prefix}{title}{count}", "text": "\n".join(lines), "severity": severity, "kind": kind, "condition": condition,
        "topic": those[0].topic, "subjects": [one.subject for one in those], "alerts": ids, "link": page, "runbook": runbook,
        "run_ids": [one.run_id for one in abouts], "trace_ids": [one.trace_id for one in abouts],
        "since": min(one.began_at for one in those).isoformat(timespec="seconds"),
    }  # fmt: skip
