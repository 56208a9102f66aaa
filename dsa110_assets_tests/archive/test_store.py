"""Publishing, versions, queries and lineage, the same over SQLite and PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import json
import os
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import xxhash

from dsa110_assets.archive import files, index, rows
from dsa110_assets.archive.store import BY_PUBLICATION, Archive
from dsa110_assets.errors import (
    ConfigurationError,
    NotFoundError,
    ResourceError,
    SilentWrongnessError,
    TransientError,
)

MADE = {"settings": {"robust": 0.5}, "code_version": "1", "run_id": "run"}
WINDOW, NIGHT = "2026-01-25T22:25", "2026-01-25"


def temporaries(archive: Archive) -> list[Path]:
    return list(archive.root.rglob(".tmp-*"))


def test_a_published_product_is_what_was_written(archive, publish):
    group = publish("subband_group")
    with archive.publish("tile_image", WINDOW, [group.id], engines={"ducc0": "0.41"}, **MADE) as draft:
        assert list(draft.path.iterdir()) == []
        (draft.path / "b").mkdir()
        (draft.path / "b" / "image.fits").write_bytes(b"sky")
        (draft.path / "a.txt").write_bytes(b"note")
        draft.metadata |= {"rms_jy": np.float32(0.5), "nan": float("nan"), "ok": True, "list": [1, 2]}
        with pytest.raises(NotFoundError, match="not published"):
            _ = draft.product
    product = draft.product
    assert product.id == "tile_image-20260125T2225-v1"
    assert product.path == archive.root / "tile_image/night=2026-01-25/partition=20260125T2225/v0001"
    assert (product.path / "b" / "image.fits").read_bytes() == b"sky"
    # The documented digest, computed here independently: sorted relative path, size, bytes.
    expected = xxhash.xxh3_128(b"a.txt\x004\x00note" + b"b/image.fits\x003\x00sky").hexdigest()
    assert (product.digest, product.size_bytes) == (expected, 7)
    assert product.metadata == {"rms_jy": 0.5, "nan": None, "ok": True, "list": [1, 2]}
    assert (product.inputs, product.engines, product.settings) == (
        (group.id,),
        {"ducc0": "0.41"},
        {"robust": 0.5},
    )
    assert product.state == "current"
    assert product.created_at.tzinfo is not None
    sidecar = json.loads((product.path / "product.json").read_text())
    assert sidecar["id"] == product.id
    assert sidecar["digest"] == product.digest
    assert archive.current("tile_image", WINDOW) == product == archive.get(product.id)
    assert archive.verify(product) == []
    assert temporaries(archive) == []


def test_versions_follow_each_other_and_the_newest_is_current(archive, publish):
    first, second = publish("tile_image", text="1"), publish("tile_image", text="2")
    assert [p.version for p in archive.versions("tile_image", WINDOW)] == [1, 2]
    assert archive.current("tile_image", WINDOW) == second
    assert archive.get(first.id).state == "superseded"
    assert (first.path / "data.txt").read_text() == "1"
    assert [p.id for p in archive.products("tile_image")] == [second.id]
    assert [p.id for p in archive.products("tile_image", state=None)] == [first.id, second.id]


def test_rejecting_leaves_none_current_and_a_new_version_is(archive, publish):
    first, second = publish("tile_image"), publish("tile_image")
    rejected = archive.reject(second.id, "wrong strip")
    assert (rejected.state, rejected.reason) == ("rejected", "wrong strip")
    assert archive.current("tile_image", WINDOW) is None
    third = publish("tile_image")
    assert archive.current("tile_image", WINDOW) == third
    assert [archive.get(p.id).state for p in (first, second, third)] == ["superseded", "rejected", "current"]


def test_an_exception_leaves_nothing(archive):
    with pytest.raises(ZeroDivisionError), archive.publish("tile_image", WINDOW, [], **MADE) as draft:  # noqa: PT012
        (draft.path / "half").write_text("x")
        _ = 1 / 0
    assert archive.products(state=None) == []
    assert [p for p in archive.root.rglob("*") if p.is_file() and "tile_image" in str(p)] == []


def test_validators_can_refuse_publication(archive):
    seen = []
    with (  # noqa: PT012
        pytest.raises(SilentWrongnessError, match=r"2026-01-25T22:25: not published: no sky; no wcs"),
        archive.publish("tile_image", WINDOW, [], **MADE) as draft,
    ):
        (draft.path / "image").write_text("x")
        draft.validate(lambda path: ["no sky"])
        draft.validate(lambda path: seen.append(path.name) or ["no wcs"])
        assert seen == []  # validators run after the block, when everything is written
    assert seen == ["draft"]
    assert archive.current("tile_image", WINDOW) is None


@pytest.mark.parametrize("content", ["nothing", "link", "sidecar", "fifo"])
def test_invalid_product_contents_are_refused(archive, content):
    with (  # noqa: PT012
        pytest.raises(SilentWrongnessError, match=r"nothing was written|plain files|archive's own"),
        archive.publish("tile_image", WINDOW, [], **MADE) as draft,
    ):
        if content == "link":
            (draft.path / "link").symlink_to("/etc/hostname")
        elif content == "sidecar":
            (draft.path / "product.json").write_text("{}")
        elif content == "fifo":
            os.mkfifo(draft.path / "fifo")
    assert archive.products(state=None) == []


@pytest.mark.parametrize("asset", ["", "Tile", "../etc", "a/b", "tile-image", "x" * 70, "a\n", "a\0"])
def test_bad_asset_names_are_refused(archive, asset):
    for call in (lambda: archive.publish(asset, WINDOW, [], **MADE), lambda: archive.current(asset, WINDOW)):
        with pytest.raises(NotFoundError, match="is not an asset name"):
            call()


@pytest.mark.parametrize(
    "partition",
    [
        "",
        "..",
        "../../etc",
        "2026-01-25T22:26",
        "2026-13-01",
        "2026-01-25T25:00",
        "2026-01-25\n",
        "２０２６-01-25",
        "a" * 300,
    ],
)
def test_bad_partitions_are_refused(archive, partition):
    with pytest.raises(NotFoundError, match=r"partition key|month|hour"):
        archive.publish("tile_image", partition, [], **MADE)
    with pytest.raises(NotFoundError, match=r"partition key|month|hour"):
        archive.current("tile_image", partition)


def test_a_hostile_run_id_does_not_leave_the_archive(archive, tmp_path):
    hostile = {**MADE, "run_id": "../../../x" * 40}
    with archive.publish("tile_image", WINDOW, [], **hostile) as draft:
        assert draft.path.is_relative_to(archive.root / "tile_image")
        (draft.path / "x").write_text("x")
    assert {p.name for p in tmp_path.iterdir()} == {"archive"}


def test_errors_about_unknown_inputs_and_ids_name_existing_ones(archive, publish):
    with pytest.raises(NotFoundError, match="measurement_set-20260125T2225-v1 is not in the archive"):
        publish("tile_image", WINDOW, [type("P", (), {"id": "measurement_set-20260125T2225-v1"})])
    publish("tile_image")
    with pytest.raises(NotFoundError, match="there is tile_image-20260125T2225-v1"):
        archive.get("tile_image-20260125T2225-v2")
    for bad in ("nonsense", "tile_image-20261325-v1", "tile_image-20260125T2225-v0", "../x-v1"):
        with pytest.raises(NotFoundError, match=r"not a product id|month|neither"):
            archive.find(bad)
        with pytest.raises(NotFoundError):
            archive.get(bad)


def test_find_by_id_directory_and_file(archive, publish, monkeypatch):
    image, catalogue = publish("tile_image"), publish("source_catalog", None)
    assert catalogue.path == archive.root / "source_catalog" / "v0001"
    assert archive.find(image.id) == archive.find(image.path) == archive.find(image.path / "data.txt") == image
    assert archive.find(str(catalogue.path / "data.txt")) == catalogue
    monkeypatch.chdir(image.path)
    assert archive.find("data.txt") == image
    with pytest.raises(NotFoundError, match="neither a product id"):
        archive.find(archive.root / "tile_image" / "night=2026-01-25")


def test_products_are_found_by_time(archive, publish):
    for window in ("2026-01-24T23:55", "2026-01-25T00:00", "2026-01-25T22:25", "2026-01-26T00:00"):
        publish("tile_image", window)
    publish("caltables", "2026-01-25")
    publish("source_catalog", None)

    def found(**bounds):
        return [p.partition for p in archive.products(**bounds)]

    assert found(asset="tile_image", since=NIGHT) == [
        "2026-01-25T00:00",
        "2026-01-25T22:25",
        "2026-01-26T00:00",
    ]
    assert found(until=NIGHT, since=NIGHT) == ["2026-01-25", "2026-01-25T00:00", "2026-01-25T22:25"]
    assert found(since="2026-01-25T00:00", until="2026-01-25T22:25Z")[0] == "2026-01-25"
    assert found(since=datetime(2026, 1, 25, 22, 25, tzinfo=UTC)) == ["2026-01-25T22:25", "2026-01-26T00:00"]
    assert found(until=datetime(2026, 1, 25)) == ["2026-01-24T23:55", "2026-01-25", "2026-01-25T00:00"]
    assert found(since="2026-01-26T00:00+01:00") == ["2026-01-26T00:00"]  # 23:00 UTC of the day before
    assert None in found()
    with pytest.raises(NotFoundError, match="is no time"):
        archive.products(since="yesterday")


def test_lineage_reaches_the_files_and_dependents_come_back(archive, publish):
    with archive.publish("subband_group", WINDOW, [], **MADE) as draft:
        entries = [{"subband": s, "path": f"/inbox/sb{s:02d}.hdf5", "size_bytes": 9, "digest": f"d{s}"} for s in (1, 0)]
        (draft.path / "manifest.json").write_text(json.dumps({"files": entries}))
    group = draft.product
    measured = publish("measurement_set", WINDOW, [group])
    tables = publish("caltables", NIGHT, [measured])
    applied = publish("calibrated_ms", WINDOW, [measured, tables])
    tree = archive.lineage(applied.id)
    assert tree.product == applied
    assert [child.product.id for child in tree.children] == [measured.id, tables.id]
    assert [(leaf.path, leaf.digest, leaf.subband) for leaf in tree.files()] == [
        ("/inbox/sb00.hdf5", "d0", 0),
        ("/inbox/sb01.hdf5", "d1", 1),
    ]
    assert [n.product.id for n in tree.walk() if n.product] == [applied.id, measured.id, tables.id, group.id]
    assert [p.id for p in archive.dependents(measured.id)] == [tables.id, applied.id]
    assert archive.dependents(applied.id) == []


def test_a_long_chain_has_a_lineage(archive, publish):
    last = publish("light_curves", "2026-01-01")
    for _ in range(60):
        last = publish("light_curves", "2026-01-01", [last])
    assert sum(1 for _ in archive.lineage(last.id).walk()) == 61


def test_concurrent_publishers_get_versions_of_their_own(archive, publish):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda i: publish("tile_image", text=str(i)), range(12)))
    assert sorted(p.version for p in made) == list(range(1, 13))
    assert archive.current("tile_image", WINDOW).version == 12
    assert [p.state for p in archive.versions("tile_image", WINDOW)] == ["superseded"] * 11 + ["current"]
    assert {(p.path / "data.txt").read_text() for p in made} == {str(i) for i in range(12)}
    assert all(archive.verify(archive.get(p.id)) == [] for p in made)


@pytest.mark.postgres
def test_a_slower_publisher_does_not_supersede_a_newer_version(tmp_path, postgres_database, monkeypatch):
    """Version 1 is indexed after version 2, but read the index before version 2 was in it."""
    with Archive.create(tmp_path / "a", postgres_database) as archive:
        with archive.publish("tile_image", WINDOW, [], **MADE) as draft:
            (draft.path / "x").write_text("x")
        first = json.loads((draft.product.path / "product.json").read_text())
        second = {**first, "id": "tile_image-20260125T2225-v2", "version": 2}
        archive.index.write(lambda c: c.execute(index.products.delete()))
        looks = []

        class Slow(sa.engine.Connection):
            def scalar(self, *args, **kwargs):
                seen = super().scalar(*args, **kwargs)
                if not looks:  # the other publisher commits between this look and what follows
                    looks.append(seen)
                    archive.index.write(lambda c: rows.insert(c, second, {}))
                return seen

        def work(connection):
            connection.__class__ = Slow
            rows.insert(connection, first, {})

        archive.index.write(work)
        assert looks == [None]
        assert [(p.version, p.state) for p in archive.versions("tile_image", WINDOW)] == [
            (1, "superseded"),
            (2, "current"),
        ]


def test_changed_files_are_found(archive, publish):
    product = publish("tile_image", text="truth")
    (product.path / "table.lock").write_bytes(b"casacore's own")  # readers of a measurement set write it
    assert archive.verify(product) == []
    (product.path / "data.txt").write_text("trutH")
    assert "digest" in archive.verify(product)[0]
    assert archive.current("tile_image", WINDOW, check=True) == product  # a size check cannot see a flipped bit
    (product.path / "data.txt").write_text("truth and more")
    assert "14 bytes, was published with 5" in archive.verify(product)[0]
    assert archive.current("tile_image", WINDOW, check=True) is None
    sidecar = product.path / "product.json"
    sidecar.write_text(sidecar.read_text().replace('"run"', '"nur"'))
    assert "differ in run_id" in archive.verify(product)[0]
    sidecar.unlink()
    assert "missing or unreadable" in archive.verify(product)[0]


def test_pin_and_state_are_kept_beside_the_product(archive, publish):
    product = publish("tile_image")
    assert archive.pin(product.id, "cited").pinned
    archive.reject(product.id, "bad")
    state = json.loads((product.path.parent / "v0001.state.json").read_text())
    assert state == {"pinned": "cited", "rejected": "bad"}
    assert not archive.unpin(product.id).pinned
    assert archive.get(product.id).state == "rejected"
    with pytest.raises(NotFoundError, match="needs a reason"):
        archive.reject(product.id, " ")


def test_opening_a_missing_archive_does_not_create_it(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no archive"):
        Archive(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigurationError, match="is a file"):
        Archive.create(file)
    for impossible in (file / "below", Path("/proc/none/archive"), tmp_path / ("x" * 300)):
        with pytest.raises(ConfigurationError, match=r"DSA110_ARCHIVE=.*not possible"):
            Archive.create(impossible)


def test_creating_twice_keeps_everything(archive, publish, engine_url):
    product = publish("tile_image")
    with Archive.create(archive.root, engine_url) as again:
        assert again.current("tile_image", WINDOW) == product


def test_a_lost_index_is_an_error_not_an_empty_archive(tmp_path):
    with Archive.create(tmp_path / "a") as archive:
        pass
    for file in archive.root.glob("index.sqlite*"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="missing; rebuild it with: dsa110 archive reindex"):
        Archive.create(archive.root)
    (archive.root / "index.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(ConfigurationError, match="damaged"):
        Archive(archive.root).products()


def test_the_index_of_another_archive_is_refused(tmp_path, archive, engine_url):
    url = engine_url or f"sqlite:///{archive.root / 'index.sqlite'}"
    with pytest.raises(ConfigurationError, match="of another archive"):
        Archive.create(tmp_path / "other", url).products()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://"])
def test_other_databases_are_refused_in_one_sentence(tmp_path, url):
    with pytest.raises(ConfigurationError, match="DSA110_DATABASE_URL"):
        Archive.create(tmp_path / "a", url)


def test_passwords_are_not_shown(tmp_path):
    # No server listens on port 1; the first connection is not retried.
    with pytest.raises(TransientError) as caught:
        Archive.create(tmp_path / "a", "postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
    assert "DSA110_DATABASE_URL" in str(caught.value)


def test_a_full_disk_is_a_resource_error(archive, publish, monkeypatch):
    before = publish("tile_image")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)  # the kernel may report a full disk only here
    with pytest.raises(ResourceError, match="no space left"):
        publish("tile_image")
    monkeypatch.undo()
    with (
        pytest.raises(ResourceError, match="no space left"),
        archive.publish("tile_image", WINDOW, [], **MADE),
    ):
        full()
    assert archive.versions("tile_image", WINDOW) == [before]
    assert archive.verify(before) == []
    assert temporaries(archive) == []


def test_a_locked_database_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "BUSY_S", 0.01)
    with Archive.create(tmp_path / "a") as archive:
        archive.products()
        archive.close()
        archive.products()
        other = sqlite3.connect(archive.root / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waits = []

        def unlock(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr(index.time, "sleep", unlock)
        with archive.publish("tile_image", WINDOW, [], **MADE) as draft:
            (draft.path / "x").write_text("x")
        assert len(waits) == 3
        assert archive.current("tile_image", WINDOW) == draft.product
        other.close()


@pytest.mark.postgres
def test_a_lost_database_connection_is_renewed(tmp_path, postgres_database):
    with Archive.create(tmp_path / "a", postgres_database) as archive:
        archive.products()
        admin = sa.create_engine(postgres_database)
        with admin.begin() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
            )
        admin.dispose()
        with archive.publish("tile_image", WINDOW, [], **MADE) as draft:
            (draft.path / "x").write_text("x")
        assert archive.get(draft.product.id) == draft.product


def test_a_long_outage_leaves_an_orphan_that_the_sweep_adopts(tmp_path, monkeypatch):
    from dsa110_assets.archive import integrity

    monkeypatch.setattr(index, "BUSY_S", 0.01)
    with Archive.create(tmp_path / "a", patience_s=0.05) as archive:
        archive.products()
        other = sqlite3.connect(archive.root / "index.sqlite", isolation_level=None)
        with (  # noqa: PT012
            pytest.raises(TransientError, match="does not answer"),
            archive.publish("tile_image", WINDOW, [], **MADE) as draft,
        ):
            (draft.path / "x").write_text("x")
            other.execute("BEGIN IMMEDIATE")
        assert archive.current("tile_image", WINDOW) is None
        other.execute("ROLLBACK")
        other.close()
        assert integrity.sweep(archive).adopted == ["tile_image-20260125T2225-v1"]
        assert archive.current("tile_image", WINDOW, check=True) is not None


def test_queries_of_the_pages_give_counts_and_gaps(archive, publish):
    """Counts, newest products and gaps. Only the sum of published bytes includes superseded, rejected and removed products."""
    before = datetime.now(UTC)
    keys = ["2026-01-25T22:20", "2026-01-25T22:25", "2026-01-26T00:00"]
    groups = [publish("subband_group", key) for key in keys]
    again = publish("subband_group", keys[0], metadata={"held": "flags"})
    publish("subband_group", "2026-01-26T00:05", metadata={"withheld": "held"})
    bad = publish("subband_group", "2026-01-26T00:10")
    archive.reject(bad.id, "wrong")
    publish("tile_image", keys[1], [groups[1]])
    publish("source_catalog", None)
    assert archive.tally("2026-01-25", "2026-01-26") == {
        ("subband_group", "2026-01-25"): 2, ("subband_group", "2026-01-26"): 2, ("tile_image", "2026-01-25"): 1,
    }  # fmt: skip
    assert archive.tally("2026-01-26", "2026-01-27") == {("subband_group", "2026-01-26"): 2}
    assert archive.count() == {"subband_group": 4, "tile_image": 1, "source_catalog": 1}
    assert archive.count("subband_group", "2026-01-26", "2026-01-26") == {"subband_group": 2}
    assert archive.nights(5) == archive.nights(5, "subband_group") == ["2026-01-26", "2026-01-25"]
    assert archive.nights(1) == ["2026-01-26"]
    assert archive.nights(5, until="2026-01-25") == archive.nights(5, "tile_image") == ["2026-01-25"]
    assert archive.nights(5, until="2026-01-24") == archive.nights(5, "hour_mosaic") == []
    first = archive.page(2, asset="subband_group")
    assert [one.partition for one in first] == keys[:2]
    after = (first[-1].partition or "", first[-1].asset, first[-1].version)
    assert [one.partition for one in archive.page(2, after, asset="subband_group")] == [keys[2], "2026-01-26T00:05"]
    assert [one.partition for one in archive.page(5, after, asset="subband_group", descending=True)] == keys[:1]
    newest = archive.page(1, asset="subband_group", order=BY_PUBLICATION, descending=True)[0]
    assert newest.partition == "2026-01-26T00:05"
    assert [one.partition for one in archive.newest("subband_group", 2)] == ["2026-01-26T00:05", "2026-01-26T00:00"]
    assert archive.newest("hour_mosaic") == []
    assert archive.held() == {again.id: "flags"}
    assert archive.without("subband_group", "tile_image") == [keys[0], keys[2], "2026-01-26T00:05"]
    assert archive.among("tile_image", [*keys, "2026-01-25T23:00"]) == {keys[1]}
    assert archive.published_bytes(before) == 8
    assert archive.published_bytes(datetime.now(UTC)) == 0


def test_figures_are_read_from_products_and_invalid_ones_are_none(archive, publish):
    metadata = [{"rms_jy": 0.002, "n": 3, "held": True}, {"rms_jy": "north"}, {"rms_jy": None, "n": 10**12}, {"rms_jy": 1e-30}]
    keys = [f"2026-01-25T22:{5 * n:02d}" for n in range(4)]
    made = [publish("tile_image", key, metadata=one) for key, one in zip(keys, metadata, strict=True)]
    publish("tile_image", "2026-01-26T00:00", metadata={"rms_jy": 1.0})
    found = archive.figures("tile_image", ("rms_jy", "n"), "2026-01-25", "2026-01-25")
    assert [one.values for one in found] == [(0.002, 3.0), (None, None), (None, 1e12), (1e-30, None)]
    assert [(one.partition, one.id) for one in found] == [(one.partition, one.id) for one in made]
    assert [datetime.fromisoformat(one.created_at) for one in found] == [one.created_at for one in made]
    assert archive.figures("hour_mosaic", ("rms_jy",)) == []
    wrong = sa.update(index.products).where(index.products.c.id == made[1].id).values(metadata="{}")
    archive.index.write(lambda connection: connection.execute(wrong))
    assert [one.values for one in archive.figures("tile_image", ("rms_jy",), keys[0], keys[1])] == [(0.002,), (None,)]


def test_groups_are_counted_and_gathered_as_their_figures_are(archive, publish):
    """By hour and by night. Values that are not finite numbers are left out; removed products count; other nights and assets do not."""
    rms_by_window = {
        "2026-01-25T22:05": 0.002, "2026-01-25T22:10": 0.001, "2026-01-25T23:00": "north", "2026-01-26T00:00": 3, "2026-01-27T00:00": 5.0,
    }  # fmt: skip
    for key, value in rms_by_window.items():
        made = publish("tile_image", key, metadata={"rms_jy": value})
    publish("measurement_set", "2026-01-25T22:05", metadata={"rms_jy": 9.0})
    archive.reject(archive.current("tile_image", "2026-01-27T00:00").id, "bad")
    assert made.partition == "2026-01-27T00:00"
    span = ("2026-01-25", "2026-01-27")
    assert archive.counts("tile_image", 13, *span) == {"2026-01-25T22": 2, "2026-01-25T23": 1, "2026-01-26T00": 1}
    assert archive.counts("tile_image", 10, "2026-01-26", "2026-01-26") == {"2026-01-26": 1}
    assert archive.gathered("tile_image", "rms_jy", 13, *span) == {"2026-01-25T22": [0.002, 0.001], "2026-01-26T00": [3.0]}
    assert archive.gathered("tile_image", "rms_jy", 10, *span) == {"2026-01-25": [0.002, 0.001], "2026-01-26": [3.0]}
    assert archive.gathered("tile_image", "nothing", 10, *span) == {}
    again = publish("tile_image", "2026-01-25T23:00", metadata={"rms_jy": 0.004})
    sets = {
        key: publish("measurement_set", key) for key in ("2026-01-25T22:10", "2026-01-25T23:00", "2026-01-26T00:00", "2026-01-27T00:00")
    }
    waits = archive.intervals("measurement_set", "tile_image", 10, *span)
    assert {night: len(both) for night, both in waits.items()} == {"2026-01-25": 2, "2026-01-26": 1}, "one again, one rejected, one without"
    taken, made_at = waits["2026-01-26"][0]
    tile = archive.current("tile_image", "2026-01-26T00:00")
    assert (taken, made_at) == tuple(f"{one.created_at:%Y-%m-%dT%H:%M:%S}" for one in (sets["2026-01-26T00:00"], tile))
    assert again.version == 2


def test_products_with_failed_checks_are_found_by_date(archive, publish):
    for key, failed in (("2026-01-25T22:05", 0), ("2026-01-25T22:10", 2), ("2026-01-26T00:00", 10), ("2026-01-27T00:00", 1)):
        publish("tile_image", key, metadata={"n_failed_checks": failed})
    publish("measurement_set", "2026-01-25T22:05")
    found = archive.failing_of("2026-01-25", "2026-01-26")
    assert [(one.partition, one.metadata["n_failed_checks"]) for one in found] == [("2026-01-25T22:10", 2), ("2026-01-26T00:00", 10)]


@pytest.mark.alone
def test_files_are_fetched_before_they_are_read(tmp_path: Path) -> None:
    """A read that may not wait for the disk succeeds once the system has fetched the file; a missing file is skipped."""
    path = tmp_path / "subband.hdf5"
    path.write_bytes(b"\1" * (4 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 2 << 20, os.RWF_NOWAIT)
        except BlockingIOError:
            files.read_ahead([tmp_path / "gone.hdf5", path])
            end = time.monotonic() + 60
            while not _at_once(file.fileno(), 2 << 20):
                assert time.monotonic() < end, "the file was not fetched"
        else:
            pytest.skip("this file system keeps its files in memory")


def _at_once(fd: int, offset: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
