"""One torn or foreign record in the archive or in Dagster is named, and does not hide or stop the others."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy.exc
from dagster._core.test_utils import create_run_for_test

from dsa110_assets.archive import backup, claims, files, integrity, naming, quarantine, readonly, retention
from dsa110_assets.archive import caltable_registry as registry
from dsa110_assets.archive.index import quarantine as table
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.orchestration.specification.spec import consumers
from dsa110_assets.orchestration.watching import history
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import Thresholds

pytestmark = pytest.mark.row(41, cases="torn and foreign records that stop no other")

MADE = {"settings": {}, "code_version": "1", "run_id": "run"}
TIMES = ("2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30")
RECORD = {
    "key": "?", "paths": ["/inbox/a_sb00.hdf5"], "sizes_bytes": [1], "mtimes_ns": [1], "reason": "torn", "observation": None,
    "at": "2026-01-25T22:25:00+00:00", "released_at": None,
}  # fmt: skip
WRONG_RECORDS = {
    "torn": '{"key": "torn", "pat',
    "list": "[]",
    "lacking": json.dumps({"key": "lacking"}),
    "uneven": json.dumps(RECORD | {"key": "uneven", "sizes_bytes": [1, 2]}),
    "undated": json.dumps(RECORD | {"key": "undated", "at": "yesterday"}),
    "zoneless": json.dumps(RECORD | {"key": "zoneless", "at": "2026-01-25T22:25:00"}),
    "windowless": json.dumps(RECORD | {"key": "windowless", "observation": "a night"}),
    "another": json.dumps(RECORD | {"key": "others"}),
}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.create(tmp_path / "archive") as made:
        yield made


def publish(archive: Archive, asset: str, key: str) -> str:
    with archive.publish(asset, key, [], **MADE) as draft:
        (draft.path / "data").write_bytes(key.encode())
    return draft.product.id


def test_wrong_quarantine_records_are_reported_and_good_ones_are_listed(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "bad_sb00.hdf5").write_bytes(b"x")
    good = quarantine.quarantine(archive, tmp_path / "bad_sb00.hdf5", "it is cut short")
    places = {archive.root / quarantine.DIRECTORY / f"{name}.json": text for name, text in WRONG_RECORDS.items()}
    for path, text in places.items():
        path.write_text(text)
    (archive.root / quarantine.DIRECTORY / "folder.json").mkdir()
    refused = integrity.sweep(archive, everywhere=True).left
    assert set(refused) == {*places, archive.root / quarantine.DIRECTORY / "folder.json"}
    assert all("is no quarantine record" in reason and "remove it" in reason for reason in refused.values())
    done = integrity.reindex(archive.root)
    assert done.quarantined == 1
    assert set(done.refused) == set(refused)
    assert quarantine.quarantined(archive) == [good]


def test_wrong_rows_of_the_quarantine_are_named_and_hide_no_other(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad_sb00.hdf5").write_bytes(b"x")
    good = quarantine.quarantine(archive, tmp_path / "bad_sb00.hdf5", "it is cut short")
    rows = [{"key": name, "contents": text, "released": False} for name, text in WRONG_RECORDS.items() if name != "another"]
    archive.index.write(lambda c: c.execute(table.insert(), rows))
    assert quarantine.quarantined(archive) == [good]
    assert inbox.refused(archive) == {f"bad_sb00.hdf5:1:{(tmp_path / 'bad_sb00.hdf5').stat().st_mtime_ns}"}
    for row in rows:
        assert f"quarantine record {row['key']} cannot be read" in caplog.text
    assert len(caplog.records) == len(rows)  # once per record, not at every read
    assert quarantine.release(archive, "bad_sb00.hdf5")[0].key == good.key


WRONG_ROWS = {
    "metadata": ('{"rms', "Unterminated string"),
    "settings": ("[]", "is not a JSON object"),
    "created_at": ("yesterday", "isoformat"),
    "size_bytes": ("many", "'many'"),
    "partition_key": ("2026-13-45T99:99", "no partition key"),
}


@pytest.mark.parametrize("column", WRONG_ROWS)
def test_a_wrong_row_of_a_product_hides_no_other_and_its_own_record_is_read(
    archive: Archive, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    ids = [publish(archive, "tile_image", key) for key in TIMES]
    right = archive.get(ids[1])
    text, reason = WRONG_ROWS[column]
    archive.index.write(lambda c: c.exec_driver_sql(f"update products set {column} = ? where id = ?", (text, ids[1])))
    assert sorted(product.id for product in archive.products("tile_image")) == sorted(ids)
    assert next(product for product in archive.products("tile_image") if product.id == ids[1]) == right
    (message,) = {record.getMessage() for record in caplog.records}
    assert all(word in message for word in (ids[1], reason, "its own record is used", "run: dsa110 archive reindex"))
    assert integrity.reindex(archive.root).refused == {}
    assert archive.products("tile_image")[1] == right
    archive.index.write(lambda c: c.exec_driver_sql("update products set engines = '' where id = ?", (ids[0],)))
    (archive.get(ids[0]).path / naming.SIDECAR).write_text("{}")
    assert [product.id for product in archive.products("tile_image")] == ids[1:]
    assert f"{ids[0]} is left out" in caplog.text


def test_a_wrong_row_of_a_caltable_set_hides_no_other(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    validity = {"mid_mjd": 61065.9, "valid_start_mjd": 61065.4, "valid_end_mjd": 61066.4, "dec_deg": 16.27}
    with archive.publish("caltables", "2026-01-25", [], **MADE) as draft:
        for name in ("one", "two"):
            (draft.path / f"{name}.B").mkdir()
            (draft.path / f"{name}.B" / "table.dat").write_bytes(b"casacore")
            registry.register(draft, name, [draft.path / f"{name}.B"], antennas=["1"], calibrator=name, anchor="PB17:3C48", **validity)
    one, two = registry.sets(archive)
    for text in ("{", "[]", "{}"):
        archive.index.write(
            lambda c, text=text: c.exec_driver_sql("update caltable_sets set contents = ? where set_id = ?", (text, one.set_id))
        )
        assert registry.sets(archive) == [two]
    assert f"caltable set {one.set_id} is left out" in caplog.text
    integrity.reindex(archive.root)
    assert registry.sets(archive) == [one, two]


WRONG_SIDECARS = {
    "a list": lambda record: [],
    "without digest": lambda record: {name: value for name, value in record.items() if name != "digest"},
    "of no time": lambda record: record | {"created_at": "yesterday"},
    "of no size": lambda record: record | {"size_bytes": "many"},
    "of nameless sets": lambda record: record | {"caltable_sets": [{}]},
}


@pytest.mark.parametrize("what", WRONG_SIDECARS)
def test_reindexing_refuses_a_foreign_sidecar_and_keeps_the_others(archive: Archive, what: str) -> None:
    ids = [publish(archive, "tile_image", key) for key in TIMES]
    bad = archive.get(ids[1]).path
    (bad / naming.SIDECAR).write_text(json.dumps(WRONG_SIDECARS[what](files.read_json(bad / naming.SIDECAR))))
    done = integrity.reindex(archive.root)
    assert set(done.refused) == {bad}
    assert [product.id for product in archive.products("tile_image")] == [ids[0], ids[2]]


@pytest.mark.parametrize("text", ["[]", '{"pin', '{"rejected_sets": []}', '{"record": {"id": "x"}}'])
def test_a_foreign_state_file_does_not_stop_sweep_or_reindexing(archive: Archive, text: str) -> None:
    """The contents of the file are unknown, so its product must not pass for one that was never rejected or pinned."""
    ids = [publish(archive, "tile_image", key) for key in TIMES]
    bad = archive.get(ids[1]).path
    bad.with_name(f"{bad.name}.state.json").write_text(text)
    orphan = archive.root / naming.parse_id(ids[2]).directory
    archive.index.write(lambda c: c.exec_driver_sql("delete from products where id = ?", (ids[2],)))
    swept = integrity.sweep(archive, everywhere=True)
    assert swept.adopted == [ids[2]]
    assert orphan.is_dir()
    assert f"{bad.name}.state.json" in swept.left[bad.parent]
    done = integrity.reindex(archive.root)
    assert bad in done.refused
    assert [product.id for product in archive.products("tile_image")] == [ids[0], ids[2]]


@pytest.mark.parametrize("text", ["[]", "{}", '{"places": 3, "reads": []}', '{"places": ["../.."], "reads": [null]}'])
def test_a_foreign_claim_does_not_stop_sweep_or_retention(archive: Archive, text: str) -> None:
    old = publish(archive, "tile_image", TIMES[0])
    (archive.root / claims.DIRECTORY).mkdir(exist_ok=True)
    (archive.root / claims.DIRECTORY / "foreign").write_text(text)
    with archive.publish("tile_image", TIMES[1], [], **MADE) as draft:
        (draft.path / "data").write_bytes(b"x")
    limits = Thresholds(retention_days={"tile_image": 0.0})
    decisions = retention.retain(archive, limits, {}, dry_run=False)
    assert {one.product.id for one in decisions if one.remove} == {old, draft.product.id}
    integrity.sweep(archive)


def test_an_unreadable_state_file_blocks_no_other_retention(archive: Archive) -> None:
    ids = [publish(archive, "tile_image", key) for key in TIMES]
    bad = archive.get(ids[1]).path
    bad.with_name(f"{bad.name}.state.json").mkdir()
    limits = Thresholds(retention_days={"tile_image": 0.0})
    removed = {one.product.id for one in retention.retain(archive, limits, {}, dry_run=False) if one.remove}
    assert removed == {ids[0], ids[2]}
    assert bad.is_dir()


def test_invalid_manifests_do_not_stop_the_scan_of_the_inbox(settings: Settings) -> None:
    process(settings, through="subband_group")
    archive = Archive(settings.archive)
    for product, text in zip(archive.products("subband_group"), ("[]", "{}", '{"files": [], "identities": ["a:1:2"]}'), strict=True):
        (product.path / "manifest.json").write_text(text)
    for path in settings.inbox.glob("*.hdf5"):
        (path.with_suffix(".copy")).write_bytes(path.read_bytes())
        path.with_suffix(".copy").replace(path)  # a new modification time, so that the digests of the manifests are compared
    assert [one.observation for one in plan.scan_inbox_when_still(archive, settings).ready()] == list(TIMES)
    assert [recipes.raw_files_there(product) for product in archive.products("subband_group")] == [False] * 3
    assert [archive.lineage(product.id).files() for product in archive.products("subband_group")] == [()] * 3


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return instances.prepare_home(tmp_path / "home")


def orphan(instance: dg.DagsterInstance, **more: str) -> dg.DagsterRun:
    """A run whose process no longer exists."""
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({dg.AssetKey("tile_image")}))
    instance.add_run_tags(run.run_id, {instances.LAUNCHER_TAG: f"{socket.gethostname()}/{2**22 + 1}/boot.1/{run.run_id}", **more})
    instance.report_engine_event("it began", run)
    return run


def tear(home: Path, run: dg.DagsterRun) -> None:
    (home / history.EVENTS / f"{run.run_id}.db").write_bytes(b"torn by a failing disk" * 1000)


def test_a_run_with_damaged_events_blocks_no_other_orphan(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with instances.open_instance(home) as instance:
        torn, other = orphan(instance), orphan(instance)
        orphan(instance, **{instances.LAUNCHER_TAG: f"{socket.gethostname()}/²/x/y"})
        tear(home, torn)
        assert instances.close_orphans(instance) == [other.run_id]
    (message,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert message.startswith(f"run {torn.run_id}: its events cannot be read (file is not a database); move ")


def test_a_failed_run_with_damaged_events_hides_no_other(
    home: Path, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `dsa110 status`, in alerts, in the backup, and with a read-only home."""
    with instances.open_instance(home) as instance:
        both = [orphan(instance, **{"dagster/partition": key}) for key in TIMES[:2]]
        assert len(instances.close_orphans(instance)) == 2
        tear(home, both[0])
    reasons = {one.partition: one.reason for one in history.failed(home, archive)}
    assert "see the run in Dagster" in reasons[TIMES[0]]
    assert "its process was killed" in reasons[TIMES[1]]
    monkeypatch.setattr(readonly, "may_write", lambda place: not place.is_relative_to(home))
    assert {one.partition: one.reason for one in history.failed(home, archive)} == reasons
    made = backup.backup(archive, tmp_path / "backups", keep=1, dagster=backup.Dagster(home))
    assert backup.verify_backup(made.path) == []
    assert [str(both[0].run_id) in reason for reason in made.left_out] == [True]
    assert (made.path / "dagster" / history.EVENTS / f"{both[1].run_id}.db").exists()
    assert backup.backups(tmp_path / "backups") == [made]


