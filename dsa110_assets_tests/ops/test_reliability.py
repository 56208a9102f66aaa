"""`ops/reliability` puts figures and outcomes into the right rows, and a failure cannot hide among them."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets_tests.faults import figures

OPS = Path(__file__).resolve().parents[2] / "ops"
COMMAND = runpy.run_path(str(OPS / "reliability.py"))


def test_the_table_has_every_row_once() -> None:
    faults, _, _ = (OPS / "RELIABILITY.md").read_text().partition("\n## ")
    rows = [line.split("|")[1].strip() for line in faults.splitlines() if line.startswith("|")]
    assert rows[2:] == [str(number) for number in range(1, figures.LAST_ROW + 1)]


def test_recorded_lines_come_back_as_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(figures.FOLDER_VARIABLE, str(tmp_path))
    assert (COMMAND["FOLDER_VARIABLE"], COMMAND["ROWS_VARIABLE"]) == (figures.FOLDER_VARIABLE, figures.ROWS_VARIABLE)
    for value in (3, 1, 2):
        figures.record_figure(4, "crashes", value)
    figures.record_figure(4, "added delay s", 0.25)
    figures.record_outcome(4, "a::one", "passed", 1.0)
    figures.record_outcome(4, "a::two", "failed", 2.0)
    figures.record_outcome(4, "a::two", "passed", 0.0)
    (path,) = tmp_path.glob("*.jsonl")
    figures_cell, tests = COMMAND["collect"](path.read_text().splitlines())[4].cells
    assert figures_cell == "crashes: 1 to 3; added delay s: 0.25"
    assert "FAILED: two" in tests
    assert "3 s" in tests


def test_without_a_folder_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(figures.FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    figures.record_figure(1, "x", 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=f"no row {figures.LAST_ROW + 1}"):
        figures.record_figure(figures.LAST_ROW + 1, "x", 1)


def test_only_the_rows_that_ran_are_renewed() -> None:
    page = "# T\n\n| # | F | E | G | M |\n|---|---|---|---|---|\n| 1 | a | b | – | – |\n| 2 | c | d | old | then |\n\nend\n"
    new = COMMAND["renew"](page, {1: ("x: 0 | 1", "today")})
    assert new == page.replace("| 1 | a | b | – | – |", "| 1 | a | b | x: 0 / 1 | today |")
    with pytest.raises(ValueError, match="no rows"):
        COMMAND["renew"](page, {3: ("x", "y")})


@pytest.mark.parametrize("passes", [True, False])
def test_outcomes_of_marked_tests_are_recorded(tmp_path: Path, passes: bool) -> None:
    """With the plugin of the fault tests, in a separate test run."""
    hooks = "pytest_collection_modifyitems, pytest_runtest_makereport"
    (tmp_path / "conftest.py").write_text(f"from dsa110_assets_tests.conftest import {hooks}\n")
    test = f"@pytest.mark.row(5, 6, cases='ways')\ndef test_it():\n    assert {passes}\n"
    (tmp_path / "test_x.py").write_text(f"import pytest\n\n{test}\n@pytest.mark.row(7)\ndef test_other():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = row\n")
    environment = {"PYTHONPATH": str(OPS.parent), "PATH": "/usr/bin:/bin", figures.FOLDER_VARIABLE: str(tmp_path)}
    environment[figures.ROWS_VARIABLE] = "1,3-6"
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, env=environment, timeout=120)
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    outcome = "passed" if passes else "failed"
    assert [(line["row"], line["outcome"]) for line in lines] == [(5, outcome), (6, outcome)]
    figures_cell, _ = COMMAND["collect"](map(json.dumps, lines))[5].cells
    assert figures_cell == f"ways: {int(passes)} of 1"
