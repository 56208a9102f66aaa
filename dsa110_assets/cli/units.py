"""`dsa110 services`: show the platform's services on this machine if systemd runs them, and restart one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app


@app.command(epilog="Example: dsa110 services --restart daemon")
def services(
    restart: Annotated[
        str | None, typer.Option(help="Make systemd restart this service: code-server, daemon, webserver, portal or worker.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")] = False,
) -> int:
    """Show the state of the platform's services as systemd has it, or make systemd restart one of them."""
    from dsa110_assets.orchestration.running import units

    if restart is not None:
        message = units.restart(restart)
        if as_json:
            console.emit_json({"restarted": restart, "told": message})
        else:
            console.say(message)
        return 0
    found = units.services()
    if as_json:
        console.emit_json([asdict(unit) for unit in found])
    else:
        console.table(
            ("service", "unit", "state", "since"),
            [(unit.name, unit.unit, unit.state if unit.there else "not installed", unit.since) for unit in found],
        )
    return 0
