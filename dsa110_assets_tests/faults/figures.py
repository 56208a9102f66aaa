"""What the fault tests measured: lines of JSON for `ops/reliability`, which puts them into its table."""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER_VARIABLE = "RELIABILITY_FIGURES"
"""Names the folder the lines go to. Without it nothing is written: a test run leaves no trace."""
ROWS_VARIABLE = "RELIABILITY_ROWS"
LAST_ROW = 54


def record_figure(row: int, name: str, value: float | int | str) -> None:
    """Say that fault test `row` (1 to LAST_ROW of ops/RELIABILITY.md) measured `name`; units belong into the name.

    A name that several tests record appears once in the table: numbers from least to greatest.
    """
    if not 1 <= row <= LAST_ROW:
        raise ValueError(f"there is no row {row}: they go from 1 to {LAST_ROW}")
    write_line({"row": row, "name": name, "value": value})


def record_outcome(row: int, test: str, outcome: str, seconds: float, cases: str = "") -> None:
    """Say how a test of `row` ended (passed, failed, skipped) and how long it took.

    With `cases` it is one of several that the table counts under this name, as in 'forms: 11 of 11'.
    """
    write_line({"row": row, "test": test, "outcome": outcome, "seconds": seconds, "cases": cases})


def chosen_rows() -> set[int] | None:
    """The rows ROWS_VARIABLE asks for, as in '27-52' or '3,31'; None for all tests, whether of a row or not."""
    text = os.environ.get(ROWS_VARIABLE, "")
    ends = [part.split("-") for part in text.split(",") if part]
    return {row for first, *last in ends for row in range(int(first), int((last or [first])[0]) + 1)} or None


def write_line(fields: dict[str, object]) -> None:
    """One line in this process's file of the folder; nothing without a folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as handle:
            handle.write(json.dumps(fields) + "\n")
