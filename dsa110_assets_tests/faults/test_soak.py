"""Row 25 at small scale: one night of the soak that `ops/soak` runs for hours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OPS = Path(__file__).resolve().parents[2] / "ops"


@pytest.mark.slow
def test_a_night_of_the_soak_ends_without_a_violation(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    shutil.copy(OPS / "RELIABILITY.md", table)
    environment = {**os.environ, "PYTHONPATH": f"{OPS.parent}{os.pathsep}{OPS}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(OPS / "soak.py"), "--minutes", "0", "--groups", "1", "--seed", "5", "--table", str(table)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| violations: 0 in" in table.read_text()
    assert list(tmp_path.iterdir()) == [table], "the soak left something behind"
