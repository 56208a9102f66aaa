"""`ops/install` in a directory used in place of /: it makes everything, a second run changes nothing, and systemd accepts the units."""

from __future__ import annotations

import configparser
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dsa110_assets import settings
from dsa110_assets.archive.index import normalise_url
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.postgres import Server, private_server

UNITS = pages.ROOT / "ops" / "systemd"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="ops/install makes a user and gives files to it")


def install(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ops/install` on a root without the package, whose installation is tested with the container."""
    command = [str(pages.ROOT / "ops" / "install"), "--root", str(root), "--without-package", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=120)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bare system whose only user is root."""
    place = tmp_path / "root"
    (place / "etc").mkdir(parents=True)
    (place / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for name in ("group", "shadow", "gshadow"):
        (place / "etc" / name).touch()
    return place


def everything(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Mode, owner, modification time and contents of each file and directory below the root."""
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


@needs_root
def test_a_dry_run_lists_all_steps_and_changes_nothing(root: Path) -> None:
    before = everything(root)
    done = install(root, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert everything(root) == before
    lines = done.stdout.splitlines()
    assert all(line.startswith("would") for line in lines[:-1])
    assert lines[-1] == f"{len(lines) - 1} to do; nothing was changed"


@needs_root
def test_a_server_is_installed_and_a_second_run_changes_nothing(root: Path) -> None:
    """The second run changes no byte, time or owner."""
    done = install(root, "--inbox", "/srv/in", "--archive", "/srv/out")
    assert done.returncode == 0, done.stderr
    made = everything(root)
    again = install(root, "--inbox", "/srv/in", "--archive", "/srv/out")
    assert again.stdout.splitlines()[-1] == "nothing to do"
    assert everything(root) == made
    (user,) = [line.split(":") for line in (root / "etc" / "passwd").read_text().splitlines() if line.startswith("dsa110:")]
    assert user[6] == "/usr/sbin/nologin"
    assert {path: made[path][1] for path in ("srv/out", "srv/out-backups", "var/lib/dsa110/dagster", "etc/dsa110", "srv/in")} == {
        "srv/out": int(user[2]), "srv/out-backups": int(user[2]), "var/lib/dsa110/dagster": int(user[2]), "etc/dsa110": 0, "srv/in": 0,
    }  # fmt: skip
    assert stat.S_IMODE(made["etc/dsa110/environment"][0]) == 0o640  # because it may contain a token
    assert {path.name for path in (root / "etc/systemd/system").iterdir()} == {path.name for path in UNITS.glob("dsa110*")}
    assert not (root / "opt").exists()  # the package was left out


@needs_root
def test_files_of_the_operator_stay_and_those_of_the_package_are_renewed(root: Path) -> None:
    install(root)
    environment_file, unit = root / "etc/dsa110/environment", root / "etc/systemd/system/dsa110-daemon.service"
    environment_file.write_text("DSA110_INBOX=/mine\n")
    unit.write_text("[Unit]\n")
    done = install(root)
    assert [line for line in done.stdout.splitlines() if line.startswith("done")] == ["done   /etc/systemd/system/dsa110-daemon.service"]
    assert environment_file.read_text() == "DSA110_INBOX=/mine\n"
    assert unit.read_bytes() == (UNITS / "dsa110-daemon.service").read_bytes()


@needs_root
def test_the_installed_environment_holds_valid_settings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(root, "--inbox", "/srv/in", "--archive", "/srv/out")
    for name in [name for name in os.environ if name.startswith(("DSA110_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    for line in (root / "etc/dsa110/environment").read_text().splitlines():
        if not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    loaded = settings.load()
    assert (str(loaded.inbox), str(loaded.archive), str(loaded.dagster_home)) == ("/srv/in", "/srv/out", "/var/lib/dsa110/dagster")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with private_server() as running:
        yield running


@needs_root
@pytest.mark.postgres
def test_databases_are_made_once_and_owned_by_the_service(root: Path, server: Server) -> None:
    admin = f"host=127.0.0.1 port={server.port} user=dsa110 dbname=postgres"
    first, second = install(root, "--admin", admin), install(root, "--admin", admin)
    assert first.returncode == 0, first.stderr
    assert "done   PostgreSQL database dagster" in first.stdout.splitlines()
    assert second.stdout.splitlines()[-1] == "nothing to do"
    engine = sa.create_engine(server.url)
    with engine.connect() as connection:
        query = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = 'dsa110' AND datname IN ('dsa110', 'dagster')"
        assert {row[0] for row in connection.execute(sa.text(query))} == {"dsa110", "dagster"}
    engine.dispose()
    variables = dict(line.split("=", 1) for line in (root / "etc/dsa110/environment").read_text().splitlines() if not line.startswith("#"))
    assert [normalise_url(variables[name]).database for name in ("DSA110_DATABASE_URL", "DAGSTER_PG_URL")] == ["dsa110", "dagster"]


@needs_root
def test_a_failed_step_is_reported_and_completed_steps_stay(root: Path) -> None:
    done = install(root, "--admin", "host=127.0.0.1 port=1 user=nobody dbname=none connect_timeout=5")
    assert done.returncode == 1
    assert "psql" in done.stderr
    assert "what was done stays, run it again" in done.stderr
    assert (root / "var/lib/dsa110").is_dir()
    assert install(root, "--inbox", "relative").returncode == 2


@needs_root
def test_systemd_takes_every_unit(root: Path) -> None:
    """`systemd-analyze verify` accepts the units, with the programs that they start, and finds a wrong line."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on PATH (Debian: systemd)")
    install(root)
    for program in (root / "opt/dsa110/releases/any/bin/python", root / "usr/bin/env"):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in ("network.target", "multi-user.target", "sysinit.target", "basic.target", "shutdown.target"):
        (root / "etc/systemd/system" / name).write_text(f"[Unit]\nDescription={name}\n")

    def verified() -> str:
        units = [path.name.replace("@", "@any") for path in sorted(UNITS.glob("dsa110*"))]
        command = ["systemd-analyze", "verify", "--man=no", f"--root={root}", *units]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"})
        return done.stderr + ("" if done.returncode == 0 else f"status {done.returncode}")

    assert verified() == ""
    unit = root / "etc/systemd/system/dsa110-portal.service"
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes\nNoSuchThing=1"))
    wrong = verified()
    assert "sometimes" in wrong
    assert "NoSuchThing" in wrong


def read_unit(unit: Path) -> configparser.ConfigParser:
    """The sections of a unit."""
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read(unit)
    return read


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_a_service_starts_what_exists_of_one_release_without_privileges(unit: Path) -> None:
    """Services start by the release's own path: a program started through the link would later import parts of the next version."""
    read = read_unit(unit)
    service = read["Service"]
    words = service["ExecStart"].split()
    if unit.name.endswith("@.service"):
        assert (service["WorkingDirectory"], words[0]) == ("/opt/dsa110/releases/%i", "/opt/dsa110/releases/%i/bin/python")
        words = words[1:]
    else:
        assert (service["WorkingDirectory"], words[0]) == ("/opt/dsa110/current", "/usr/bin/env")
        words = words[2:] if words[1] == "./bin/python" else ["-m", "dsa110_assets.cli." + words[2]]
    assert words[0] == "-m"
    place = pages.ROOT / Path(*words[1].split("."))
    assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
    assert (service["User"], service["NoNewPrivileges"], service["ProtectSystem"]) == ("dsa110", "yes", "full")
    assert read["Unit"]["PartOf"] == read["Install"]["WantedBy"] == "dsa110.target"


def test_services_are_stopped_as_documented() -> None:
    """Services that have runs get time to finish them, and stopping never kills the runs themselves; docs/deployments.md says so."""
    stops = {unit.name: read_unit(unit)["Service"] for unit in UNITS.glob("*.service")}
    found = {name: (stop.get("KillMode", "control-group"), stop["TimeoutStopSec"]) for name, stop in stops.items()}
    assert found == {
        "dsa110-code-server@.service": ("process", "15min"), "dsa110-worker.service": ("mixed", "15min"),
        "dsa110-daemon.service": ("control-group", "60"), "dsa110-portal.service": ("control-group", "20"),
        "dsa110-webserver.service": ("control-group", "20"),
    }  # fmt: skip
    page = (pages.ROOT / "docs" / "deployments.md").read_text()
    for name, (_, limit) in found.items():
        short_name = name.removeprefix("dsa110-").removesuffix(".service").removesuffix("@")
        assert any(short_name in line and limit.replace("min", " min") in line for line in page.splitlines() if line.startswith("|")), name
