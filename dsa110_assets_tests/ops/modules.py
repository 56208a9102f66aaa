"""The modules of ops/, which is on no path of packages."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from dsa110_assets_tests.docs import pages

OPS = pages.ROOT / "ops"


def module(name: str) -> ModuleType:
    """ops/NAME.py, of the standard library and what is installed alone."""
    told = importlib.util.spec_from_file_location(name, OPS / f"{name}.py")
    assert told is not None
    assert told.loader is not None
    found = importlib.util.module_from_spec(told)
    told.loader.exec_module(found)
    return found
