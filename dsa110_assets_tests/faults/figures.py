"""Records the measurements of the fault tests as lines of JSON, which `ops/reliability` puts into its table."""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER_VARIABLE = "RELIABILITY_FIGURES"
"""The environment variable with the folder for these lines. Without it nothing is written, so that a test run leaves no trace."""
ROWS_VARIABLE = "RELIABILITY_ROWS"
LAST_ROW = 54


def record_figure(row: int, name: str, value: float | int | str) -> None:
    """Record a measurement `name` of the fault test `row` (1 to LAST_ROW of ops/RELIABILITY.md); units belong in the name.

    A name that several tests record appears once in the table: numbers from least to greatest.
    """
    if not 1 <= row <= LAST_ROW:
        raise ValueError(f"there is no row {row}: they go from 1 to {LAST_ROW}")
    write_line({"row": row, "name": name, "value": value})


def record_outcome(row: int, test: str, outcome: str, seconds: float, cases: str = "") -> None:
    """Record how a test of `row` ended (passed, failed, skipped) and how long it took.

    With `cases` the test is one of several that the table counts under this name, as in 'forms: 11 of 11'.
    """
    write_line({"row": row, "test": test, "outcome": outcome, "seconds": seconds, "cases": cases})


def chosen_rows() -> set[int] | None:
    """The rows requested by ROWS_VARIABLE, such as '27-52' or '3,31'; None for all tests, with or without a row."""
    text = os.environ.get(ROWS_VARIABLE, "")
    ends = [part.split("-") for part in text.split(",") if part]
    return {row for first, *last in ends for row in range(int(first), int((last or [first])[0]) + 1)} or None


def write_line(fields: dict[str, object]) -> None:
    """Append one line to this process's file in the folder; do nothing without a folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as handle:
            handle.write(json.dumps(fields) + "\n")
