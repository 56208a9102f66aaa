"""Sending messages to channels: JSON by HTTP, or any service whose URL apprise knows. Messages are sent in order, on each channel
separately, and again until the channel accepts them."""

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
"""Longer than one message takes. If a process dies while it holds a channel, another takes the channel over after this time."""
_REFUSED = frozenset({400, 413, 422})
"""HTTP statuses that reject the message itself, not the channel."""
_APPRISE_CODE = re.compile(r"error=(\d{3})\b")


def deliver(archive: "Archive", channels: "Mapping[str, Channel]", holder: str) -> int:
    """Send the due messages on every channel that no other process is sending on. Returns how many were sent. Messages that a channel does
    not accept now stay due."""
    if not channels:
        return 0
    with ThreadPoolExecutor(len(channels), "channel") as pool:
        return sum(pool.map(lambda name: _deliver(archive, name, channels[name], holder), channels))


def _deliver(archive: "Archive", name: str, channel: "Channel", holder: str) -> int:
    number, batch = 0, list[alerts.Message]()
    if not alerts.due(archive, name, datetime.now(UTC)) or not alerts.take_lease(archive, name, holder, LEASE_S):
        return 0
    try:
        while batch := _next_batch(alerts.due(archive, name, datetime.now(UTC))):
            if not alerts.take_lease(archive, name, holder, LEASE_S):
                return number
            try:
                send(channel, _combined([one.contents for one in batch]))
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


def _next_batch(due: Sequence[alerts.Message]) -> list[alerts.Message]:
    """The next messages to send together: one, or all that were held back during a channel's quiet hours."""
    held_back = [one for one in due if one.not_before is not None]
    return held_back if due and due[0].not_before is not None else list(due[:1])


def _combined(messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if len(messages) == 1:
        return messages[0]
    worst = max((message["severity"] for message in messages), key=alerts.SEVERITIES.index)
    text = "\n\n".join(f"{message['title']}\n{message['text']}" for message in messages)
    return {**messages[0], "title": f"{len(messages)} alerts while it was quiet", "text": text, "severity": worst, "kind": "digest",
            "alerts": [key for message in messages for key in message["alerts"]]}  # fmt: skip


def send(channel: "Channel", message: Mapping[str, Any]) -> None:
    """Hand one message to a channel.

    Raises TransientError if the channel cannot accept it now, BadDataError if the channel refuses this message because of its contents,
    and ConfigurationError if the channel's URL is of no known kind.
    """
    url = channel.url.get_secret_value()
    if url.startswith(("http://", "https://")):
        _post(url, message)
    else:
        _by_apprise(url, message)


def require_known(channel: "Channel") -> None:
    """Raise ConfigurationError if a channel's URL is of no known kind."""
    url = channel.url.get_secret_value()
    if not url.startswith(("http://", "https://")):
        _apprise(url)


def ask(url: str) -> None:
    """Request a URL, such as that of an outside watcher that reports us missing otherwise. Raises TransientError if the request fails."""
    _open(url)


def _post(url: str, message: Mapping[str, Any]) -> None:
    """Post a message as JSON. `text` is what Slack, Mattermost and similar services show; the other fields are for programs."""
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
        raise TransientError(f"it cannot accept an alert now (HTTP {error.code}); it will be sent again") from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # their messages contain the URL, which may hold a password
        reason = type(getattr(error, "reason", error)).__name__
        raise TransientError(f"it cannot accept an alert now ({reason}); it will be sent again") from None


def _by_apprise(url: str, message: Mapping[str, Any]) -> None:
    import apprise

    kinds = {alerts.CRITICAL: apprise.NotifyType.FAILURE, alerts.WARNING: apprise.NotifyType.WARNING}
    sender, kind = _apprise(url), kinds.get(message["severity"], apprise.NotifyType.INFO)
    if message["kind"] == "resolved":
        kind = apprise.NotifyType.SUCCESS
    with _apprise_log() as lines:
        accepted = sender.notify(title=message["title"], body=message["text"], notify_type=kind)
    if accepted:
        return
    codes = {int(code) for text in lines for code in _APPRISE_CODE.findall(text)}
    if codes and codes <= _REFUSED:
        raise BadDataError(f"HTTP {min(codes)}")
    raise TransientError(f"it cannot accept an alert now{f' (HTTP {min(codes)})' if codes else ''}; it will be sent again")


def _apprise(url: str) -> Any:
    import apprise

    sender = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False, app_id="DSA-110", app_desc="DSA-110", secure_logging=True))
    with _apprise_log():
        if not sender.add(url):
            raise ConfigurationError("its URL is of no known kind: use https://... or one of apprise's, such as slack:// or mailtos://")
    return sender


@contextmanager
def _apprise_log() -> Iterator[list[str]]:
    """Collect the lines that apprise logs in the block. They go nowhere else, because they may contain passwords."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident():  # records of other channels come from other threads
                lines.append(record.getMessage())

    logger, handler = logging.getLogger("apprise"), Keep()
    logger.propagate = False
    logging.getLogger("urllib3").setLevel(logging.INFO)  # at DEBUG it logs every path it requests
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_message(name: str, portal: str) -> dict[str, Any]:
    """The message that `dsa110 alerts test` sends."""
    return {
        "title": "test: this is no alert", "text": f"Channel {name} works. Alerts are at {portal}/alerts", "severity": alerts.INFO,
        "kind": "test", "condition": "test", "topic": "platform", "subjects": [], "alerts": [], "link": f"{portal}/alerts",
        "runbook": f"{portal}/runbook#alerts", "since": datetime.now(UTC).isoformat(timespec="seconds"), "run_ids": [], "trace_ids": [],
    }  # fmt: skip


def try_all(channels: "Mapping[str, Channel]", portal: str) -> dict[str, str]:
    """Send a test message to every channel. Returns the error of each channel by name, '' if it accepted the message."""
    errors = {}
    for name, channel in channels.items():
        try:
            send(channel, test_message(name, portal))
            errors[name] = ""
        except DsaError as error:
            errors[name] = str(error)
    return errors
