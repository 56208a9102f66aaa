"""Licence, citation, changelog and hooks agree with the package and with ops/test."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import dsa110_assets
from dsa110_assets_tests.docs import pages

PROJECT = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOOKS: list[dict[str, Any]] = [
    hook
    for repository in yaml.safe_load((pages.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in repository["hooks"]
]


def test_the_licence_is_the_one_that_metadata_name() -> None:
    text = (pages.ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("BSD 3-Clause License\n\nCopyright (c) 2026, dsa110_assets contributors\n")
    assert [part for part in ("1. Redis", "2. Redis", "3. Neither") if part not in text] == []
    assert PROJECT["license"] == "BSD-3-Clause"
    assert [(pages.ROOT / name).is_file() for name in PROJECT["license-files"]] == [True]


def test_the_image_is_built_with_every_file_that_metadata_name() -> None:
    copied = re.findall(r"^COPY (.*) \./$", (pages.ROOT / "ops/docker/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(copied[0].split())


def test_the_citation_has_what_its_format_asks_for() -> None:
    """The keys that Citation File Format 1.2.0 requires are present, and those also given elsewhere agree."""
    citation = yaml.safe_load((pages.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"authors", "message", "title"} <= citation.keys()
    assert all(set(author) <= {"name", "family-names", "given-names", "affiliation", "orcid"} for author in citation["authors"])
    assert citation["type"] == "software"
    assert citation["license"] == PROJECT["license"]
    assert citation["version"] == PROJECT["version"] == dsa110_assets.__version__


def test_the_changelog_keeps_to_its_form() -> None:
    text = (pages.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_hooks_run_the_commands_of_ops_test() -> None:
    """Hooks are local and use the environment's own tools."""
    assert "http" not in (pages.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert {hook["language"] for hook in HOOKS} == {"system"}
    script = (pages.ROOT / "ops/test").read_text(encoding="utf-8")
    for hook in HOOKS:
        command = hook["entry"].removesuffix(" --force-exclude")
        assert re.search(rf"^ *{re.escape(command)}( \.)?$", script, re.MULTILINE), command


@pytest.mark.parametrize("name", ["ruff-check", "ruff-format"])
def test_a_hook_lets_good_code_pass_and_stops_bad_code(name: str, tmp_path: Path) -> None:
    entry = shlex.split(next(hook["entry"] for hook in HOOKS if hook["id"] == name))
    program = Path(sys.executable).with_name(entry[0])
    command = [str(program) if program.is_file() else shutil.which(entry[0]) or entry[0], *entry[1:]]
    for text, status in (("x = 1\n", 0), ("import os,sys\nx=1\n", 1)):
        (tmp_path / "a.py").write_text(text)
        assert subprocess.run([*command, "a.py"], cwd=tmp_path, capture_output=True, timeout=60).returncode == status
