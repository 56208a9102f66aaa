"""What retention removes and keeps, and restoring from backups."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from dsa110_assets.archive import backup, integrity, quarantine, retention
from dsa110_assets.errors import ConfigurationError, NotFoundError, SilentWrongnessError
from dsa110_assets.thresholds import Thresholds

MADE = {"settings": {}, "code_version": "1", "run_id": "run"}
WINDOW, NIGHT = "2026-01-25T22:25", "2026-01-25"
LIMITS = Thresholds(superseded_days=10, retention_days={"measurement_set": 30, "calibrated_ms": 30, "subband_group": 1})
CONSUMERS = {"measurement_set": ["calibrated_ms"], "calibrated_ms": ["tile_image"]}
LATER = datetime.now(UTC) + timedelta(days=31)


@pytest.fixture
def chain(publish):
    """subband_group -> measurement_set -> calibrated_ms -> tile_image."""
    made = [publish("subband_group")]
    for asset in ("measurement_set", "calibrated_ms", "tile_image"):
        made.append(publish(asset, inputs=[made[-1]]))
    return made


def removed(archive, now=LATER, limits=LIMITS):
    return {d.product.id for d in retention.plan(archive, limits, CONSUMERS, now) if d.remove}


def test_only_old_finished_intermediate_products_are_removed(archive, chain):
    group, measured, applied, image = chain
    assert removed(archive) == {measured.id, applied.id}
    assert removed(archive, datetime.now(UTC) + timedelta(days=29)) == set()
    reasons = {d.product.id: d.reason for d in retention.plan(archive, LIMITS, CONSUMERS, LATER)}
    assert reasons[group.id] == "lineage ends here"
    assert reasons[image.id] == "tile_image is kept for ever"
    assert "everything was made from it" in reasons[measured.id]


def test_dry_run_removes_nothing_and_the_run_what_it_said(archive, chain):
    announced = {d.product.id for d in retention.retain(archive, LIMITS, CONSUMERS, dry_run=True, now=LATER) if d.remove}
    assert all(p.path.exists() for p in chain)
    retention.retain(archive, LIMITS, CONSUMERS, dry_run=False, now=LATER)
    assert {p.id for p in chain if not p.path.exists()} == announced == {chain[1].id, chain[2].id}
    assert archive.current("measurement_set", WINDOW) is None
    assert archive.get(chain[1].id).removed
    assert [n.product.id for n in archive.lineage(chain[3].id).walk() if n.product] == [p.id for p in chain[::-1]]
    assert removed(archive) == set()
    assert archive.verify(archive.get(chain[1].id)) == []


def test_pinned_products_and_all_they_were_made_from_stay(archive, chain):
    archive.pin(chain[3].id, "cited")
    assert removed(archive) == set()
    archive.unpin(chain[3].id)
    assert removed(archive) == {chain[1].id, chain[2].id}


def test_inputs_of_unfinished_products_are_kept(archive, publish, chain):
    other = publish("measurement_set", "2026-01-25T22:30")
    assert other.id not in removed(archive)
    publish("calibrated_ms", "2026-01-25T22:30", [other])
    assert other.id in removed(archive)
    archive.reject(chain[3].id, "bad")  # its calibrated_ms must make a new one
    assert chain[2].id not in removed(archive)


def test_inputs_of_stale_products_stay(archive, publish, chain):
    extra = publish("measurement_set", "2026-01-25T22:30")
    publish("calibrated_ms", "2026-01-25T22:30", [extra, chain[0]])
    assert extra.id in removed(archive)
    publish("subband_group", text="late subband")  # the chain and the extra calibrated_ms are stale
    assert removed(archive) == set()


def test_tiles_are_removed_early_only_after_their_night_is_made(archive, publish):
    """A night's mosaic is made from hours and reads their tiles; if a tile is in two hours, both must be in the night's mosaic."""
    tile = publish("tile_image")
    hours = [publish("hour_mosaic", f"2026-01-25T{hour}:00", [tile]) for hour in (22, 23)]
    limits = Thresholds(retention_days={"tile_image": 30}, retention_free_gb=1e9)
    consumers = {"tile_image": ["hour_mosaic", "hour_mosaic/night_mosaic"]}

    def goes():
        (decision,) = [d for d in retention.plan(archive, limits, consumers, datetime.now(UTC)) if d.product.id == tile.id]
        return decision.remove

    assert not goes()
    publish("night_mosaic", NIGHT, hours[:1])
    assert not goes()
    publish("night_mosaic", NIGHT, hours, text="both")
    assert goes()
    archive.reject("night_mosaic-20260125-v2", "bad")
    assert not goes()
    assert tile.id in {d.product.id for d in retention.plan(archive, limits, consumers, LATER) if d.remove}  # it goes at its normal age


def test_inputs_of_a_running_publication_stay(archive, chain):
    with archive.publish("tile_image", "2026-01-25T22:30", [chain[1].id], **MADE) as draft:
        assert chain[1].id not in removed(archive)
        (draft.path / "x").write_text("x")
    assert chain[1].id in removed(archive)


def test_superseded_and_rejected_versions_are_removed_sooner(archive, publish):
    old, new = publish("tile_image", text="1"), publish("tile_image", text="2")
    moment = datetime.now(UTC) + timedelta(days=11)
    assert removed(archive, moment) == {old.id}
    archive.reject(new.id, "bad")
    assert removed(archive, moment) == {old.id, new.id}
    assert removed(archive, moment - timedelta(days=2)) == set()


def test_a_removal_killed_halfway_is_completed_and_survives_reindexing(archive, engine_url, chain, monkeypatch):
    monkeypatch.setattr(retention.files, "remove_tree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        retention.remove(archive, chain[1])
    monkeypatch.undo()
    assert chain[1].path.exists()
    assert integrity.sweep(archive, min_age_s=0).removed == [chain[1].path]
    assert not chain[1].path.exists()
    before = archive.get(chain[1].id)
    integrity.reindex(archive.root, engine_url)
    assert archive.get(chain[1].id) == before
    with archive.publish("measurement_set", WINDOW, [chain[0].id], **MADE) as draft:
        (draft.path / "x").write_text("x")
    assert draft.product.version == 2  # a version is never given twice


def test_a_backup_restores_everything_lost(archive, engine_url, publish, tmp_path):
    tables_ = publish("caltables", NIGHT, text="solutions")
    image = publish("tile_image", inputs=[tables_])
    archive.reject(image.id, "bad")
    quarantine.quarantine(archive, tmp_path / "sb00.hdf5", "is empty")
    before = archive.products(state=None)
    made = backup.backup(archive, tmp_path / "backups", keep=3)
    assert backup.verify_backup(made.path) == []
    assert made.caltables == 1
    later = publish("tile_image", "2026-01-25T22:30")
    shutil.rmtree(archive.root / "caltables")
    shutil.rmtree(archive.root / "quarantine")
    if engine_url is None:
        archive.close()
        for file in archive.root.glob("index.sqlite*"):
            file.unlink()
    backup.restore(made.path, archive.root, engine_url)
    assert archive.products(state=None) == before
    assert archive.verify(archive.get(tables_.id)) == []
    assert len(quarantine.quarantined(archive)) == 1
    assert integrity.sweep(archive, everywhere=True).adopted == [later.id]  # published after the snapshot
    assert archive.get(later.id) == later


def test_backups_are_rotated_and_never_incomplete(archive, publish, tmp_path, monkeypatch):
    publish("caltables", NIGHT)
    start = datetime(2026, 1, 25, tzinfo=UTC)
    for day in range(4):
        backup.backup(archive, tmp_path / "b", keep=2, now=start + timedelta(days=day))
    assert [b.path.name for b in backup.backups(tmp_path / "b")] == [
        "backup-20260127T000000",
        "backup-20260128T000000",
    ]
    monkeypatch.setattr(backup, "_copy_files", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(Exception, match="no space left"):
        backup.backup(archive, tmp_path / "b", keep=2)
    assert len(list((tmp_path / "b").iterdir())) == 2


def test_damaged_or_foreign_backups_are_refused(archive, engine_url, publish, tmp_path):
    publish("caltables", NIGHT)
    made = backup.backup(archive, tmp_path / "b", keep=3)
    with pytest.raises(NotFoundError, match="is no backup"):
        backup.restore(tmp_path / "b", archive.root, engine_url)
    other = type(archive).create(tmp_path / "other")
    with pytest.raises(SilentWrongnessError, match="of another archive"):
        backup.restore(made.path, other.root)
    other.close()
    if engine_url is not None:
        shutil.copytree(made.path, tmp_path / "c" / made.path.name)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigurationError, match="is of PostgreSQL"):
            backup.restore(made.path, tmp_path / "empty")
    copy = next((made.path / "files").rglob("data.txt"))
    copy.write_text("y")
    with pytest.raises(SilentWrongnessError, match="is damaged"):
        backup.restore(made.path, archive.root, engine_url)


@pytest.mark.row(41, cases="bad items that stop no other")
def test_a_damaged_caltable_is_taken_from_an_earlier_backup(archive, publish, tmp_path):
    whole, damaged = publish("caltables", NIGHT), publish("caltables", "2026-01-26")
    start = datetime(2026, 1, 27, tzinfo=UTC)
    first = backup.backup(archive, tmp_path / "b", keep=9, now=start)
    (damaged.path / "data.txt").write_text("y")
    for day in (1, 2):
        made = backup.backup(archive, tmp_path / "b", keep=1, now=start + timedelta(days=day))
        assert (made.caltables, made.left_out) == (2, ())
        copies = sorted((made.path / "files").rglob("data.txt"))
        assert [copy.read_text() for copy in copies] == ["x", "x"]
    assert not first.path.exists()
    shutil.rmtree(whole.path)
    without_earlier = backup.backup(archive, tmp_path / "c", keep=1)
    assert without_earlier.caltables == 0
    assert [reason.partition(";")[0] for reason in without_earlier.left_out] == [
        f"{one.id} is damaged, and no earlier backup has it whole" for one in (whole, damaged)
    ]
    assert backup.verify_backup(without_earlier.path) == []
