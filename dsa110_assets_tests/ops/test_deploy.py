"""`ops/deploy` without a server: releases side by side, and its messages and refusals."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dsa110_assets
from dsa110_assets_tests.docs import pages

OPS = pages.ROOT / "ops"


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ops/releases.py, which is not on a package path."""
    spec = importlib.util.spec_from_file_location("releases", OPS / "releases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "releases", module)
    spec.loader.exec_module(module)
    return module


def release(root: Path, name: str, at_s: float) -> None:
    """Make a complete release of this name with one unit, installed at time `at_s`."""
    place = root / "opt/dsa110/releases" / name
    (place / "units").mkdir(parents=True)
    (place / "units" / "dsa110-portal.service").write_text(f"[Unit]\nDescription={name}\n")
    (place / "installed-from").write_text("x\n")
    os.utime(place / "installed-from", (at_s, at_s))


def deploy(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ops/deploy` on a root directory."""
    command = [str(OPS / "deploy"), "--root", str(root), *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=120)


def test_the_links_name_the_current_and_the_previous_release(releases: ModuleType, tmp_path: Path) -> None:
    for number, name in enumerate(("1.0-a", "1.1-b", "1.2-c")):
        release(tmp_path, name, 1e9 + number)
    installed = releases.Releases(tmp_path)
    assert installed.linked("current") is None
    installed.switch("1.0-a")
    installed.switch("1.1-b", "1.0-a")
    assert (installed.linked("current"), installed.linked("previous")) == ("1.1-b", "1.0-a")
    assert os.readlink(tmp_path / "opt/dsa110/current") == "releases/1.1-b"  # relative, so that the root can be moved
    installed.switch("1.0-a")
    assert (installed.linked("current"), installed.linked("previous")) == ("1.0-a", None)
    (installed.of("1.0-a") / "installed-from").unlink()
    assert installed.linked("current") is None, "half a release is none"


def test_a_reader_sees_the_old_or_the_new_release_at_any_moment(releases: ModuleType, tmp_path: Path) -> None:
    """The link is replaced by renaming. If it were removed and made again, a service starting in between would find nothing."""
    for name in ("a", "b"):
        release(tmp_path, name, 1e9)
    installed = releases.Releases(tmp_path)
    installed.switch("a")
    reader = subprocess.Popen(
        [sys.executable, "-c", "import os, sys\nwhile True: assert os.readlink(sys.argv[1]) in ('releases/a', 'releases/b')",
         str(tmp_path / "opt/dsa110/current")], stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        for number in range(2000):
            installed.switch("ab"[number % 2], "a")
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.communicate()


def test_old_releases_are_removed_unless_in_use(releases: ModuleType, tmp_path: Path) -> None:
    names = [f"1.{number}-x" for number in range(6)]
    for number, name in enumerate(names):
        release(tmp_path, name, 1e9 + number)
    installed = releases.Releases(tmp_path)
    installed.switch(names[0], names[1])
    assert installed.old(keep=2) == names[2:4]
    installed.remove(names[2])
    assert not installed.of(names[2]).exists()
    assert installed.old(keep=2) == [names[3]]


def test_units_are_renewed_where_they_differ(releases: ModuleType, tmp_path: Path) -> None:
    release(tmp_path, "a", 1e9)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    installed = releases.Releases(tmp_path)
    assert installed.renew_units("a") == ["dsa110-portal.service"]
    assert installed.renew_units("a") == []
    assert (tmp_path / "etc/systemd/system/dsa110-portal.service").read_text() == "[Unit]\nDescription=a\n"


def test_a_rollback_removes_units_of_the_newer_version_only(releases: ModuleType, tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        release(tmp_path, name, 1e9 + number)
    installed, units = releases.Releases(tmp_path), tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "postgresql.service").write_text("[Unit]\n")  # not one of our units
    (installed.of("b") / "units/dsa110-archiver.service").write_text("[Unit]\nDescription=b\n")
    assert installed.renew_units("b") == ["dsa110-archiver.service", "dsa110-portal.service"]
    assert installed.renew_units("a", instead_of="b") == ["dsa110-archiver.service", "dsa110-portal.service"]
    assert sorted(unit.name for unit in units.iterdir()) == ["dsa110-portal.service", "postgresql.service"]
    assert installed.renew_units("a", instead_of="b") == []


def test_a_release_is_named_by_its_version_and_sources(releases: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = releases.name_of_sources()
    assert name == f"{dsa110_assets.__version__}-{releases.digest_of_sources()[:8]}"
    copied = tmp_path / "sources"
    for part in ("pyproject.toml", "ops/constraints.txt", "ops/runbook.md", "ops/smoke.py", "ops/systemd/dsa110.target"):
        (copied / part).parent.mkdir(parents=True, exist_ok=True)
        (copied / part).write_bytes((pages.ROOT / part).read_bytes())
    monkeypatch.setattr(releases, "REPOSITORY", copied)
    before = releases.name_of_sources()
    (copied / "pyproject.toml").write_text((copied / "pyproject.toml").read_text().replace(dsa110_assets.__version__, "1.2+local/3"))
    after = releases.name_of_sources()
    assert after.startswith("1.2.local.3-"), "a name that a directory and a unit can have"
    assert before.split("-")[1] != after.split("-")[1]


def test_a_dry_run_lists_all_steps_and_changes_nothing(releases: ModuleType, tmp_path: Path) -> None:
    release(tmp_path, "0.0.9-11111111", 1e9)
    releases.Releases(tmp_path).switch("0.0.9-11111111")
    before = sorted(tmp_path.rglob("*"))
    done = deploy(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"in service is 0.0.9-11111111; {releases.name_of_sources()} would be installed" in done.stdout
    for word in ("settings", "code-server@", "simulated observation", "index", "restart dsa110-daemon.service", "take everything back"):
        assert word in done.stdout
    assert sorted(tmp_path.rglob("*")) == before
    assert "simulated" not in deploy(tmp_path, "--dry-run", "--rollback").stdout


def test_refusals_give_the_reason(releases: ModuleType, tmp_path: Path) -> None:
    nothing = deploy(tmp_path, "--dry-run")
    assert (nothing.returncode, "ops/install puts the first one there" in nothing.stderr) == (1, True)
    release(tmp_path, "a", 1e9)
    releases.Releases(tmp_path).switch("a")
    first = deploy(tmp_path, "--dry-run", "--rollback")
    assert (first.returncode, "there is no release before a" in first.stderr) == (1, True)
    assert deploy(tmp_path).returncode == 2  # the root is not that of this machine
    assert deploy(tmp_path, "--dry-run", "--keep", "1").returncode == 2


@pytest.mark.slow
def test_a_release_is_installed_as_a_wheel_of_its_own(releases: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip builds and installs the package without dependencies. A partial release of an earlier attempt is made again."""
    for name, value in {"PIP_NO_DEPS": "1", "PIP_RETRIES": "0", "PIP_TIMEOUT": "20"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    installed, name = releases.Releases(tmp_path), releases.name_of_sources()
    (installed.of(name) / "left-over").mkdir(parents=True)
    try:
        installed.install(name)
    except releases.Refused as error:
        if any(word in str(error) for word in ("No matching distribution", "subprocess-exited-with-error", "subprocess to install build")):
            pytest.skip(f"pip cannot have the package's build tool here: {error}")
        raise
    assert installed.is_whole(name)
    assert not (installed.of(name) / "left-over").exists()
    python = installed.of(name) / "bin" / "python"
    location = subprocess.run([python, "-I", "-c", "import dsa110_assets; print(dsa110_assets.__file__)"], capture_output=True, text=True)
    assert str(installed.of(name)) in location.stdout
    assert (installed.of(name) / "bin" / "dsa110").is_file()
    assert f"/run/dsa110/{name}/code-server.sock" in (installed.of(name) / "workspace.yaml").read_text()
    assert {path.name for path in (installed.of(name) / "units").iterdir()} == {path.name for path in (OPS / "systemd").glob("dsa110*")}
    before = (installed.of(name) / "installed-from").stat().st_mtime_ns
    installed.install(name)
    assert (installed.of(name) / "installed-from").stat().st_mtime_ns == before
