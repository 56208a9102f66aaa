"""Row 21: one flipped bit in any file of any kind of product is found, and the damaged product is made again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from dsa110_assets.archive import files, integrity
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.watching import housekeeping
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.tiny import regular_assets

FLIPS = 4


def flip(path: Path, dice: random.Random) -> tuple[int, int]:
    """Flip a random bit of a file and keep its size and times. Return the offset of the byte and its old value."""
    status = path.stat()
    place = dice.randrange(status.st_size)
    with path.open("r+b") as handle:
        handle.seek(place)
        old = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([old ^ (1 << dice.randrange(8))]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return place, old


def restore(path: Path, place: int, old: int) -> None:
    with path.open("r+b") as handle:
        handle.seek(place)
        handle.write(bytes([old]))


def sealed_files(product: Product) -> list[Path]:
    return [p for p in sorted(product.path.rglob("*")) if p.is_file() and p.name not in files.UNSEALED and p.stat().st_size]


@pytest.mark.row(21)
def test_every_flipped_bit_in_every_product_is_found(processed: Settings) -> None:
    """The scan that reads a part of the archive each day finds them too, because its parts cover the whole archive."""
    dice = random.Random(21)
    flipped = found = 0
    with Archive(processed.archive) as archive:
        everything = archive.products(state=None)
        assert {product.asset for product in everything} == regular_assets()
        assert list(integrity.verify(archive)) == []
        for product in everything:
            for path in dice.choices(sealed_files(product), k=FLIPS):
                place, old = flip(path, dice)
                flipped += 1
                found += [one.product.id for one in integrity.verify(archive, [product])] == [product.id]
                restore(path, place, old)
        assert list(integrity.verify(archive)) == []
        assert all(0 <= housekeeping.scan_day(product) < housekeeping.SCAN_DAYS for product in everything)
    record_figure(21, "bits flipped", flipped)
    record_figure(21, "detection %", 100.0 * found / flipped)
    assert found == flipped


@pytest.mark.row(21)
def test_a_damaged_product_is_made_again_and_nothing_else(processed: Settings) -> None:
    """The table of measurements is made with the same bytes, so nothing downstream of it is made again."""
    with Archive(processed.archive) as archive:
        (damaged,) = archive.products("source_measurements")
        flip(sealed_files(damaged)[0], random.Random(1))
        (problem,) = integrity.verify(archive)
        assert [p.id for p in integrity.reject_damaged(archive, [problem])] == [damaged.id]
        assert archive.current(damaged.asset, damaged.partition) is None
        report = process(processed)
        assert report.ok
        assert [one.asset for one in report.made] == ["source_measurements"]
        remade = archive.current(damaged.asset, damaged.partition)
        assert remade is not None
        assert (remade.version, remade.digest) == (damaged.version + 1, damaged.digest)
        assert list(integrity.verify(archive, archive.products())) == []
    record_figure(21, "rebuilt with the same bytes", 1)
