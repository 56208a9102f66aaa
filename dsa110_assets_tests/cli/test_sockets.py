"""TMPDIR is too long for a socket address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.cli import doctor_host, sockets
from dsa110_assets.errors import ConfigurationError

pytestmark = pytest.mark.row(48, cases="socket places worked around or told")

FORKED = """
import multiprocessing, sys
from multiprocessing import forkserver
if "fit" in sys.argv:
    from dsa110_assets.cli import sockets
    sockets.use_short_socket_directory()
    sockets.use_short_socket_directory()
forkserver.ensure_running()
print(multiprocessing.util.get_temp_dir())
"""


@pytest.fixture
def long(tmp_path: Path) -> Path:
    place = tmp_path / ("x" * 100)
    place.mkdir()
    return place


def forked(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(place)}
    return subprocess.run([sys.executable, "-c", FORKED, *arguments], env=environment, capture_output=True, text=True, timeout=60)


def test_a_fork_server_starts_with_a_long_temporary_directory(long: Path) -> None:
    assert "AF_UNIX path too long" in forked(long).stderr  # shows that the path is too long
    done = forked(long, "fit")
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()  # has been removed


def test_a_short_temporary_directory_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    monkeypatch.setattr("tempfile.mkdtemp", None)
    sockets.use_short_socket_directory()


def test_a_missing_short_temporary_directory_is_a_configuration_error(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setattr(sockets, "SHORT", ())
    with pytest.raises(ConfigurationError, match=r"TMPDIR=.* is too long a path for sockets; set it to one of at most 75 bytes"):
        sockets.use_short_socket_directory()


def test_doctor_reports_a_temporary_directory_that_is_too_long(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(long))
    found = doctor_host.temporary()
    assert (found.ok, found.remedy) == (False, "set TMPDIR to a shorter path, such as /tmp")


def test_doctor_finds_a_missing_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert "TMPDIR=/nowhere cannot be written" in doctor_host.temporary().found


def test_doctor_knows_when_the_bulletins_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_host.earth().ok
    monkeypatch.setattr("dsa110_assets.telescope.earth.last_day_mjd", lambda: 61000)
    found = doctor_host.earth()
    assert not found.ok
    assert found.remedy == "update them: python -m pip install --upgrade astropy-iers-data"
