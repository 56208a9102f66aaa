"""An index that can only be read: by a user without write permission, and on a read-only mount."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.archive import readonly
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError
from dsa110_assets_tests.portal import small_archive

PROGRAM = "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = (
    ("products",), ("products", "--json"), ("status",), ("groups",), ("settings",), ("transits", "--date", "2026-01-26"),
    ("calibration", "list"), ("calibration", "active", "--at", "2026-01-25T22:25"), ("archive", "verify"),
    ("archive", "retain", "--dry-run"), ("process", "--dry-run"), ("backfill", "--nights", "2026-01-25", "--dry-run"),
    ("lineage", "tile_image-20260125T2205-v1"),
    ("lightcurve", small_archive.FAINT),
)  # fmt: skip
ANALYSIS = """
import dsa110_assets as dsa
archive = dsa.open_archive()
image = archive.image("2026-01-25T22:05")
print(len(archive.products()), image.data.size, len(archive.sources()), len(archive.variables(0.5)), archive.lineage(image).product.id)
"""


@pytest.fixture
def others(tmp_path: Path) -> small_archive.SmallArchive:
    """An archive of another user that all users may read."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to take its power over others' files away from a child")
    made = small_archive.build(tmp_path)
    hand_over(tmp_path)
    return made


def hand_over(place: Path) -> None:
    for path in [place, *place.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
        path.chmod(0o755 if path.is_dir() else 0o644)


def reader(archive: small_archive.SmallArchive, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **archive.environment, "XDG_STATE_HOME": "/nowhere"}
    who = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c"]
    return subprocess.run([*who, *command], env=environment, capture_output=True, text=True, timeout=300)


def tree(place: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in place.rglob("*")}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.row(47, cases="commands that read, by a user without permission to write")
def test_reading_commands_need_only_read_access(others: small_archive.SmallArchive, command: tuple[str, ...]) -> None:
    before = tree(others.root)
    done = reader(others, PROGRAM, *command)
    assert done.returncode == 0, done.stderr
    assert tree(others.root) == before


@pytest.mark.row(47)
def test_analysts_need_only_read_access(others: small_archive.SmallArchive) -> None:
    done = reader(others, ANALYSIS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "tile_image-20260125T2205-v1"


@pytest.mark.parametrize(
    "command",
    [("archive", "pin", "light_curves-20260125-v1", "--reason", "x"), ("archive", "reindex"), ("process",), ("archive", "backup"),
     ("calibration", "reject", "caltables-20260125-v1", "--reason", "x")],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.row(47, cases="commands that write and say what they may not")
def test_writing_commands_name_the_missing_permission(others: small_archive.SmallArchive, command: tuple[str, ...]) -> None:
    done = reader(others, PROGRAM, *command)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Permission denied" in done.stderr or "cannot be written" in done.stderr


@pytest.mark.row(47)
def test_a_reader_sees_what_an_active_writer_has_published(others: small_archive.SmallArchive) -> None:
    """While the index is open for writing, its log holds the newest rows."""
    with Archive(others.root) as writer:
        writer.reject("tile_image-20260125T2205-v1", "wrong")
        hand_over(others.root.parent)
        assert (others.root / "index.sqlite-wal").stat().st_size > 0
        done = reader(others, PROGRAM, "products", "--state", "rejected", "--json")
    assert done.returncode == 0, done.stderr
    assert [product["product_id"] for product in json.loads(done.stdout)] == ["tile_image-20260125T2205-v1"]


@pytest.mark.parametrize("left", [("-wal", "-shm"), ("-wal",)])
@pytest.mark.row(47)
def test_rows_in_a_leftover_write_ahead_log_are_read(others: small_archive.SmallArchive, tmp_path: Path, left: tuple[str, ...]) -> None:
    """After a crash, or in a copy, the index file alone lacks the newest rows."""
    kept = tmp_path / "kept"
    kept.mkdir()
    with Archive(others.root) as writer:
        writer.reject("tile_image-20260125T2205-v1", "wrong")
        for suffix in ("", *left):
            shutil.copy(others.root / f"index.sqlite{suffix}", kept)
    for path in kept.iterdir():
        shutil.copy(path, others.root)
    hand_over(others.root.parent)
    done = reader(others, PROGRAM, "products", "--state", "rejected", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1


@pytest.fixture
def locked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive whose index this process must not write."""
    Archive.create(tmp_path / "archive").close()
    monkeypatch.setattr(readonly, "may_write", lambda _: False)
    return tmp_path / "archive"


def test_a_file_that_changed_during_reading_is_read_again(locked_up: Path) -> None:
    path, seen = locked_up / "index.sqlite", []

    def work() -> int:
        seen.append(1)
        if len(seen) < 3:
            os.utime(path, ns=(len(seen), len(seen)))
        return len(seen)

    assert readonly.retry_if_changed(path, work) == 3


def test_a_read_only_archive_refuses_writes(locked_up: Path) -> None:
    with Archive(locked_up) as archive, pytest.raises(ConfigurationError, match="cannot be written"):
        archive.index.write(lambda c: c.exec_driver_sql("INSERT INTO meta VALUES ('a', 'b')"))
    with Archive(locked_up) as archive:
        assert archive.products() == []


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?mode=rwc", "ä#1"])
def test_read_only_archives_may_have_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Archive.create(tmp_path / name).close()
    monkeypatch.setattr(readonly, "may_write", lambda _: False)
    with Archive(tmp_path / name) as archive:
        assert archive.products() == []
