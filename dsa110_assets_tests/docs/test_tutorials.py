"""The tutorials are run exactly as written, one after the other in one folder, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.tiny import SMALL_DISK

TUTORIALS = [pages.DOCS / "tutorials" / f"{name}.md" for name in ("first-night", "new-calibrator", "bad-night")]
EXPLANATIONS = sorted((pages.DOCS / "explanation").glob("*.md"))
_BLOCK = re.compile(r"(<!-- not run: .+ -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "@@ step"


@dataclass
class Step:
    """A block of commands, and lines that must each occur in its output, ignoring differences in white space."""

    page: str
    language: str
    code: str
    expected: tuple[str, ...] = ()


def steps(page: Path) -> list[Step]:
    """The steps of a page. Raises AssertionError for output that belongs to no command."""
    made: list[Step] = []
    for skipped, language, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if skipped:
            continue
        if language == "text":
            assert made, f"{page.name} begins with output"
            made[-1].expected += tuple(code.splitlines())
        else:
            made.append(Step(page.name, language, code))
    return made


def typed(step: Step) -> str:
    return f"python - <<'END_OF_PYTHON'\n{step.code}END_OF_PYTHON\n" if step.language == "python" else step.code


def environment(place: Path) -> dict[str, str]:
    """The environment of a user without settings, with `dsa110` and `python` of this interpreter on the path."""
    programs = place / "bin"
    programs.mkdir()
    start = "from dsa110_assets.cli import main; raise SystemExit(main())"
    for name, arguments in (("dsa110", f"-c '{start}'"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DSA110_", "DAGSTER"))}
    path = f"{programs}{os.pathsep}{inherited['PATH']}"
    return {**inherited, "PATH": path, "PYTHONPATH": str(pages.ROOT), "DSA110_THRESHOLDS": str(SMALL_DISK), "COLUMNS": "200"}


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_step_of_the_tutorials_works_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    """All steps run in one shell, so that what a step sets holds for later steps, as for a reader."""
    all_steps = [step for page in TUTORIALS for step in steps(page)]
    script = "".join(f"echo; echo '{MARK} {number}'; echo '{MARK} {number}' >&2\n{typed(step)}" for number, step in enumerate(all_steps))
    (tmp_path / "script").write_text(script)
    command = ["bash", "-eu", "-o", "pipefail", str(tmp_path / "script")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=1750)
    printed = re.split(rf"^{MARK} \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert done.returncode == 0, f"{all_steps[len(printed) - 1]}\n{printed[-1]}\n{done.stderr[-3000:]}"
    expectations = [(step.page, line, plain(text)) for step, text in zip(all_steps, printed, strict=True) for line in step.expected]
    lacking = [(page, line, text) for page, line, text in expectations if plain(line) not in text]
    assert lacking == []


@pytest.mark.parametrize("page", EXPLANATIONS, ids=lambda page: page.name)
def test_computations_in_explanations_run_without_errors(page: Path) -> None:
    for code in pages.fenced(page.read_text(encoding="utf-8"), "python"):
        exec(compile(code, page.name, "exec"), {"__name__": "tried"})


def test_pages_are_read_as_they_are_written(tmp_path: Path) -> None:
    """A block after the comment `not run` is skipped, output belongs to the command above it, and most blocks are not skipped."""
    page = tmp_path / "table.md"
    shown = "```\necho a  b\n```\n\n```text\na b\n```\n\n"
    page.write_text(shown + "<!-- not run: it serves -->\n```\ndsa110 up\n```\n\n```python\nx = 1\n```\n")
    assert steps(page) == [Step("table.md", "", "echo a  b\n", ("a b",)), Step("table.md", "python", "x = 1\n")]
    assert plain("a  b\n") == plain("a b")
    skipped = [page for page in TUTORIALS for match in _BLOCK.findall(page.read_text(encoding="utf-8")) if match[0]]
    assert len(skipped) < len([step for page in TUTORIALS for step in steps(page)]) / 4
