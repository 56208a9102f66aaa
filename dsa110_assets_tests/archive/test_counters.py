"""Counters are raised in the same transaction as what they count, on both databases and by many processes at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from dsa110_assets.archive import counters, integrity
from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import BadDataError
from dsa110_assets_tests.archive.conftest import WINDOW, Publisher

TILE = "tile_image"


def counted(archive: Archive) -> dict[str, dict[counters.Labels, dict[str, float]]]:
    return archive.index.read(counters.read)


def test_series_are_raised_and_never_lowered(archive: Archive) -> None:
    """A value falls into the first bucket whose limit it does not exceed; all buckets add up."""
    for value_s in (0.05, 0.1, 5.0, 1e6):
        archive.index.write(lambda c, v=value_s: counters.add(c, counters.seconds(counters.DURATION, (TILE,), v)))
    archive.index.write(lambda c: counters.add(c, []))
    parts = counted(archive)[counters.DURATION][TILE,]
    cumulated = dict(counters.buckets(parts))
    assert (cumulated["0.1"], cumulated["3"], cumulated["10"], cumulated["43200"], cumulated["+Inf"]) == (2, 2, 3, 3, 4)
    assert parts["sum"] == pytest.approx(0.05 + 0.1 + 5.0 + 1e6, rel=1e-12)


def test_counts_of_a_failed_transaction_are_rolled_back(archive: Archive) -> None:
    def work(connection: sa.Connection) -> None:
        counters.add(connection, [counters.Count(counters.RETRIES, (TILE,))])
        raise BadDataError("no")

    with pytest.raises(BadDataError):
        archive.index.write(work)
    assert counted(archive) == {}


def test_simultaneous_increments_of_a_series_are_all_counted(archive: Archive) -> None:
    """No deadlock occurs, whatever the order in which each transaction names the counters."""
    retries, failures = counters.Count(counters.RETRIES, (TILE,)), counters.Count(counters.FAILURES, (TILE, "BadDataError"), 0.5)

    def raise_both(number: int) -> None:
        both = [retries, failures] if number % 2 else [failures, retries]
        archive.index.write(lambda c: counters.add(c, both))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(raise_both, range(120)))
    assert counted(archive) == {
        counters.RETRIES: {(TILE,): {"": 120.0}}, counters.FAILURES: {(TILE, "BadDataError"): {"": 60.0}},
    }  # fmt: skip


def test_counts_of_products_and_checks_survive_reindexing(archive: Archive, publish: Publisher) -> None:
    verdicts = {VERDICTS: {"rms": "", "position": "5 arcsec off", "sane": "none"}, FAILED_ERRORS: ["sane"]}
    made = [publish(TILE, text=text, metadata=verdicts) for text in ("x", "yy")]
    found = counted(archive)
    assert found[counters.PRODUCTS] == {(TILE,): {"": 2.0}}
    assert found[counters.BYTES] == {(TILE,): {"": float(sum(one.size_bytes for one in made))}}
    assert found[counters.CHECKS] == {
        (TILE, "rms", "passed"): {"": 2.0}, (TILE, "position", "warned"): {"": 2.0}, (TILE, "sane", "failed"): {"": 2.0},
    }  # fmt: skip
    archive.index.write(lambda c: counters.add(c, [counters.Count(counters.RETRIES, (TILE,))]))
    before = counted(archive)
    integrity.reindex(archive.root, archive.index.url.render_as_string(hide_password=False))
    assert counted(archive) == before
    assert [one.partition for one in archive.products(TILE)] == [WINDOW]
