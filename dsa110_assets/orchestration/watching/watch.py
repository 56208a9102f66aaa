"""One look at everything, the alerts that follow, and their sending: done by the daemon's sensor and, in case that is dead, by the portal.

Both do the same; the archive's database ensures that nothing is reported twice.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from dsa110_assets.archive import alerts
from dsa110_assets.errors import ConfigurationError, DsaError
from dsa110_assets.orchestration.watching import conditions, sending, telling
from dsa110_assets.orchestration.watching.about import about
from dsa110_assets.orchestration.watching.facts import Facts

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds

log = logging.getLogger(__name__)
EVERY_S = 15.0
"""Time between two looks: together with the sending, well within the minute in which a critical alert is to be delivered."""
SETTLED_FOR_S = 8.0
"""If another process looked less than this time ago, a look only sends."""
HEARTBEAT_S = 30.0
_HEARTBEAT, _CHANNELS = "heartbeat", "channels"


def look(
    archive: "Archive", settings: "Settings", limits: "Thresholds", refused: str | None, who: str, *,
    watching_since: datetime | None = None, always: bool = False,
) -> list[str]:  # fmt: skip
    """Give a sign of life, look, decide and send. Returns the condition and subject of each finding. With `always`, look even shortly
    after another look.

    The lack of signs of life counts from `watching_since` on: when everything has just been started, those of the last time are old.
    """
    alerts.beat(archive, who)
    alerts.watched_since(archive)
    _require_same_channels(archive, settings, who)
    began, last = datetime.now(UTC), alerts.looked_at(archive)
    findings, all_watched = list[alerts.Finding](), True
    if always or last is None or not timedelta(0) <= began - last < timedelta(seconds=SETTLED_FOR_S):
        findings, unknown = conditions.evaluate(Facts(archive, settings, limits, refused, began, watching_since))
        post = telling.Post(
            settings.alert_channels, settings.portal_address, conditions.presentations(), partial(about, archive, settings.home_path)
        )
        alerts.settle(archive, findings, unknown, began, lambda standing: _decide(standing, limits, post, began))
        all_watched = not unknown and not any(one.condition in ("service_silent", "channel_silent") for one in findings)
        if all_watched:
            _send_heartbeat(archive, settings, who)
    sending.deliver(archive, settings.alert_channels, f"{who}/{os.uname().nodename}/{os.getpid()}")
    return [f"{one.condition} {one.subject}".strip() for one in findings]


def _require_same_channels(archive: "Archive", settings: "Settings", who: str) -> None:
    """Raise ConfigurationError in a process whose channels differ from the code server's: it would alert other people, or nobody."""
    own_channels, code_server_channels = ", ".join(sorted(settings.alert_channels)), alerts.remembered(archive, _CHANNELS)
    if who == conditions.CODE_SERVER and own_channels != code_server_channels:
        alerts.remember(archive, _CHANNELS, own_channels)
    elif who != conditions.CODE_SERVER and code_server_channels not in (None, own_channels):
        difference = f"the {who} has the channels ({own_channels or 'none'}), the code server ({code_server_channels or 'none'})"
        raise ConfigurationError(f"{difference}: give both the same DSA110_ALERT_CHANNELS")


def _decide(standing: alerts.Standing, limits: "Thresholds", post: telling.Post, at: datetime) -> alerts.Decision:
    """Decide, and log the alerts of the decision: without a channel, the log is their only record outside the database."""
    decision = telling.decide(standing, limits, post, at)
    for alert in standing.active:
        if alert.id in decision.reported:
            log.warning("ALERT %s %s %s: %s", alert.severity, alert.condition, alert.subject, alert.words)
    for alert in standing.resolved:
        log.warning("ALERT over %s %s: %s", alert.condition, alert.subject, alert.words)
    return decision


def _send_heartbeat(archive: "Archive", settings: "Settings", who: str) -> None:
    """Request the heartbeat URL, whose outside watcher reports us missing without it. Called only if every condition could be determined
    and no service or channel is silent."""
    url = settings.heartbeat_url
    if url and alerts.take_lease(archive, _HEARTBEAT, f"{who}/{os.getpid()}/{time.monotonic()}", HEARTBEAT_S):
        try:
            sending.ask(url)
        except DsaError as error:
            log.warning("DSA110_HEARTBEAT_URL: %s", error)


class WatchThread:
    """The portal's thread that looks every EVERY_S, for as long as the process lives.

    While the database is unreachable, nothing can be recorded or shared; then this thread reports that by itself, once an hour.
    """

    def __init__(self, archive: "Archive", settings: "Settings", limits: Callable[[], tuple["Thresholds", str | None]], who: str) -> None:
        self.archive, self.settings, self.limits, self.who = archive, settings, limits, who
        self._since = datetime.now(UTC)
        self._ended = threading.Event()
        self._reported_at: float | None = None
        self._thread = threading.Thread(target=self._watch, name="alerts", daemon=True)

    def open(self) -> None:
        """Start looking."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking, and sign off, so that the missing signs of life raise no alert."""
        self._ended.set()
        self._thread.join(EVERY_S)
        try:
            alerts.sign_off(self.archive, self.who)
        except DsaError as error:
            log.warning("%s: %s", self.who, error)

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                look(self.archive, self.settings, *self.limits(), self.who, watching_since=self._since)
                self._reported_at = None
            except DsaError as error:
                self._report_directly(error)
            except Exception:
                log.exception("a look at the platform failed; the next one comes in %.0f s", EVERY_S)
            self._ended.wait(EVERY_S)

    def _report_directly(self, error: DsaError) -> None:
        log.error("nothing can be watched: %s", error)
        if self._reported_at is not None and time.monotonic() - self._reported_at < 3600:
            return
        self._reported_at = time.monotonic()
        blind = conditions.presentations()[conditions.BLIND]
        alert = alerts.Alert(0, conditions.BLIND, "", "platform", alerts.CRITICAL, str(error), "/", datetime.now(UTC))
        post = telling.Post(self.settings.alert_channels, self.settings.portal_address, {conditions.BLIND: blind})
        for name, _, message in telling.to_channels(telling.RAISED, conditions.BLIND, [alert], post, datetime.now(UTC)):
            try:
                sending.send(self.settings.alert_channels[name], message)
            except DsaError as refusal:
                log.error("channel %s: %s", name, refusal)
