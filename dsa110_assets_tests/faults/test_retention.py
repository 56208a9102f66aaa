"""Row 26: retention never removes inputs of unfinished, pinned or running products, whatever the graph and the timing."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets.archive import claims, retention, rows
from dsa110_assets.archive.index import metadata
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import DsaError, NotFoundError, TransientError
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.faults.figures import record_figure

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WINDOWS = tuple(f"2026-01-25T22:{minute:02d}" for minute in (20, 25, 30, 35))
CHAIN = ("subband_group", "measurement_set", "caltables", "calibrated_ms", "tile_image", "hour_mosaic")
CONSUMERS = {"measurement_set": ("calibrated_ms",), "calibrated_ms": ("tile_image",), "tile_image": ("hour_mosaic",)}
LIMITS = Thresholds(superseded_days=20, retention_days=dict.fromkeys(("measurement_set", "calibrated_ms", "tile_image"), 30.0))
AT_ONCE = Thresholds(superseded_days=0, retention_days=dict.fromkeys(LIMITS.retention_days, 0.0))
GRAPHS = 60
SIZE_BYTES = 10**12
"""Size of each product of a random graph: large compared with changes of a disk's free space during a test."""


def random_graph(archive: Archive, dice: random.Random) -> None:
    """Insert rows of a random history: versions, inputs from every earlier asset of CHAIN, rejections and pins, young and old."""

    def work(connection: Any) -> None:
        for table in reversed(metadata.sorted_tables):
            if table.name != "meta":
                connection.execute(table.delete())
        made: dict[str, list[str]] = {asset: [] for asset in CHAIN}
        versions: dict[tuple[str, str], int] = {}
        for number in range(dice.randrange(8, 40)):
            asset, window = dice.choice(CHAIN), dice.choice(WINDOWS)
            version = versions[asset, window] = versions.get((asset, window), 0) + 1
            earlier = [i for storey in CHAIN[: CHAIN.index(asset)] for i in made[storey]]
            sidecar = {
                "id": f"{asset}-{window.replace('-', '').replace(':', '')}-v{version}", "asset": asset, "partition": window,
                "version": version, "inputs": dice.sample(earlier, min(len(earlier), dice.randrange(4))), "settings": {}, "engines": {},
                "metadata": {}, "code_version": "1", "run_id": "r", "size_bytes": SIZE_BYTES, "digest": f"{dice.randrange(number + 2)}",
                "created_at": (NOW - timedelta(days=dice.uniform(0, 60))).isoformat(timespec="microseconds"),
            }  # fmt: skip
            state = {"rejected": "bad"} if dice.random() < 0.1 else {}
            rows.insert(connection, sidecar, state | ({"pinned": "cited"} if dice.random() < 0.05 else {}))
            made[asset].append(sidecar["id"])

    archive.index.write(work)


def protected(everything: list[Product], limits: Thresholds = LIMITS) -> set[str]:
    """Ids of protected products, by a slow, literal implementation: what unfinished or pinned products need, and what is young."""
    by_id = {p.id: p for p in everything}

    def ancestors(product: Product) -> set[str]:
        found = {product.id}
        for i in product.inputs:
            found |= ancestors(by_id[i])
        return found

    def is_stale(product: Product) -> bool:
        for i in product.inputs:
            newest = max((p for p in everything if (p.asset, p.partition) == (by_id[i].asset, by_id[i].partition)), key=lambda p: p.version)
            if by_id[i].state == "rejected" or (newest.version > by_id[i].version and newest.digest != by_id[i].digest):
                return True
            if by_id[i].state == "current" and is_stale(by_id[i]):
                return True
        return False

    keep: set[str] = set()
    for product in everything:
        if product.pinned:
            keep |= ancestors(product)
        outdated = product.state == "current" and is_stale(product)
        if outdated:
            keep |= set(product.inputs)
        limit = limits.retention_days.get(product.asset, 1e5) if product.state == "current" else limits.superseded_days
        if product.asset == "subband_group" or NOW - product.created_at < timedelta(days=limit):
            keep.add(product.id)
        for consumer in CONSUMERS.get(product.asset, ()) if product.state == "current" else ():
            users = [p for p in everything if p.asset == consumer and p.state == "current" and product.id in p.inputs]
            if not any(not is_stale(user) for user in users):
                keep.add(product.id)
    return keep


@pytest.mark.row(26)
def test_retention_is_right_for_random_graphs(tmp_path: Path, engine_url: str | None) -> None:
    """Exactly the unprotected products are removed, and every decision has a reason."""
    dice = random.Random(26)
    wrong = n_removed = 0
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        for _ in range(GRAPHS):
            random_graph(archive, dice)
            everything = archive.products(state=None)
            decisions = retention.plan(archive, LIMITS, CONSUMERS, NOW)
            assert {d.product.id for d in decisions} == {p.id for p in everything}
            assert all(d.reason for d in decisions)
            keep, removed = protected(everything), {d.product.id for d in decisions if d.remove}
            wrong += len(removed & keep)
            n_removed += len(removed)
            assert removed == {p.id for p in everything} - keep
    assert n_removed > GRAPHS  # random graphs in which nothing is removed would test nothing
    record_figure(26, "random graphs", GRAPHS)
    record_figure(26, "wrongful deletes", wrong)


