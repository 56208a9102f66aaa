"""`process`: makes everything, twice nothing more, and a fault in one place stays there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa110_assets.archive import caltable_registry
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration import process as processing
from dsa110_assets.orchestration import recipes
from dsa110_assets.settings import Settings

OBSERVATIONS = ["2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30"]
CATALOGUES = {"source_catalog", "calibrator_catalog", "sky_model"}


def made(report: processing.ProcessReport) -> set[str]:
    return {one.asset for one in report.made}


def contents(archive: Archive) -> dict[tuple[str, str | None], tuple[int, tuple[str, ...]]]:
    """What is current: version and inputs of every asset's partition."""
    return {(p.asset, p.partition): (p.version, p.inputs) for p in archive.products()}


@pytest.fixture
def processed(settings: Settings) -> Settings:
    report = processing.process(settings)
    assert report.failed == ()
    assert report.waiting == ()
    assert made(report) == set(recipes.RECIPES)
    return settings


def test_everything_is_made_once_and_a_second_run_makes_nothing(processed: Settings) -> None:
    archive = Archive(processed.archive)
    before = contents(archive)
    assert {partition for asset, partition in before if asset == "tile_image"} == set(OBSERVATIONS)
    again = processing.process(processed)
    assert again.ok
    assert again.made == ()
    assert again.up_to_date == len(before)
    assert contents(archive) == before
