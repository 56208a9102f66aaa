"""Dagster's home as the commands use it: DAGSTER_HOME, or `dagster` in the archive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings


def home_of(configured: Settings) -> Path:
    """Where Dagster's home is, or will be made."""
    return configured.dagster_home or configured.archive / "dagster"


def with_dagster_home(configured: Settings) -> Settings:
    """The settings with Dagster's home filled in, made on first use and named in this process's environment.

    Raises ConfigurationError when it cannot be written.
    """
    from dsa110_assets.orchestration.running.instance import prepare_home

    home = prepare_home(home_of(configured))
    os.environ["DAGSTER_HOME"] = str(home)  # for the children, and for what Dagster opens by itself
    return configured.model_copy(update={"dagster_home": home})
