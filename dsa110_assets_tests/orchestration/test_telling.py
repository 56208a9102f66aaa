"""Which messages about alerts are sent, to which channel and when, given the limits, channels and state of the alerts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dsa110_assets.archive.alerts import CRITICAL, INFO, WARNING, Alert, Decision, Silence, Standing
from dsa110_assets.orchestration.watching import telling
from dsa110_assets.settings import Channel
from dsa110_assets.thresholds import Thresholds

NOON = datetime(2026, 1, 26, 12, tzinfo=UTC)
NIGHT = datetime(2026, 1, 26, 23, 30, tzinfo=UTC)
LIMITS = Thresholds(repeat_h=6, group_min=5, escalate_min=15)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def alert(number: int = 1, **changes: Any) -> Alert:
    values: dict[str, Any] = {
        "id": number, "condition": "disk", "subject": f"s{number}", "topic": "platform", "severity": WARNING, "words": f"words {number}",
        "page": "/#room", "began_at": NOON, "told_at": None, "escalated_at": None, "acknowledged_at": None, "acknowledged_by": None,
        "note": None, "false_alarm": False, "resolved_at": None,
    }  # fmt: skip
    return Alert(**{**values, **changes})


def decide(
    active: Sequence[Alert] = (), resolved: Sequence[Alert] = (), at: datetime = NOON, silences: Sequence[Silence] = (),
    risen: Sequence[int] = (), reported: dict[str, datetime] | None = None, **channels: dict[str, Any],
) -> Decision:  # fmt: skip
    options_by_channel = channels or {"ops": {}}
    post = telling.Post(
        {name: Channel(**{"url": "https://example.org/x", **options}) for name, options in options_by_channel.items()},
        "https://portal",
        {
            "disk": telling.Presentation("the disk is filling", "disk-fills-up"),
            "quiet": telling.Presentation("good news", "good-news", tells_end=False),
        },
    )
    return telling.decide(Standing(active, resolved, risen, silences, reported or {}), LIMITS, post, at)


def sent(decision: Decision) -> list[tuple[str, str, list[int]]]:
    return [(channel, contents["kind"], contents["alerts"]) for channel, _, contents in decision.messages]


def test_alerts_of_one_condition_are_sent_in_one_message_with_links() -> None:
    decision = decide([alert(1), alert(2, severity=CRITICAL), alert(3, condition="other", severity=INFO)], ops={"severity": "info"})
    assert sent(decision) == [("ops", "raised", [1, 2]), ("ops", "raised", [3])]
    assert decision.reported == {1, 2, 3}
    (_, _, first), (_, _, second) = decision.messages
    assert (first["title"], first["severity"], first["subjects"]) == ("the disk is filling (2)", CRITICAL, ["s1", "s2"])
    assert first["text"].splitlines() == [
        "s1: words 1", "s2: words 2", "See https://portal/#room", "What to do: https://portal/runbook#disk-fills-up",
        "Acknowledge: dsa110 alerts ack 1 2",
    ]  # fmt: skip
    assert (first["link"], first["runbook"]) == ("https://portal/#room", "https://portal/runbook#disk-fills-up")
    assert second["title"] == "other: s3"


@pytest.mark.parametrize(
    ("channel", "heard"),
    [
        ({"severity": "info"}, [1, 2, 3]),
        ({}, [2, 3]),
        ({"severity": "critical"}, [3]),
        ({"severity": "info", "topics": ["data"]}, [2]),
        ({"topics": ["science", "platform"]}, [3]),
        ({"escalation": True}, []),
    ],
)
def test_a_channel_gets_alerts_of_its_severity_and_topics(channel: dict[str, Any], heard: list[int]) -> None:
    three = [alert(1, severity=INFO), alert(2, topic="data"), alert(3, severity=CRITICAL)]
    assert [key for _, _, contents in decide(three, ops=channel).messages for key in contents["alerts"]] == heard


@pytest.mark.parametrize(
    ("changes", "after", "kinds"),
    [
        ({}, minutes(359), []),
        ({}, minutes(360), ["repeated"]),
        ({"acknowledged_at": NOON}, minutes(3600), []),
        ({"severity": INFO}, minutes(3600), []),
    ],
)
def test_unacknowledged_alerts_are_sent_again(changes: dict[str, Any], after: timedelta, kinds: list[str]) -> None:
    decision = decide([alert(told_at=NOON, **changes)], at=NOON + after, reported={"disk": NOON})
    assert [kind for _, kind, _ in sent(decision)] == kinds
    assert decision.reported == ({1} if kinds else set())


def test_alerts_soon_after_another_are_grouped_unless_critical() -> None:
    already_sent = {"reported": {"disk": NOON}}
    before = alert(1, told_at=NOON)
    assert sent(decide([before, alert(2)], at=NOON + minutes(4), **already_sent)) == []
    assert sent(decide([before, alert(2), alert(3)], at=NOON + minutes(5), **already_sent)) == [("ops", "raised", [2, 3])]
    assert sent(decide([before, alert(2, severity=CRITICAL)], at=NOON + minutes(1), **already_sent)) == [("ops", "raised", [2])]


def test_alerts_that_became_worse_are_sent_at_once() -> None:
    worse = alert(1, told_at=NOON, severity=CRITICAL)
    assert sent(decide([worse], at=NOON + minutes(1), risen=[1], reported={"disk": NOON})) == [("ops", "raised", [1])]


def test_the_end_is_sent_for_sent_alerts_unless_the_condition_opts_out() -> None:
    over = [alert(1, told_at=NOON), alert(2), alert(3, condition="quiet", told_at=NOON)]
    assert sent(decide(resolved=over, at=NOON + minutes(1))) == [("ops", "resolved", [1])]


def test_silenced_alerts_are_sent_after_the_silence_if_still_active() -> None:
    later = NOON + minutes(60)
    silence = Silence(1, "disk", later, "A", "new disks", NOON)
    decision = decide([alert(1), alert(2, condition="other")], [alert(3, told_at=NOON)], silences=[silence])
    assert sent(decision) == [("ops", "raised", [2])]
    assert decision.reported == {2}
    assert sent(decide([alert(1)], at=later)) == [("ops", "raised", [1])]


def test_unacknowledged_critical_alerts_are_escalated_once() -> None:
    channels: dict[str, dict[str, Any]] = {"ops": {}, "chief": {"escalation": True}}
    critical = alert(severity=CRITICAL, told_at=NOON)
    already_sent = {"reported": {"disk": NOON}}
    assert sent(decide([critical], at=NOON + minutes(14), **already_sent, **channels)) == []
    decision = decide([critical], at=NOON + minutes(15), **already_sent, **channels)
    assert sent(decision) == [("chief", "escalated", [1])]
    assert decision.escalated == {1}
    for not_escalated in (alert(severity=CRITICAL, told_at=NOON, acknowledged_at=NOON), alert(told_at=NOON)):
        assert sent(decide([not_escalated], at=NOON + minutes(60), **already_sent, **channels)) == []
    over = alert(severity=CRITICAL, told_at=NOON, escalated_at=NOON + minutes(15))
    assert sent(decide(resolved=[over], at=NOON + minutes(60), **channels)) == [("ops", "resolved", [1]), ("chief", "resolved", [1])]


def test_quiet_hours_delay_all_but_critical_alerts() -> None:
    quiet = {"quiet": "22:00-06:00"}
    morning = datetime(2026, 1, 27, 6, tzinfo=UTC)
    (_, until, _), (_, at_once, _) = decide([alert(1), alert(2, condition="other", severity=CRITICAL)], at=NIGHT, ops=quiet).messages
    assert (until, at_once) == (morning, None)


@pytest.mark.parametrize(
    ("span", "hour", "until"),
    [
        ("", 3, None),
        ("22:00-06:00", 21, None),
        ("22:00-06:00", 22, 6 + 24),
        ("22:00-06:00", 5, 6),
        ("22:00-06:00", 6, None),
        ("01:30-04:00", 3, 4),
        ("01:30-04:00", 1, None),
    ],
)
def test_quiet_hours_end_when_they_say(span: str, hour: int, until: int | None) -> None:
    midnight = datetime(2026, 1, 26, tzinfo=UTC)
    found = telling.quiet_until(span, midnight + timedelta(hours=hour))
    assert found == (None if until is None else midnight + timedelta(hours=until))
