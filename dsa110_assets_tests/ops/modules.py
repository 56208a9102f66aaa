"""Import modules of ops/, which is not a package path."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from dsa110_assets_tests.docs import pages

OPS = pages.ROOT / "ops"


def module(name: str) -> ModuleType:
    """The module ops/NAME.py, which may import only the standard library and installed packages."""
    spec = importlib.util.spec_from_file_location(name, OPS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
