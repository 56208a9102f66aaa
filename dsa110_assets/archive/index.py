"""The index: the database of all products, in SQLite (WAL) or PostgreSQL. It can be rebuilt from the sidecars.

This module has the tables, the connections and transactions with bounded patience; `rows.py` defines the meaning of the rows.
"""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from dsa110_assets import __version__
from dsa110_assets.archive import files, readonly
from dsa110_assets.errors import ConfigurationError, ResourceError, TransientError

SCHEMA, OLDEST, FIRST = 3, 3, 2
"""The format that this code makes; the oldest format whose code also works with that one; the oldest that `migrations` can convert."""
MIGRATIONS_KEY, OLDEST_KEY = "migrations", "oldest_schema"
LOCK = 110110
"""The PostgreSQL advisory lock to hold while making or changing tables."""
BUSY_S = 30.0
MOST_CLASHES = 20
PATIENCE_S = 90.0
"""Long enough to wait through an outage of a minute, or the start of a server."""
T = TypeVar("T")

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that sorts by its bytes: partition keys are compared as times."""

_FORM = (
    "it looks like postgresql://user:password@host:5432/name, with each of @ : / ? # % and blank in the user and the password "
    "percent-encoded (@ is %40), or without the password, which is then PGPASSWORD's"
)
_BROKEN_CODE = re.compile(r"%(?![0-9A-Fa-f]{2})")
"""A percent sign that does not begin a percent-encoded character."""

metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
products = sa.Table(
    "products",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("asset", _TEXT, nullable=False),
    sa.Column("partition_key", _TEXT, nullable=False),  # '' for catalogues: NULLs would escape uniqueness
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("engines", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("removed", sa.Boolean, nullable=False),
    sa.Column("held", sa.Text),  # the failed blocking check, because of which nothing is made from the product; NULL if none
    sa.UniqueConstraint("asset", "partition_key", "version", name="one_product_per_version"),
    sa.CheckConstraint("state IN ('current', 'superseded', 'rejected')", name="known_state"),
)
one_current = sa.Index(
    "one_current_product",
    products.c.asset,
    products.c.partition_key,
    unique=True,
    sqlite_where=products.c.state == "current",
    postgresql_where=products.c.state == "current",
)
no_longer_current = sa.Index(
    "products_no_longer_current",
    products.c.state,
    sqlite_where=products.c.state != "current",
    postgresql_where=products.c.state != "current",
)
by_asset = sa.Index("products_by_asset", products.c.asset, products.c.state, products.c.partition_key, products.c.removed)
by_window = sa.Index("products_by_window", products.c.partition_key, products.c.state, products.c.asset, products.c.removed)
"""All columns that queries for counts and gaps need, so that they read no row: the cost of pages and ticks must not grow with the
years. The index is not partial, because SQLite prefers a covering index only if it sees the columns in it."""
published = sa.Index("products_by_publication", products.c.created_at)
held = sa.Index("held_products", products.c.held, sqlite_where=products.c.held.is_not(None), postgresql_where=products.c.held.is_not(None))
pinned = sa.Index("pinned_products", products.c.pinned, sqlite_where=products.c.pinned, postgresql_where=products.c.pinned)
product_inputs = sa.Table(
    "product_inputs",
    metadata,
    sa.Column("product_id", sa.Text, sa.ForeignKey("products.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("input_id", sa.Text, nullable=False, index=True),
)
caltable_sets = sa.Table(
    "caltable_sets",
    metadata,
    sa.Column("set_id", sa.Text, primary_key=True),
    sa.Column("product_id", sa.Text, sa.ForeignKey("products.id"), nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("contents", sa.Text, nullable=False),
    sa.Column("mid_mjd", sa.Float(53), nullable=False, index=True),
    sa.Column("rejected", sa.Text),  # the reason, NULL while good
)
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("contents", sa.Text, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
)
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("family", sa.Text, primary_key=True),
    sa.Column("labels", sa.Text, primary_key=True),
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("value", sa.Float(53), nullable=False),
)
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("condition", _TEXT, nullable=False),
    sa.Column("subject", _TEXT, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("page", sa.Text, nullable=False),
    sa.Column("began_at", _TEXT, nullable=False),
    sa.Column("told_at", _TEXT),
    sa.Column("escalated_at", _TEXT),
    sa.Column("acknowledged_at", _TEXT),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("note", sa.Text),
    sa.Column("false_alarm", sa.Boolean, nullable=False),
    sa.Column("resolved_at", _TEXT),
    sqlite_autoincrement=True,
)
one_active = sa.Index(
    "one_active_alert",
    alerts.c.condition,
    alerts.c.subject,
    unique=True,
    sqlite_where=alerts.c.resolved_at.is_(None),
    postgresql_where=alerts.c.resolved_at.is_(None),
)
alert_messages = sa.Table(
    "alert_messages",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("channel", _TEXT, nullable=False),
    sa.Column("decided_at", _TEXT, nullable=False),
    sa.Column("not_before", _TEXT),
    sa.Column("contents", sa.Text, nullable=False),
    sa.Column("sent_at", _TEXT),
    sa.Column("refused", sa.Text),
    sqlite_autoincrement=True,
)
unsent = sa.Index(
    "unsent_messages",
    alert_messages.c.channel,
    alert_messages.c.id,
    sqlite_where=alert_messages.c.sent_at.is_(None),
    postgresql_where=alert_messages.c.sent_at.is_(None),
)
alert_silences = sa.Table(
    "alert_silences",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("what", sa.Text, nullable=False),  # a condition or a topic; "everything"
    sa.Column("until", _TEXT, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("made_at", _TEXT, nullable=False),
    sqlite_autoincrement=True,
)
marks = sa.Table("marks", metadata, sa.Column("name", _TEXT, primary_key=True), sa.Column("value", sa.Text, nullable=False))
"""State of the alert watch: when it last looked, who holds which channel's lease, and the last signs of life."""
KEPT = (meta, alerts, alert_messages, alert_silences, marks, counters)
"""Tables that cannot be rebuilt from records on disk: rebuilding the index leaves them as they are."""


