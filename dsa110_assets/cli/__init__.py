"""The `dsa110` command line. `main` is the entry point of the console script."""

from __future__ import annotations

from collections.abc import Sequence

WARM = "dsa110_assets.cli.warm"
"""The module that imports what the steps import, for processes from which runs are forked; see there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dsa110` with these arguments (None: those of the process) and return its exit status.

    0 everything requested is done · 1 it is not, and one sentence on stderr says why · 2 the command was
    typed wrongly · 70 a fault of this program (traceback in the log) · 130 interrupted.
    """
    from dsa110_assets.cli.app import run

    return run(arguments)
