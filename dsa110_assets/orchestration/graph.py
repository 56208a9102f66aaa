"""The assets without the sensors that drive them: all that a run in this process or a backfill needs.

Every module of `assets` is imported here: an asset is part of the graph because its module is in that package.
"""

from importlib import import_module
from pkgutil import iter_modules

import dagster as dg

from dsa110_assets.orchestration import assets
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.specification import dagster_assets, spec

for _module in iter_modules(assets.__path__, f"{assets.__name__}."):
    import_module(_module.name)
ASSETS = tuple(dagster_assets.definition(asset, body) for asset, body in spec.complete())
PHASES = spec.phases()


def specifications() -> dict[str, spec.Asset]:
    """Every asset's specification by name, each after those it is made from. Importing this module makes sure they are complete."""
    return spec.assets()


def over(platform: Platform) -> dg.Definitions:
    """The assets' definitions for a given platform, with its settings."""
    return dg.Definitions(assets=ASSETS, resources={"platform": platform}, executor=dg.in_process_executor)