def format_of(connection: Connection) -> tuple[int, int]:
    """The format of an index, and the oldest format whose code works with it."""
    values = {row.key: int(row.value) for row in connection.execute(sa.select(meta).where(meta.c.key.in_(("schema", OLDEST_KEY))))}
    newest = values.get("schema", 0)
    return newest, values.get(OLDEST_KEY, newest)


def set_format(connection: Connection, newest: int, oldest: int) -> None:
    """Record the format of an index, and the oldest format whose code works with it."""
    values = {"schema": str(newest), OLDEST_KEY: str(oldest)}
    connection.execute(meta.delete().where(meta.c.key.in_(values)))
    connection.execute(meta.insert(), [{"key": key, "value": value} for key, value in values.items()])


def history(connection: Connection) -> list[dict[str, Any]]:
    """The migrations of an index, oldest first."""
    text = connection.scalar(sa.select(meta.c.value).where(meta.c.key == MIGRATIONS_KEY))
    found: list[dict[str, Any]] = json.loads(text) if text else []
    return found


def normalise_url(text: str, variable: str = "DSA110_DATABASE_URL") -> URL:
    """The database URL with its driver: `postgresql://` is psycopg2.

    Raises ConfigurationError for URLs of other kinds and for ambiguous ones: the end of a password with '@' would be read as part of
    the host's name. The message names the variable and shows nothing that may be a password.
    """
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        raise ConfigurationError(f"{variable} cannot be read; {_FORM}") from None
    backend = url.get_backend_name()
    if backend in ("postgresql", "postgres"):
        if text.count("@") > 1 or _BROKEN_CODE.search(text):
            raise ConfigurationError(f"{variable} is ambiguous: a special character of the user or password is written as it is; {_FORM}")
        return url.set(drivername="postgresql+psycopg2")
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url
    raise ConfigurationError(f"{variable} names a database of the kind {backend}: use postgresql://... or sqlite:///file")


