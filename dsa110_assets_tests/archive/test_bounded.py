"""The cost of hourly tasks must not grow with the archive: the sweep, staleness, retention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from dsa110_assets.archive import integrity, rows
from dsa110_assets.archive.snapshot import Snapshot
from dsa110_assets.archive.stale import stale
from dsa110_assets.archive.store import Archive

N_WINDOWS = 500


def sidecar(asset: str, number: int, inputs: list[str]) -> dict[str, Any]:
    window = f"2026-01-{2 + number // 288:02d}T{number % 288 // 12:02d}:{number % 12 * 5:02d}"
    return {
        "id": f"{asset}-{window.replace('-', '').replace(':', '')}-v1", "asset": asset, "partition": window, "version": 1,
        "inputs": inputs, "settings": {}, "engines": {}, "metadata": {}, "code_version": "1", "run_id": "r", "size_bytes": 1,
        "digest": "d", "created_at": "2026-01-01T00:00:00.000000+00:00",
    }  # fmt: skip


def fill(archive: Archive) -> None:
    """Insert only the rows of N_WINDOWS observations, up to the image."""

    def work(connection: sa.Connection) -> None:
        for number in range(N_WINDOWS):
            made: list[str] = []
            for asset in ("subband_group", "measurement_set", "tile_image"):
                record = sidecar(asset, number, made[-1:])
                rows.insert(connection, record, {})
                made.append(record["id"])

    archive.index.write(work)


@contextmanager
def counted(archive: Archive) -> Iterator[list[int]]:
    """The row count of every statement of the block."""
    counts: list[int] = []
    archive.products("none")
    engine = archive.index._engine
    assert engine is not None

    def after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        counts.append(cursor.rowcount)

    event.listen(engine, "after_cursor_execute", after)
    yield counts
    event.remove(engine, "after_cursor_execute", after)


def test_staleness_takes_as_few_statements_in_a_large_archive(archive: Archive) -> None:
    """With one rejected product of 1500, its dependents are found by as many statements as in an archive of three."""
    fill(archive)
    archive.index.write(lambda c: rows.apply_state(c, "subband_group-20260102T0000-v1", {"rejected": "bad"}))
    with counted(archive) as statements:
        found = stale(archive)
    assert [one.product.asset for one in found] == ["measurement_set", "tile_image"]
    assert len(statements) <= 10


def test_the_sweep_looks_only_where_claims_point(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(archive)
    with pytest.raises(ZeroDivisionError), archive.publish("tile_image", None, [], settings={}, code_version="1", run_id="r"):
        raise ZeroDivisionError
    monkeypatch.setattr(integrity, "_places", lambda root: pytest.fail("the whole archive was listed"))
    with counted(archive) as statements:
        integrity.sweep(archive)
    assert len(statements) <= 2
    assert integrity.claims.unfinished(archive.root) == []


def test_a_snapshot_answers_like_the_archive_without_queries(archive: Archive) -> None:
    """Inside its span it makes no statements; beyond the span, the present archive is queried."""
    fill(archive)
    archive.index.write(lambda c: rows.set_removed(c, ["tile_image-20260102T0300-v1"], True))
    archive.index.write(lambda c: rows.apply_state(c, "tile_image-20260102T0400-v1", {"rejected": "bad"}))
    archive.index.write(lambda c: rows.insert(c, sidecar("sky_model", 0, []) | {"id": "sky_model-v1", "partition": None}, {}))
    since = datetime(2026, 1, 2, 2, tzinfo=UTC)
    snapshot = Snapshot(archive, since, since + timedelta(hours=6))
    questions: list[tuple[str, str | None]] = [
        (asset, f"2026-01-02T{hour:02d}:{minute:02d}")
        for asset in ("subband_group", "tile_image", "hour_mosaic")
        for hour in range(2, 8)
        for minute in (0, 25)
    ]
    questions += [("sky_model", None), ("source_catalog", None)]
    expected = [archive.current(*query, removed=removed) for query in questions for removed in (False, True)]
    with counted(archive) as statements:
        assert [snapshot.current(*query, removed=removed) for query in questions for removed in (False, True)] == expected
        assert snapshot.get("tile_image-20260102T0300-v1").removed
        assert statements == []
        assert snapshot.get("tile_image-20260102T0400-v1").state == "rejected"
        beyond = snapshot.current("tile_image", "2026-01-03T10:00")
        assert beyond is not None
        assert beyond.id == "tile_image-20260103T1000-v1"
        assert statements
    assert snapshot.current("tile_image", "2026-01-02T02:00", check=True) is None  # its files do not exist


def test_partitions_are_those_of_the_products(archive: Archive) -> None:
    fill(archive)
    for span in ((None, None), ("2026-01-02T05:00", None), ("2026-01-02", "2026-01-02"), (None, "2026-01-03T00:05")):
        assert archive.partitions("tile_image", *span) == [product.partition for product in archive.products("tile_image", *span)]
