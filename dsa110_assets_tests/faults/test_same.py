"""Row 23: the same files processed at once, one group at a time, and again give the same products to the last bit.

This holds with one thread per image: several threads add in the order in which they are scheduled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running.process import ProcessReport, process
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.same import difference, greatest_difference
from dsa110_assets_tests.tiny import regular_assets, tiny_settings


def test_the_comparison_sees_differences() -> None:
    image = np.array([1.0, 2.0, np.nan], np.float32)
    assert difference(image, image.copy()) == 0
    assert difference(image + np.array([0, 1e-3, 0], np.float32), image) == pytest.approx(5e-4, rel=1e-3)
    assert difference(["a", 2, [1.0]], ["a", 2, [1.1]]) == pytest.approx(1 / 11)
    for other in (image[:2], np.nan_to_num(image), image.astype(float), None, [1.0]):
        assert difference(image, other) == float("inf")
    assert difference(["a", 2], ["a", 3]) == difference(b"a", b"b") == difference([1], []) == float("inf")


@pytest.mark.slow
@pytest.mark.row(23)
def test_incremental_processing_gives_the_same_as_a_batch(
    finished_run: tuple[Settings, ProcessReport], tiny_run: Path, tmp_path: Path
) -> None:
    """The last group arrives first and the calibrator's transit last: images wait for it, and mosaics are made again each time."""
    groups = json.loads((tiny_run / "truth.json").read_text())["groups"]
    settings = tiny_settings(tmp_path / "inbox", tmp_path)
    settings.inbox.mkdir()
    for number in (2, 0, 1):
        for name in groups[number]["files"]:
            os.link(tiny_run / name, settings.inbox / name)
        report = process(settings)
        assert report.failed == ()
        assert (report.waiting == ()) == (number == 1)
    compare(settings, finished_run[0], "incremental")


@pytest.mark.slow
@pytest.mark.row(23)
def test_reprocessed_is_the_same_as_batch(finished_run: tuple[Settings, ProcessReport], processed: Settings) -> None:
    """Every observation is rejected and made again in the same archive, and then its dependents."""
    with Archive(processed.archive) as archive:
        for asset in ("subband_group", "measurement_set"):
            for product in archive.products(asset):
                archive.reject(product.id, "made again")
    report = process(processed)
    assert report.ok
    assert {made.asset for made in report.made} >= regular_assets() - {"source_catalog", "calibrator_catalog", "sky_model"}
    compare(processed, finished_run[0], "reprocessed")


def compare(ours: Settings, batch: Settings, how: str) -> None:
    """Compare all products of all assets with those of the batch run."""
    with Archive(ours.archive) as archive, Archive(batch.archive) as reference:
        assert {product.asset for product in archive.products()} == regular_assets()
        distance, where = greatest_difference(archive, reference)
    record_figure(23, f"max relative difference, {how}", distance)
    assert distance == 0, where
