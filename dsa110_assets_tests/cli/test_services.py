"""`dsa110 services`: the platform's services as systemd knows them, and restarting one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsa110_assets.orchestration.running import units
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.systemd import systemd

__all__ = ["systemd"]


def test_the_command_lists_and_restarts_services(bare: Run, systemd: Path) -> None:
    assert [one["name"] for one in bare("services", "--json").json] == list(units.UNITS)
    done = bare("services", "--restart", "webserver")
    assert (done.status, done.out.strip()) == (0, "systemd restarts dsa110-webserver.service")
    assert systemd.read_text().splitlines()[-1] == "--no-pager --no-ask-password restart --no-block dsa110-webserver.service"


def test_restarting_a_foreign_service_is_refused(bare: Run, systemd: Path) -> None:
    done = bare("services", "--restart", "ssh")
    assert done.status == 1
    assert "it has code-server, daemon, webserver, portal, worker" in done.err
    assert systemd.read_text() == ""


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine: nothing is refused")
def test_without_systemd_the_command_says_who_restarts_services(bare: Run) -> None:
    done = bare("services", "--restart", "daemon")
    assert done.status == 1
    assert "whoever started the services restarts them" in done.err
