"""Rows 1 and 2: after kills at every named point of every asset, the archive converges to that of an undisturbed run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dsa110_assets.archive import claims, files, integrity, naming
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.app import EXIT_CHECKS
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.running.process import ProcessReport
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults import killing
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.same import greatest_difference
from dsa110_assets_tests.tiny import regular_assets, tiny_settings

SIGNALS = ("SIGKILL", "SIGTERM")
ON_DISK = ("renamed", "durable", "row_written")
"""After a kill at these points the product is complete but has no row in the index: the orphan of row 2."""
WITH_ROW = ("indexed", "published")


def leftovers(archive: Archive) -> list[str]:
    """Remains of a crash: claims, temporary folders, and versions without a row."""
    known = {product.path for product in archive.products(state=None)}
    found = [*archive.root.glob(f"{claims.DIRECTORY}/*"), *archive.root.glob("*/.tmp-*"), *archive.root.glob("*/*/*/.tmp-*")]
    versions = [*archive.root.glob("*/v*"), *archive.root.glob("*/night=*/partition=*/v*")]
    return [str(path) for path in (*found, *(path for path in versions if path.is_dir() and path not in known))]


@pytest.mark.slow
@pytest.mark.row(1, 2)
def test_kills_at_every_point_of_every_asset_harm_nothing(
    finished_run: tuple[Settings, ProcessReport], engine_url: str | None, tmp_path: Path
) -> None:
    """The products of the tiny night are published again by processes that are killed, and then once more undisturbed.

    The two signals alternate, in the opposite order on the other database: together they cover every pair.
    """
    original = Archive(finished_run[0].archive)
    examples = {asset: original.products(asset)[0] for asset in regular_assets()}
    killed = torn = left = duplicates = 0
    turn = 0 if engine_url is None else 1
    with Archive.create(tmp_path / "archive", engine_url) as archive, killing.publishers(archive.root, engine_url) as publishers:
        for asset, example in examples.items():
            input_assets = {naming.parse_id(i).asset for i in example.inputs}
            inputs = [p.id for p in archive.products() if p.asset in input_assets]
            for point in files.CRASH_POINTS:
                turn += 1
                name = SIGNALS[turn % 2]
                before = len(archive.versions(asset, example.partition))
                status = publishers.publish(example, inputs, f"{asset}/{point}:{name}")
                assert status == -signal.Signals[name], f"{asset}/{point}:{name}"
                killed += 1
                visible = archive.versions(asset, example.partition)
                torn += sum(bool(archive.verify(p)) for p in visible[before:])
                assert len(visible) - before == (point in WITH_ROW)
                swept = integrity.sweep(archive)
                assert len(swept.adopted) == (point in ON_DISK), f"{asset}/{point}:{name}"
                if point not in (*ON_DISK, *WITH_ROW):
                    assert publishers.publish(example, inputs) == 0
                after = archive.versions(asset, example.partition)
                left += len(leftovers(archive))
                duplicates += len(after) - before - 1
                assert (after[-1].digest, after[-1].size_bytes) == (example.digest, example.size_bytes)
                assert after[-1].inputs == tuple(inputs)
                assert [p.state for p in after[:-1]] == ["superseded"] * before
            for old in archive.versions(asset, example.partition)[:-1]:  # so that the test does not fill the disk
                files.remove_tree(old.path)
    record_figure(1, "kills survived (points x signals x assets x databases)", killed)
    record_figure(1, "torn products", torn)
    record_figure(2, "orphans after the sweep", left)
    record_figure(2, "duplicates", duplicates)
    assert (torn, left, duplicates) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.row(1)
def test_the_command_killed_in_every_asset_gives_the_same_products(
    finished_run: tuple[Settings, ProcessReport], tiny_run: Path, tmp_path: Path
) -> None:
    """`dsa110 process` is killed in each asset in turn, each time at another point and by another signal, and is run again."""
    settings = tiny_settings(tiny_run, tmp_path)
    order = [name for name in specifications() if name in regular_assets()]
    order.insert(order.index("night_mosaic"), order.pop(order.index("light_curves")))  # one run makes both, light_curves first
    for number, asset in enumerate(order):
        name, point = SIGNALS[number % 2], files.CRASH_POINTS[3 * number % len(files.CRASH_POINTS)]
        done = killing.dsa110(settings, "process", "--at-once", "1", DSA110_CRASH_AT=f"{asset}/{point}:{name}")
        assert done.returncode != 0, f"{asset}/{point}:{name} was not reached"
        if name == "SIGKILL":
            assert done.returncode == -signal.SIGKILL, done.stderr
    last = killing.dsa110(settings, "process")
    assert last.returncode == EXIT_CHECKS, last.stderr  # all is made, but no image of eight antennas reaches the radiometer's noise
    failed = last.stdout.rpartition("checks of severity ERROR failed: ")[2].split(", ")
    assert sorted({one.split("-v")[0] for one in failed}) == [f"tile_image-20260125T{at}" for at in ("2220", "2225", "2230")]
    assert sum(one.split()[1] == "rms" for one in failed) == 3
    with Archive(settings.archive) as archive, Archive(finished_run[0].archive) as undisturbed:
        integrity.sweep(archive)
        assert leftovers(archive) == []
        assert all(archive.verify(product) == [] for product in archive.products())
        distance, where = greatest_difference(archive, undisturbed)
    record_figure(1, "commands killed, an asset each", len(order))
    record_figure(1, "greatest relative difference from the undisturbed run", distance)
    assert distance == 0, where
