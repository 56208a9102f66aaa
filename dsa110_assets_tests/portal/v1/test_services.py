"""Restarting the platform's services: only those, only with the token, and with a reason if systemd refuses.

A program in place of systemctl records its arguments. The refusal without a running systemd is tested with the real systemctl.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from dsa110_assets.archive import audit
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration.running import units
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.portal.v1.test_control import BEARER, ME, Portal, portal
from dsa110_assets_tests.systemd import stand_in, systemd

__all__ = ["portal", "systemd"]
RULES = pages.ROOT / "ops" / "polkit" / "50-dsa110.rules"


def test_one_service_is_restarted_after_it_was_confirmed(portal: Portal, systemd: Path) -> None:
    listed = portal.get("services")
    assert listed["refused"] is None
    assert [(one["name"], one["there"], one["state"]) for one in listed["items"]] == [
        ("code-server", True, "active (running)"), ("daemon", True, "active (running)"), ("webserver", True, "active (running)"),
        ("portal", False, "inactive (dead)"), ("worker", False, "inactive (dead)"),
    ]  # fmt: skip
    rehearsal = portal.order("services/daemon/restart", {}).json
    assert rehearsal["affected"] == ["dsa110-daemon.service"]
    assert not any("restart" in line for line in systemd.read_text().splitlines()), "a rehearsal restarts nothing"
    assert portal.order("services/daemon/restart", {"confirm": "0" * 16}).status == 409
    done = portal.confirmed("services/daemon/restart", {})
    assert done["told"] == "systemd restarts dsa110-daemon.service"
    restarts = [line for line in systemd.read_text().splitlines() if "show" not in line]
    assert restarts == ["--no-pager --no-ask-password restart --no-block dsa110-daemon.service"]
    begun, ended = sorted((line for line in audit.lines(portal.small.root, 10) if line.verb == "restart"), key=lambda line: line.place)
    assert (begun.state, begun.by, begun.target) == ("begun", "Ada", "dsa110-daemon.service")
    assert (ended.state, ended.told) == ("done", done["told"])


@pytest.mark.parametrize("name", ["ssh", "dsa110-daemon.service", "daemon;reboot", "-H", "daemon%20ssh", "..", "multi-user"])
def test_no_other_unit_ever_reaches_systemd(portal: Portal, systemd: Path, name: str) -> None:
    answer = portal.order(f"services/{name}/restart", {"confirm": "0" * 16})
    assert answer.status in (404, 405, 422), answer.text
    with pytest.raises(NotFoundError):
        units.restart(name)
    assert not any("restart" in line for line in systemd.read_text().splitlines())


def test_a_unit_that_is_not_installed_is_reported_as_such(portal: Portal, systemd: Path) -> None:
    answer = portal.order("services/portal/restart", {})
    assert answer.status == 404
    assert "dsa110-portal.service is not installed on this machine" in answer.json["detail"]
    assert "restart" not in systemd.read_text()


def test_restarts_without_permission_name_the_rule_and_are_audited(portal: Portal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in prints systemctl's own message to a user without polkit permission."""
    stand_in(tmp_path, monkeypatch, "echo 'Failed to restart dsa110-daemon.service: Interactive authentication required.' >&2; exit 1")
    confirm = portal.order("services/daemon/restart", {}).json["confirm"]
    answer = portal.order("services/daemon/restart", {"confirm": confirm})
    assert answer.status == 400
    assert units.RULE in answer.json["detail"]
    assert next(line for line in audit.lines(portal.small.root, 10) if line.verb == "restart").state == "failed"


def test_restarts_without_the_token_are_refused(portal: Portal, systemd: Path) -> None:
    assert ask(portal.app, "/api/v1/services/daemon/restart", "POST", body={}).status == 401
    plain = create_app(portal.small.root, settings=portal.settings.model_copy(update={"token": None}))
    assert ask(plain, "/api/v1/services/daemon/restart", "POST", headers=(BEARER, ME), body={}).status == 403
    assert ask(portal.app, "/api/v1/services/daemon/restart", headers=(BEARER, ME)).status == 405
    assert "restart" not in systemd.read_text()


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine: nothing is refused")
def test_without_systemd_page_and_api_refuse_restarts(portal: Portal) -> None:
    """Tested with the real systemctl if it is installed, and also holds without one."""
    assert portal.get("services") == {"items": [], "refused": portal.get("services")["refused"]}
    answer = portal.order("services/daemon/restart", {})
    assert answer.status == 400
    assert "whoever started the services restarts them" in answer.json["detail"]
    page = ask(portal.app, "/control").text
    assert "None can be restarted from here" in page
    assert "services/daemon/restart" not in page


def test_a_machine_without_systemctl_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no systemd here"):
        units.services()


def test_the_page_has_a_form_for_each_service_that_is_there(portal: Portal, systemd: Path) -> None:
    page = ask(portal.app, "/control").text
    assert all(f'data-order="services/{name}/restart"' in page for name in ("code-server", "daemon", "webserver"))
    assert 'data-order="services/portal/restart"' not in page


def test_units_are_those_that_are_shipped_and_that_the_rule_lets_restart() -> None:
    shipped = {path.name for path in (pages.ROOT / "ops" / "systemd").glob("*.service")}
    assert {unit for unit, _ in units.UNITS.values()} == shipped


@pytest.mark.skipif(shutil.which("node") is None, reason="node, which runs polkit's rule, is not installed")
@pytest.mark.parametrize(
    ("action", "user", "verb", "unit", "answer"),
    [
        ("org.freedesktop.systemd1.manage-units", "dsa110", "restart", "dsa110-daemon.service", "yes"),
        ("org.freedesktop.systemd1.manage-units", "dsa110", "restart", "dsa110-code-server@0.1.0-1a2b3c4d.service", "yes"),
        ("org.freedesktop.systemd1.manage-units", "dsa110", "restart", "dsa110-worker.service", "yes"),
        ("org.freedesktop.systemd1.manage-units", "dsa110", "restart", "dsa110-daemon.service.d", "undefined"),
        ("org.freedesktop.systemd1.manage-units", "dsa110", "stop", "dsa110-daemon.service", "undefined"),
        ("org.freedesktop.systemd1.manage-units", "dsa110", "restart", "ssh.service", "undefined"),
        ("org.freedesktop.systemd1.manage-units", "somebody", "restart", "dsa110-daemon.service", "undefined"),
        ("org.freedesktop.systemd1.manage-unit-files", "dsa110", "restart", "dsa110-daemon.service", "undefined"),
    ],
)
def test_the_polkit_rule_allows_only_restarts_by_the_platforms_user(action: str, user: str, verb: str, unit: str, answer: str) -> None:
    """The rules file is run as polkitd runs it, with a `polkit` object that takes the rule and evaluates it."""
    call = json.dumps({"id": action, "verb": verb, "unit": unit, "user": user})
    script = (
        "let rule; const polkit = { Result: { YES: 'yes' }, addRule: (one) => { rule = one; } };\n"
        + RULES.read_text()
        + f"\nconst call = {call}; console.log(String(rule({{ id: call.id, lookup: (name) => call[name] }}, {{ user: call.user }})));"
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == answer, done.stderr
