"""Row 3: the disk fills up at 10, 50 and 90 % of a product: a typed error, no partial product, no harm to old ones, and it resumes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsa110_assets.archive import files, index, integrity
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ResourceError
from dsa110_assets.orchestration.running.process import ProcessReport
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.test_kills import leftovers
from dsa110_assets_tests.tiny import regular_assets

MOUNT_MB = 96


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of MOUNT_MB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MOUNT_MB}m", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not let tests mount: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def leave_free(place: Path, free_bytes: int) -> None:
    """Fill the disk with a ballast file until only `free_bytes` are left."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(1, shutil.disk_usage(place).free - free_bytes))


def copy_of(example: Product, place: Path) -> None:
    """Write the example's files again into `place`."""
    for source in sorted(p for p in example.path.rglob("*") if p.is_file() and p.name != "product.json"):
        target = place / source.relative_to(example.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def publish(archive: Archive, asset: str, partition: str | None, write: Callable[[Path], object]) -> Product:
    with archive.publish(asset, partition, [], settings={}, code_version="1", run_id="full") as draft:
        write(draft.path)
    return draft.product


@pytest.mark.row(3)
def test_a_disk_full_at_any_part_of_any_asset_harms_nothing(
    finished_run: tuple[Settings, ProcessReport], engine_url: str | None, small_disk: Path
) -> None:
    """The disk fills up while the product is written. An SQLite index is on the same disk, a PostgreSQL index elsewhere."""
    original = Archive(finished_run[0].archive)
    failed = harmed = 0
    slowest_s = 0.0
    with Archive.create(small_disk / "archive", engine_url) as archive:
        for asset in sorted(regular_assets()):
            example = original.products(asset)[0]
            first = publish(archive, asset, example.partition, lambda place, one=example: copy_of(one, place))
            for part in (0.1, 0.5, 0.9):
                began: list[float] = []

                def fill_and_write(place: Path, one: Product = example, part: float = part, began: list[float] = began) -> None:
                    leave_free(small_disk, int(part * one.size_bytes))
                    began.append(time.monotonic())
                    copy_of(one, place)

                with pytest.raises(ResourceError, match="no space left"):
                    publish(archive, asset, example.partition, fill_and_write)
                slowest_s = max(slowest_s, time.monotonic() - began[0])
                failed += 1
                assert archive.versions(asset, example.partition) == [first]
                harmed += bool(archive.verify(first))
                assert [p.name for p in first.path.parent.iterdir() if p.name.startswith(".tmp")] == []
                (small_disk / "ballast").unlink()
            assert archive.verify(publish(archive, asset, example.partition, lambda place, one=example: copy_of(one, place))) == []
            assert integrity.sweep(archive).left == {}
            assert leftovers(archive) == []
            for old in archive.versions(asset, example.partition):
                files.remove_tree(old.path)  # the next asset needs the room
    record_figure(3, "disk-full failures, all typed", failed)
    record_figure(3, "corrupted old products", harmed)
    record_figure(3, "seconds to the typed failure", round(slowest_s, 3))
    assert harmed == 0


@pytest.mark.row(3)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("asset", ["hour_mosaic", "night_mosaic", "source_measurements"])
def test_every_file_writer_reports_a_full_disk_as_a_typed_error(
    finished_run: tuple[Settings, ProcessReport], small_disk: Path, asset: str, part: float
) -> None:
    """The writers of astropy, pyarrow, pillow and healpix, each of which reports a full disk in a different way."""
    import pandas as pd
    from astropy.io import fits

    from dsa110_assets.mosaics import sky_tiles

    example = Archive(finished_run[0].archive).products(asset)[0]

    def write(place: Path) -> None:
        if asset == "source_measurements":
            table = pd.concat([pd.read_parquet(next(example.path.glob("*.parquet")))] * 2000)
            table.to_parquet(place / "table.parquet")
            return
        with fits.open(example.path / "mosaic.fits", memmap=False) as hdus:
            hdus.writeto(place / "mosaic.fits")
        if asset == "night_mosaic":
            sky_tiles.write_sky_tiles(example.path / "mosaic.fits", place)

    def fill_and_write(place: Path) -> None:
        leave_free(small_disk, int(part * first.size_bytes))
        write(place)

    with Archive.create(small_disk / "archive") as archive:
        first = publish(archive, asset, example.partition, write)
        with pytest.raises(ResourceError, match="no space left"):
            publish(archive, asset, example.partition, fill_and_write)
        (small_disk / "ballast").unlink()
        assert archive.verify(first) == []
        assert archive.products() == [first]


@pytest.mark.row(3)
def test_a_full_disk_of_the_index_is_named_in_the_error(small_disk: Path) -> None:
    """Reading and publishing. SQLite itself reports an input/output error, and the message must not blame a setting."""
    with Archive.create(small_disk / "archive") as archive:
        first = publish(archive, "tile_image", "2026-01-25T22:25", lambda place: (place / "data").write_text("x"))
    leave_free(small_disk, 0)
    with Archive(small_disk / "archive") as archive:
        with pytest.raises(ResourceError, match="no space left"):
            publish(archive, "tile_image", "2026-01-25T22:30", lambda place: (place / "data").write_text("x"))
        with pytest.raises(ResourceError, match="no space left"):
            archive.index.write(lambda c: c.execute(index.meta.insert(), {"key": "large", "value": "x" * 10_000_000}))
        (small_disk / "ballast").unlink()
        assert publish(archive, "tile_image", "2026-01-25T22:30", lambda place: (place / "data").write_text("x")).version == 1
        assert archive.verify(first) == []


_CASACORE = """
import sys
from pathlib import Path
from dsa110_assets.archive.store import Archive
from dsa110_assets.visibilities import measurement_set
from dsa110_assets_tests.faults.test_disk_full import leave_free, publish
from dsa110_assets_tests.tiny import regular_assets

archive, disk, source, free = Archive(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
vis = measurement_set.read(source)

def write(place):
    if free:
        leave_free(disk, free)
    measurement_set.write(vis, place / "measurement_set.ms")

publish(archive, "measurement_set", "2026-01-25T22:25", write)
"""


@pytest.mark.row(3)
def test_casacore_on_a_full_disk_aborts_only_its_own_process(finished_run: tuple[Settings, ProcessReport], small_disk: Path) -> None:
    """On a full disk casacore aborts the process. That is why free space is checked before; its remains are swept as after any crash."""
    example = Archive(finished_run[0].archive).products("measurement_set")[0]
    with Archive.create(small_disk / "archive") as archive:

        def child(free: int) -> int:
            command = [sys.executable, "-W", "ignore", "-c", _CASACORE, str(archive.root), str(small_disk)]
            command += [str(example.path / "measurement_set.ms"), str(free)]
            return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=300).returncode

        assert child(0) == 0
        (first,) = archive.products()
        taken = sum(512 * file.stat().st_blocks for file in first.path.rglob("*"))  # columns end in holes, which take no space
        for part in (0.1, 0.5, 0.9):
            assert child(int(part * taken)) != 0
            (small_disk / "ballast").unlink()
            assert archive.versions("measurement_set", first.partition) == [first]
            assert archive.verify(first) == []
        integrity.sweep(archive)
        assert leftovers(archive) == []