def test_a_damaged_run_database_fails_the_backup(home: Path, archive: Archive, tmp_path: Path) -> None:
    with instances.open_instance(home) as instance:
        orphan(instance)
    (home / history.RUNS).write_bytes(b"torn by a failing disk" * 1000)
    with pytest.raises(SilentWrongnessError, match=r"runs\.db is damaged \(file is not a database\)"):
        backup.backup(archive, tmp_path / "backups", keep=1, dagster=backup.Dagster(home))
    assert backup.backups(tmp_path / "backups") == []


def test_an_unavailable_database_is_not_taken_for_a_damaged_run(home: Path) -> None:
    """An outage must not look like runs without events."""
    with instances.open_instance(home) as instance:
        run = orphan(instance)
    with instances.open_instance(home) as instance:
        path = home / history.EVENTS / f"{run.run_id}.db"
        path.unlink()
        path.mkdir()
        with pytest.raises(sqlalchemy.exc.OperationalError):
            instances.events(instance, run.run_id, dg.DagsterEventType.RUN_FAILURE)


def test_a_foreign_backup_does_not_stop_backups_or_rotation(archive: Archive, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    for number, text in enumerate(("[]", "{}", '{"at": "soon", "files": {}, "caltables": 0}')):
        foreign = place / f"backup-2025010{number + 1}T000000"
        foreign.mkdir(parents=True)
        (foreign / "manifest.json").write_text(text)
    made = [backup.backup(archive, place, keep=1, now=datetime(2026, 1, day, tzinfo=UTC)) for day in (25, 26)]
    assert backup.backups(place) == made[1:]
    assert len(list(place.iterdir())) == 4
    assert "unreadable" in backup.verify_backup(place / "backup-20250102T000000")[0]


def test_a_product_that_cannot_be_reported_to_dagster_delays_no_other(
    processed: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after the loss of DAGSTER_HOME: everything except the damaged product is reported to Dagster again."""
    archive = Archive(processed.archive)
    bad = archive.current("tile_image", TIMES[0])
    assert bad is not None
    (bad.path / "preview.png").unlink()
    (bad.path / "preview.png").symlink_to(tmp_path / ("x" * 300))  # a name that is too long: whether the file exists cannot be determined
    with dg.DagsterInstance.ephemeral() as instance:
        process(processed, instance=instance)
        materialized = {asset: instance.get_materialized_partitions(dg.AssetKey(asset)) for asset in consumers(specifications())}
    assert TIMES[1] in materialized["tile_image"]
    assert materialized["hour_mosaic"]
    assert f"{bad.id}: Dagster does not know of it yet" in caplog.text
