"""Processes that are killed while they publish. To be quick, one parent imports the code and a fork of it dies each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsa110_assets.archive.product import Product
from dsa110_assets.settings import Settings

_PUBLISHER = """
import json, os, shutil, sys
from pathlib import Path
from dsa110_assets.archive.store import Archive

for line in sys.stdin:
    task = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ["DSA110_CRASH_AT"] = task["crash_at"]
        archive = Archive(Path(task["root"]), task["url"])
        made = {"settings": {}, "code_version": "1", "run_id": "killed"}
        with archive.publish(task["asset"], task["partition"], task["inputs"], **made) as draft:
            shutil.copytree(task["files"], draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("product.json"))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Publishers:
    """Publishes copies of products in separate processes, which are killed at a requested point."""

    def __init__(self, root: Path, url: str | None, child: subprocess.Popen[str]) -> None:
        self._place, self._child = {"root": str(root), "url": url}, child

    def publish(self, product: Product, inputs: list[str], crash_at: str = "nowhere") -> int:
        """Publish the files of `product` again as made from `inputs`. Return the exit status, -9 if SIGKILL ended the process."""
        request = {"asset": product.asset, "partition": product.partition, "inputs": inputs, "files": str(product.path)}
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps({**self._place, **request, "crash_at": crash_at}) + "\n")
        self._child.stdin.flush()
        return int(self._child.stdout.readline())


@contextmanager
def publishers(root: Path, url: str | None) -> Iterator[Publishers]:
    """A parent process of publishers into the archive at `root`; it is killed at the end of the block."""
    command = [sys.executable, "-c", _PUBLISHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            yield Publishers(root, url, child)
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def environment(settings: Settings, **more: Any) -> dict[str, str]:
    """The environment in which a `dsa110` command finds these settings of the tiny telescope."""
    imaging = {f"DSA110_IMAGING__{name.upper()}": getattr(settings.imaging, name) for name in (
        "field_deg", "pixels_per_beam", "max_major_cycles", "clean_iterations", "threads",
    )}  # fmt: skip
    given = {
        "DSA110_INBOX": settings.inbox, "DSA110_ARCHIVE": settings.archive, "DAGSTER_HOME": settings.dagster_home,
        "DSA110_THRESHOLDS": settings.thresholds_path,
        "DSA110_SUBBANDS": settings.subbands, "DSA110_MIN_SUBBANDS": settings.min_subbands, **imaging, **more,
    }  # fmt: skip
    if settings.database_url:
        given["DSA110_DATABASE_URL"] = settings.database_url
    return {**os.environ, **{name: str(value) for name, value in given.items()}}


def dsa110(settings: Settings, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `dsa110` in a separate process."""
    command = [sys.executable, "-W", "ignore", "-c", "from dsa110_assets.cli import main; raise SystemExit(main())", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, env=environment(settings, **more), cwd=root, capture_output=True, text=True, timeout=600)
