"""Migrations of the index from one format to the next, and back: numbered steps, all of them in one transaction or none.

A step is written once and never changed: it states in SQL what it did at its time, and does not use the tables of `index`, which
are today's. A step that is compatible with code of the format before (a new table, a column that may be empty) says so by `oldest`:
it can then be applied while that code is running, and a version can be replaced without a gap. Before an incompatible step (a column
that is removed or changes its meaning), that code must have ended.

Going back loses nothing that the older format can hold. Tables unknown to the older format stay, and are used again when the index
is brought forward again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dsa110_assets import __version__
from dsa110_assets.archive import databases, files
from dsa110_assets.archive.index import FIRST, LOCK, MIGRATIONS_KEY, OLDEST, SCHEMA, Index, format_of, history, meta, set_format
from dsa110_assets.errors import ConfigurationError

Change = Callable[[Connection], None]
_TEXT = {"sqlite": "TEXT", "postgresql": 'TEXT COLLATE "C"'}
_SERIAL = {"sqlite": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "postgresql": "SERIAL NOT NULL PRIMARY KEY"}


@dataclass(frozen=True)
class Migration:
    """The step to format `to` from the one before; `oldest` is the oldest format whose code works with an index of format `to`."""

    to: int
    oldest: int
    what: str
    forward: Change
    back: Change


@dataclass(frozen=True)
class Step:
    """A migration in one direction, with the oldest format whose code works with the index after it."""

    begin: int
    end: int
    oldest: int
    what: str
    change: Change


@dataclass(frozen=True)
class Plan:
    """The steps that convert an index of the format `found`, with which code from format `oldest` on works, to the format `wanted`."""

    found: int
    oldest: int
    wanted: int
    steps: tuple[Step, ...]


def statements(*texts: str) -> Change:
    """A change by these SQL statements; {text} and {serial} stand for the database's types of text sorted by bytes and of a serial key."""

    def change(connection: Connection) -> None:
        kind = connection.dialect.name
        for text in texts:
            connection.exec_driver_sql(text.format(text=_TEXT[kind], serial=_SERIAL[kind]))

    return change


def _nothing(_: Connection) -> None:
    """No change: code of the older format neither reads nor writes what the newer format adds."""


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        to=3,
        oldest=3,  # code of format 2 accepts only its own number
        what="alerts, their messages and silences, marks of the watching, counters",
        forward=statements(
            """CREATE TABLE IF NOT EXISTS alerts (id {serial}, condition {text} NOT NULL, subject {text} NOT NULL, topic TEXT NOT NULL,
            severity TEXT NOT NULL, words TEXT NOT NULL, page TEXT NOT NULL, began_at {text} NOT NULL, told_at {text},
            escalated_at {text}, acknowledged_at {text}, acknowledged_by TEXT, note TEXT, false_alarm BOOLEAN NOT NULL,
            resolved_at {text})""",
            "CREATE UNIQUE INDEX IF NOT EXISTS one_active_alert ON alerts (condition, subject) WHERE resolved_at IS NULL",
            """CREATE TABLE IF NOT EXISTS alert_messages (id {serial}, channel {text} NOT NULL, decided_at {text} NOT NULL,
            not_before {text}, contents TEXT NOT NULL, sent_at {text}, refused TEXT)""",
            "CREATE INDEX IF NOT EXISTS unsent_messages ON alert_messages (channel, id) WHERE sent_at IS NULL",
            """CREATE TABLE IF NOT EXISTS alert_silences (id {serial}, what TEXT NOT NULL, until {text} NOT NULL, by TEXT NOT NULL,
            why TEXT NOT NULL, made_at {text} NOT NULL)""",
            "CREATE TABLE IF NOT EXISTS marks (name {text} NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
            """CREATE TABLE IF NOT EXISTS counters (family TEXT NOT NULL, labels TEXT NOT NULL, part TEXT NOT NULL,
            value FLOAT(53) NOT NULL, PRIMARY KEY (family, labels, part))""",
        ),
        back=_nothing,
    ),
)


def plan(index: Index, to: int | None = None, known: Sequence[Migration] = MIGRATIONS) -> Plan:
    """The plan to convert an index to a format, by default that of this code. Raises ConfigurationError if no steps lead there."""
    return index.in_any_format(lambda connection: _plan(connection, index.where, to, known))


def migrate(index: Index, to: int | None = None, *, saved: Path | None = None, known: Sequence[Migration] = MIGRATIONS) -> Plan:
    """Convert an index to a format, by default that of this code, in one exclusive transaction that records time and version in the index.

    An SQLite index is first copied into the directory `saved`, if there is anything to do. Raises ConfigurationError if no steps lead
    there, or if a copy cannot be made; TransientError if others hold the tables for longer than the index waits.
    """
    if saved is not None and index.url.get_backend_name() == "sqlite" and (first := plan(index, to, known)).steps:
        with files.typed_errors(f"A copy of the index in {saved}", setting="DSA110_BACKUPS"):
            saved.mkdir(parents=True, exist_ok=True)
            databases.dump(index.url, saved, f"index-format-{first.found}-{datetime.now(UTC):%Y%m%dT%H%M%S}")

    def work(connection: Connection) -> Plan:
        if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        found = _plan(connection, index.where, to, known)
        for step in found.steps:
            step.change(connection)
        if found.steps:
            set_format(connection, found.wanted, found.steps[-1].oldest)
            _note(connection, found)
        return found

    return index.in_any_format(work, writes=True)


def _note(connection: Connection, done: Plan) -> None:
    """Add an entry to the index's history of formats."""
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "from": done.found, "to": done.wanted, "version": __version__}
    text = json.dumps([*history(connection), line])
    connection.execute(meta.delete().where(meta.c.key == MIGRATIONS_KEY))
    connection.execute(meta.insert(), {"key": MIGRATIONS_KEY, "value": text})


def _plan(connection: Connection, where: str, to: int | None, known: Sequence[Migration]) -> Plan:
    (found, oldest), target = format_of(connection), known[-1].to if to is None else to
    first, last = known[0].to - 1, known[-1].to
    for number, what in ((found, f"{where} has index format {found}"), (target, f"format {target} is requested")):
        if not first <= number <= last:
            remedy = "use the version that made it" if number > last else "rebuild it with: dsa110 archive reindex"
            raise ConfigurationError(f"{what}; dsa110-assets {__version__} knows formats {first} to {last}: {remedy}")
    oldest_of = {first: first, **{migration.to: migration.oldest for migration in known}}
    by_end = {migration.to: migration for migration in known}
    ahead = [by_end[number] for number in range(found + 1, target + 1)]
    behind = [by_end[number] for number in range(found, target, -1)]
    steps = [Step(migration.to - 1, migration.to, migration.oldest, migration.what, migration.forward) for migration in ahead]
    steps += [Step(migration.to, migration.to - 1, oldest_of[migration.to - 1], migration.what, migration.back) for migration in behind]
    return Plan(found, oldest, target, tuple(steps))


assert (MIGRATIONS[0].to - 1, MIGRATIONS[-1].to, MIGRATIONS[-1].oldest) == (FIRST, SCHEMA, OLDEST), "the steps lead to this code's format"
