"""Alerts in the archive's database: what is wrong and since when, who acknowledged it, and which messages are still to be sent.

An alert is a condition that holds for a subject. It is active from the look that finds the condition until a look that no longer finds
it; each condition and subject have at most one active alert. The messages to send are decided and written in the transaction
that changes the alerts. They are sent later, by the holder of the channel's lease. So nothing is lost or decided twice, whichever
process dies and however many watch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dsa110_assets.archive.index import alert_messages, alert_silences, alerts, marks
from dsa110_assets.errors import ConfigurationError, NotFoundError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dsa110_assets.archive.store import Archive

INFO, WARNING, CRITICAL = "info", "warning", "critical"
SEVERITIES = (INFO, WARNING, CRITICAL)
ACTIVE, ACKNOWLEDGED, RESOLVED = "active", "acknowledged", "resolved"
STATES = (ACTIVE, ACKNOWLEDGED, RESOLVED)
EVERYTHING = "everything"
LONGEST_NOTE, LONGEST_NAME = 500, 80
MESSAGES_KEPT = timedelta(days=30)
_EVALUATED, _BEGAN, _LEASE, _BEAT = "evaluated", "watched since", "lease/", "beat/"


@dataclass(frozen=True)
class Finding:
    """A condition that holds for a subject ('' if it has only one), its description in words, and the page that shows it."""

    condition: str
    subject: str
    topic: str
    severity: str
    words: str
    page: str = "/alerts"


@dataclass(frozen=True)
class Alert:
    """One alert. Times are UTC; `told_at` is when the last message about it was decided."""

    id: int
    condition: str
    subject: str
    topic: str
    severity: str
    words: str
    page: str
    began_at: datetime
    told_at: datetime | None = None
    escalated_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    note: str | None = None
    false_alarm: bool = False
    resolved_at: datetime | None = None

    @property
    def state(self) -> str:
        """One of STATES."""
        return RESOLVED if self.resolved_at else ACKNOWLEDGED if self.acknowledged_at else ACTIVE

    def __str__(self) -> str:
        """The alert as commands name it."""
        return f"alert {self.id} ({f'{self.condition} {self.subject}'.strip()})"


@dataclass(frozen=True)
class Silence:
    """A condition, a topic or EVERYTHING about which no message is sent until a time; who silenced it and why."""

    id: int
    what: str
    until: datetime
    by: str
    why: str
    made_at: datetime

    def covers(self, one: Finding | Alert) -> bool:
        """Whether this silence applies to a finding or an alert."""
        return self.what in (EVERYTHING, one.condition, one.topic)


@dataclass(frozen=True)
class Message:
    """A message for one channel to send, in order of ids. One with `not_before` was held back during the channel's quiet hours."""

    id: int
    channel: str
    decided_at: datetime
    not_before: datetime | None
    contents: Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """The messages to send: (channel, not before, contents); and the ids of the alerts these messages report and escalate."""

    messages: Sequence[tuple[str, datetime | None, Mapping[str, Any]]] = ()
    reported: Collection[int] = ()
    escalated: Collection[int] = ()


@dataclass(frozen=True)
class Standing:
    """The alerts and silences within the transaction that decides. `risen` are the ids of alerts whose severity has increased,
    `last_reported` is the time of the last message about each condition."""

    active: Sequence[Alert]
    resolved: Sequence[Alert]
    risen: Collection[int]
    silences: Sequence[Silence]
    last_reported: Mapping[str, datetime]


@dataclass(frozen=True)
class Figures:
    """Statistics of the alerts that began in a span: their number, the false alarms, and medians [s] until acknowledged and until
    resolved."""

    number: int
    false_alarms: int
    acknowledge_s: float | None
    resolve_s: float | None


def settle(
    archive: Archive, found: Sequence[Finding], unknown: Collection[str], at: datetime, decide: Callable[[Standing], Decision]
) -> bool:
    """Make the alerts agree with the findings of a look that began `at`, and store the messages to send about them.

    The look could not determine whether the conditions `unknown` hold: their alerts stay. Returns False, and does nothing, if a
    look that began no earlier was already settled.
    """

    def work(connection: Connection) -> bool:
        _lock_tables(connection)
        before = _mark(connection, _EVALUATED)
        if before is not None and before >= _text(at):
            return False
        _set_mark(connection, _EVALUATED, _text(at))
        standing = _updated_standing(connection, found, unknown, at)
        decision = decide(standing)
        for ids, column in ((decision.reported, "told_at"), (decision.escalated, "escalated_at")):
            if ids:
                connection.execute(alerts.update().where(alerts.c.id.in_(list(ids))).values({column: _text(at)}))
        for channel, not_before, contents in decision.messages:
            row = {"channel": channel, "decided_at": _text(at), "contents": json.dumps(contents, sort_keys=True)}
            connection.execute(alert_messages.insert(), {**row, "not_before": not_before and _text(not_before)})
        connection.execute(alert_messages.delete().where(alert_messages.c.sent_at < _text(at - MESSAGES_KEPT)))
        return True

    return archive.index.write(work)


