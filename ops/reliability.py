"""The command behind `ops/reliability`: run the tests of the rows and write their figures into ops/RELIABILITY.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

OPS = Path(__file__).resolve().parent
TABLE = OPS / "RELIABILITY.md"
TESTS = "dsa110_assets_tests"
FOLDER_VARIABLE, ROWS_VARIABLE = "RELIABILITY_FIGURES", "RELIABILITY_ROWS"


@dataclass
class Measured:
    """The results of one row: values by figure name, outcomes by test, the tests of each named set of cases, and total seconds."""

    figures: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    outcomes: dict[str, str] = field(default_factory=dict)
    cases: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    seconds: float = 0.0

    @property
    def cells(self) -> tuple[str, str]:
        """The last two cells of the row: its figures and the outcome of its tests."""
        failed = [test.rpartition("::")[2] for test, outcome in self.outcomes.items() if outcome == "failed"]
        skipped = sum(outcome == "skipped" for outcome in self.outcomes.values())
        told = f"FAILED: {', '.join(failed)}" if failed else f"{len(self.outcomes) - skipped} tests passed"
        told += f", {skipped} skipped" if skipped else ""
        figures = [f"{name}: {shown(values)}" for name, values in self.figures.items()]
        for name, tests in self.cases.items():
            figures.append(f"{name}: {sum(self.outcomes[test] == 'passed' for test in tests)} of {len(tests)}")
        return "; ".join(figures) or "–", f"{datetime.now(UTC):%Y-%m-%d}: {told}, {self.seconds:.0f} s"


def main(arguments: list[str]) -> int:
    """Run pytest on the tests of the rows (those after `--rows`, or all) with the other arguments; return its exit status."""
    rows, others = (arguments[1], arguments[2:]) if arguments[:1] == ["--rows"] else ("", arguments)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, FOLDER_VARIABLE: folder, ROWS_VARIABLE: rows}
        command = [sys.executable, "-m", "pytest", "-m", "row", TESTS, *others]
        status = subprocess.run(command, cwd=OPS.parent, env=environment).returncode
        measured = collect(line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_text().splitlines())
    TABLE.write_text(renew(TABLE.read_text(), {row: one.cells for row, one in measured.items()}))
    print(f"{TABLE.relative_to(OPS.parent)}: {len(measured)} rows renewed")
    return status


def collect(lines: Any) -> dict[int, Measured]:
    """The results in lines of JSON, by row number."""
    rows: dict[int, Measured] = defaultdict(Measured)
    for told in map(json.loads, lines):
        row = rows[told["row"]]
        if "name" in told:
            row.figures[told["name"]].append(told["value"])
        else:
            worst = sorted([row.outcomes.get(told["test"], "passed"), told["outcome"]], key=("passed", "skipped", "failed").index)[-1]
            row.outcomes[told["test"]] = worst
            if told["cases"]:
                row.cases[told["cases"]].add(told["test"])
            row.seconds += told["seconds"]
    return dict(rows)


def shown(values: Sequence[Any]) -> str:
    """The values of a figure as text; several numbers become their range."""
    if all(isinstance(value, int | float) for value in values):
        low, high = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in (min(values), max(values)))
        return low if low == high else f"{low} to {high}"
    return ", ".join(dict.fromkeys(map(str, values)))


def renew(text: str, cells: Mapping[int, tuple[str, str]]) -> str:
    """The page with the last two cells of these rows replaced. Raises ValueError for a row it does not have."""
    lines = text.splitlines()
    missing = set(cells)
    for number, line in enumerate(lines):
        first = line.strip("|").split("|")[0].strip() if line.startswith("|") else ""
        if first.isdigit() and int(first) in cells:
            head = [cell.strip() for cell in line.strip().strip("|").split(" | ")[:3]]
            tail = [cell.replace("|", "/").replace("\n", " ") for cell in cells[int(first)]]
            lines[number] = "| " + " | ".join([*head, *tail]) + " |"
            missing.discard(int(first))
    if missing:
        raise ValueError(f"{TABLE.name} has no rows {sorted(missing)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
