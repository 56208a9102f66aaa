"""Everything loads and works without a home or a place for compiled kernels, as in a service, a container or on a compute node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dsa110_assets
from dsa110_assets.errors import ConfigurationError

pytestmark = pytest.mark.row(48, cases="surroundings worked around or told")

PACKAGE = Path(dsa110_assets.__file__).parent
TABLE = """
import sys, dsa110_assets
from casacore.tables import makescacoldesc, maketabdesc, table
with table(sys.argv[1], maketabdesc([makescacoldesc('a', 0)]), nrow=2, ack=False) as made:
    print(made.nrows())
"""
KERNEL = """
import numpy as np
from dsa110_assets import surroundings
from dsa110_assets.imaging import statistics
from dsa110_assets.visibilities import reader, sumthreshold
print(reader._not_finite(np.int64(1)), surroundings.kernels_place(), sorted(surroundings.completed))
"""


def bare(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a child whose environment has little more than a path."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, cwd="/")


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": " "}, {"HOME": "/nowhere"}])
def test_casacore_works_without_a_home(tmp_path: Path, home: dict[str, str]) -> None:
    done = bare(TABLE, tmp_path / "t", **home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"


def test_a_given_home_is_kept() -> None:
    code = "import os, dsa110_assets; print(os.environ['HOME'], os.environ.get('NUMBA_CACHE_DIR'))"
    assert bare(code, HOME="/nowhere").stdout.split()[0] == "/nowhere"


@pytest.fixture
def of_root(tmp_path: Path) -> Path:
    """The package in a folder that this user cannot write, as if installed by another user."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to take its power over others' files away from a child")
    shutil.copytree(PACKAGE, tmp_path / "lib" / "dsa110_assets", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "home").mkdir()
    for path in [tmp_path / "home", *(tmp_path / "lib").rglob("*"), tmp_path / "lib"]:
        os.chown(path, 12345, 12345)
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path


def without_power(place: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(place / "lib"), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(place / "home")}
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code]
    return subprocess.run(command, env={**variables, **environment}, capture_output=True, text=True, timeout=300, cwd="/")


def test_kernels_load_where_nothing_can_be_kept(of_root: Path, tmp_path: Path) -> None:
    """Compiled kernels that are found are run, so no other user may be able to write their folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = without_power(of_root, KERNEL, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    (place,) = temporary.iterdir()
    assert done.stdout.split() == ["0", str(place), "['NUMBA_CACHE_DIR']"]
    assert place.stat().st_mode & 0o777 == 0o700
    assert any(place.rglob("*.nbi"))


def test_a_cache_directory_writable_by_others_is_not_used(of_root: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    planted = temporary / f"dsa110-kernels-{os.getuid()}"
    planted.mkdir(parents=True)
    planted.chmod(0o777)
    done = without_power(of_root, KERNEL, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert list(planted.iterdir()) == []
    assert str(planted) != done.stdout.split()[1]


def test_a_configured_cache_directory_is_used(of_root: Path, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    done = without_power(of_root, KERNEL, NUMBA_CACHE_DIR=str(tmp_path / "kernels"))
    assert done.stdout.split() == ["0", str(tmp_path / "kernels"), "[]"]


def test_doctor_reports_environment_that_was_filled_in(tmp_path: Path) -> None:
    code = "import sys; from dsa110_assets.cli import main; sys.exit(main(['doctor', '--json']))"
    done = bare(code, XDG_STATE_HOME=str(tmp_path))
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert "HOME is not set" in findings["HOME"]["found"]
    assert findings["compiled kernels"]["ok"]


@pytest.mark.parametrize(("name", "words"), [("~nosuchuser/a", "no account of that name"), ("/data/\udcff", "is not UTF-8; rename it")])
def test_an_invalid_archive_path_is_refused_with_the_reason(name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        dsa110_assets.open_archive(name)
