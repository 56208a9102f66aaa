"""Rows 13 and 17: the database or the file system becomes unavailable during work and returns, and nothing is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dsa110_assets.archive import index, integrity
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, DsaError, TransientError
from dsa110_assets.orchestration.running.policy import as_dsa_error
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.test_kills import leftovers
from dsa110_assets_tests.postgres import private_server

OUTAGE_S = float(os.environ.get("RELIABILITY_OUTAGE_S", "4"))
"""Length of an outage [s]: with `ops/soak` and `RELIABILITY_OUTAGE_S=60` the promised minute, in a test run a few seconds."""
WINDOWS = tuple(f"2026-01-25T{hour:02d}:{minute:02d}" for hour in range(2) for minute in range(0, 60, 5))


def publish(archive: Archive, window: str, asset: str = "tile_image", during: Callable[[], object] = lambda: None) -> Product:
    with archive.publish(asset, window, [], settings={}, code_version="1", run_id="r") as draft:
        during()
        (draft.path / "data").write_text(window)
    return draft.product


def publish_through(archive: Archive, outage: Callable[[], None]) -> tuple[list[str], float]:
    """Publish every window while `outage` runs in a thread. Return the failures and the longest publication time [s]."""
    failed, slowest_s = [], 0.0
    thread = threading.Thread(target=outage)
    for number, window in enumerate(WINDOWS):
        if number == 2:
            thread.start()
        began = time.monotonic()
        try:
            publish(archive, window)
        except DsaError as error:
            failed.append(f"{window}: {error}")
        slowest_s = max(slowest_s, time.monotonic() - began)
    thread.join()
    return failed, slowest_s


@pytest.mark.row(13)
@pytest.mark.postgres
def test_postgres_stopped_in_the_middle(tmp_path: Path) -> None:
    down = threading.Event()
    with private_server() as postgres, Archive.create(tmp_path / "archive", postgres.url) as archive:

        def outage() -> None:
            postgres.stop()
            down.set()
            time.sleep(OUTAGE_S)  # the length of the outage is what is tested
            postgres.start()

        failed, slowest_s = publish_through(archive, outage)
        assert down.is_set()
        assert failed == []
        assert slowest_s > 0.8 * OUTAGE_S  # a publication did wait
        published = [p.partition for p in archive.products("tile_image")]
        assert published == list(WINDOWS)
        assert list(integrity.verify(archive)) == []
        assert leftovers(archive) == []
    record_figure(13, "PostgreSQL down [s]", OUTAGE_S)
    record_figure(13, "lost rows", len(WINDOWS) - len(published))


@pytest.mark.row(13)
def test_sqlite_locked_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock lasts longer than SQLite's timeout, so that the archive has to retry."""
    monkeypatch.setattr(index, "BUSY_S", OUTAGE_S / 4)
    locker = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE'); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    with Archive.create(tmp_path / "archive") as archive:

        def outage() -> None:
            command = [sys.executable, "-c", locker, str(archive.root / "index.sqlite")]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                child.stdout.readline()
                time.sleep(OUTAGE_S)  # the length of the outage is what is tested

        failed, slowest_s = publish_through(archive, outage)
        assert failed == []
        assert slowest_s > 0.8 * OUTAGE_S
        assert [p.partition for p in archive.products("tile_image")] == list(WINDOWS)
        assert leftovers(archive) == []
        with sqlite3.connect(archive.root / "index.sqlite") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    record_figure(13, "SQLite locked [s]", OUTAGE_S)
    record_figure(13, "lost rows", 0)


@pytest.mark.row(13)
@pytest.mark.postgres
def test_an_outage_beyond_the_patience_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that could not be indexed stays complete on disk, and the next sweep indexes it."""
    with private_server() as postgres, Archive.create(tmp_path / "archive", postgres.url, patience_s=0.5) as archive:
        first = publish(archive, WINDOWS[0])
        with pytest.raises(TransientError, match="does not answer"):
            publish(archive, WINDOWS[1], during=postgres.stop)
        postgres.start()
        assert integrity.sweep(archive).adopted == []  # the database stopped before the product was complete

        def stop_first(work: Callable[[sa.Connection], object]) -> object:
            postgres.stop()
            return type(archive.index).write(archive.index, work)

        monkeypatch.setattr(archive.index, "write", stop_first)
        with pytest.raises(TransientError, match="does not answer"):
            publish(archive, WINDOWS[1])
        monkeypatch.undo()
        postgres.start()
        assert integrity.sweep(archive).adopted == ["tile_image-20260125T0005-v1"]
        assert [p.partition for p in archive.products()] == [first.partition, WINDOWS[1]]
        assert leftovers(archive) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A bind mount that the test may unmount."""
    source, place = tmp_path / "disk", tmp_path / "mount"
    source.mkdir()
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", "--bind", str(source), str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine does not let tests mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


