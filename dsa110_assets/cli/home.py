"""Dagster's home as the commands use it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings


def with_dagster_home(configured: Settings) -> Settings:
    """The settings with Dagster's home filled in, made on first use and named in this process's environment.

    Raises ConfigurationError when it cannot be written.
    """
    from dsa110_assets.orchestration.instance import prepare_home

    home = prepare_home(configured.home_path)
    os.environ["DAGSTER_HOME"] = str(home)  # for the children, and for what Dagster opens by itself
    return configured.model_copy(update={"dagster_home": home})
