"""One look at everything, what follows from it, and its sending: done by the daemon's sensor and, for when that is dead, by the portal.

Both do the same; the archive's database sees to it that nothing is told twice.
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
"""Between two looks: with the sending, well within the minute in which a critical alert is delivered."""
SETTLED_FOR_S = 8.0
"""Who finds that another looked so short a time ago only sends."""
HEARTBEAT_S = 30.0
_HEARTBEAT, _CHANNELS = "heartbeat", "channels"


def look(
    archive: "Archive", settings: "Settings", limits: "Thresholds", refused: str | None, who: str, *,
    watching_since: datetime | None = None, always: bool = False,
) -> list[str]:  # fmt: skip
    """Give a sign of life, look, decide, send; the words of what is found now. With `always` also shortly after another look.

    Signs of life are missed from `watching_since` on: when all is started, those of the last time are old.
    """
    alerts.beat(archive, who)
    alerts.watched_since(archive)
    _require_same_channels(archive, settings, who)
    began, last = datetime.now(UTC), alerts.looked_at(archive)
    found, whole = list[alerts.Finding](), True
    if always or last is None or not timedelta(0) <= began - last < timedelta(seconds=SETTLED_FOR_S):
        found, unknown = conditions.evaluate(Facts(archive, settings, limits, refused, began, watching_since))
        post = telling.Post(
            settings.alert_channels, settings.portal_address, conditions.told(), partial(about, archive, settings.home_path)
        )
        alerts.settle(archive, found, unknown, began, lambda standing: _decide(standing, limits, post, began))
        whole = not unknown and not any(one.condition in ("service_silent", "channel_silent") for one in found)
        if whole:
            _tell_the_watcher(archive, settings, who)
    sending.deliver(archive, settings.alert_channels, f"{who}/{os.uname().nodename}/{os.getpid()}")
    return [f"{one.condition} {one.subject}".strip() for one in found]


def _require_same_channels(archive: "Archive", settings: "Settings", who: str) -> None:
    """Raise ConfigurationError in a process with other channels than the code server's: it would tell others, or nobody."""
    own, known = ", ".join(sorted(settings.alert_channels)), alerts.remembered(archive, _CHANNELS)
    if who == conditions.CODE_SERVER and own != known:
        alerts.remember(archive, _CHANNELS, own)
    elif who != conditions.CODE_SERVER and known not in (None, own):
        told = f"the {who} has the channels ({own or 'none'}), the code server ({known or 'none'})"
        raise ConfigurationError(f"{told}: give both the same DSA110_ALERT_CHANNELS")


def _decide(standing: alerts.Standing, limits: "Thresholds", post: telling.Post, at: datetime) -> alerts.Decision:
    """The decision, also in the log: without a channel that is all there is."""
    decision = telling.decide(standing, limits, post, at)
    for one in standing.active:
        if one.id in decision.told:
            log.warning("ALERT %s %s %s: %s", one.severity, one.condition, one.subject, one.words)
    for one in standing.resolved:
        log.warning("ALERT over %s %s: %s", one.condition, one.subject, one.words)
    return decision


def _tell_the_watcher(archive: "Archive", settings: "Settings", who: str) -> None:
    """Ask for the URL whose watcher outside misses us, if all is watched and nothing that watches is dead."""
    url = settings.heartbeat_url
    if url and alerts.take_lease(archive, _HEARTBEAT, f"{who}/{os.getpid()}/{time.monotonic()}", HEARTBEAT_S):
        try:
            sending.ask(url)
        except DsaError as error:
            log.warning("DSA110_HEARTBEAT_URL: %s", error)


class Eye:
    """A thread that looks every EVERY_S, for as long as the process lives: the portal's.

    Where the database is away, nothing can be written down or shared; then this one alone tells it, once an hour.
    """

    def __init__(self, archive: "Archive", settings: "Settings", limits: Callable[[], tuple["Thresholds", str | None]], who: str) -> None:
        self.archive, self.settings, self.limits, self.who = archive, settings, limits, who
        self._since = datetime.now(UTC)
        self._ended = threading.Event()
        self._told_at: float | None = None
        self._thread = threading.Thread(target=self._watch, name="alerts", daemon=True)

    def open(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more; one that ends as it should is not missed."""
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
                self._told_at = None
            except DsaError as error:
                self._tell_directly(error)
            except Exception:
                log.exception("a look at the platform failed; the next one comes in %.0f s", EVERY_S)
            self._ended.wait(EVERY_S)

    def _tell_directly(self, error: DsaError) -> None:
        log.error("nothing can be watched: %s", error)
        if self._told_at is not None and time.monotonic() - self._told_at < 3600:
            return
        self._told_at = time.monotonic()
        known = conditions.told()[conditions.BLIND]
        one = alerts.Alert(0, conditions.BLIND, "", "platform", alerts.CRITICAL, str(error), "/", datetime.now(UTC))
        post = telling.Post(self.settings.alert_channels, self.settings.portal_address, {conditions.BLIND: known})
        for name, _, message in telling.to_channels(telling.RAISED, conditions.BLIND, [one], post, datetime.now(UTC)):
            try:
                sending.send(self.settings.alert_channels[name], message)
            except DsaError as refused:
                log.error("channel %s: %s", name, refused)
