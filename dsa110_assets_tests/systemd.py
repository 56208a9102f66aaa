"""A stand-in for systemctl, because systemd does not run on every machine that runs the tests."""

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
    """Stand-in for three running services and two that are not installed. The file that records the arguments of systemctl."""
    return stand_in(tmp_path, monkeypatch, "exit 0")


def stand_in(place: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> Path:
    """Put a stand-in first on PATH that runs the shell command `ending`, except for `show`. Return the file of its arguments."""
    folder, words = place / "bin", place / "words"
    folder.mkdir()
    words.touch()
    program = folder / "systemctl"
    program.write_text(STANDS_IN.format(words=words, ending=ending))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return words
