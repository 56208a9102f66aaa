"""`dsa110 alerts`: the commands of the person on watch."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from dsa110_assets.archive import alerts
from dsa110_assets.archive.alerts import Decision, Finding
from dsa110_assets.archive.store import Archive
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.portal.small_archive import SmallArchive
from dsa110_assets_tests.webhook import Webhook

LATE = Finding("disk", "archive", "platform", "critical", "2 GB free", "/#room")
HELD = Finding("held", "tile", "data", "warning", "held: rms is 2")


@pytest.fixture
def watched(own: SmallArchive) -> SmallArchive:
    """An archive with two alerts of an hour ago and a message about them that was not sent."""
    with Archive(own.root) as archive:
        began = datetime.now(UTC) - timedelta(hours=1)
        alerts.settle(archive, [LATE, HELD], (), began, lambda _: Decision([("ops", None, {"title": "disk"})]))
    return own


def test_alerts_are_listed_acknowledged_and_ended(bare: Run, watched: SmallArchive) -> None:
    listed = bare("alerts", "list", on=watched)
    assert (listed.status, "2 GB free" in listed.out, "channel ops: 1 messages wait to be sent" in listed.err) == (0, True, True)
    held, disk = (one["id"] for one in bare("alerts", "list", "--json", on=watched).json)
    done = bare("alerts", "ack", disk, "--note", "a disk is ordered", "--by", "A. Observer", on=watched)
    assert done.out == f"alert {disk} (disk archive) is acknowledged by A. Observer\n"
    assert bare("alerts", "resolve", held, on=watched).status == 0
    assert bare("alerts", "false", held, "--note", "it was a test", on=watched).status == 0
    (remaining,) = bare("alerts", "list", "--json", on=watched).json
    assert (remaining["id"], remaining["state"], remaining["note"]) == (disk, "acknowledged", "a disk is ordered")
    all_alerts = bare("alerts", "list", "--all", "--json", "--condition", "held", on=watched).json
    assert [(one["state"], one["false_alarm"]) for one in all_alerts] == [("resolved", True)]
    assert "in 30 days 2 alerts, 1 false" in bare("alerts", "list", on=watched).err
    again = bare("alerts", "resolve", held, on=watched)
    assert (again.status, "is over since" in again.err) == (1, True)


def test_silences_are_listed_and_can_be_ended(bare: Run, watched: SmallArchive) -> None:
    made = bare("alerts", "silence", "platform", "--hours", "2", "--why", "new disks", on=watched)
    assert made.out.startswith("silence 1: no messages about platform until ")
    (one,) = bare("alerts", "silences", "--json", on=watched).json
    assert (one["what"], one["why"]) == ("platform", "new disks")
    assert "new disks" in bare("alerts", "silences", on=watched).out
    assert "silence 1: no messages about platform" in bare("alerts", "list", on=watched).err
    assert bare("alerts", "unsilence", 1, on=watched).status == 0
    assert bare("alerts", "silences", "--json", on=watched).json == []
    wrong = bare("alerts", "silence", "disc", "--why", "x", on=watched)
    assert (wrong.status, "choose from no_calibration" in wrong.err) == (2, True)


def test_the_test_reports_which_channels_accepted_the_message(bare: Run, own: SmallArchive) -> None:
    assert bare("alerts", "test", on=own).status == 1
    hook = Webhook()
    try:
        channels = {"ops": {"url": hook.url}, "pager": {"url": "http://127.0.0.1:9/s3cret"}}
        done = bare("alerts", "test", on=own, DSA110_ALERT_CHANNELS=json.dumps(channels))
        assert done.status == 1
        assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [["ops", "taken"], ["pager", "it"]]
        assert "s3cret" not in done.out + done.err
        assert hook.titles == ["test: this is no alert"]
        only = bare("alerts", "test", "--channel", "ops", on=own, DSA110_ALERT_CHANNELS=json.dumps(channels))
        assert (only.status, len(hook.taken)) == (0, 2)
    finally:
        hook.close()
    refused = bare("alerts", "test", on=own, DSA110_ALERT_CHANNELS='{"ops": {"url": "s3cret"}}')
    assert (refused.status, "s3cret" in refused.err, "it must be a URL" in refused.err) == (1, False, True)
    unread = bare("settings", on=own, DSA110_ALERT_CHANNELS="ops=https://s3cret")
    assert (unread.status, "s3cret" in unread.err, "it is no JSON" in unread.err) == (1, False, True)
    assert "s3cret" not in bare("settings", on=own, DSA110_ALERT_CHANNELS='{"ops": {"url": "https://s3cret"}}').out