def _updated_standing(connection: Connection, found: Sequence[Finding], unknown: Collection[str], at: datetime) -> Standing:
    """Begin, update and resolve alerts, and return how they stand afterwards."""
    before = {(item.condition, item.subject): item for item in _select(connection, alerts.c.resolved_at.is_(None))}
    now, risen = {(item.condition, item.subject): item for item in found}, set[int]()
    for key, item in now.items():
        known = before.get(key)
        if known is None:
            values = {"topic": item.topic, "severity": item.severity, "words": item.words, "page": item.page}
            fresh = {"condition": item.condition, "subject": item.subject, "began_at": _text(at), "false_alarm": False}
            connection.execute(alerts.insert().values(**values, **fresh))
        elif SEVERITIES.index(item.severity) > SEVERITIES.index(known.severity):  # an acknowledgement of the lesser one does not count
            risen.add(known.id)
            reset = {"acknowledged_at": sa.null(), "escalated_at": sa.null()}
            changed = {"severity": item.severity, "words": item.words, "page": item.page}
            connection.execute(alerts.update().where(alerts.c.id == known.id).values(**changed, **reset))
        elif (item.words, item.page) != (known.words, known.page):
            connection.execute(alerts.update().where(alerts.c.id == known.id).values(words=item.words, page=item.page))
    over = [item.id for key, item in before.items() if key not in now and item.condition not in unknown]
    if over:
        connection.execute(alerts.update().where(alerts.c.id.in_(over)).values(resolved_at=_text(at)))
    last = sa.select(alerts.c.condition, sa.func.max(alerts.c.told_at)).group_by(alerts.c.condition)
    return Standing(
        active=_select(connection, alerts.c.resolved_at.is_(None)),
        resolved=_select(connection, alerts.c.id.in_(over)),
        risen=risen,
        silences=_silences(connection, at),
        last_reported={condition: _time(sent_at) for condition, sent_at in connection.execute(last) if sent_at is not None},
    )


def listed(
    archive: Archive, states: Collection[str] = (), condition: str | None = None, topic: str | None = None, severity: str | None = None,
    limit: int | None = None, before: int | None = None,
) -> list[Alert]:  # fmt: skip
    """The alerts in these states (none given: all), last begun first; with `before`, only those with a smaller id."""
    of_state = {
        ACTIVE: alerts.c.resolved_at.is_(None) & alerts.c.acknowledged_at.is_(None),
        ACKNOWLEDGED: alerts.c.resolved_at.is_(None) & alerts.c.acknowledged_at.is_not(None),
        RESOLVED: alerts.c.resolved_at.is_not(None),
    }
    conditions = [sa.or_(*(of_state[state] for state in states))] if states else []
    conditions += [column == value for column, value in _column_values(condition, topic, severity) if value is not None]
    conditions += [alerts.c.id < before] if before is not None else []
    return archive.index.read(lambda c: _select(c, *conditions, order=alerts.c.id.desc(), limit=limit))


def current(archive: Archive) -> list[Alert]:
    """The alerts that are not resolved, the most severe first and, at equal severity, the last begun first."""
    return sorted(listed(archive, [ACTIVE, ACKNOWLEDGED]), key=lambda alert: -SEVERITIES.index(alert.severity))


def _column_values(condition: str | None, topic: str | None, severity: str | None) -> list[tuple[sa.Column[str], str | None]]:
    return [(alerts.c.condition, condition), (alerts.c.topic, topic), (alerts.c.severity, severity)]


def get(archive: Archive, alert_id: int) -> Alert:
    """The alert with this id. Raises NotFoundError."""
    found = archive.index.read(lambda c: _select(c, alerts.c.id == alert_id))
    if not found:
        raise NotFoundError(f"there is no alert {alert_id}; `dsa110 alerts list --all` shows them")
    return found[0]


def acknowledge(archive: Archive, alert_id: int, by: str, note: str = "") -> Alert:
    """Record that somebody knows of an active alert: it is neither repeated nor escalated. Raises ConfigurationError if it is over."""
    return _change(archive, alert_id, by, note, {"acknowledged_at": _text(datetime.now(UTC))}, only_active=True)


def resolve(archive: Archive, alert_id: int, by: str, note: str = "") -> Alert:
    """End an active alert manually; a new one begins if its condition still holds at the next look. ConfigurationError if it is over."""
    now = _text(datetime.now(UTC))
    return _change(archive, alert_id, by, note, {"resolved_at": now, "acknowledged_at": now}, only_active=True)


