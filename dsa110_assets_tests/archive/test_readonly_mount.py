"""An archive on a read-only mount, which root cannot write either: all reading works, and nothing ends in a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.portal import small_archive

TILE, TABLES, NIGHT = "tile_image-20260125T2205-v1", "caltables-20260125-v1", "2026-01-25"
READING = (
    ["status"], ["status", "--json"], ["products"], ["products", "--json"], ["groups"], ["settings"], ["transits", "--date", NIGHT],
    ["calibration", "list"], ["calibration", "show", TABLES], ["calibration", "active", "--at", "2026-01-25T22:25"],
    ["lightcurve", small_archive.FAINT], ["lightcurve", small_archive.FAINT, "--out", "{out}/curve.ecsv"], ["lineage", TILE],
    ["archive", "verify"], ["archive", "retain", "--dry-run"], ["process", "--dry-run"], ["backfill", "--nights", NIGHT, "--dry-run"],
)  # fmt: skip
WRITING = (["archive", "pin", TILE, "--reason", "x"], ["process"], ["calibration", "reject", TABLES, "--reason", "x"], ["doctor", "--json"])
PAGES = (
    "/", "/metrics", "/health", "/api/v1/status", "/api/v1/products", "/api/v1/docs", "/observations", "/nights",
    f"/nights/{NIGHT}", "/calibration", "/sources", "/candidates",
)  # fmt: skip
INSIDE = """
import contextlib, io, json, os, subprocess, sys
subprocess.run(["mount", "--bind", place := sys.argv[1], place], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
try:
    open(os.path.join(place, "archive", "probe"), "w")
    sys.exit("the mount can be written")
except OSError as error:
    assert error.errno == 30, error
from dsa110_assets.cli import main
results = []
for command in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(command)
    results.append([status, out.getvalue(), err.getvalue()])
import dsa110_assets as dsa
archive = dsa.open_archive()
image = archive.image("2026-01-25T22:05")
analyst = [len(archive.products()), image.data.size, len(archive.sources()), len(archive.variables(0.5)),
    archive.lineage(image).product.id, len(archive.light_curve(sys.argv[3])),
    all(path.is_dir() for path in archive.caltables(at="2026-01-25T22:25").paths)]
from pathlib import Path
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal.conftest import ask
app = create_app(archive.root, inbox=Path(os.environ["DSA110_INBOX"]))
pages = {page: ask(app, page).status for page in json.loads(sys.argv[4])}
print(json.dumps({"results": results, "analyst": analyst, "pages": pages}))
"""


def can_mount() -> bool:
    """Whether a user namespace with separate mounts is available."""
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.row(47)
@pytest.mark.skipif(not can_mount(), reason="no user namespaces here; test_readonly.py has a reader without permission")
def test_everything_that_reads_works_on_a_read_only_mount(tmp_path: Path) -> None:
    place, out = tmp_path / "site", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    made = small_archive.build(place)
    before = tree(place)
    commands = [[word.format(out=out) for word in command] for command in (*READING, *WRITING)]
    words = [sys.executable, "-W", "ignore", "-c", INSIDE, str(place), json.dumps(commands), small_archive.FAINT, json.dumps(PAGES)]
    environment = {**os.environ, **made.environment, "XDG_STATE_HOME": str(out)}
    done = subprocess.run(["unshare", "-rm", *words], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    results = dict(zip(map(tuple, (*READING, *WRITING)), answer["results"], strict=True))
    refused = {command: results[tuple(command)][2] for command in map(tuple, READING) if results[command][0] != 0}
    assert refused == {}
    assert (out / "curve.ecsv").stat().st_size > 0
    for command in WRITING[:-1]:
        status, _, error = results[tuple(command)]
        assert status == 1
        assert "Read-only file system" in error or "cannot be written" in error
    status, found, _ = results[tuple(WRITING[-1])]
    findings = {one["check"]: one for one in json.loads(found)}
    assert status == 1
    assert findings["archive"]["found"].endswith("cannot be written: Read-only file system")
    assert findings["inbox"]["ok"]
    assert answer["analyst"][4] == TILE
    assert answer["analyst"][-1] is True
    assert answer["pages"] == dict.fromkeys(PAGES, 200)
    assert tree(place) == before
    record_figure(47, "commands that read on a read-only mount", len(READING))
    record_figure(47, "of them refused", len(refused))
    record_figure(47, "files written", 0)


def tree(place: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in place.rglob("*")}
