"""Imports what the steps of the graph import, so that a run forked from this process has it already: see code_server.

Importing this opens nothing, and the only threads it starts are pools of libraries that support forking
(OpenBLAS, jemalloc). CASA is not imported, as everywhere else.
"""

import pkgutil
from functools import partial
from importlib import import_module

import dsa110_assets.definitions  # noqa: F401
from dsa110_assets import (
    archive,
    calibration,
    imaging,
    logs,
    mosaics,
    photometry,
    settings,
    sky,
    telescope,
    tracing,
    variability,
    visibilities,
)
from dsa110_assets.orchestration.running import internals

LIBRARIES = ("casacore.tables", "ducc0", "reproject", "mocpy", "matplotlib", "pyarrow.parquet", "PIL.Image")
"""Libraries that the science code imports inside its functions."""

for _package in (telescope, sky, visibilities, calibration, imaging, mosaics, photometry, variability, archive):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        import_module(_module.name)
for _library in LIBRARIES:
    import_module(_library)
logs.configure(settings.log_form())
internals.write_run_lines(partial(logs.run_logger, settings.log_form()))
if tracing.is_on():
    tracing.load()
