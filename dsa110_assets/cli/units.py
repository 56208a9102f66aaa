"""`dsa110 services`: the services of this machine's platform where systemd keeps them, and restarting one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app


@app.command(epilog="Example: dsa110 services --restart daemon")
def services(
    restart: Annotated[
        str | None, typer.Option(help="Have systemd restart this one: code-server, daemon, webserver, portal or worker.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")] = False,
) -> int:
    """Say how the platform's services stand, by systemd; or have it restart one of them."""
    from dsa110_assets.orchestration.running import units

    if restart is not None:
        said = units.restart(restart)
        if as_json:
            console.emit_json({"restarted": restart, "told": said})
        else:
            console.say(said)
        return 0
    found = units.services()
    if as_json:
        console.emit_json([asdict(one) for one in found])
    else:
        console.table(
            ("service", "unit", "state", "since"),
            [(one.name, one.unit, one.state if one.there else "not installed", one.since) for one in found],
        )
    return 0