def mark_false(archive: Archive, alert_id: int, by: str, note: str = "", *, false: bool = True) -> Alert:
    """Mark an alert, including one that is over, as a false alarm; or, with `false` False, remove that mark."""
    return _change(archive, alert_id, by, note, {"false_alarm": false}, only_active=False)


def _change(archive: Archive, alert_id: int, by: str, note: str, values: Mapping[str, Any], *, only_active: bool) -> Alert:
    name, text = _checked_name_and_text(by, note)

    def work(connection: Connection) -> Alert:
        found = _select(connection, alerts.c.id == alert_id)
        if not found:
            raise NotFoundError(f"there is no alert {alert_id}; `dsa110 alerts list --all` shows them")
        if only_active and found[0].resolved_at is not None:
            raise ConfigurationError(f"alert {alert_id} is over since {found[0].resolved_at.isoformat(timespec='seconds')}")
        known_by = name if "acknowledged_at" in values else found[0].acknowledged_by or name
        changes = {**values, "acknowledged_by": known_by, "note": text or found[0].note}
        connection.execute(alerts.update().where(alerts.c.id == alert_id).values(changes))
        return _select(connection, alerts.c.id == alert_id)[0]

    return archive.index.write(work)


def silence(archive: Archive, what: str, until: datetime, by: str, why: str) -> Silence:
    """Send no messages about a condition, a topic or EVERYTHING until a time. Alerts that are still active then are reported then."""
    name, reason = _checked_name_and_text(by, why)
    now = datetime.now(UTC)
    if not reason:
        raise ConfigurationError("a silence needs a reason: the others on duty need to know why")
    if until.astimezone(UTC) <= now:
        raise ConfigurationError(f"{until.isoformat(timespec='minutes')} is past: a silence ends in the future")
    row = {"what": what, "until": _text(until), "by": name, "why": reason, "made_at": _text(now)}

    def work(connection: Connection) -> int:
        key = connection.execute(alert_silences.insert().values(row)).inserted_primary_key
        assert key is not None
        return int(key[0])

    return Silence(archive.index.write(work), what, until.astimezone(UTC), name, reason, now)


def end_silence(archive: Archive, silence_id: int) -> None:
    """Let a silence end now. Raises NotFoundError."""
    now = _text(datetime.now(UTC))
    lasting = (alert_silences.c.id == silence_id) & (alert_silences.c.until > now)
    if not archive.index.write(lambda c: c.execute(alert_silences.update().where(lasting).values(until=now)).rowcount):
        raise NotFoundError(f"there is no active silence {silence_id}; `dsa110 alerts silences` shows them")


def silences(archive: Archive) -> list[Silence]:
    """The silences that have not ended, oldest first."""
    return archive.index.read(lambda c: _silences(c, datetime.now(UTC)))


def figures(archive: Archive, since: datetime) -> Figures:
    """The statistics of the alerts that began since then."""
    import statistics

    rows = archive.index.read(lambda c: _select(c, alerts.c.began_at >= _text(since)))

    def median(ends: Sequence[tuple[Alert, datetime | None]]) -> float | None:
        spans = [(end - alert.began_at).total_seconds() for alert, end in ends if end is not None]
        return statistics.median(spans) if spans else None

    return Figures(
        len(rows), sum(alert.false_alarm for alert in rows), median([(alert, alert.acknowledged_at) for alert in rows]),
        median([(alert, alert.resolved_at) for alert in rows]),
    )  # fmt: skip


def due(archive: Archive, channel: str, at: datetime) -> list[Message]:
    """The messages that a channel is to send now, in order."""
    table = alert_messages.c
    ready = table.not_before.is_(None) | (table.not_before <= _text(at))
    return archive.index.read(lambda c: _messages(c, (table.channel == channel) & ready))


def undelivered(archive: Archive, decided_before: datetime) -> dict[str, int]:
    """The number of unsent messages, by channel, that were decided and due before that time."""
    table = alert_messages.c
    late = (table.decided_at < _text(decided_before)) & (table.not_before.is_(None) | (table.not_before < _text(decided_before)))
    found = archive.index.read(lambda c: _messages(c, late))
    return {channel: sum(message.channel == channel for message in found) for channel in sorted({message.channel for message in found})}


def sent(archive: Archive, messages: Sequence[Message], refused: str | None = None) -> None:
    """Record that a channel accepted these messages, or why it refused them; in both cases they are not sent again."""
    values = {"sent_at": _text(datetime.now(UTC)), "refused": refused}
    ids = [one.id for one in messages]
    archive.index.write(lambda c: c.execute(alert_messages.update().where(alert_messages.c.id.in_(ids)).values(values)))


