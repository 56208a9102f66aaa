"""A snapshot of a span answers as the archive did when it was read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from dsa110_assets.archive import retention
from dsa110_assets.archive.snapshot import Snapshot
from dsa110_assets.archive.store import Archive
from dsa110_assets_tests.archive.conftest import Publisher

FIRST, LAST = datetime(2026, 1, 25, tzinfo=UTC), datetime(2026, 1, 26, 12, tzinfo=UTC)
KEYS = ["2026-01-24T23:55", "2026-01-25T00:00", "2026-01-25T22:25", "2026-01-26T11:55", "2026-01-26T12:05"]


@pytest.fixture
def filled(archive: Archive, publish: Publisher) -> Archive:
    for number, key in enumerate(KEYS):
        publish("tile_image", key, text=str(number))
    publish("night_mosaic", "2026-01-25")
    publish("sky_model", None)
    gone = archive.current("tile_image", KEYS[2])
    assert gone is not None
    assert retention.remove(archive, gone)
    return archive


def test_products_are_those_of_the_archive(filled: Archive) -> None:
    then = Snapshot(filled, FIRST, LAST)
    begins = ["2026-01-25", "2026-01-25T00:00", "2026-01-24", FIRST, FIRST + timedelta(hours=1)]
    ends = ["2026-01-25", "2026-01-25T22:25", "2026-01-26", LAST - timedelta(hours=1)]
    for asset, since, until, removed in product(("tile_image", "night_mosaic"), begins, ends, (False, True)):
        assert then.products(asset, since, until, removed=removed) == filled.products(asset, since, until, removed=removed)


def test_a_snapshot_does_not_change_and_asks_each_question_once(filled: Archive, publish: Publisher) -> None:
    then = Snapshot(filled, FIRST, LAST, ["tile_image"])
    before, outside = then.current("tile_image", KEYS[1]), publish("tile_image", KEYS[0])
    later = publish("tile_image", KEYS[1])
    assert then.current("tile_image", KEYS[1]) == before != later
    assert then.current("tile_image", KEYS[0]) == outside, "what lies outside is as it is now"
    assert then.current("night_mosaic", "2026-01-25") == filled.current("night_mosaic", "2026-01-25"), "and so are other assets"
    answers = iter("ab")
    assert [then.once("question", lambda: next(answers)) for _ in range(2)] == ["a", "a"]
    assert [filled.once("question", lambda: next(answers))] == ["b"]


def test_files_found_in_place_are_trusted_for_the_given_time_only(filled: Archive) -> None:
    made = filled.current("tile_image", KEYS[3])
    assert made is not None
    trusting = Snapshot(filled, FIRST, LAST, trusted_s=60.0)
    assert trusting.current("tile_image", KEYS[3], check=True) == made
    (made.path / "data.txt").unlink()
    assert trusting.current("tile_image", KEYS[3], check=True) == made
    assert Snapshot(filled, FIRST, LAST).current("tile_image", KEYS[3], check=True) is None


def test_the_last_product_with_metadata_at_a_path_is_found_by_the_database(archive: Archive, publish: Publisher) -> None:
    """The product is before a partition, with any value, and neither held nor replaced by a product without the metadata."""
    for key, seen in zip(KEYS, ({"05": "a"}, {"05": ""}, {"06": "b"}, {"05": "c"}, {}), strict=True):
        publish("tile_image", key, metadata={"seen": seen, **({"held": "rms"} if seen == {"05": "c"} else {})})

    def found(path: tuple[str, ...], before: str) -> str | None:
        product = archive.newest_with("tile_image", path, before)
        return product and product.partition

    assert found(("seen", "05"), "2026-02") == KEYS[1]
    assert found(("seen", "05"), KEYS[1]) == KEYS[0]
    assert found(("seen", "06"), "2026-02") == KEYS[2]
    assert found(("seen", "07"), "2026-02") is None
    assert found(("other", "05"), "2026-02") is None
    publish("tile_image", KEYS[1], metadata={"seen": {}})
    assert found(("seen", "05"), "2026-02") == KEYS[0]


def test_publications_after_a_time_stamp_are_listed(filled: Archive, publish: Publisher) -> None:
    ((stamp, *_),) = filled.published(None)
    assert filled.published(stamp) == []
    made = publish("tile_image", KEYS[0])
    assert filled.published(stamp) == [(made.created_at.isoformat(timespec="microseconds"), "tile_image", KEYS[0], made.run_id)]
