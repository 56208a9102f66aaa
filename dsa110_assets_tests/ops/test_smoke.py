"""The simulated observation with which `ops/deploy` tests a version before switching: accepted unchanged, refused if fluxes are wrong."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from dsa110_assets_tests.ops.modules import module

pytestmark = pytest.mark.slow
Made = tuple[ModuleType, Path, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The module ops/smoke.py, the truth of its observation, and the archive that this version makes from it."""
    smoke = module("smoke")
    return smoke, *smoke.made(tmp_path_factory.mktemp("smoke"))


def test_the_smoke_test_recovers_the_simulated_fluxes(made: Made) -> None:
    smoke, truth, archive = made
    summary = re.fullmatch(r"(\d+) sources: fluxes (0\.9\d\d|1\.0\d\d) of the truth", smoke.compare(truth, archive))
    assert summary is not None
    assert int(summary[1]) >= 8, "so few that their median says little"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda rows: rows.assign(flux_jy=1.2 * rows["flux_jy"]), r"fluxes are 1\.[12]\d\d of what they were"),
        (lambda rows: rows.assign(flux_jy=0.8 * rows["flux_jy"]), r"fluxes are 0\.[78]\d\d of what they were"),
        (lambda rows: rows.assign(snr=rows["snr"] / 1e4), "0 of its sources are seen at 20 sigma"),
        (lambda rows: rows.assign(ra_deg=rows["ra_deg"] + 1), "of its sources are seen at 20 sigma|of what they were"),
    ],
    ids=["bright", "faint", "unseen", "elsewhere"],
)
def test_results_that_differ_from_the_truth_are_refused(
    made: Made, tmp_path: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame], why: str
) -> None:
    smoke, truth, archive = made
    shutil.copytree(archive, tmp_path / "archive", symlinks=True)
    (table,) = (tmp_path / "archive").glob("source_measurements/*/*/v0001/source_measurements.parquet")
    rows = spoil(pd.read_parquet(table))
    table.chmod(0o644)
    rows.to_parquet(table)
    with pytest.raises(AssertionError, match=why):
        smoke.compare(truth, tmp_path / "archive")


def test_a_version_that_does_not_run_fails_the_smoke_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = module("smoke")
    monkeypatch.setitem(smoke.SIMULATION, "groups", "many")
    with pytest.raises(AssertionError, match="dsa110 simulate ended with status 2"):
        smoke.made(tmp_path)


def test_the_reason_is_the_first_step_that_failed_and_not_the_progress() -> None:
    smoke = module("smoke")
    assert smoke.reason("check failed: a\nfailed: b: c\nfailed: d\n3 products made", "night_report: 1 of 1") == "failed: b: c"
    assert smoke.reason("", "looking\nDSA110_INBOX is not there\n") == "DSA110_INBOX is not there"
    assert smoke.reason("", "") == "it says nothing"
