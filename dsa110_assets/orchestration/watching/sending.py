"""Messages to channels: JSON by HTTP, or whatever apprise knows by its URL; in order, each channel for itself, until it is taken."""

import http.client
import json
import logging
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive import alerts
from dsa110_assets.errors import BadDataError, ConfigurationError, DsaError, TransientError

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Channel

log = logging.getLogger(__name__)
TIMEOUT_S = 10.0
LEASE_S = 30.0
"""Longer than one message takes; whoever dies while he holds a channel is followed after that."""
_REFUSED = frozenset({400, 413, 422})
"""Answers that say something of the message, not of the channel."""
_APPRISE_CODE = re.compile(r"error=(\d{3})\b")


def deliver(archive: "Archive", channels: "Mapping[str, Channel]", holder: str) -> int:
    """Send what is due on every channel that nobody else sends on; how many were sent. What a channel does not take now stays."""
    if not channels:
        return 0
    with ThreadPoolExecutor(len(channels), "channel") as pool:
        return sum(pool.map(lambda name: _deliver(archive, name, channels[name], holder), channels))


def _deliver(archive: "Archive", name: str, channel: "Channel", holder: str) -> int:
    number, batch = 0, list[alerts.Message]()
    if not alerts.due(archive, name, datetime.now(UTC)) or not alerts.take_lease(archive, name, holder, LEASE_S):
        return 0
    try:
        while batch := _together(alerts.due(archive, name, datetime.now(UTC))):
            if not alerts.take_lease(archive, name, holder, LEASE_S):
                return number
            try:
                send(channel, _as_one([one.contents for one in batch]))
            except BadDataError as error:
                log.error("channel %s refuses the alert %s (%s)", name, batch[0].contents["title"], error)
                alerts.sent(archive, batch, str(error))
            else:
                alerts.sent(archive, batch)
            number += len(batch)
    except (TransientError, ConfigurationError) as error:
        log.warning("channel %s: %s", name, error)
    finally:
        alerts.give_back(archive, name, holder)
    return number


def _together(due: Sequence[alerts.Message]) -> list[alerts.Message]:
    """The next messages: one, or all that a channel's quiet hours kept back."""
    kept = [one for one in due if one.not_before is not None]
    return kept if due and due[0].not_before is not None else list(due[:1])


def _as_one(those: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if len(those) == 1:
        return those[0]
    worst = max((one["severity"] for one in those), key=alerts.SEVERITIES.index)
    text = "\n\n".join(f"{one['title']}\n{one['text']}" for one in those)
    return {**those[0], "title": f"{len(those)} alerts while it was quiet", "text": text, "severity": worst, "kind": "digest",
            "alerts": [key for one in those for key in one["alerts"]]}  # fmt: skip


def send(channel: "Channel", message: Mapping[str, Any]) -> None:
    """Hand one message to a channel.

    Raises TransientError if it cannot take it now, BadDataError if it refuses this one for what is in it, and
    ConfigurationError if its URL is of no kind that is known.
    """
    url = channel.url.get_secret_value()
    if url.startswith(("http://", "https://")):
        _post(url, message)
    else:
        _by_apprise(url, message)


def require_known(channel: "Channel") -> None:
    """Raise ConfigurationError if a channel's URL is of no kind that is known."""
    url = channel.url.get_secret_value()
    if not url.startswith(("http://", "https://")):
        _apprise(url)


def ask(url: str) -> None:
    """Ask for a URL, such as a watcher's outside that misses us otherwise. Raises TransientError if it does not answer well."""
    _open(url)


def _post(url: str, message: Mapping[str, Any]) -> None:
    """`text` is what Slack, Mattermost and the like show; the other fields are for programs."""
    body = {**message, "text": f"{message['title']}\n{message['text']}"}
    _open(url, json.dumps(body).encode())


def _open(url: str, body: bytes | None = None) -> None:
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        if error.code in _REFUSED:
            raise BadDataError(f"HTTP {error.code}: {error.reason}") from None
        raise TransientError(f"it does not take an alert now (HTTP {error.code}); it will be sent again") from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # these name the URL, which may hold a password
        reason = type(getattr(error, "reason", error)).__name__
        raise TransientError(f"it does not take an alert now ({reason}); it will be sent again") from None


def _by_apprise(url: str, message: Mapping[str, Any]) -> None:
    import apprise

    kinds = {alerts.CRITICAL: apprise.NotifyType.FAILURE, alerts.WARNING: apprise.NotifyType.WARNING}
    sender, kind = _apprise(url), kinds.get(message["severity"], apprise.NotifyType.INFO)
    if message["kind"] == "resolved":
        kind = apprise.NotifyType.SUCCESS
    with _said_by_apprise() as said:
        taken = sender.notify(title=message["title"], body=message["text"], notify_type=kind)
    if taken:
        return
    codes = {int(code) for text in said for code in _APPRISE_CODE.findall(text)}
    if codes and codes <= _REFUSED:
        raise BadDataError(f"HTTP {min(codes)}")
    raise TransientError(f"it does not take an alert now{f' (HTTP {min(codes)})' if codes else ''}; it will be sent again")


def _apprise(url: str) -> Any:
    import apprise

    sender = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False, app_id="DSA-110", app_desc="DSA-110", secure_logging=True))
    with _said_by_apprise():
        if not sender.add(url):
            raise ConfigurationError("its URL is of no kind that is known: https://... or one of apprise's, such as slack:// or mailtos://")
    return sender


@contextmanager
def _said_by_apprise() -> Iterator[list[str]]:
    """What apprise logs in the block; it goes nowhere else, for there may be passwords in it."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident():  # another channel's is another thread
                said.append(record.getMessage())

    logger, handler = logging.getLogger("apprise"), Keep()
    logger.propagate = False
    logging.getLogger("urllib3").setLevel(logging.INFO)  # beneath, it tells every path it asks for
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def test_message(name: str, portal: str) -> dict[str, Any]:
    """What `dsa110 alerts test` sends."""
    return {
        "title": "test: this is no alert", "text": f"Channel {name} works. Alerts are at {portal}/alerts", "severity": alerts.INFO,
        "kind": "test", "condition": "test", "topic": "platform", "subjects": [], "alerts": [], "link": f"{portal}/alerts",
        "runbook": f"{portal}/runbook#alerts", "since": datetime.now(UTC).isoformat(timespec="seconds"), "run_ids": [], "trace_ids": [],
    }  # fmt: skip


def try_all(channels: "Mapping[str, Channel]", portal: str) -> dict[str, str]:
    """Send a test message to every channel; what went wrong with each, '' if nothing."""
    found = {}
    for name, channel in channels.items():
        try:
            send(channel, test_message(name, portal))
            found[name] = ""
        except DsaError as error:
            found[name] = str(error)
    return found