@pytest.mark.row(26)
def test_a_full_disk_removes_the_oldest_products_protected_only_by_age(tmp_path: Path, engine_url: str | None) -> None:
    dice = random.Random(27)
    early = 0
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        free = shutil.disk_usage(archive.root).free
        for _ in range(GRAPHS):
            random_graph(archive, dice)
            everything = archive.products(state=None)
            anyway = {p.id for p in everything} - protected(everything)
            spared = anyway | protected(everything, AT_ONCE)
            young = [p.id for p in sorted(everything, key=lambda p: p.created_at) if p.id not in spared]
            for more in range(len(young) + 1):
                wanted_gb = max(0.0, (free + (len(anyway) + more - 0.5) * SIZE_BYTES) / 1e9)
                decisions = retention.plan(archive, LIMITS.model_copy(update={"retention_free_gb": wanted_gb}), CONSUMERS, NOW)
                assert {d.product.id for d in decisions if d.remove} == anyway.union(young[:more])
            early += len(young)
    assert early > GRAPHS


def publish(
    archive: Archive, asset: str, window: str, inputs: tuple[Product, ...] = (), during: Callable[[], object] = lambda: None
) -> Product:
    with archive.publish(asset, window, [p.id for p in inputs], settings={}, code_version="1", run_id="r") as draft:
        during()
        (draft.path / "data").write_text(asset)
    return draft.product


OLD = datetime.now(UTC) + timedelta(days=400)


@pytest.mark.row(26)
def test_held_products_are_kept_until_released(tmp_path: Path, engine_url: str | None) -> None:
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        measured = publish(archive, "measurement_set", WINDOWS[0])
        calibrated = publish(archive, "calibrated_ms", WINDOWS[0], (measured,))
        publish(archive, "tile_image", WINDOWS[0], (calibrated,))
        with archive.hold(measured.id):
            retention.retain(archive, LIMITS, CONSUMERS, dry_run=False, now=OLD)
            assert (measured.path / "data").read_text() == "measurement_set"
            assert not calibrated.path.exists()
            assert not retention.remove(archive, measured)  # not even on an explicit request
            assert measured.path.exists()
        retention.retain(archive, LIMITS, CONSUMERS, dry_run=False, now=OLD)
        assert not measured.path.exists()
        with pytest.raises(NotFoundError, match="retention has removed"), archive.hold(measured.id):
            pass


@pytest.mark.row(26)
def test_a_refused_claim_leaves_no_claim_behind(tmp_path: Path, engine_url: str | None) -> None:
    """Retention marks a product, work claims it, each sees the other and both back out: no claim may stay on the product."""
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        measured = publish(archive, "measurement_set", WINDOWS[0])
        archive.index.write(lambda c: rows.set_removed(c, [measured.id], True))
        with pytest.raises(TransientError, match="retention has just removed"):
            publish(archive, "calibrated_ms", WINDOWS[0], (measured,))
        with pytest.raises(NotFoundError, match="retention has removed"), archive.hold(measured.id):
            pass
        with pytest.raises(NotFoundError, match="There is no product"), archive.hold("tile_image-20260125T2220-v1"):
            pass
        assert claims.unfinished(archive.root) == []


@pytest.mark.row(26)
def test_products_removed_early_for_space_lose_their_data(tmp_path: Path, engine_url: str | None) -> None:
    short = LIMITS.model_copy(update={"retention_free_gb": 1e9})
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        measured = publish(archive, "measurement_set", WINDOWS[0])
        calibrated = publish(archive, "calibrated_ms", WINDOWS[0], (measured,))
        decisions = {d.product.id: d for d in retention.retain(archive, short, CONSUMERS, dry_run=False)}
        assert "less than 1e+09 GB are free" in decisions[measured.id].reason
        assert not measured.path.exists()
        assert calibrated.path.exists()  # no image was made from it yet


@pytest.mark.row(26)
def test_retention_beside_publishers(tmp_path: Path, engine_url: str | None) -> None:
    """Four publishers make new products from old ones while retention runs repeatedly: no input is removed during use."""
    lost: list[str] = []
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        chains = []
        for window in WINDOWS:
            measured = publish(archive, "measurement_set", window)
            calibrated = publish(archive, "calibrated_ms", window, (measured,))
            publish(archive, "tile_image", window, (calibrated,))
            chains.append((measured, calibrated))
        used: list[str] = []

        def work(measured: Product, calibrated: Product) -> None:
            def look() -> None:
                gone = [p.id for p in (measured, calibrated) if not p.path.exists()]
                lost.extend(gone)
                used.append(measured.id)

            for _ in range(6):
                try:
                    publish(archive, "tile_image", str(measured.partition), (measured, calibrated), look)
                except DsaError:
                    return  # retention came first and the error says so: nothing is made from removed inputs

        threads = [threading.Thread(target=work, args=chain) for chain in chains]
        keeper = threading.Thread(target=lambda: [retention.retain(archive, LIMITS, CONSUMERS, dry_run=False, now=OLD) for _ in range(8)])
        for thread in (*threads, keeper):
            thread.start()
        for thread in (*threads, keeper):
            thread.join()
        assert used
        retention.retain(archive, LIMITS, CONSUMERS, dry_run=False, now=OLD)
        assert not any(p.path.exists() for chain in chains for p in chain)
    record_figure(26, "inputs lost to running publications", len(lost))
    assert lost == []