_KEPT_ALIVE = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Connection arguments that detect a server that vanished without closing the connection."""


def make_engine(url: URL) -> Engine:
    """An engine that never creates a database: SQLite files are opened, not made; busy timeout 30 s.

    An SQLite file that may not be written is opened again for every transaction, which then only reads (see `readonly`).
    """
    if url.get_backend_name() != "sqlite":
        return _bounded_waits(sa.create_engine(url, pool_size=2, max_overflow=8, pool_pre_ping=True, connect_args=_KEPT_ALIVE))
    assert url.database is not None
    path = Path(url.database).absolute()
    uri = f"file:{quote(str(path))}?mode=rw"
    if os.path.exists(path) and not readonly.may_write(path):
        return _explicit_transactions(
            sa.create_engine("sqlite://", creator=lambda: readonly.connect(path, BUSY_S), poolclass=sa.pool.NullPool)
        )

    def connect() -> sqlite3.Connection:
        # Transactions are begun by `begin` below: the driver's own would take a write lock too late.
        return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool, pool_size=2, max_overflow=8)
    return _explicit_transactions(engine)


def _bounded_waits(engine: Engine) -> Engine:
    """A PostgreSQL engine with a time limit on waiting for locks, and on its own locks if its process is stopped in a transaction."""

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{BUSY_S:.0f}s'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{2 * BUSY_S:.0f}s'")
        connection.commit()

    return engine


def _explicit_transactions(engine: Engine) -> Engine:
    """An SQLite engine whose transactions are begun here, with a write lock from the start if their work writes."""

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Index:
    """One archive's index. Nothing is opened before the first transaction."""

    def __init__(self, url: URL, archive_id: str, *, patience_s: float = PATIENCE_S) -> None:
        self.url, self.archive_id, self.patience_s = url, archive_id, patience_s
        self._engine: Engine | None = None
        self._proven = False

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction (one consistent view)."""
        return self._retry_while_away(work, writes=False)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one write transaction: all of it or nothing. It may run again after a failure."""
        return self._retry_while_away(work, writes=True)

    def exclusively(self, work: Callable[[Connection], T]) -> T:
        """As `write`, but no other transaction can change a product meanwhile: what `work` reads stays true."""

        def locked(connection: Connection) -> T:
            if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
                connection.execute(sa.text("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE"))
            return work(connection)

        return self.write(locked)

    def rebuild(self, work: Callable[[Connection], object]) -> None:
        """Drop every table but those of KEPT, make them again in this code's format and fill them by `work`, in one transaction.

        The previous format does not matter. The index must exist: `create` makes it, and refuses a newer one."""

        def fill(connection: Connection) -> None:
            metadata.drop_all(connection, [table for table in metadata.sorted_tables if table not in KEPT])
            metadata.create_all(connection)
            set_format(connection, SCHEMA, OLDEST)
            work(connection)

        self.in_any_format(fill, writes=True)

    def in_any_format(self, work: Callable[[Connection], T], *, writes: bool = False) -> T:
        """As `read` or `write`, whatever format the index has: for code that converts it to another format."""
        return self._retry_while_away(work, writes=writes, any_format=True)

    def create(self) -> None:
        """Make the missing tables and record the archive's id in them. Raises ConfigurationError if the index has a newer format."""
        if self.url.get_backend_name() == "sqlite":
            assert self.url.database is not None
            self._use_log(self.url.database)
        engine = make_engine(self.url)
        try:
            with engine.connect().execution_options(writes=True) as connection_, connection_.begin():
                if engine.dialect.name == "postgresql":  # two creators at once: one waits
                    connection_.execute(sa.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
                meta.create(connection_, checkfirst=True)
                is_new = connection_.scalar(sa.select(meta.c.value).where(meta.c.key == "archive_id")) is None
                if not is_new and format_of(connection_)[0] > SCHEMA:
                    raise ConfigurationError(self._other_format(connection_))
                metadata.create_all(connection_)
                if is_new:
                    connection_.execute(meta.insert(), {"key": "archive_id", "value": self.archive_id})
                    set_format(connection_, SCHEMA, OLDEST)
        except DBAPIError as error:
            raise self._explain(error) from error
        finally:
            engine.dispose()

    def _use_log(self, file: str) -> None:
        """Make an SQLite file, new if need be, use a write-ahead log, so that readers do not wait for a writer."""
        with closing(sqlite3.connect(file, timeout=BUSY_S)) as connection:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            except sqlite3.Error as error:
                raise self._explain(sa.exc.OperationalError("PRAGMA journal_mode", None, error)) from error
        if mode != "wal":
            raise ConfigurationError(
                f"The index {self.where}: its file system cannot share SQLite's log between processes; set DSA110_DATABASE_URL to a "
                "PostgreSQL database, or to sqlite:///... on a disk of this machine"
            )

    def close(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine, self._proven = None, False

    def _retry_while_away(self, work: Callable[[Connection], T], *, writes: bool, any_format: bool = False) -> T:
        """Run `work`; while the database is away, back off with jitter, for at most `patience_s`."""
        deadline, pause_s, clashes = time.monotonic() + self.patience_s, 0.1, 0
        while True:
            try:
                return self._once(work, writes=writes, any_format=any_format)
            except sa.exc.IntegrityError:  # two writers at once: the second sees the first's rows next time
                clashes += 1
                if clashes == MOST_CLASHES:
                    raise
                continue
            except DBAPIError as error:
                reason = self._explain(error)
                # A database that has never answered is more likely a wrong setting than an outage.
                if not isinstance(reason, TransientError) or not self._proven or time.monotonic() >= deadline:
                    raise reason from error
            time.sleep(min(pause_s * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic())))
            pause_s = min(2 * pause_s, 5.0)

    def _once(self, work: Callable[[Connection], T], *, writes: bool, any_format: bool) -> T:
        if self._engine is None:
            self._engine = make_engine(self.url)
        if isinstance(self._engine.pool, sa.pool.NullPool) and self._file is not None:
            return readonly.retry_if_changed(self._file, lambda: self._transact(work, writes=writes, any_format=any_format))
        return self._transact(work, writes=writes, any_format=any_format)

    def _transact(self, work: Callable[[Connection], T], *, writes: bool, any_format: bool) -> T:
        assert self._engine is not None
        with self._engine.connect().execution_options(writes=writes) as connection, connection.begin():
            if not self._proven:
                self._prove(connection, any_format)
            return work(connection)

    def _prove(self, connection: Connection, any_format: bool) -> None:
        """Make sure that this index is this archive's, and, unless it may have any format, that this code can read it."""
        if connection.scalar(sa.select(meta.c.value).where(meta.c.key == "archive_id")) != self.archive_id:
            raise ConfigurationError(f"{self.where} is the index of another archive; correct DSA110_DATABASE_URL")
        newest, oldest = format_of(connection)
        if not any_format and not oldest <= SCHEMA <= newest:
            raise ConfigurationError(self._other_format(connection))
        self._proven = not any_format  # a transaction that converts the format proves nothing for later ones

    def _other_format(self, connection: Connection) -> str:
        """The message why this code does not work with the format of the index, and what to do."""
        newest, support = format_of(connection)[0], f"dsa110-assets {__version__} works with {SCHEMA}"
        if newest < SCHEMA:
            remedy = "bring it up to date with: dsa110 archive migrate" if newest >= FIRST else "rebuild it with: dsa110 archive reindex"
            return f"{self.where} has the older index format {newest}, {support}; {remedy}"
        by = (history(connection) or [{"version": "a newer version"}])[-1]["version"]
        return (
            f"{self.where} has the newer index format {newest}, made by dsa110-assets {by}, {support}; use that version, or take the index "
            f"back with it: dsa110 archive migrate --to {SCHEMA}"
        )

    @property
    def where(self) -> str:
        """The database's URL in a form that may be shown: without the password and without the options, which may contain one."""
        return self.url.set(query={}).render_as_string(hide_password=True)

    def _explain(self, error: DBAPIError) -> Exception:
        """The error of this package that corresponds to a database's error, chosen by what can be done about it."""
        cause = str(error.orig).strip()
        text = cause.lower()
        if "full" in text or "no space" in text or self._disk_is_full():
            return ResourceError(f"The index {self.where}: no space left on its disk; free some, work resumes by itself")
        if "unable to open" in text and self._file and os.path.exists(self._file):
            return ConfigurationError(
                f"The index {self.where} cannot be opened by this user; let this user read it and its directory (chmod, group membership)"
            )
        kind = type(error.orig).__name__.lower()
        if "unable to open" in text or "no such table" in text or "undefinedtable" in kind:
            return ConfigurationError(f"The index {self.where} is missing; rebuild it with: dsa110 archive reindex")
        if "malformed" in text or "not a database" in text:
            return ConfigurationError(
                f"The index {self.where} is damaged; bring it back with: dsa110 archive restore, or: dsa110 archive reindex"
            )
        if "readonly" in text or "read-only" in text or "permission denied" in text:
            return ConfigurationError(f"The index {self.where} cannot be written ({cause}); make it writable for this user")
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated:
            by_file = "another process holds it, its disk fails, or its file system refuses locks"
            remedy = by_file if self._file else "check DSA110_DATABASE_URL"
            return TransientError(f"The index {self.where} does not answer: {cause}; {remedy}")
        return error

    @property
    def _file(self) -> Path | None:
        """The file of an SQLite index."""
        return Path(self.url.database or "") if self.url.get_backend_name() == "sqlite" else None

    def _disk_is_full(self) -> bool:
        """Whether the SQLite file's disk is nearly full: SQLite then says "disk I/O error" or "unable to open", because it cannot write
        the files beside its own."""
        return self._file is not None and files.free_bytes(self._file.parent) < files.NEARLY_FULL_BYTES
