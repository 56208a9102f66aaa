"""Alerts as the archive's database has them: what is wrong and since when, who knows of it, and what is still to be sent.

An alert is a condition about a subject, active from when it is found until it is found no more; of one there is at most one
active alert. What is to be sent is decided, and written as messages, in the transaction that changes the alerts; sending
comes later, by whoever holds the channel's lease. So nothing is lost, or decided twice, whoever dies and however many watch.
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
    """A condition that holds about a subject ('' if there is but one), in words, and the page that shows it."""

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
        """As orders name it."""
        return f"alert {self.id} ({f'{self.condition} {self.subject}'.strip()})"


@dataclass(frozen=True)
class Silence:
    """A condition, a topic or EVERYTHING, of which nothing is told until a time; by whom and why."""

    id: int
    what: str
    until: datetime
    by: str
    why: str
    made_at: datetime

    def covers(self, one: Finding | Alert) -> bool:
        """Whether it is about this."""
        return self.what in (EVERYTHING, one.condition, one.topic)


@dataclass(frozen=True)
class Message:
    """What one channel is to send, in order of ids; one with `not_before` was kept back while the channel was quiet."""

    id: int
    channel: str
    decided_at: datetime
    not_before: datetime | None
    contents: Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """What is to be sent: (channel, not before, contents); which alerts are told, and which escalated, by that."""

    messages: Sequence[tuple[str, datetime | None, Mapping[str, Any]]] = ()
    told: Collection[int] = ()
    escalated: Collection[int] = ()


@dataclass(frozen=True)
class Standing:
    """How things stand within the transaction that decides: `risen` were told with a lower severity than they have now, `told`
    is when each condition was last told of."""

    active: Sequence[Alert]
    resolved: Sequence[Alert]
    risen: Collection[int]
    silences: Sequence[Silence]
    told: Mapping[str, datetime]


@dataclass(frozen=True)
class Figures:
    """Of the alerts that began in a span: how many, how many false; medians [s] until acknowledged and until resolved."""

    number: int
    false_alarms: int
    acknowledge_s: float | None
    resolve_s: float | None


def settle(
    archive: Archive, found: Sequence[Finding], unknown: Collection[str], at: datetime, decide: Callable[[Standing], Decision]
) -> bool:
    """Make the alerts agree with what was found by a look that began `at`, and write down what is to be sent of it.

    Of the conditions `unknown` it was not found out whether they hold: their alerts stay. False, and nothing is done, if a look
    that began later was settled before.
    """

    def work(connection: Connection) -> bool:
        _alone(connection)
        before = _mark(connection, _EVALUATED)
        if before is not None and before >= _text(at):
            return False
        _set_mark(connection, _EVALUATED, _text(at))
        standing = _changed(connection, found, unknown, at)
        decision = decide(standing)
        for ids, column in ((decision.told, "told_at"), (decision.escalated, "escalated_at")):
            if ids:
                connection.execute(alerts.update().where(alerts.c.id.in_(list(ids))).values({column: _text(at)}))
        for channel, not_before, contents in decision.messages:
            row = {"channel": channel, "decided_at": _text(at), "contents": json.dumps(contents, sort_keys=True)}
            connection.execute(alert_messages.insert(), {**row, "not_before": not_before and _text(not_before)})
        connection.execute(alert_messages.delete().where(alert_messages.c.sent_at < _text(at - MESSAGES_KEPT)))
        return True

    return archive.index.write(work)


def _changed(connection: Connection, found: Sequence[Finding], unknown: Collection[str], at: datetime) -> Standing:
    """Begin, renew and resolve; then how things stand."""
    before = {(one.condition, one.subject): one for one in _select(connection, alerts.c.resolved_at.is_(None))}
    now, risen = {(one.condition, one.subject): one for one in found}, set[int]()
    for key, one in now.items():
        known = before.get(key)
        if known is None:
            values = {"topic": one.topic, "severity": one.severity, "words": one.words, "page": one.page}
            fresh = {"condition": one.condition, "subject": one.subject, "began_at": _text(at), "false_alarm": False}
            connection.execute(alerts.insert().values(**values, **fresh))
        elif SEVERITIES.index(one.severity) > SEVERITIES.index(known.severity):  # who took note of less has to again
            risen.add(known.id)
            anew = {"acknowledged_at": sa.null(), "escalated_at": sa.null()}
            more = {"severity": one.severity, "words": one.words, "page": one.page}
            connection.execute(alerts.update().where(alerts.c.id == known.id).values(**more, **anew))
        elif (one.words, one.page) != (known.words, known.page):
            connection.execute(alerts.update().where(alerts.c.id == known.id).values(words=one.words, page=one.page))
    over = [one.id for key, one in before.items() if key not in now and one.condition not in unknown]
    if over:
        connection.execute(alerts.update().where(alerts.c.id.in_(over)).values(resolved_at=_text(at)))
    last = sa.select(alerts.c.condition, sa.func.max(alerts.c.told_at)).group_by(alerts.c.condition)
    return Standing(
        active=_select(connection, alerts.c.resolved_at.is_(None)),
        resolved=_select(connection, alerts.c.id.in_(over)),
        risen=risen,
        silences=_silences(connection, at),
        told={condition: _time(told) for condition, told in connection.execute(last) if told is not None},
    )


def listed(
    archive: Archive, states: Collection[str] = (), condition: str | None = None, topic: str | None = None, severity: str | None = None,
    limit: int | None = None, before: int | None = None,
) -> list[Alert]:  # fmt: skip
    """Alerts in these states (none given: all), last begun first; with `before`, those of a smaller id."""
    of_state = {
        ACTIVE: alerts.c.resolved_at.is_(None) & alerts.c.acknowledged_at.is_(None),
        ACKNOWLEDGED: alerts.c.resolved_at.is_(None) & alerts.c.acknowledged_at.is_not(None),
        RESOLVED: alerts.c.resolved_at.is_not(None),
    }
    wanted = [sa.or_(*(of_state[state] for state in states))] if states else []
    wanted += [column == value for column, value in _named(condition, topic, severity) if value is not None]
    wanted += [alerts.c.id < before] if before is not None else []
    return archive.index.read(lambda c: _select(c, *wanted, order=alerts.c.id.desc(), limit=limit))


def current(archive: Archive) -> list[Alert]:
    """Alerts that are not over, the most severe first, and of these the last begun."""
    return sorted(listed(archive, [ACTIVE, ACKNOWLEDGED]), key=lambda one: -SEVERITIES.index(one.severity))


def _named(condition: str | None, topic: str | None, severity: str | None) -> list[tuple[sa.Column[str], str | None]]:
    return [(alerts.c.condition, condition), (alerts.c.topic, topic), (alerts.c.severity, severity)]


def get(archive: Archive, alert_id: int) -> Alert:
    """The alert of this id. Raises NotFoundError."""
    found = archive.index.read(lambda c: _select(c, alerts.c.id == alert_id))
    if not found:
        raise NotFoundError(f"there is no alert {alert_id}; `dsa110 alerts list --all` shows them")
    return found[0]


def acknowledge(archive: Archive, alert_id: int, by: str, note: str = "") -> Alert:
    """Say that somebody knows of an active alert: it is not repeated and not escalated. Raises ConfigurationError if it is over."""
    return _change(archive, alert_id, by, note, {"acknowledged_at": _text(datetime.now(UTC))}, only_active=True)


def resolve(archive: Archive, alert_id: int, by: str, note: str = "") -> Alert:
    """End an active alert by hand; it begins anew if its condition still holds at the next look. ConfigurationError if it is over."""
    now = _text(datetime.now(UTC))
    return _change(archive, alert_id, by, note, {"resolved_at": now, "acknowledged_at": now}, only_active=True)


def mark_false(archive: Archive, alert_id: int, by: str, note: str = "", *, false: bool = True) -> Alert:
    """Say that an alert, also one that is over, was a false alarm; or take that back."""
    return _change(archive, alert_id, by, note, {"false_alarm": false}, only_active=False)


def _change(archive: Archive, alert_id: int, by: str, note: str, values: Mapping[str, Any], *, only_active: bool) -> Alert:
    name, said = _checked(by, note)

    def work(connection: Connection) -> Alert:
        found = _select(connection, alerts.c.id == alert_id)
        if not found:
            raise NotFoundError(f"there is no alert {alert_id}; `dsa110 alerts list --all` shows them")
        if only_active and found[0].resolved_at is not None:
            raise ConfigurationError(f"alert {alert_id} is over since {found[0].resolved_at.isoformat(timespec='seconds')}")
        known_by = name if "acknowledged_at" in values else found[0].acknowledged_by or name
        told = {**values, "acknowledged_by": known_by, "note": said or found[0].note}
        connection.execute(alerts.update().where(alerts.c.id == alert_id).values(told))
        return _select(connection, alerts.c.id == alert_id)[0]

    return archive.index.write(work)


def silence(archive: Archive, what: str, until: datetime, by: str, why: str) -> Silence:
    """Tell nothing of a condition, a topic or EVERYTHING until a time. What is still so then is told then."""
    name, said = _checked(by, why)
    now = datetime.now(UTC)
    if not said:
        raise ConfigurationError("a silence needs a reason: those on watch will ask")
    if until.astimezone(UTC) <= now:
        raise ConfigurationError(f"{until.isoformat(timespec='minutes')} is past: a silence ends in the future")
    row = {"what": what, "until": _text(until), "by": name, "why": said, "made_at": _text(now)}

    def work(connection: Connection) -> int:
        key = connection.execute(alert_silences.insert().values(row)).inserted_primary_key
        assert key is not None
        return int(key[0])

    return Silence(archive.index.write(work), what, until.astimezone(UTC), name, said, now)


def end_silence(archive: Archive, silence_id: int) -> None:
    """Let a silence end now. Raises NotFoundError."""
    now = _text(datetime.now(UTC))
    same = (alert_silences.c.id == silence_id) & (alert_silences.c.until > now)
    if not archive.index.write(lambda c: c.execute(alert_silences.update().where(same).values(until=now)).rowcount):
        raise NotFoundError(f"there is no silence {silence_id} that lasts; `dsa110 alerts silences` shows them")


def silences(archive: Archive) -> list[Silence]:
    """Those that last, oldest first."""
    return archive.index.read(lambda c: _silences(c, datetime.now(UTC)))


def figures(archive: Archive, since: datetime) -> Figures:
    """Of the alerts that began since then."""
    import statistics

    rows = archive.index.read(lambda c: _select(c, alerts.c.began_at >= _text(since)))

    def median(ends: Sequence[tuple[Alert, datetime | None]]) -> float | None:
        spans = [(end - one.began_at).total_seconds() for one, end in ends if end is not None]
        return statistics.median(spans) if spans else None

    return Figures(
        len(rows), sum(one.false_alarm for one in rows), median([(one, one.acknowledged_at) for one in rows]),
        median([(one, one.resolved_at) for one in rows]),
    )  # fmt: skip


def due(archive: Archive, channel: str, at: datetime) -> list[Message]:
    """The messages that a channel is to send now, in order."""
    table = alert_messages.c
    ready = table.not_before.is_(None) | (table.not_before <= _text(at))
    return archive.index.read(lambda c: _messages(c, (table.channel == channel) & ready))


def undelivered(archive: Archive, decided_before: datetime) -> dict[str, int]:
    """How many messages each channel was to send by then and has not sent."""
    table = alert_messages.c
    late = (table.decided_at < _text(decided_before)) & (table.not_before.is_(None) | (table.not_before < _text(decided_before)))
    found = archive.index.read(lambda c: _messages(c, late))
    return {channel: sum(one.channel == channel for one in found) for channel in sorted({one.channel for one in found})}


def sent(archive: Archive, messages: Sequence[Message], refused: str | None = None) -> None:
    """Note that a channel took these messages, or for what it refused them: they are not sent again."""
    values = {"sent_at": _text(datetime.now(UTC)), "refused": refused}
    ids = [one.id for one in messages]
    archive.index.write(lambda c: c.execute(alert_messages.update().where(alert_messages.c.id.in_(ids)).values(values)))


def take_lease(archive: Archive, name: str, holder: str, seconds: float) -> bool:
    """Take, or renew, the right to do something alone for so long; False while another holds it."""
    now = datetime.now(UTC)

    def work(connection: Connection) -> bool:
        _alone(connection)
        has, until = (_mark(connection, _LEASE + name) or "|").rsplit("|", 1)
        if has not in ("", holder) and until > _text(now):
            return False
        _set_mark(connection, _LEASE + name, f"{holder}|{_text(now + timedelta(seconds=seconds))}")
        return True

    return archive.index.write(work)


def give_back(archive: Archive, name: str, holder: str) -> None:
    """Give back a lease, if this holder has it."""
    own = (marks.c.name == _LEASE + name) & marks.c.value.startswith(f"{holder}|", autoescape=True)
    archive.index.write(lambda c: c.execute(marks.delete().where(own)))


def beat(archive: Archive, name: str) -> None:
    """A sign of life of a service or worker, which is missed once it does not come again."""
    archive.index.write(lambda c: _set_mark(c, _BEAT + name, _text(datetime.now(UTC))))


def sign_off(archive: Archive, name: str) -> None:
    """Of one that ends as it should: it is not missed."""
    archive.index.write(lambda c: c.execute(marks.delete().where(marks.c.name == _BEAT + name)))


def beats(archive: Archive) -> dict[str, datetime]:
    """When each service and worker that did not sign off gave its last sign of life."""
    query = sa.select(marks).where(marks.c.name.startswith(_BEAT))
    return archive.index.read(lambda c: {row.name.removeprefix(_BEAT): _time(row.value) for row in c.execute(query)})


def looked_at(archive: Archive) -> datetime | None:
    """When the last look began that was settled; None before the first."""
    found = archive.index.read(lambda c: _mark(c, _EVALUATED))
    return None if found is None else _time(found)


def watched_since(archive: Archive) -> datetime:
    """When this archive was first watched: what happened before is no news."""

    def work(connection: Connection) -> datetime:
        _alone(connection)
        if (known := _mark(connection, _BEGAN)) is None:
            known = _text(datetime.now(UTC))
            _set_mark(connection, _BEGAN, known)
        return _time(known)

    known = archive.index.read(lambda c: _mark(c, _BEGAN))
    return _time(known) if known is not None else archive.index.write(work)


def remember(archive: Archive, name: str, value: str) -> None:
    """Keep a word under a name."""
    archive.index.write(lambda c: _set_mark(c, name, value))


def remembered(archive: Archive, name: str) -> str | None:
    """The word kept under a name; None if there is none."""
    return archive.index.read(lambda c: _mark(c, name))


def _select(connection: Connection, *conditions: Any, order: Any = alerts.c.id, limit: int | None = None) -> list[Alert]:
    rows = connection.execute(sa.select(alerts).where(*conditions).order_by(order).limit(limit)).mappings().all()
    return [Alert(**{name: _value(name, value) for name, value in row.items()}) for row in rows]


def _messages(connection: Connection, wanted: sa.ColumnElement[bool]) -> list[Message]:
    table = alert_messages.c
    rows = connection.execute(sa.select(alert_messages).where(table.sent_at.is_(None), wanted).order_by(table.id)).all()
    return [
        Message(row.id, row.channel, _time(row.decided_at), row.not_before and _time(row.not_before), json.loads(row.contents))
        for row in rows
    ]


def _silences(connection: Connection, at: datetime) -> list[Silence]:
    query = sa.select(alert_silences).where(alert_silences.c.until > _text(at)).order_by(alert_silences.c.id)
    return [Silence(row.id, row.what, _time(row.until), row.by, row.why, _time(row.made_at)) for row in connection.execute(query)]


def _checked(by: str, words: str) -> tuple[str, str]:
    name, said = by.strip(), words.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(f"say who does this, in at most {LONGEST_NAME} printable characters")
    if len(said) > LONGEST_NOTE or not said.isprintable():
        raise ConfigurationError(f"a note has at most {LONGEST_NOTE} printable characters")
    return name, said


def _alone(connection: Connection) -> None:
    """Until this transaction ends no other decides: SQLite has one writer at a time anyway."""
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
