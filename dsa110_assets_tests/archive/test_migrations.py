"""Migration of an index to another format and back, on both kinds of database: with all its contents, completely or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dsa110_assets import __version__
from dsa110_assets.archive import index, integrity, migrations
from dsa110_assets.archive.index import OLDEST_KEY, alert_messages, alert_silences, alerts, counters, marks, meta
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import main
from dsa110_assets.errors import ConfigurationError
from dsa110_assets_tests.archive.conftest import NIGHT, WINDOW, Publisher, publish_into

OF_3 = (alerts, alert_messages, alert_silences, marks, counters)
"""The tables that format 3 added."""
NEWER = (
    *migrations.MIGRATIONS,
    migrations.Migration(
        to=4,
        oldest=3,
        what="who published",
        forward=migrations.statements("ALTER TABLE products ADD COLUMN publisher TEXT", "UPDATE products SET publisher = run_id"),
        back=migrations.statements("ALTER TABLE products DROP COLUMN publisher"),
    ),
    migrations.Migration(
        to=5,
        oldest=5,
        what="the run's column is gone",
        forward=migrations.statements("ALTER TABLE products DROP COLUMN run_id"),
        back=migrations.statements(
            "ALTER TABLE products ADD COLUMN run_id TEXT NOT NULL DEFAULT ''", "UPDATE products SET run_id = publisher"
        ),
    ),
)
"""Two fictitious formats: code of format 3 works with the first but not with the second."""


@pytest.fixture
def filled(archive: Archive, publish: Publisher) -> Archive:
    """An archive with products, lineage, states and a row in every table that format 3 added."""
    group = publish("subband_group")
    tile = publish("tile_image", inputs=[group], metadata={"held": "flags", "rms_mjy": 1.25})
    publish("tile_image", inputs=[group])
    archive.pin(publish("hour_mosaic", "2026-01-25T22:00", inputs=[tile]).id, "cited")
    archive.reject(publish("light_curves", NIGHT).id, "bad")
    details = {"topic": "platform", "severity": "WARNING", "words": "3 wait", "page": "/queue", "false_alarm": False}
    rows: list[tuple[sa.Table, dict[str, Any]]] = [
        (alerts, {"condition": "queue", "subject": "", "began_at": "2026-01-25T22:30:00+00:00", **details}),
        (alert_messages, {"channel": "ops", "decided_at": "2026-01-25T22:31:00+00:00", "contents": '{"a": "Ä"}'}),
        (alert_silences, {"what": "queue", "until": "2026-01-26", "by": "Ada", "why": "known", "made_at": "2026-01-25T23:00:00+00:00"}),
        (marks, {"name": "looked", "value": "2026-01-25T22:31:00+00:00"}),
        (counters, {"family": "stages", "labels": "{}", "part": "sum", "value": 0.1 + 0.2}),
    ]
    archive.index.write(lambda connection: [connection.execute(table.insert(), row) for table, row in rows])
    return archive


@pytest.fixture
def of_2(filled: Archive) -> Archive:
    """The same archive in format 2: without the tables that format 3 added, and without the entry about older code."""

    def make(connection: sa.Connection) -> None:
        index.metadata.drop_all(connection, OF_3)
        connection.execute(meta.delete().where(meta.c.key == OLDEST_KEY))
        connection.execute(meta.update().where(meta.c.key == "schema").values(value="2"))

    filled.index.write(make)
    filled.close()
    return filled


def everything(archive: Archive) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all existing tables except those about the format, as the database reports them, by table."""

    def work(connection: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
        found = {}
        for name in sorted(set(sa.inspect(connection).get_table_names()) - {"meta", "sqlite_sequence"}):
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            columns = sorted(table.columns, key=lambda column: column.name)
            found[name] = sorted((tuple(row) for row in connection.execute(sa.select(*columns))), key=str)
        return found

    return archive.index.in_any_format(work)


def shape(archive: Archive) -> dict[str, Any]:
    """Columns, keys and indices of all tables, as the database describes them."""

    def work(connection: sa.Connection) -> dict[str, Any]:
        inspector = sa.inspect(connection)
        found: dict[str, Any] = {}
        for name in inspector.get_table_names():
            columns = {
                c["name"]: (str(c["type"]), getattr(c["type"], "collation", None), c["nullable"]) for c in inspector.get_columns(name)
            }
            indices = sorted(
                (i["name"], i["column_names"], i["unique"], {k: str(v) for k, v in i["dialect_options"].items()})
                for i in inspector.get_indexes(name)
            )
            found[name] = columns, indices, inspector.get_pk_constraint(name)["constrained_columns"]
        return found

    return archive.index.in_any_format(work)


def format_now(archive: Archive) -> tuple[int, int]:
    return archive.index.in_any_format(index.format_of)


def test_forward_keeps_every_row_and_makes_what_a_new_index_has(of_2: Archive) -> None:
    before = everything(of_2)
    done = migrations.migrate(of_2.index)
    assert [(step.begin, step.end) for step in done.steps] == [(2, 3)]
    after = everything(of_2)
    assert {name: rows for name, rows in after.items() if name not in {table.name for table in OF_3}} == before
    assert {table.name for table in OF_3} <= after.keys()
    migrated = shape(of_2)
    of_2.index.in_any_format(lambda connection: index.metadata.drop_all(connection), writes=True)
    of_2.index.create()
    assert migrated == shape(of_2)


def test_migrating_back_and_forth_loses_nothing_and_is_recorded(filled: Archive) -> None:
    before, shape_before = everything(filled), shape(filled)
    assert migrations.migrate(filled.index, 2).steps
    filled.close()
    assert format_now(filled) == (2, 2)
    with pytest.raises(ConfigurationError, match=r"has the older index format 2, .* works with 3; .* dsa110 archive migrate"):
        filled.products()
    migrations.migrate(filled.index)
    assert (everything(filled), shape(filled)) == (before, shape_before)
    assert migrations.migrate(filled.index).steps == ()
    lines = filled.index.read(index.history)
    assert [(line["from"], line["to"], line["version"]) for line in lines] == [(3, 2, __version__), (2, 3, __version__)]


def test_migrations_that_move_data_can_be_reverted(filled: Archive) -> None:
    """Two steps at once: the way back restores the column that the second step removed from the copy that the first step made."""
    before, shape_before = everything(filled), shape(filled)
    assert [step.end for step in migrations.migrate(filled.index, known=NEWER).steps] == [4, 5]
    assert format_now(filled) == (5, 5)
    assert "run_id" not in shape(filled)["products"][0]
    assert [step.end for step in migrations.migrate(filled.index, 3, known=NEWER).steps] == [4, 3]
    assert everything(filled) == before
    assert shape(filled).keys() == shape_before.keys()


def test_older_code_works_only_with_formats_that_allow_it(filled: Archive) -> None:
    migrations.migrate(filled.index, 4, known=NEWER)
    filled.close()
    assert format_now(filled) == (4, 3)
    assert publish_into(filled, "tile_image", "2026-01-25T22:35").id in {product.id for product in filled.products()}
    migrations.migrate(filled.index, 5, known=NEWER)
    filled.close()
    with pytest.raises(ConfigurationError) as refused:
        filled.products()
    message = str(refused.value)
    assert f"has the newer index format 5, made by dsa110-assets {__version__}, dsa110-assets {__version__} works with 3" in message
    assert message.endswith("use that version, or take the index back with it: dsa110 archive migrate --to 3")
    before = everything(filled)
    with pytest.raises(ConfigurationError, match="newer index format 5"):
        integrity.reindex(filled.root, str(filled.index.url.render_as_string(hide_password=False)))
    with pytest.raises(ConfigurationError, match=r"has index format 5; .* knows formats 2 to 3: use the version that made it"):
        migrations.migrate(filled.index)
    assert everything(filled) == before


@pytest.mark.parametrize("to", [1, 4])
def test_an_unknown_format_is_refused(filled: Archive, to: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"format {to} is requested; .* knows formats 2 to 3"):
        migrations.migrate(filled.index, to)


def test_rebuilding_an_older_index_keeps_alerts_marks_and_counters(filled: Archive, engine_url: str | None) -> None:
    before = everything(filled)
    migrations.migrate(filled.index, 2)
    filled.close()
    integrity.reindex(filled.root, engine_url)
    after = everything(filled)
    assert {table.name: after[table.name] for table in OF_3} == {table.name: before[table.name] for table in OF_3}


KILLED = """
import sys, time
from pathlib import Path
from dsa110_assets.archive import migrations
from dsa110_assets.archive.store import Archive

def hang(connection):
    print("inside", flush=True)
    time.sleep(600)

root, url = Path(sys.argv[1]), sys.argv[2] or None
first = migrations.statements("ALTER TABLE products ADD COLUMN publisher TEXT", "DELETE FROM marks")
steps = (*migrations.MIGRATIONS, migrations.Migration(4, 3, "first", first, first), migrations.Migration(5, 3, "second", hang, hang))
migrations.migrate(Archive(root, url).index, known=steps)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_migration_killed_between_two_steps_changes_nothing(filled: Archive, engine_url: str | None, number: signal.Signals) -> None:
    before, shape_before = everything(filled), shape(filled)
    filled.close()
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(filled.root), engine_url or ""], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "inside\n"
    finally:
        child.send_signal(number)
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
    assert (everything(filled), shape(filled), format_now(filled)) == (before, shape_before, (3, 3))
    assert filled.index.read(index.history) == []


def test_two_simultaneous_migrations_run_once(of_2: Archive, engine_url: str | None) -> None:
    both = [Archive(of_2.root, engine_url) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda archive: len(migrations.migrate(archive.index).steps), both))
    for archive in both:
        archive.close()
    assert sorted(done) == [0, 1]
    assert len(of_2.index.read(index.history)) == 1


@pytest.fixture
def command(of_2: Archive, engine_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """The environment in which `dsa110` finds the archive of format 2."""
    for name in [name for name in os.environ if name.startswith("DSA110_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DSA110_INBOX", str(tmp_path / "inbox"))
    monkeypatch.setenv("DSA110_ARCHIVE", str(of_2.root))
    monkeypatch.setenv("DSA110_BACKUPS", str(tmp_path / "backups"))
    if engine_url:
        monkeypatch.setenv("DSA110_DATABASE_URL", engine_url)
    return of_2


def test_the_command_has_a_dry_run_and_keeps_a_copy_of_the_file(
    command: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(command)
    assert main(["archive", "migrate", "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["found"], report["wanted"], [step["to"] for step in report["steps"]]) == (2, 3, [3])
    assert everything(command) == before
    assert main(["products"]) == 1
    assert "dsa110 archive migrate" in capsys.readouterr().err

    assert main(["archive", "migrate"]) == 0
    assert "went from format 2 to 3: alerts" in capsys.readouterr().out
    copies = list((tmp_path / "backups").glob("index-format-2-*.sqlite"))
    if command.index.url.get_backend_name() == "sqlite":
        (copy,) = copies
        engine = sa.create_engine(f"sqlite:///{copy}")
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT value FROM meta WHERE key = 'schema'")) == "2"
            assert connection.scalar(sa.text("SELECT count(*) FROM products")) == len(before["products"])
        engine.dispose()
    else:
        assert copies == []
    assert main(["archive", "migrate"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {product.partition for product in command.products("tile_image")} == {WINDOW}
