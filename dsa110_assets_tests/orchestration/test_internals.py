"""What is used of Dagster beyond its public names stands in one module, and is where that module says."""

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
    """(module, name) of what a file imports from Dagster's private modules."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dagster._"):
            found += [(str(node.module), one.name) for one in node.names]
        elif isinstance(node, ast.Import):
            found += [(one.name, "") for one in node.names if one.name.startswith("dagster._")]
    return found


def test_no_other_module_imports_what_is_private() -> None:
    modules = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "ops").rglob("*.py")]
    assert {path for path in modules if private(path)} == {MODULE}


def test_each_is_where_it_was_and_is_used_for_the_reason_told() -> None:
    here = private(MODULE)
    for module, name in here:
        assert hasattr(import_module(module), name) or find_spec(f"{module}.{name}"), f"Dagster has moved {name} out of {module}"
    inside = {"cli", "daemon_controller_from_instance", "instigation_logger"}
    assert {name for _, name in here} - inside | {"run_daemon", "write_run_lines"} == set(internals.REASONS)
    elsewhere = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path != MODULE)
    assert [name for name in internals.REASONS if name not in elsewhere] == []
