"""Setup of Dagster's home for the commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings


def with_dagster_home(configured: Settings) -> Settings:
    """Return the settings with Dagster's home filled in, which is made on first use and set in this process's environment.

    Raises ConfigurationError if it cannot be written.
    """
    from dsa110_assets.orchestration.running.instance import prepare_home

    home = prepare_home(configured.home_path)
    os.environ["DAGSTER_HOME"] = str(home)  # for child processes, and for instances that Dagster opens itself
    return configured.model_copy(update={"dagster_home": home})
