"""Active alerts, their acknowledgement, and messages still to be sent: on both databases, with any number of watching processes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from dsa110_assets.archive import alerts, integrity
from dsa110_assets.archive.alerts import CRITICAL, WARNING, Decision, Finding, Standing
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, NotFoundError

pytestmark = pytest.mark.row(44, cases="cases in which every alert is sent once")

T0 = datetime(2026, 1, 26, 3, tzinfo=UTC)
FULL = Finding("disk", "archive", "platform", WARNING, "80 GB free", "/#room")


def after(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def send_all(standing: Standing) -> Decision:
    """One message for each alert that was not yet sent, and one for each that ended."""
    fresh = [one for one in standing.active if one.told_at is None]
    raised = [("ops", None, {"title": f"{one.condition} {one.subject}"}) for one in fresh]
    return Decision([*raised, *(("ops", None, {"title": f"over {one.condition}"}) for one in standing.resolved)], {one.id for one in fresh})


def titles(archive: Archive, at: datetime | None = None) -> list[str]:
    return [one.contents["title"] for one in alerts.due(archive, "ops", at or after(60))]


def settle(archive: Archive, minutes: float, *found: Finding, unknown: Sequence[str] = ()) -> bool:
    return alerts.settle(archive, found, unknown, after(minutes), send_all)


def test_an_alert_lives_from_its_first_finding_to_the_first_look_without_it(archive: Archive) -> None:
    settle(archive, 0, FULL)
    settle(archive, 1, Finding(**{**vars(FULL), "words": "79 GB free"}))
    (one,) = alerts.listed(archive, [alerts.ACTIVE])
    assert (one.words, one.began_at, one.told_at, one.state) == ("79 GB free", after(0), after(0), alerts.ACTIVE)
    settle(archive, 2, unknown=["disk"])  # whether it still holds cannot be determined
    assert len(alerts.listed(archive, [alerts.ACTIVE])) == 1
    settle(archive, 3)
    assert [(one.state, one.resolved_at) for one in alerts.listed(archive)] == [(alerts.RESOLVED, after(3))]
    settle(archive, 4, FULL)
    assert [one.state for one in alerts.listed(archive)] == [alerts.ACTIVE, alerts.RESOLVED]
    assert titles(archive) == ["disk archive", "over disk", "disk archive"]


def test_alerts_are_sorted_by_severity_and_then_newest_first(archive: Archive) -> None:
    found = [Finding(**{**vars(FULL), "subject": name, "severity": severity}) for name, severity in (("a", CRITICAL), ("b", WARNING))]
    settle(archive, 0, *found)
    settle(archive, 1, *found, *(Finding(**{**vars(one), "subject": one.subject * 2}) for one in found))
    assert [one.subject for one in alerts.current(archive)] == ["aa", "a", "bb", "b"]
    settle(archive, 2, found[1])
    assert [one.subject for one in alerts.current(archive)] == ["b"]


def test_a_look_older_than_the_last_settled_one_changes_nothing(archive: Archive) -> None:
    """It began before a look that is already settled, so that its findings are older."""
    assert settle(archive, 2, FULL)
    assert not settle(archive, 1)
    assert len(alerts.listed(archive, [alerts.ACTIVE])) == 1
    assert titles(archive) == ["disk archive"]


def test_simultaneous_looks_send_each_alert_once(archive: Archive) -> None:
    """Two daemons and a portal: one message, and one active alert."""
    found = [FULL, Finding("queue", "", "platform", WARNING, "60 wait")]
    with ThreadPoolExecutor(6) as pool:
        assert any(pool.map(lambda number: settle(archive, number / 1000, *found), range(12)))
    assert sorted(titles(archive)) == ["disk archive", "queue "]
    assert len(alerts.listed(archive)) == 2


def test_a_worsened_alert_is_sent_again_and_needs_a_new_acknowledgement(archive: Archive) -> None:
    settle(archive, 0, FULL)
    (one,) = alerts.listed(archive)
    alerts.acknowledge(archive, one.id, "A. Observer", "ordered a disk")
    risen: list[set[int]] = []

    def decide(standing: Standing) -> Decision:
        risen.append(set(standing.risen))
        return Decision()

    alerts.settle(archive, [Finding(**{**vars(FULL), "severity": CRITICAL})], (), after(1), decide)
    (worse,) = alerts.listed(archive)
    assert risen == [{one.id}]
    assert (worse.severity, worse.acknowledged_at, worse.note) == (CRITICAL, None, "ordered a disk")
    settle(archive, 2, FULL)  # the severity never falls until the alert is over
    assert alerts.listed(archive)[0].severity == CRITICAL


def test_acknowledgements_are_recorded_and_counted(archive: Archive) -> None:
    settle(archive, 0, FULL, Finding("queue", "", "platform", WARNING, "60 wait"))
    queue, disk = alerts.listed(archive)
    acknowledged = alerts.acknowledge(archive, disk.id, " A. Observer ", "ordered a disk")
    assert (acknowledged.state, acknowledged.acknowledged_by, acknowledged.note) == (alerts.ACKNOWLEDGED, "A. Observer", "ordered a disk")
    alerts.mark_false(archive, queue.id, "B")
    settle(archive, 10, FULL)
    assert [one.id for one in alerts.listed(archive, [alerts.ACKNOWLEDGED])] == [disk.id]
    assert [one.id for one in alerts.listed(archive, condition="queue", severity=WARNING)] == [queue.id]
    found = alerts.figures(archive, after(-1))
    assert (found.number, found.false_alarms, found.resolve_s) == (2, 1, 600.0)
    assert found.acknowledge_s is not None
    with pytest.raises(ConfigurationError, match="is over since"):
        alerts.acknowledge(archive, queue.id, "A. Observer")
    with pytest.raises(NotFoundError, match="there is no alert 77"):
        alerts.get(archive, 77)
    with pytest.raises(ConfigurationError, match="say who does this"):
        alerts.acknowledge(archive, disk.id, "  ")


def test_messages_are_sent_in_order_and_delayed_ones_when_due(archive: Archive) -> None:
    def decide(standing: Standing) -> Decision:
        waits = {"title": "waits"}
        return Decision([("ops", after(30), waits), ("ops", None, {"title": "now"}), ("other", None, {"title": "elsewhere"})])

    alerts.settle(archive, [FULL], (), T0, decide)
    assert titles(archive, after(1)) == ["now"]
    alerts.sent(archive, alerts.due(archive, "ops", after(1)))
    assert titles(archive, after(29)) == []
    assert titles(archive, after(30)) == ["waits"]
    assert alerts.undelivered(archive, after(5)) == {"other": 1}
    assert alerts.undelivered(archive, after(45)) == {"ops": 1, "other": 1}
    alerts.sent(archive, alerts.due(archive, "ops", after(30)), refused="HTTP 400")
    assert titles(archive) == []


def test_only_one_process_at_a_time_holds_the_lease_of_a_channel(archive: Archive) -> None:
    assert alerts.take_lease(archive, "ops", "a", 60)
    assert alerts.take_lease(archive, "ops", "a", 60)
    assert not alerts.take_lease(archive, "ops", "b", 60)
    assert alerts.take_lease(archive, "other", "b", 60)
    alerts.give_back(archive, "ops", "b")
    assert not alerts.take_lease(archive, "ops", "b", 60)
    alerts.give_back(archive, "ops", "a")
    assert alerts.take_lease(archive, "ops", "b", 0)
    assert alerts.take_lease(archive, "ops", "a", 60)  # the lease of b expired at once


def test_a_silence_covers_a_condition_a_topic_or_everything(archive: Archive) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    one = alerts.silence(archive, "platform", later, "A", "new disks are put in")
    assert alerts.silences(archive) == [one]
    assert one.covers(FULL)
    assert not one.covers(Finding("held", "x", "data", WARNING, "held"))
    alerts.end_silence(archive, one.id)
    assert alerts.silences(archive) == []
    with pytest.raises(NotFoundError, match="no active silence"):
        alerts.end_silence(archive, one.id)
    with pytest.raises(ConfigurationError, match="is past"):
        alerts.silence(archive, "disk", T0, "A", "why")


def test_a_service_that_signs_off_is_no_longer_expected(archive: Archive) -> None:
    alerts.beat(archive, "portal")
    alerts.beat(archive, "worker a")
    assert sorted(alerts.beats(archive)) == ["portal", "worker a"]
    alerts.sign_off(archive, "worker a")
    assert list(alerts.beats(archive)) == ["portal"]


def test_the_index_is_rebuilt_and_alerts_stay(archive: Archive) -> None:
    """Alerts have no record on disk."""
    settle(archive, 0, FULL)
    since = alerts.watched_since(archive)
    integrity.reindex(archive.root, archive.index.url.render_as_string(hide_password=False))
    with Archive(archive.root, archive.index.url.render_as_string(hide_password=False)) as again:
        assert [one.condition for one in alerts.listed(again)] == ["disk"]
        assert alerts.watched_since(again) == since
        assert titles(again) == ["disk archive"]
