"""A file server that refuses locks: no raw file is quarantined for it, and operations that need locks fail with a one-sentence error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.archive import claims, files, quarantine
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, TransientError
from dsa110_assets.visibilities.samples import Samples
from dsa110_assets.visibilities.uvh5 import read_header
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.test_files import one_group
from dsa110_assets_tests.tiny import SUBBANDS

pytestmark = pytest.mark.row(46)
NUMBERS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO]
PROGRAM = [sys.executable, "-c", "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"]
READ = """
import sys
from pathlib import Path
from dsa110_assets.visibilities.samples import Samples
from dsa110_assets.visibilities.uvh5 import read_header
for name in sys.argv[1:]:
    print(read_header(Path(name)).n_channels)
    with Samples(Path(name)):
        pass
"""


@pytest.fixture(scope="session")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a library that refuses locks when it is preloaded."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("locks") / "refuse_locks.so"
    source = Path(__file__).with_name("refuse_locks.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True, timeout=60)
    return library


def under(
    no_locks: Path, which: str, number: int, command: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **(environment or {}), "LD_PRELOAD": str(no_locks), which: str(number)}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=300)


@pytest.fixture
def platform(inbox: Path, tmp_path: Path) -> dict[str, str]:
    one_group(inbox)
    return {
        "DSA110_INBOX": str(inbox), "DSA110_ARCHIVE": str(tmp_path / "archive"), "DAGSTER_HOME": str(tmp_path / "home"),
        "DSA110_SUBBANDS": str(SUBBANDS), "DSA110_MIN_SUBBANDS": str(SUBBANDS), "DSA110_STILL_S": "0",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("which", ["REFUSE_FLOCK", "REFUSE_FCNTL"])
def test_good_files_are_read_without_locks(no_locks: Path, platform: dict[str, str], which: str, number: int) -> None:
    names = sorted(str(path) for path in Path(platform["DSA110_INBOX"]).glob("*.hdf5"))
    done = under(no_locks, which, number, [sys.executable, "-c", READ, *names])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(names) == SUBBANDS


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("which", ["REFUSE_FLOCK", "REFUSE_FCNTL"])
def test_no_observation_is_put_aside_for_missing_locks(no_locks: Path, platform: dict[str, str], which: str, number: int) -> None:
    """An archive exists; then the file server stops granting locks; then it grants them again."""
    Archive.create(Path(platform["DSA110_ARCHIVE"])).close()
    command = [*PROGRAM, "process", "--through", "subband_group", "--json"]
    done = under(no_locks, which, number, command, platform)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "lock" in done.stderr
    assert not Path(platform["XDG_STATE_HOME"]).exists()
    with Archive(Path(platform["DSA110_ARCHIVE"])) as archive:
        quarantined = quarantine.quarantined(archive)
    assert quarantined == []
    record_figure(46, "files put aside for want of locks", len(quarantined))
    again = subprocess.run(command, env={**os.environ, **platform}, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)


@pytest.mark.parametrize("which", ["REFUSE_FLOCK", "REFUSE_FCNTL"])
def test_doctor_reports_missing_locks(no_locks: Path, platform: dict[str, str], which: str) -> None:
    done = under(no_locks, which, errno.EOPNOTSUPP, [*PROGRAM, "doctor", "--json"], platform)
    assert done.returncode == 1
    checks = {one["check"]: one for one in json.loads(done.stdout)}
    assert not checks["locks, DSA110_ARCHIVE"]["ok"]
    assert "mount it with locks" in checks["locks, DSA110_ARCHIVE"]["remedy"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOLCK, TransientError), (errno.EIO, TransientError), (errno.ESTALE, TransientError), (errno.EOPNOTSUPP, ConfigurationError),
     (errno.ENOSYS, ConfigurationError), (errno.EINVAL, ConfigurationError)],
)  # fmt: skip
def test_every_lock_of_ours_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]) -> None:
    """The error is transient where the fault may pass and a configuration error where it will not. No descriptor stays open."""
    (tmp_path / claims.DIRECTORY).mkdir()
    (tmp_path / claims.DIRECTORY / "dead").touch()

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    before = len(os.listdir("/proc/self/fd"))
    for attempt in (
        lambda: files.take_lock(tmp_path / "a"),
        lambda: files.locked(tmp_path / "b").__enter__(),
        lambda: files.exclusive_lock(tmp_path / "c", "me", str).__enter__(),
        lambda: claims.claim(tmp_path).__enter__(),
        lambda: claims.alive(tmp_path, "dead"),
        lambda: claims.taken_over(tmp_path, "dead").__enter__(),
    ):
        with pytest.raises(kind, match="its file system gives no lock"):
            attempt()
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / claims.DIRECTORY / "dead").exists(), "nobody knows whether it is dead"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EACCES, errno.ENOLCK, errno.ENOENT])
def test_file_server_errors_are_transient_not_bad_data(platform: dict[str, str], monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = next(Path(platform["DSA110_INBOX"]).glob("*.hdf5"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("h5py.File", refuse)
    with pytest.raises(TransientError, match="cannot be read now"):
        read_header(path)
    with pytest.raises(TransientError, match="cannot be read now"):
        Samples(path)
