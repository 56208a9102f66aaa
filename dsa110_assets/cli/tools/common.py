"""Options that all commands on files have."""

from __future__ import annotations

from typing import Any

import typer

FORCE: Any = typer.Option(False, "--force", help="Replace an output that one of these commands made before.")
DRY_RUN: Any = typer.Option(False, "--dry-run", help="Check everything and say what would be made; write nothing.")
JSON: Any = typer.Option(False, "--json", help="Print JSON, and nothing else, on standard output.")
