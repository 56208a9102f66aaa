"""A program in systemctl's place: systemd itself runs no test's machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

STANDS_IN = """#!/bin/sh
printf '%s\\n' "$*" >> "{words}"
case "$*" in
*show*)
  for unit in "$@"; do
    case "$unit" in
    dsa110-portal*|dsa110-worker*)
      printf 'Id=%s\\nLoadState=not-found\\nActiveState=inactive\\nSubState=dead\\nActiveEnterTimestamp=\\n\\n' "$unit" ;;
    dsa110-*)
      printf 'Id=%s\\nLoadState=loaded\\nActiveState=active\\nSubState=running\\n' "$unit"
      printf 'ActiveEnterTimestamp=Sun 2026-11-29 20:00:00 UTC\\n\\n' ;;
    esac
  done ;;
*) {ending} ;;
esac
"""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three services that run and two that are not installed; the file in which the words that systemctl got are written down."""
    return stand_in(tmp_path, monkeypatch, "exit 0")


def stand_in(place: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> Path:
    """First on PATH; `ending` is the shell's, of whatever is more than looking."""
    folder, words = place / "bin", place / "words"
    folder.mkdir()
    words.touch()
    program = folder / "systemctl"
    program.write_text(STANDS_IN.format(words=words, ending=ending))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return words
