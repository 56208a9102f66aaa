"""The orchestration tests run without this machine's own settings."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_settings(no_settings_of_this_machine: None) -> None:
    return
