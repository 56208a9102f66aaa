"""The platform's services under systemd: the state of each, and restarting one. No other units can be restarted."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsa110_assets import children
from dsa110_assets.errors import ConfigurationError, DsaError, NotFoundError, TransientError

UNITS: Mapping[str, tuple[str, str]] = {
    "code-server": ("dsa110-code-server@.service", "its runs go on to their end; new ones begin once it is back"),
    "daemon": ("dsa110-daemon.service", "runs go on; no new ones are started or requested meanwhile"),
    "webserver": ("dsa110-webserver.service", "Dagster's pages are unavailable meanwhile"),
    "portal": ("dsa110-portal.service", "these pages are unavailable meanwhile; users stay signed in"),
    "worker": ("dsa110-worker.service", "its runs go on to their end; other machines take new ones meanwhile"),
}
"""The services that may be restarted, by their name on the platform: the unit, and the effect of a restart. No other unit is ever
restarted.

A unit whose name ends with @ has an instance for each release; the instance meant is that of the release this process belongs to."""
RULE = "/etc/polkit-1/rules.d/50-dsa110.rules"
DEADLINE_S = 20.0
_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "ActiveEnterTimestamp")


@dataclass(frozen=True)
class Service:
    """The state of one service, in systemd's words; `since` is when it became active, as systemd writes it. `there` is false for a unit
    that is not installed."""

    name: str
    unit: str
    there: bool
    state: str
    since: str
    meaning: str


def services() -> list[Service]:
    """All services of the platform. Raises ConfigurationError, with what to do, if systemd does not answer."""
    named = {name: unit.replace("@.", f"@{Path(sys.prefix).resolve().name}.") for name, (unit, _) in UNITS.items()}
    output = _systemctl("show", f"--property={','.join(_PROPERTIES)}", *named.values())
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in output.split("\n\n") if block.strip()]
    properties = {block.get("Id", ""): block for block in blocks}
    found = []
    for name, unit in named.items():
        shown = properties.get(unit, {})
        state = " ".join(part for part in (shown.get("ActiveState", ""), f"({shown['SubState']})" if shown.get("SubState") else "") if part)
        there = shown.get("LoadState") == "loaded"
        found.append(Service(name, unit, there, state or "unknown", shown.get("ActiveEnterTimestamp", ""), UNITS[name][1]))
    return found


def service(name: str) -> Service:
    """One service. Raises NotFoundError for a name that is not a service of the platform, or a unit not installed on this machine."""
    if name not in UNITS:
        raise NotFoundError(f"the platform has no service {name!r}; it has {', '.join(UNITS)}")
    found = next(one for one in services() if one.name == name)
    if not found.there:
        raise NotFoundError(f"{found.unit} is not installed on this machine; ops/install installs it")
    return found


def restart(name: str) -> str:
    """Have systemd restart a service without waiting for it; return a sentence that says what was requested.

    Raises NotFoundError for a name that is not a service of the platform, and ConfigurationError, with what to do, if systemd does not
    permit it to this user.
    """
    found = service(name)
    _systemctl("restart", "--no-block", found.unit)
    return f"systemd restarts {found.unit}"


def _systemctl(*words: str) -> str:
    """Run systemctl, which never prompts for a password here, and return its output."""
    with tempfile.TemporaryDirectory(prefix="dsa110-systemctl-") as place:
        log = Path(place, "said")
        command: Sequence[str] = ("systemctl", "--no-pager", "--no-ask-password", *words)
        try:
            ended = children.run(command, deadline_s=DEADLINE_S, log_path=log)
        except DsaError as error:
            if isinstance(error, ConfigurationError):
                raise ConfigurationError("there is no systemd here: whoever started the services restarts them (dsa110 up)") from error
            raise
        if not ended.returncode:
            return log.read_text(encoding="utf-8", errors="replace")
        message = " ".join(ended.tail.split()) or f"status {ended.returncode}"
    if "not been booted with systemd" in message or "Failed to connect to bus" in message:
        raise ConfigurationError("systemd does not run here: whoever started the services restarts them (dsa110 up)")
    if "authentication" in message.lower() or "access denied" in message.lower() or "not authorized" in message.lower():
        raise ConfigurationError(f"systemd does not permit it to this user: {message}; ops/install writes the rule that permits it, {RULE}")
    raise TransientError(f"systemctl {words[0]}: {message}")
