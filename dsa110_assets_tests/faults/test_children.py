"""Rows 15 and 16: child processes that are killed, and child processes that hang."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa110_assets import children
from dsa110_assets.archive import integrity, quarantine
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import OverrunError
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.visibilities import ingest, measurement_set, reader
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.test_files import GROUP, one_group
from dsa110_assets_tests.tiny import SUBBANDS, tiny_settings

MARK = "RELIABILITY_FAMILY"
DRIVER = """
import signal, sys
from pathlib import Path
from dsa110_assets import children
from dsa110_assets.engines import casa
from dsa110_assets.archive.store import Archive
import shutil

def ended(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, ended)
root, source, engine = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
family = '''
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
os.execvp(sys.argv[1], sys.argv[1:])
'''
with Archive(root).publish("tile_image", "2026-01-25T22:25", [], settings={}, code_version="1", run_id="r") as draft:
    ms = draft.path / "m.ms"
    shutil.copytree(source, ms)
    if engine == "casa":
        parameters = {"vis": str(ms), "imagename": "i", "imsize": [4096], "cell": ["2arcsec"], "niter": 10**7, "datacolumn": "data",
                      "deconvolver": "multiscale", "scales": [0, 5, 15, 40], "gridder": "standard", "savemodel": "modelcolumn",
                      "threshold": "0Jy", "nsigma": 0.0}
        casa.run_task("tclean", parameters, work_dir=draft.path, deadline_s=600)
    else:
        command = ["wsclean", "-j", "1", "-size", "4096", "4096", "-scale", "2asec", "-niter", "10000000", "-multiscale",
                   "-name", str(draft.path / "i"), str(ms)]
        children.run([sys.executable, "-c", family, *command], deadline_s=600, log_path=draft.path / "log")
"""


def family(mark: str) -> set[int]:
    """Ids of live processes with the mark in their environment. Children of a killed parent keep it, whichever process adopts them."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                if alive and mark.encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def await_true(condition: Callable[[], bool], process: subprocess.Popen[bytes], within_s: float = 240.0) -> None:
    """Wait until the process fulfils a condition. Raises AssertionError if it ends before or takes too long."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_open(pids: set[int], part: str) -> bool:
    """Whether one of the processes has a file open whose path contains `part`."""
    for pid in pids:
        try:
            if any(part in os.readlink(link) for link in Path("/proc", str(pid), "fd").iterdir()):
                return True
        except OSError:
            continue
    return False


@pytest.fixture(scope="module")
def small_ms(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One observation's measurement set."""
    files = {int(path.stem[-2:]): path for path in tiny_run.glob(f"{GROUP}*.hdf5")}
    path = tmp_path_factory.mktemp("ms") / "m.ms"
    measurement_set.write(reader.read_group(files, SUBBANDS), path)
    return path


@pytest.mark.row(15)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("engine", [pytest.param("casa", marks=pytest.mark.casa), "wsclean"])
def test_a_kill_during_an_engine_leaves_no_process_lock_or_product(
    engine: str, number: signal.Signals, small_ms: Path, tmp_path: Path
) -> None:
    """The run's process gets the signal while its child has the measurement set open; WSClean has a child process too."""
    if engine == "wsclean" and shutil.which("wsclean") is None:
        pytest.skip("WSClean is not installed")
    root, mark = tmp_path / "archive", uuid.uuid4().hex
    Archive.create(root).close()
    command = [sys.executable, "-c", DRIVER, str(root), str(small_ms), engine]
    driver = subprocess.Popen(command, env={**os.environ, MARK: mark}, cwd=tmp_path)
    try:
        await_true(lambda: has_open(family(mark) - {driver.pid}, "m.ms"), driver)
    except AssertionError:
        driver.kill()
        driver.wait()
        raise
    assert len(family(mark)) >= (3 if engine == "casa" else 4)  # the run, its watcher, the engine, the engine's child
    (locked,) = root.glob("*/night=*/partition=*/.tmp-*/draft/m.ms")
    driver.send_signal(number)
    driver.wait(60)
    gone_by = time.monotonic() + 30
    while family(mark) and time.monotonic() < gone_by:
        time.sleep(0.05)
    surviving = len(family(mark))
    stale_locks = int(locked.exists() and not _lockable(locked))
    with Archive(root) as archive:
        visible = len(archive.products(state=None))
        integrity.sweep(archive, min_age_s=0)
        left = list(root.rglob("*.ms"))
    record_figure(15, "surviving pids", surviving)
    record_figure(15, "stale table locks", stale_locks)
    record_figure(15, "products visible", visible)
    assert (surviving, stale_locks, visible, left) == (0, 0, 0, [])


def _lockable(ms: Path) -> bool:
    """Whether a python-casacore writer gets the lock of the table at once."""
    opening = "table(sys.argv[1], readonly=False, ack=False, lockoptions='user').lock(nattempts=1)"
    code = f"import sys; from casacore.tables import table; {opening}"
    return subprocess.run([sys.executable, "-c", code, str(ms)], capture_output=True, timeout=60).returncode == 0


HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


@pytest.mark.row(16)
def test_a_hung_child_is_killed_at_its_deadline(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is gone after the grace period that follows the deadline."""
    began = time.monotonic()
    with pytest.raises(OverrunError, match=r"deadline of 1 s(.|\n)*deaf"):
        children.run([sys.executable, "-c", HANGS], deadline_s=1.0, log_path=tmp_path / "log")
    overrun_s = time.monotonic() - began - 1.0
    record_figure(16, f"overrun of one that ignores SIGTERM [s] (grace {children.GRACE_S:g})", round(overrun_s, 2))
    assert overrun_s < children.GRACE_S + 5


@pytest.mark.row(16)
def test_observations_that_hang_twice_are_quarantined_until_released(inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage whose child never ends is killed and tried once more; then its observation is quarantined with the reason."""
    one_group(inbox)
    settings = tiny_settings(inbox, tmp_path)
    monkeypatch.setattr(children, "GRACE_S", 0.2)
    monkeypatch.setitem(policy.TREATMENTS, OverrunError, policy.Treatment(max_retries=1, wait_s=0.1))
    attempts = []

    def hanging(*arguments: object, **options: object) -> None:
        attempts.append(time.monotonic())
        children.run([sys.executable, "-c", HANGS], deadline_s=0.5, log_path=tmp_path / "log")

    with monkeypatch.context() as hung:
        hung.setattr(ingest, "ingest", hanging)
        first = process(settings, through="measurement_set")
        assert [failed.error_class for failed in first.failed] == ["OverrunError"]
        assert len(attempts) == 2
        second = process(settings, through="measurement_set")
        assert (second.failed, len(attempts)) == ((), 2)
        assert ["quarantined" in waiting.reason for waiting in second.waiting] == [True]
    with Archive(settings.archive) as archive:
        (record,) = quarantine.quarantined(archive)
        assert record.observation == GROUP
        assert "deadline" in record.reason
        quarantine.release(archive, record.key)
    record_figure(16, "attempts before quarantine", len(attempts))
    assert process(settings, through="measurement_set").ok
