"""Commands and options that pages tell people to type exist, and so do the scripts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dsa110_assets.cli import app
from dsa110_assets_tests.docs import pages

TREE: Any = typer.main.get_command(app.build())
SCRIPT = re.compile(r"ops/[\w/.-]+")


def typed(text: str) -> Iterator[list[str]]:
    """The words of every `dsa110 ...` command between backticks or at the beginning of a line of a code block."""
    lines = [line for block in pages.fenced(text, "") for line in block.replace("\\\n", " ").splitlines()]
    for command in (*pages.ticked(text), *lines):
        if command.startswith("dsa110 "):
            yield shlex.split(command, comments=True)[1:]


def wrong(words: list[str]) -> str:
    """The part of a command that does not exist; '' if all of it exists. Words in capitals are placeholders for the reader's values."""
    command = TREE
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in command.commands:
            return f"there is no {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{command.name} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", pages.own_pages(), ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_commands_on_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [problem for words in typed(text) if (problem := wrong(words))] == []
    scripts = {word.split()[0] for word in pages.ticked(text) if SCRIPT.match(word) and "::" not in word} - {"ops/benchmarks/STAGE"}
    assert [name for name in sorted(scripts) if not (pages.ROOT / name).exists()] == []


def test_wrong_commands_on_pages_are_found() -> None:
    assert len(list(typed((pages.ROOT / "README.md").read_text(encoding="utf-8")))) > 10
    assert wrong(["archive", "retain", "--dry-run"]) == ""
    assert wrong(["archive", "retract"]) == "there is no retract"
    assert wrong(["process", "--through", "tile_image", "--gently"]) == "process has no --gently"
