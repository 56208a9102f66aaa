"""The only interface to CASA: its tasks run in a child process, offline, with a deadline.

casatools and python-casacore crash each other inside one process, so CASA is never imported here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsa110_assets import children
from dsa110_assets.errors import BadDataError, ConfigurationError

DEADLINE_S = 1800.0


def data_directory() -> Path:
    """python-casacore's packaged measures data, found without importing casacore.

    Raises ConfigurationError if python-casacore is not installed or carries no data.
    """
    spec = importlib.util.find_spec("casacore")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        directory = Path(location) / "data"
        if (directory / "geodetic").is_dir():
            return directory
    raise ConfigurationError("casacore/data/geodetic is missing; reinstall python-casacore, which brings it")


def write_site_config(work_dir: Path) -> Path:
    """Write `casasiteconfig.py` into `work_dir`: offline measures data, no updates, no logger window."""
    data = str(data_directory())
    settings: dict[str, object] = {
        "measurespath": data,
        "datapath": [data],
        "measures_auto_update": False,
        "data_auto_update": False,
        "nologger": True,
        "nogui": True,
        "log2term": True,
        "logfile": str(work_dir / "casa-tasks.log"),
        "telemetry_enabled": False,
        "crashreporter_enabled": False,
        "cachedir": str(work_dir / "cache"),
    }
    path = work_dir / "casasiteconfig.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return path


def run_task(task: str, parameters: Mapping[str, Any], *, work_dir: Path, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Run one casatasks task with JSON parameters in a child process and return its result.

    For a task that returns no dictionary the result is {"returned": value}. Relative paths in `parameters` are relative
    to `work_dir`, where the child also keeps its scratch directory, which is removed afterwards.

    Raises BadDataError if the task raised or returned False (the message ends with CASA's log),
    ConfigurationError for an unknown task, and what `children.run` raises on overrun and crashes.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".casa-{task}-", dir=work_dir) as scratch_name:
        scratch = Path(scratch_name).resolve()
        request, answer = scratch / "request.json", scratch / "answer.json"
        request.write_text(json.dumps({"task": task, "parameters": dict(parameters)}))
        environment = {
            **os.environ,
            "CASASITECONFIG": str(write_site_config(scratch)),
            "HOME": str(scratch),  # keeps the user's ~/.casa out of the result
        }
        done = children.run(
            [sys.executable, "-m", "dsa110_assets.engines.casa_child", request, answer],
            deadline_s=deadline_s,
            cwd=work_dir,
            env=environment,
            log_path=scratch / "casa.log",
        )
        if not answer.exists():
            done.require_success()
            raise BadDataError(f"CASA {task} left no answer; its log ends:\n{done.tail}")
        result: dict[str, Any] = json.loads(answer.read_text())
        tail = done.tail
    if result["error"] is None:
        return dict(result["value"])
    if result["error_kind"] == "unknown task":
        raise ConfigurationError(f"casatasks has no task {task!r}")
    raise BadDataError(f"CASA {task} failed: {result['error']}\n{tail}")
