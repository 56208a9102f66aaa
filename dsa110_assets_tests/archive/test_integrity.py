"""Kill the publisher at any point: nothing partial is visible, and the next run converges."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from dsa110_assets.archive import caltable_registry, files, integrity, quarantine
from dsa110_assets.archive.index import meta, metadata, products
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError

MADE = {"settings": {}, "code_version": "1", "run_id": "run"}
WINDOW, NIGHT = "2026-01-25T22:25", "2026-01-25"
PUBLISHER = """
import sys
from pathlib import Path
from dsa110_assets.archive.store import Archive
archive = Archive(Path(sys.argv[1]), sys.argv[2] or None)
made = {"settings": {}, "code_version": "1", "run_id": "child"}
with archive.publish("tile_image", "2026-01-25T22:25", [], **made) as draft:
    (draft.path / "sub").mkdir()
    (draft.path / "sub" / "image").write_bytes(b"sky" * 1000)
"""
BEFORE_RENAME = ("draft_created", "written", "validated", "sealed", "sidecar_written")
INDEXED = ("indexed", "published")


def publish_and_die(archive: Archive, url: str | None, crash_at: str) -> int:
    environment = {**os.environ, "DSA110_CRASH_AT": crash_at}
    command = [sys.executable, "-c", PUBLISHER, str(archive.root), url or ""]
    return subprocess.run(command, env=environment, timeout=120).returncode


def disk(archive: Archive) -> list[str]:
    """Every path of products and temporaries, relative to the root."""
    return sorted(p.relative_to(archive.root).as_posix() for p in archive.root.glob("tile_image/*/*/*"))


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("point", files.CRASH_POINTS)
def test_publication_killed_at_any_point_is_completed_or_removed(archive, engine_url, point, how):
    status = publish_and_die(archive, engine_url, f"tile_image/{point}:{how}")
    assert status == -getattr(signal, how)
    published = archive.current("tile_image", WINDOW)
    assert (published is not None) == (point in INDEXED)
    if published is not None:
        assert archive.verify(published) == []
    swept = integrity.sweep(archive, min_age_s=0)
    assert swept.adopted == (["tile_image-20260125T2225-v1"] if point in ("renamed", "durable", "row_written") else [])
    assert len(swept.removed) == (point != "published")  # the dead publisher's temporary directory
    again = integrity.sweep(archive, min_age_s=0)
    assert (again.adopted, again.removed, again.left) == ([], [], {})
    with archive.publish("tile_image", WINDOW, [], **MADE) as draft:
        (draft.path / "image").write_bytes(b"sky")
    expected = 1 if point in BEFORE_RENAME else 2
    assert draft.product.version == expected
    assert [p.version for p in archive.versions("tile_image", WINDOW)] == list(range(1, expected + 1))
    assert len(disk(archive)) == expected
    assert all(archive.verify(p) == [] for p in archive.versions("tile_image", WINDOW))


def test_the_crash_point_of_another_asset_does_nothing(archive, engine_url):
    assert publish_and_die(archive, engine_url, "caltables/renamed") == 0
    assert archive.current("tile_image", WINDOW, check=True) is not None


def test_a_re_run_before_the_sweep_takes_the_next_version(archive, engine_url, publish):
    publish_and_die(archive, engine_url, "renamed")
    assert publish("tile_image").version == 2
    assert integrity.sweep(archive, min_age_s=0).adopted == ["tile_image-20260125T2225-v1"]
    assert [(p.version, p.state) for p in archive.versions("tile_image", WINDOW)] == [
        (1, "superseded"),
        (2, "current"),
    ]


def test_the_sweep_leaves_a_live_publisher_alone(archive):
    with archive.publish("tile_image", WINDOW, [], **MADE) as draft:
        (draft.path / "x").write_text("x")
        swept = integrity.sweep(archive, min_age_s=0)
        assert swept.removed == []
        assert list(swept.left.values()) == ["is being worked on"]
        assert list(integrity.sweep(archive, everywhere=True, min_age_s=0).left.values()) == ["is being worked on", "is being written"]
    assert archive.verify(draft.product) == []


def test_a_young_temporary_directory_is_left_alone(archive, publish):
    product = publish("tile_image")
    young = product.path.with_name(".tmp-young")
    young.mkdir()
    assert integrity.sweep(archive, everywhere=True).removed == []
    assert integrity.sweep(archive, everywhere=True, min_age_s=0).removed == [young]


def test_an_orphan_that_was_damaged_is_not_adopted(archive, engine_url):
    publish_and_die(archive, engine_url, "renamed")
    orphan = archive.root / "tile_image/night=2026-01-25/partition=20260125T2225/v0001"
    (orphan / "sub" / "image").write_bytes(b"sKy" * 1000)  # same size: only the digest differs
    swept = integrity.sweep(archive, min_age_s=0)
    assert swept.adopted == []
    assert orphan in swept.removed
    assert not orphan.exists()


def test_sweep_keeps_foreign_directories(archive, publish):
    foreign = publish("tile_image").path.with_name("v0009")
    foreign.mkdir()
    (foreign / "mine.txt").write_text("do not delete")
    assert list(integrity.sweep(archive, everywhere=True).left) == [foreign]
    assert (foreign / "mine.txt").exists()


def test_a_scan_finds_every_flipped_bit(archive, publish):
    intact, flipped, deleted = (
        publish("tile_image"),
        publish("tile_image", "2026-01-25T22:30"),
        publish("caltables", NIGHT),
    )
    assert list(integrity.verify(archive)) == []
    (flipped.path / "data.txt").write_text("y")  # 'x' with one bit flipped
    shutil.rmtree(deleted.path)
    assert {p.product.id for p in integrity.verify(archive)} == {flipped.id, deleted.id}
    assert list(integrity.verify(archive, [intact])) == []


def everything(archive: Archive) -> dict[str, list[tuple]]:
    """All rows of all tables."""

    def work(connection):
        tables = [t for t in metadata.sorted_tables if t.name != "meta"]
        return {t.name: sorted(map(tuple, connection.execute(sa.select(t))), key=str) for t in tables}

    return archive.index.read(work)


def fill(archive, publish, tmp_path):
    """Fill an archive with everything that sidecars must be able to restore."""
    group = publish("subband_group")
    with archive.publish("caltables", NIGHT, [group.id], **MADE) as draft:
        for name in ("3C138", "3C48"):
            (draft.path / f"{name}.b").write_text(name)
            caltable_registry.register(
                draft,
                name,
                [draft.path / f"{name}.b"],
                mid_mjd=61065.9,
                valid_start_mjd=61065.8,
                valid_end_mjd=61066.0,
                dec_deg=16.27,
                antennas=["1", "2"],
                calibrator=name,
                anchor=f"PB17:{name}",
            )
    caltable_registry.reject(archive, f"{draft.product.id}/3C48", "swapped antennas")
    first = publish("tile_image", inputs=[group, draft.product])
    publish("tile_image", inputs=[group, draft.product])
    archive.pin(first.id, "cited")
    archive.reject(publish("tile_image", "2026-01-25T22:30").id, "bad")
    publish("source_catalog", None)
    (tmp_path / "sb00.hdf5").write_text("")
    (tmp_path / "sb01.hdf5").write_text("")
    quarantine.quarantine(archive, tmp_path / "sb00.hdf5", "is empty", WINDOW)
    quarantine.quarantine(archive, tmp_path / "sb01.hdf5", "is empty", WINDOW)
    quarantine.release(archive, tmp_path / "sb01.hdf5")


def test_the_index_is_restored_from_the_sidecars(archive, engine_url, publish, tmp_path):
    fill(archive, publish, tmp_path)
    before = everything(archive)
    assert {len(rows) for rows in before.values()} >= {2, 6}
    if engine_url is None:
        archive.close()
        for file in archive.root.glob("index.sqlite*"):
            file.unlink()
    else:
        archive.index.write(lambda c: [c.execute(sa.text(f"DROP TABLE {t.name} CASCADE")) for t in metadata.sorted_tables])
    with pytest.raises(ConfigurationError, match="dsa110 archive reindex"):
        Archive(archive.root, engine_url).products()
    done = integrity.reindex(archive.root, engine_url)
    assert (done.products, done.quarantined, done.refused) == (6, 2, {})
    assert everything(archive) == before


def test_reindexing_twice_and_over_a_damaged_file(archive, engine_url, publish, tmp_path):
    fill(archive, publish, tmp_path)
    before = everything(archive)
    integrity.reindex(archive.root, engine_url)
    assert everything(archive) == before
    if engine_url is None:
        archive.close()
        (archive.root / "index.sqlite").write_bytes(b"garbage " * 1000)
        integrity.reindex(archive.root)
        assert everything(archive) == before
        assert (archive.root / "index.sqlite.damaged").exists()


def test_reindexing_renews_an_index_of_another_format(archive, engine_url, publish):
    """A column is missing, as the format number shows: the index is refused with a remedy, and the remedy works."""
    publish("tile_image", metadata={"held": "flags"})
    held = [index for index in products.indexes if index.name == "held_products"]

    def make_old(connection):
        for index in held:
            index.drop(connection)
        connection.execute(sa.text("ALTER TABLE products DROP COLUMN held"))
        connection.execute(meta.update().where(meta.c.key == "schema").values(value="1"))

    archive.index.write(make_old)
    archive.close()
    with pytest.raises(ConfigurationError, match="dsa110 archive reindex"):
        archive.products()
    archive.close()
    assert integrity.reindex(archive.root, engine_url).products == 1
    assert list(archive.held().values()) == ["flags"]
    assert len(archive.products()) == 1


def test_reindexing_refuses_damaged_products_and_sidecars(archive, engine_url, publish):
    short, nameless, good = publish("tile_image"), publish("caltables", NIGHT), publish("sky_model", None)
    (short.path / "data.txt").write_text("")
    (nameless.path / "product.json").write_text("{torn")
    done = integrity.reindex(archive.root, engine_url)
    assert set(done.refused) == {short.path, nameless.path}
    assert [p.id for p in archive.products()] == [good.id]
