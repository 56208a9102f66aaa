"""The platform's services where systemd keeps them: how each stands, and restarting one of them, and of no others."""

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
    "daemon": ("dsa110-daemon.service", "runs go on; nothing is taken up or asked for meanwhile"),
    "webserver": ("dsa110-webserver.service", "Dagster's pages are away meanwhile"),
    "portal": ("dsa110-portal.service", "these pages are away meanwhile, and who is signed in stays so"),
    "worker": ("dsa110-worker.service", "its runs go on to their end; other machines take new ones meanwhile"),
}
"""The services that may be restarted, by the name they go by here: unit, and what a restart means. No other unit ever is.

A unit whose name ends with @ has an instance for each release; meant is that of the release this process is of."""
RULE = "/etc/polkit-1/rules.d/50-dsa110.rules"
DEADLINE_S = 20.0
_ASKED = ("Id", "LoadState", "ActiveState", "SubState", "ActiveEnterTimestamp")


@dataclass(frozen=True)
class Service:
    """How one service stands, in systemd's words; `since` is when it became active, as systemd writes it. `there` is false for a unit
    that is not installed."""

    name: str
    unit: str
    there: bool
    state: str
    since: str
    meaning: str


def services() -> list[Service]:
    """All services of the platform. Raises ConfigurationError, with what to do, where no systemd answers."""
    named = {name: unit.replace("@.", f"@{Path(sys.prefix).resolve().name}.") for name, (unit, _) in UNITS.items()}
    said = _systemctl("show", f"--property={','.join(_ASKED)}", *named.values())
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in said.split("\n\n") if block.strip()]
    known = {block.get("Id", ""): block for block in blocks}
    found = []
    for name, unit in named.items():
        told = known.get(unit, {})
        state = " ".join(part for part in (told.get("ActiveState", ""), f"({told['SubState']})" if told.get("SubState") else "") if part)
        there = told.get("LoadState") == "loaded"
        found.append(Service(name, unit, there, state or "unknown", told.get("ActiveEnterTimestamp", ""), UNITS[name][1]))
    return found


def service(name: str) -> Service:
    """One service. Raises NotFoundError for what is none of the platform's, or is no unit on this machine."""
    if name not in UNITS:
        raise NotFoundError(f"the platform has no service {name!r}; it has {', '.join(UNITS)}")
    found = next(one for one in services() if one.name == name)
    if not found.there:
        raise NotFoundError(f"{found.unit} is not installed on this machine; ops/install puts it there")
    return found


def restart(name: str) -> str:
    """Have systemd restart a service, and do not wait for it; what was asked for, in a sentence.

    Raises NotFoundError for what is none of the platform's, and ConfigurationError, with what to do, where systemd does not let this user.
    """
    found = service(name)
    _systemctl("restart", "--no-block", found.unit)
    return f"systemd restarts {found.unit}"


def _systemctl(*words: str) -> str:
    """What systemctl says; it never asks for a password."""
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
        told = " ".join(ended.tail.split()) or f"status {ended.returncode}"
    if "not been booted with systemd" in told or "Failed to connect to bus" in told:
        raise ConfigurationError("systemd does not run here: whoever started the services restarts them (dsa110 up)")
    if "authentication" in told.lower() or "access denied" in told.lower() or "not authorized" in told.lower():
        raise ConfigurationError(f"systemd does not let this user: {told}; ops/install writes the rule that does, {RULE}")
    raise TransientError(f"systemctl {words[0]}: {told}")
