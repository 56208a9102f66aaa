"""`dsa110 archive`: is everything as published, and keeping it so."""

from __future__ import annotations

import typer

from dsa110_assets.cli.app import app

commands = typer.Typer(help="The archive: verify, reindex, backup, restore, retain, pin.", no_args_is_help=True)
app.add_typer(commands, name="archive")
