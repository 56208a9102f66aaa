"""Row 14, and the recovery table of ops/runbook.md: lost state is restored, and work continues from there."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from dsa110_assets.archive import backup, caltable_registry, integrity, quarantine, retention
from dsa110_assets.archive.counters import BYTES, CHECKS, PRODUCTS
from dsa110_assets.archive.index import metadata
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import main
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults import killing
from dsa110_assets_tests.faults.figures import record_figure

SET = {
    "mid_mjd": 61065.9, "valid_start_mjd": 61065.8, "valid_end_mjd": 61066.0, "dec_deg": 16.27,
    "antennas": ["1", "2"], "anchor": "PB17",
}  # fmt: skip


def publish(archive: Archive, asset: str, partition: str | None, *inputs: Product, text: str = "x", sets: tuple[str, ...] = ()) -> Product:
    with archive.publish(asset, partition, [p.id for p in inputs], settings={}, code_version="1", run_id="r") as draft:
        (draft.path / "data.txt").write_text(text)
        for name in sets:
            caltable_registry.register(draft, name, [draft.path / "data.txt"], calibrator=name, **SET)
    return draft.product


def every_row(archive: Archive) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables except `meta`, which identifies the index."""

    def work(connection: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
        tables = [table for table in metadata.sorted_tables if table.name != "meta"]
        return {table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=str) for table in tables}

    return archive.index.read(work)


def lose_index(archive: Archive, url: str | None) -> None:
    if url is None:
        archive.close()
        for file in archive.root.glob("index.sqlite*"):
            file.unlink()
    else:
        archive.index.write(lambda c: [c.execute(sa.text(f"DROP TABLE {t.name} CASCADE")) for t in metadata.sorted_tables])


@pytest.mark.row(14)
def test_an_old_backup_and_the_current_disk_restore_every_row(tmp_path: Path, engine_url: str | None) -> None:
    """Changes after the backup: new products and versions, rejections and restorations, an unpinning, removals, quarantine."""
    files = [tmp_path / f"sb{number:02d}.hdf5" for number in range(3)]
    for file in files:
        file.touch()
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        group = publish(archive, "subband_group", "2026-01-25T22:25")
        tables = publish(archive, "caltables", "2026-01-25", group, sets=("3C138", "3C48"))
        old = [publish(archive, "measurement_set", f"2026-01-25T22:{minute:02d}", group) for minute in range(0, 50, 5)]
        images = [publish(archive, "tile_image", p.partition, p, tables) for p in old]
        archive.pin(images[0].id, "cited")
        archive.reject(images[1].id, "bad")
        caltable_registry.reject(archive, f"{tables.id}/3C48", "swapped")
        quarantine.quarantine(archive, files[0], "is empty")
        quarantine.quarantine(archive, files[1], "is empty")
        made = backup.backup(archive, tmp_path / "backups", keep=3, now=datetime.now(UTC) - timedelta(days=1))
        backed_up = sum(map(len, every_row(archive).values()))

        for image in images[2:]:
            publish(archive, "tile_image", image.partition, tables, text="made again")
        publish(archive, "caltables", "2026-01-26", group, sets=("3C147",))
        archive.unpin(images[0].id)
        archive.reject(images[3].id, "bad too")
        caltable_registry.restore(archive, f"{tables.id}/3C48")
        caltable_registry.reject(archive, f"{tables.id}/3C138", "wrong strip")
        assert retention.remove(archive, old[4])
        assert retention.remove(archive, publish(archive, "measurement_set", "2026-01-26T22:00", group))
        quarantine.release(archive, files[1])
        quarantine.quarantine(archive, files[2], "is empty")
        expected = every_row(archive)

        lose_index(archive, engine_url)
        began = time.monotonic()
        backup.restore(made.path, archive.root, engine_url)
        with Archive(archive.root, engine_url) as again:
            swept = integrity.sweep(again, everywhere=True)
            minutes = (time.monotonic() - began) / 60
            found = every_row(again)
        assert swept.removed == []
        recovered = sum(row in expected[name] for name, rows in found.items() for row in rows)
        total = sum(map(len, expected.values()))
        assert found == expected
    record_figure(14, "rows in the backup / rows recovered", f"{backed_up} / {recovered}")
    record_figure(14, "rows recovered %", 100.0 * recovered / total)
    record_figure(14, "minutes", round(minutes, 4))


