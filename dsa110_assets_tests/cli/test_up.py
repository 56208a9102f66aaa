"""`dsa110 up`: everything starts, answers on loopback, and one signal ends all processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from dsa110_assets.children import descendants
from dsa110_assets.cli.services import free_port
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.portal.small_archive import SmallArchive

MAIN = "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"
START_S, STOP_S = 240.0, 60.0  # generous, because the machine may be busy; nothing here waits all that time
LOCATIONS = "{workspaceOrError{... on Workspace{locationEntries{name locationOrLoadError{__typename}}}}}"

STUBBORN = """
import os, signal, subprocess, sys, time
if sys.argv[1:] == ["grandchild"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(600)
subprocess.Popen([sys.executable, __file__, "grandchild"], start_new_session=True)
time.sleep(600)
"""
SUPERVISOR = """
import sys
from pathlib import Path
from dsa110_assets.cli import services
services.STOP_DEADLINE_S = 1.0
one = services.Service("one", (sys.executable, sys.argv[1]), Path(sys.argv[2]))
services.run([one], lambda text: None, lambda: print("ready", flush=True), lambda log: None)
print("all stopped", flush=True)
"""


def read_until(process: subprocess.Popen[bytes], word: str, within_s: float) -> str:
    """The output of the process up to a line with `word`. Raises AssertionError if it ends or takes too long."""
    assert process.stdout is not None
    text, deadline = "", time.monotonic() + within_s
    while word not in text:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {word!r} in {within_s:.0f} s: {text}"
        part = os.read(process.stdout.fileno(), 65536).decode()  # reads what is available, without a buffer that select cannot see
        assert part, f"ended before {word!r}: {text}"
        text += part
    return text


def gone(pids: set[int]) -> bool:
    """Whether none of these processes exists. A zombie that only awaits its reaper does not count."""
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
        except OSError:
            continue
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_starts_all_services_and_one_signal_ends_them(own: SmallArchive, number: signal.Signals) -> None:
    port, pages = free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DSA110_", "DAGSTER"))}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "up", "--port", str(port), "--portal-port", str(pages)],
        env={**environment, **own.environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        text = read_until(process, "Ctrl-C", START_S)
        assert f"http://127.0.0.1:{port}" in text
        assert f"http://127.0.0.1:{pages}" in text
        with urllib.request.urlopen(f"http://127.0.0.1:{pages}/api/v1/status", timeout=60) as answer:
            assert json.load(answer)["products"]["tile_image"] == 4
        query = json.dumps({"query": LOCATIONS}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", query, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
        assert entries == [{"name": "dsa110_assets", "locationOrLoadError": {"__typename": "RepositoryLocation"}}]
        assert (own.root / "dagster" / "dagster.yaml").is_file()
        family = descendants(process.pid)
        assert len(family) >= 4
        listening = subprocess.run(["/bin/cat", "/proc/net/tcp"], capture_output=True, text=True, timeout=60)
        assert f"00000000:{port:04X}" not in listening.stdout  # only loopback, never all addresses
        process.send_signal(number)
        read_until(process, "all stopped", STOP_S)
        assert process.wait(STOP_S) == 0
        assert gone(family)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_services_end_when_up_is_killed_outright(tmp_path: Path) -> None:
    """SIGKILL cannot be caught, but the kernel tells the children."""
    child = tmp_path / "child.py"
    child.write_text("import time; time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(child), str(tmp_path / "log")], stdout=subprocess.PIPE)
    try:
        read_until(process, "ready", STOP_S)
        family = descendants(process.pid)
        assert len(family) == 1
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + STOP_S
    while not gone(family) and time.monotonic() < deadline:
        os.sched_yield()
    assert gone(family)


def test_a_grandchild_that_ignores_signals_is_ended(tmp_path: Path) -> None:
    child = tmp_path / "stubborn.py"
    child.write_text(STUBBORN)
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(child), str(log)], stdout=subprocess.PIPE)
    try:
        read_until(process, "ready", STOP_S)
        deadline = time.monotonic() + STOP_S
        while "ready" not in (log.read_text() if log.exists() else "") and time.monotonic() < deadline:
            os.sched_yield()
        family = descendants(process.pid)
        assert len(family) == 2
        process.send_signal(signal.SIGTERM)
        read_until(process, "all stopped", STOP_S)
        assert process.wait(STOP_S) == 0
        assert gone(family)
    finally:
        process.kill()
        process.communicate()


def test_a_service_that_dies_ends_the_others_and_is_named(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from dsa110_assets.cli import services
from dsa110_assets.errors import ResourceError
stays = services.Service("stays", (sys.executable, "-c", "import time; time.sleep(600)"), Path(sys.argv[1]))
fails = "print('no such thing'); raise SystemExit(3)"
dies = services.Service("dies", (sys.executable, "-c", fails), Path(sys.argv[2]))
try:
    services.run([stays, dies], lambda text: None, lambda: None, lambda log: None)
except ResourceError as error:
    print(error, len(services.descendants(os.getpid())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")], capture_output=True,
        text=True, timeout=STOP_S,
    )  # fmt: skip
    assert done.stdout.strip().endswith("ends: no such thing 0")
    assert "dies ended with status 3" in done.stdout


def test_a_port_in_use_is_reported_in_one_sentence(bare: Run, own: SmallArchive) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = bare("up", "--port", taken.getsockname()[1], on=own)
    assert done.status == 1
    assert "DSA110_PORT" in done.err
    assert done.err.count("\n") == 1


def test_a_missing_inbox_is_reported_in_one_sentence(bare: Run, tmp_path: Path) -> None:
    done = bare("up", DSA110_INBOX=tmp_path / "nowhere", DSA110_ARCHIVE=tmp_path / "archive")
    assert (done.status, "DSA110_INBOX" in done.err) == (1, True)
    assert not (tmp_path / "archive").exists()
