"""Private names of Dagster are used in one module only, and exist where that module expects them."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import dsa110_assets
from dsa110_assets.orchestration.running import internals

PACKAGE = Path(dsa110_assets.__file__).parent
MODULE = Path(internals.__file__)


def private(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import of a file from Dagster's private modules."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dagster._"):
            found += [(str(node.module), one.name) for one in node.names]
        elif isinstance(node, ast.Import):
            found += [(one.name, "") for one in node.names if one.name.startswith("dagster._")]
    return found


def test_no_other_module_imports_private_names() -> None:
    modules = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "ops").rglob("*.py")]
    assert {path for path in modules if private(path)} == {MODULE}


def test_private_names_of_dagster_exist_and_are_used_as_documented() -> None:
    imported = private(MODULE)
    for module, name in imported:
        assert hasattr(import_module(module), name) or find_spec(f"{module}.{name}"), f"Dagster has moved {name} out of {module}"
    used_here = {"cli", "daemon_controller_from_instance", "instigation_logger"}
    assert {name for _, name in imported} - used_here | {"run_daemon", "write_run_lines"} == set(internals.REASONS)
    other_sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path != MODULE)
    assert [name for name in internals.REASONS if name not in other_sources] == []