def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`dsa110` in this process, on these settings."""
    for name, value in killing.environment(settings).items():
        monkeypatch.setenv(name, value)
    assert main(list(arguments)) == 0


def events(settings: Settings) -> dict[str, set[str]]:
    with instances.open_instance(settings.dagster_home) as dagster:
        return {asset: dagster.get_materialized_partitions(dg.AssetKey(asset)) for asset in ("tile_image", "hour_mosaic", "light_curves")}


@pytest.mark.row(14)
@pytest.mark.parametrize("lost", ["index", "index without a backup", "dagster", "caltables", "everything but products and backup"])
def test_the_runbooks_remedies_restore_everything(processed: Settings, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """After the runbook's remedy, `dsa110 process` has nothing to do and Dagster has an event for every product."""
    assert processed.dagster_home is not None
    with Archive(processed.archive) as archive:
        expected = every_row(archive)
    events_before = events(processed)
    run(processed, monkeypatch, "archive", "backup")
    if lost.startswith(("index", "everything")):
        for file in processed.archive.glob("index.sqlite*"):
            file.unlink()
    if lost == "dagster" or lost.startswith("everything"):
        shutil.rmtree(processed.dagster_home)
    if lost == "caltables":
        shutil.rmtree(processed.archive / "caltables")
    if lost == "index without a backup":
        run(processed, monkeypatch, "archive", "reindex")
    elif lost != "dagster":
        run(processed, monkeypatch, "archive", "restore")
    report = process(processed)
    assert (report.made, report.ok) == ((), True)
    with Archive(processed.archive) as archive:
        found = every_row(archive)
        if lost == "index without a backup":  # counts from products are restored; outcomes of steps are in no sidecar
            found["counters"], expected["counters"] = (
                [row for row in counters if row[0] in (PRODUCTS, BYTES, CHECKS)] for counters in (found["counters"], expected["counters"])
            )
        assert found == expected
        assert list(integrity.verify(archive)) == []
    assert events(processed) == events_before


@pytest.mark.row(14)
def test_the_backup_holds_dagsters_history(processed: Settings, tmp_path: Path) -> None:
    home = processed.dagster_home
    assert home is not None
    with instances.open_instance(home) as dagster:
        runs = {run.run_id for run in dagster.get_runs()}
        with Archive(processed.archive) as archive:  # while Dagster's storage is in use
            made = backup.backup(archive, tmp_path / "backups", keep=2, dagster=backup.Dagster(home))
    assert backup.verify_backup(made.path) == []
    shutil.rmtree(home)
    backup.restore(made.path, processed.archive, dagster=backup.Dagster(home))
    with instances.open_instance(home) as dagster:
        assert {run.run_id for run in dagster.get_runs()} == runs
        assert all(dagster.all_logs(run_id) for run_id in runs)


@pytest.mark.row(14)
@pytest.mark.postgres
def test_the_backup_holds_dagsters_postgres(tmp_path: Path, postgres_database: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(json.dumps({"storage": {"postgres": {"postgres_url": postgres_database}}}))
    event = dg.AssetMaterialization("tile_image", partition="2026-01-25T22:25")
    with dg.DagsterInstance.from_config(str(home)) as dagster:
        dagster.report_runless_asset_event(event)
    dagster_backup = backup.Dagster(home, postgres_database)
    with Archive.create(tmp_path / "archive") as archive:
        made = backup.backup(archive, tmp_path / "backups", keep=2, dagster=dagster_backup)
    engine = sa.create_engine(postgres_database)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    backup.restore(made.path, tmp_path / "archive", dagster=dagster_backup)
    with dg.DagsterInstance.from_config(str(home)) as dagster:
        assert dagster.get_materialized_partitions(dg.AssetKey("tile_image")) == {"2026-01-25T22:25"}