@pytest.mark.row(17)
def test_an_unmounted_archive_recovers_after_remounting(mounted: Path, tmp_path: Path) -> None:
    archive = Archive.create(mounted / "archive")
    old = publish(archive, WINDOWS[0])
    with pytest.raises((DsaError, OSError)) as caught:
        publish(archive, WINDOWS[1], during=lambda: subprocess.run(["umount", "-l", str(mounted)], check=True))
    assert isinstance(caught.value, DsaError | OSError)
    assert isinstance(as_dsa_error(caught.value), TransientError)
    archive.close()
    with pytest.raises(ConfigurationError, match="there is no archive"):  # no empty archive is created in the mount point
        Archive(mounted / "archive")
    assert list(mounted.iterdir()) == []
    subprocess.run(["mount", "--bind", str(tmp_path / "disk"), str(mounted)], check=True)
    with Archive(mounted / "archive") as again:
        integrity.sweep(again)
        assert publish(again, WINDOWS[1]).version == 1
        assert [p.id for p in again.products()] == [old.id, "tile_image-20260125T0005-v1"]
        assert leftovers(again) == []
    record_figure(17, "manual steps", 0)


_OTHER_USER = """
import sys
from pathlib import Path
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import DsaError
from dsa110_assets.orchestration.running.policy import as_dsa_error

archive = Archive(Path(sys.argv[1]), sys.argv[2] or None)
for line in sys.stdin:
    try:
        with archive.publish("tile_image", line.strip(), [], settings={}, code_version="1", run_id="r") as draft:
            print("writing", flush=True)
            sys.stdin.readline()
            (draft.path / "data").write_text("x")
        print(draft.product.id, flush=True)
    except (DsaError, OSError) as error:
        print(type(as_dsa_error(error)).__name__, flush=True)
"""


@pytest.mark.row(17)
def test_permissions_lost_during_publication_are_survived(tmp_path: Path, engine_url: str | None) -> None:
    """A process that is not root loses write permission while it publishes; once that is restored, the same process continues."""
    if os.geteuid() != 0:
        pytest.skip("starting a process as another user needs root")
    nobody = 65534
    python = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", sys.executable, "-c"]
    trial = subprocess.run([*python, ""], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"another user cannot start Python: {trial.stderr}")
    with Archive.create(tmp_path / "archive", engine_url) as archive:
        old = publish(archive, WINDOWS[0])
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    everything = [archive.root, *archive.root.rglob("*")]

    def give(owner: int, *paths: Path) -> None:
        for path in paths:
            if path.exists():
                os.chown(path, owner, owner)

    give(nobody, *everything)
    command = [*python, _OTHER_USER, str(archive.root), engine_url or ""]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def say(text: str) -> str:
            child.stdin.write(text + "\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            return child.stdout.readline().strip()  # type: ignore[union-attr]

        assert say(WINDOWS[1]) == "writing"
        give(0, archive.root / "tile_image", *(archive.root / "tile_image").rglob("*"))
        assert say("") in ("TransientError", "ConfigurationError")
        assert say(WINDOWS[2]) == "ConfigurationError"  # a publication cannot even begin
        give(nobody, archive.root / "tile_image", *(archive.root / "tile_image").rglob("*"))
        assert say(WINDOWS[1]) == "writing"
        assert say("") == "tile_image-20260125T0005-v1"
        child.stdin.close()
    with Archive(archive.root, engine_url) as again:
        integrity.sweep(again, everywhere=True, min_age_s=0)
        assert [p.id for p in again.products()] == [old.id, "tile_image-20260125T0005-v1"]
        assert list(integrity.verify(again)) == []
        assert leftovers(again) == []
    record_figure(17, "manual steps", 0)
