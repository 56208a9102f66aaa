"""The interface to CASA: offline, in a child process, with its errors raised as ours."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import dsa110_assets
from dsa110_assets import children
from dsa110_assets.engines import casa
from dsa110_assets.errors import BadDataError, ConfigurationError, TransientError

PACKAGE = Path(dsa110_assets.__file__).parent


def test_measures_are_found_without_importing_casacore(tmp_path):
    """The packaged measures data are found without importing casacore (with both, the child would crash)."""
    directory = casa.data_directory()
    assert (directory / "geodetic" / "Observatories").is_dir()
    code = (
        "import sys; from dsa110_assets.engines import casa; casa.data_directory(); "
        "print([m for m in ('casacore', 'casatools', 'casatasks') if m in sys.modules])"
    )
    done = children.run([sys.executable, "-c", code], deadline_s=60, log_path=tmp_path / "log")
    assert done.require_success().tail == "[]"


def test_site_config_is_python_and_offline(tmp_path):
    settings: dict[str, object] = {}
    tree = ast.parse(casa.write_site_config(tmp_path).read_text())
    for node in tree.body:
        assert isinstance(node, ast.Assign)
        settings[node.targets[0].id] = ast.literal_eval(node.value)
    assert settings["measures_auto_update"] is False
    assert settings["data_auto_update"] is False
    assert settings["measurespath"] == str(casa.data_directory())
    assert settings["datapath"] == [str(casa.data_directory())]


def test_casa_is_imported_by_the_child_only():
    """Trap 37: only casa_child imports casatools or casatasks; no other module does, at any depth of its code."""
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("casatools", "casatasks", "casampi") for name in names):
                importers.add(path.relative_to(PACKAGE).as_posix())
    assert importers == {"engines/casa_child.py"}


@pytest.mark.casa
def test_a_task_returns_its_result(tmp_path):
    """The string from version_string comes back wrapped; nothing is left in the working directory."""
    answer = casa.run_task("version_string", {}, work_dir=tmp_path, deadline_s=120)
    assert answer["returned"].startswith("6.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.casa
def test_errors_of_tasks_become_our_error_classes(tmp_path):
    """A task that raises gives BadDataError with CASA's message; an unknown task gives ConfigurationError."""
    with pytest.raises(BadDataError, match=r"listobs(.|\n)*no-such\.ms"):
        casa.run_task("listobs", {"vis": "no-such.ms"}, work_dir=tmp_path, deadline_s=120)
    with pytest.raises(ConfigurationError, match="bandpas"):
        casa.run_task("bandpas", {}, work_dir=tmp_path, deadline_s=120)
    with pytest.raises(TransientError, match="deadline"):
        casa.run_task("version_string", {}, work_dir=tmp_path, deadline_s=0.2)
