"""Cold storage: data that retention moves are complete there, or still at their old place, whatever interrupts the move."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.archive import cold, integrity, retention
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, NotFoundError, SilentWrongnessError
from dsa110_assets.thresholds import Thresholds

AT_ONCE = Thresholds(retention_days={"measurement_set": 0.0})
WINDOW = "2026-01-25T22:25"
_RETAINER = """
import sys
from pathlib import Path
from dsa110_assets.archive import retention
from dsa110_assets.archive.store import Archive
from dsa110_assets.thresholds import Thresholds

archive = Archive(Path(sys.argv[1]), sys.argv[2] or None)
retention.retain(archive, Thresholds(retention_days={"measurement_set": 0.0}), {}, dry_run=False)
"""


@pytest.fixture
def archive(tmp_path: Path, engine_url: str | None) -> Archive:
    """An archive whose cold storage is behind a symbolic link, as on another disk."""
    made = Archive.create(tmp_path / "archive", engine_url)
    (tmp_path / "slow").mkdir()
    (made.root / cold.DIRECTORY).symlink_to(tmp_path / "slow")
    return made


def published(archive: Archive) -> Product:
    with archive.publish("measurement_set", WINDOW, [], settings={}, code_version="1", run_id="r") as draft:
        (draft.path / "set.ms").mkdir()
        (draft.path / "set.ms" / "table.f0").write_bytes(os.urandom(100_000))
    return draft.product


def retain(archive: Archive) -> list[str]:
    return [d.product.id for d in retention.retain(archive, AT_ONCE, {}, dry_run=False) if d.remove]


def test_products_move_to_cold_storage_and_back(archive: Archive) -> None:
    product = published(archive)
    assert retain(archive) == [product.id]
    assert not product.path.exists()
    assert archive.current("measurement_set", WINDOW) is None
    back = cold.recall(archive, product.id)
    assert (back.path, back.digest, back.pinned, back.removed) == (product.path, product.digest, True, False)
    assert archive.verify(back) == []
    assert archive.current("measurement_set", WINDOW) == back
    assert retain(archive) == []
    archive.unpin(product.id)
    assert retain(archive) == [product.id]  # a second move, into a folder that exists
    assert archive.verify(cold.recall(archive, product.id)) == []


def test_a_rebuilt_index_knows_which_products_are_in_cold_storage(archive: Archive) -> None:
    product = published(archive)
    retain(archive)
    integrity.sweep(archive, everywhere=True)
    assert integrity.reindex(archive.root, str(archive.index.url.render_as_string(hide_password=False))).products == 1
    assert archive.get(product.id).removed
    cold.recall(archive, product.id)
    integrity.sweep(archive, everywhere=True)
    assert not archive.get(product.id).removed
    assert archive.verify(archive.get(product.id)) == []


@pytest.mark.parametrize("point", ["cold_copied", "cold_there"])
def test_a_kill_during_the_move_to_cold_storage_loses_nothing(archive: Archive, engine_url: str | None, point: str) -> None:
    product = published(archive)
    command = [sys.executable, "-c", _RETAINER, str(archive.root), engine_url or ""]
    done = subprocess.run(command, env={**os.environ, "DSA110_CRASH_AT": point}, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert product.path.exists()
    integrity.sweep(archive)
    assert not product.path.exists()
    assert archive.verify(cold.recall(archive, product.id)) == []
    assert list((archive.root / cold.DIRECTORY).rglob(".tmp-*")) == []


def test_a_dangling_cold_storage_link_deletes_nothing(archive: Archive) -> None:
    product = published(archive)
    shutil.rmtree((archive.root / cold.DIRECTORY).resolve())
    with pytest.raises(ConfigurationError, match="leads to no folder"):
        retain(archive)
    assert product.path.exists()
    (archive.root / cold.DIRECTORY).resolve().mkdir()
    integrity.sweep(archive)
    assert archive.verify(cold.recall(archive, product.id)) == []


def test_a_damaged_copy_is_not_recalled_from_cold_storage(archive: Archive) -> None:
    product = published(archive)
    retain(archive)
    stored = next((archive.root / cold.DIRECTORY).rglob("table.f0"))
    stored.write_bytes(stored.read_bytes()[:-1] + b"?" * 2)
    with pytest.raises(SilentWrongnessError, match="is not what was published"):
        cold.recall(archive, product.id)
    assert archive.get(product.id).removed
    assert not product.path.exists()
    shutil.rmtree(stored.parent.parent)
    with pytest.raises(NotFoundError, match="not in cold storage"):
        cold.recall(archive, product.id)
