"""No password and no token in a product, a log, an event or a message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets_tests.faults.test_files import one_group
from dsa110_assets_tests.tiny import SUBBANDS

SECRET = "s3cret-of-the-database"
TOKEN = "t0ken-of-the-webhook-and-the-door"
MAIN = "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", MAIN, *arguments], env=environment, capture_output=True, timeout=300)


def places(root: Path, words: tuple[bytes, ...]) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and any(word in path.read_bytes() for word in words)]


@pytest.mark.postgres
def test_no_secret_is_written_anywhere(inbox: Path, tmp_path: Path, postgres_database: str) -> None:
    """Process, list the settings, and fail because of a missing database; then search every byte that was written."""
    one_group(inbox)
    url = postgres_database.replace("dsa110@", f"dsa110:{SECRET}@").replace("+psycopg2", "")
    assert SECRET in url
    environment = {
        **os.environ, "DSA110_INBOX": str(inbox), "DSA110_ARCHIVE": str(tmp_path / "archive"), "DAGSTER_HOME": str(tmp_path / "home"),
        "DSA110_DATABASE_URL": url, "DSA110_TOKEN": TOKEN, "DSA110_HEARTBEAT_URL": f"http://127.0.0.1:9/{TOKEN}",
        "DSA110_ALERT_CHANNELS": json.dumps({"one": {"url": f"http://127.0.0.1:9/{TOKEN}"}, "other": {"url": f"json://x:{TOKEN}@127.0.0.1:9"}}),
        "DSA110_SUBBANDS": str(SUBBANDS), "DSA110_MIN_SUBBANDS": str(SUBBANDS - 1), "XDG_STATE_HOME": str(tmp_path / "state"),
    }  # fmt: skip
    commands = (("process", "--through", "subband_group", "--json"), ("settings",), ("doctor",), ("alerts", "test"))
    answers = [run(environment, *command) for command in commands]
    assert answers[0].returncode == 0, answers[0].stderr
    broken = {**environment, "DSA110_DATABASE_URL": url.rpartition("/")[0] + "/nowhere"}
    answers.append(run(broken, "products"))
    assert answers[-1].returncode != 0
    words = (SECRET.encode(), TOKEN.encode())
    assert not any(word in answer.stdout + answer.stderr for answer in answers for word in words)
    assert places(tmp_path / "archive", words) == []
    assert places(tmp_path / "home", words) == []
    assert places(tmp_path / "state", words) == []
    (tmp_path / "archive" / "canary").write_text(SECRET)
    assert places(tmp_path / "archive", words) != [], "the search is blind"
