"""A read-only DAGSTER_HOME: commands that read work, commands that start runs report it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets_tests.portal.small_archive import SmallArchive
from dsa110_assets_tests.postgres import free_port

pytestmark = pytest.mark.row(48, cases="Dagster homes of others")

PROGRAM = [sys.executable, "-c", "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Dagster home that belongs to another user and has a failed run."""
    import dagster as dg
    from dagster._core.test_utils import create_run_for_test

    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to take its power over others' files away from a child")
    with open_instance(tmp_path / "home") as instance:
        tags = {"dagster/partition": "2026-01-25"}
        run = create_run_for_test(instance, asset_selection=frozenset({dg.AssetKey("night_mosaic")}), tags=tags)
        instance.report_run_failed(run, "the disk was on fire")
    for path in [tmp_path / "home", *(tmp_path / "home").rglob("*")]:
        os.chown(path, 12345, 12345)
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "home"


def run(small: SmallArchive, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **small.environment, "DAGSTER_HOME": str(home), "XDG_STATE_HOME": str(home.parent / "state")}
    who = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return subprocess.run([*who, *PROGRAM, *command], env=environment, capture_output=True, text=True, timeout=300)


def test_status_reads_the_failed_runs(small: SmallArchive, home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    done = run(small, home, "status", "--json")
    assert done.returncode == 0, done.stderr
    (failed,) = json.loads(done.stdout)["failed_runs"]
    assert (failed["partition"], failed["reason"]) == ("2026-01-25", "the disk was on fire")
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


@pytest.mark.parametrize("command", [("process",), ("up",), ("backfill", "--nights", "2026-01-25")], ids=" ".join)
def test_an_unwritable_home_is_named_at_the_start(small: SmallArchive, home: Path, command: tuple[str, ...]) -> None:
    done = run(small, home, *command)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"dsa110: DAGSTER_HOME={home}: {home} cannot be written")


def test_a_database_of_another_user_is_named(small: SmallArchive, home: Path) -> None:
    """The databases belong to another user, as after a command was run as root once."""
    os.chown(home, 0, 0)
    done = run(small, home, "process")
    assert done.returncode == 1
    assert f"{home / 'history'} cannot be written" in done.stderr


def test_doctor_reports_the_invalid_home(small: SmallArchive, home: Path) -> None:
    findings = {one["check"]: one for one in json.loads(run(small, home, "doctor", "--json").stdout)}
    assert not findings["DAGSTER_HOME"]["ok"]
    assert "DAGSTER_HOME" in findings["DAGSTER_HOME"]["remedy"]


WRONG = {"cut short": "run_launcher: {", "of another program": "nonsense: 1\n", "a list": "- a\n", "of other bytes": "\udcff: 1\n"}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_configuration_is_refused_with_the_remedy(tmp_path: Path, what: str) -> None:
    (tmp_path / "dagster.yaml").write_bytes(WRONG[what].encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError) as caught:
        open_instance(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'dagster.yaml'} is wrong (")
    assert str(caught.value).endswith("correct it, or remove it, and the packaged one is written")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["up", "doctor"])
def test_a_wrong_configuration_is_not_reported_as_a_fault(small: SmallArchive, tmp_path: Path, command: str) -> None:
    (tmp_path / "dagster.yaml").write_text(WRONG["cut short"])
    ports = {"DSA110_PORT": str(free_port()), "DSA110_PORTAL_PORT": str(free_port())}
    environment = {**os.environ, **small.environment, **ports, "DAGSTER_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run([*PROGRAM, command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "dagster.yaml is wrong (while parsing a flow" in done.stdout + done.stderr