def take_lease(archive: Archive, name: str, holder: str, seconds: float) -> bool:
    """Take or renew an exclusive right for this many seconds; False while another holder has it."""
    now = datetime.now(UTC)

    def work(connection: Connection) -> bool:
        _lock_tables(connection)
        owner, until = (_mark(connection, _LEASE + name) or "|").rsplit("|", 1)
        if owner not in ("", holder) and until > _text(now):
            return False
        _set_mark(connection, _LEASE + name, f"{holder}|{_text(now + timedelta(seconds=seconds))}")
        return True

    return archive.index.write(work)


def give_back(archive: Archive, name: str, holder: str) -> None:
    """Release a lease, if this holder has it."""
    held = (marks.c.name == _LEASE + name) & marks.c.value.startswith(f"{holder}|", autoescape=True)
    archive.index.write(lambda c: c.execute(marks.delete().where(held)))


def beat(archive: Archive, name: str) -> None:
    """Record a sign of life of a service or worker; it counts as missing once its signs of life stop."""
    archive.index.write(lambda c: _set_mark(c, _BEAT + name, _text(datetime.now(UTC))))


def sign_off(archive: Archive, name: str) -> None:
    """Remove the sign of life of a service or worker that ends in order, so that it does not count as missing."""
    archive.index.write(lambda c: c.execute(marks.delete().where(marks.c.name == _BEAT + name)))


def beats(archive: Archive) -> dict[str, datetime]:
    """The time of the last sign of life of each service and worker that did not sign off, by name."""
    query = sa.select(marks).where(marks.c.name.startswith(_BEAT))
    return archive.index.read(lambda c: {row.name.removeprefix(_BEAT): _time(row.value) for row in c.execute(query)})


def looked_at(archive: Archive) -> datetime | None:
    """The time when the last settled look began; None before the first."""
    found = archive.index.read(lambda c: _mark(c, _EVALUATED))
    return None if found is None else _time(found)


def watched_since(archive: Archive) -> datetime:
    """The time when this archive was first watched; earlier events are not reported. The first call sets it."""

    def work(connection: Connection) -> datetime:
        _lock_tables(connection)
        if (since := _mark(connection, _BEGAN)) is None:
            since = _text(datetime.now(UTC))
            _set_mark(connection, _BEGAN, since)
        return _time(since)

    since = archive.index.read(lambda c: _mark(c, _BEGAN))
    return _time(since) if since is not None else archive.index.write(work)


def remember(archive: Archive, name: str, value: str) -> None:
    """Store a text under a name."""
    archive.index.write(lambda c: _set_mark(c, name, value))


def remembered(archive: Archive, name: str) -> str | None:
    """The text stored under a name; None if there is none."""
    return archive.index.read(lambda c: _mark(c, name))


def _select(connection: Connection, *conditions: Any, order: Any = alerts.c.id, limit: int | None = None) -> list[Alert]:
    rows = connection.execute(sa.select(alerts).where(*conditions).order_by(order).limit(limit)).mappings().all()
    return [Alert(**{name: _value(name, value) for name, value in row.items()}) for row in rows]


def _messages(connection: Connection, condition: sa.ColumnElement[bool]) -> list[Message]:
    table = alert_messages.c
    rows = connection.execute(sa.select(alert_messages).where(table.sent_at.is_(None), condition).order_by(table.id)).all()
    return [
        Message(row.id, row.channel, _time(row.decided_at), row.not_before and _time(row.not_before), json.loads(row.contents))
        for row in rows
    ]


def _silences(connection: Connection, at: datetime) -> list[Silence]:
    query = sa.select(alert_silences).where(alert_silences.c.until > _text(at)).order_by(alert_silences.c.id)
    return [Silence(row.id, row.what, _time(row.until), row.by, row.why, _time(row.made_at)) for row in connection.execute(query)]


def _checked_name_and_text(by: str, words: str) -> tuple[str, str]:
    name, text = by.strip(), words.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(f"say who does this, in at most {LONGEST_NAME} printable characters")
    if len(text) > LONGEST_NOTE or not text.isprintable():
        raise ConfigurationError(f"a note has at most {LONGEST_NOTE} printable characters")
    return name, text


def _lock_tables(connection: Connection) -> None:
    """Lock out other transactions that decide until this one ends. SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE alerts, marks IN SHARE ROW EXCLUSIVE MODE"))


def _mark(connection: Connection, name: str) -> str | None:
    return connection.scalar(sa.select(marks.c.value).where(marks.c.name == name))


def _set_mark(connection: Connection, name: str, value: str) -> None:
    if not connection.execute(marks.update().where(marks.c.name == name).values(value=value)).rowcount:
        connection.execute(marks.insert().values(name=name, value=value))


def _value(name: str, value: Any) -> Any:
    return _time(value) if name.endswith("_at") and value is not None else value


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
