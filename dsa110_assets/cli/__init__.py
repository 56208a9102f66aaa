"""The `dsa110` command: what an observer types. `main` is the console script's door."""

from __future__ import annotations

from collections.abc import Sequence

WARM = "dsa110_assets.cli.warm"
"""Imports what the steps import, for processes that runs are forked from; see there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dsa110` with these arguments (None: the process's own) and return its exit status.

    0 all that was asked for is done · 1 it is not, one sentence on stderr says why · 2 the command was
    typed wrongly · 70 a fault of this program (traceback in the log) · 130 interrupted.
    """
    from dsa110_assets.cli.app import run

    return run(arguments)
