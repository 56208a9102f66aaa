"""A channel is down for ten minutes, while alerts begin and end and all watching services, each a separate process, are killed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dsa110_assets.archive.index import alert_messages
from dsa110_assets.archive.store import Archive
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.live.services import Services
from dsa110_assets_tests.webhook import Webhook

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.row(44), pytest.mark.timeout(1800)]
CHANNELS = "DSA110_ALERT_CHANNELS"
AWAY_S, SOON_S = 600.0, 90.0
"""Watching services look every 15 s; on a heavily overloaded machine it takes a few looks to send all waiting messages."""


def decided(services: Services, channel: str) -> list[dict[str, Any]]:
    """All messages that were ever decided for a channel, in order."""
    query = sa.select(alert_messages.c.contents).where(alert_messages.c.channel == channel).order_by(alert_messages.c.id)
    with Archive(services.live.root) as archive:
        return [json.loads(row.contents) for row in archive.index.read(lambda c: list(c.execute(query)))]


def test_a_channel_down_for_ten_minutes_gets_every_alert_once_in_order(tmp_path: Path) -> None:
    other = Webhook()
    services = Services(tmp_path)
    channels = {**json.loads(services.live.environment[CHANNELS]), "other": {"url": other.url, "severity": "warning"}}
    services.live.environment[CHANNELS] = json.dumps(channels)
    live, limits, good = services.live, services.limits, services.limits.read_text()
    try:
        services.start_all()
        limits.write_text("queue_warn = 0\n")
        services.delivered_s("thresholds", 0.0)
        live.webhook.close()
        gone = time.monotonic()

        limits.write_text(good)
        services.until(lambda: [one["kind"] for one in decided(services, "test")][-1] == "resolved", "that it is over is decided")
        limits.write_text(f"{good}disk_warn_gb = 1e7\n".replace("disk_warn_gb = 2\n", ""))
        services.until(lambda: any(one["condition"] == "disk" for one in decided(services, "test")), "the full disk is decided")
        for name in services.commands:  # between decision and delivery
            services.kill(name)
        waiting = len(decided(services, "test"))
        services.start_all()
        limits.write_text(good)
        services.until(lambda: len(decided(services, "test")) > waiting, "that the disk is not full is decided")
        services.until(lambda: any(one["condition"] == "channel_silent" for one in other.taken), "the other channel is told", AWAY_S)

        threading.Event().wait(max(0.0, AWAY_S - (time.monotonic() - gone)))  # the length of the outage is what is tested
        before = len(live.webhook.taken)
        live.webhook.open()
        back = time.monotonic()
        services.until(lambda: len(live.webhook.taken) >= len(decided(services, "test")), "all that waited is sent", SOON_S)
        record_figure(44, "seconds a channel was away", round(back - gone))
        record_figure(44, "messages decided meanwhile", len(live.webhook.taken) - before)
        record_figure(44, "seconds from its return to the last of them", round(time.monotonic() - back, 1))
        for name, hook in (("test", live.webhook), ("other", other)):
            services.until(lambda name=name, hook=hook: len(hook.taken) >= len(decided(services, name)), f"{name} has all")
            received = [(one["kind"], one["condition"], one["alerts"]) for one in hook.taken]
            assert received == [(one["kind"], one["condition"], one["alerts"]) for one in decided(services, name)]  # none lost, none twice
        raised = [key for one in live.webhook.taken if one["kind"] == "raised" for key in one["alerts"]]
        assert len(raised) == len(set(raised))
    finally:
        services.close()
        other.close()
