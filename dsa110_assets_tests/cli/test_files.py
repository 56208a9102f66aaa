"""Commands on files, outside any archive: from subband files to a table of fluxes, and sentences where something is wrong."""

from __future__ import annotations

from pathlib import Path

from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.tiny import SUBBANDS


def test_convert(bare: Run, tiny_run: Path, tmp_path: Path) -> None:
    asked = "convert", tiny_run, tmp_path / "out", "--subbands", SUBBANDS, "--min-subbands", SUBBANDS
    found = bare(*asked, "--calibrator", "3C454.3", "--find-only", "--json")
    assert (found.status, [(one["observation"], one["state"]) for one in found.json]) == (0, [("2026-01-25T22:25", "wanted")])
    assert not (tmp_path / "out").exists()
    around = "--calibrator", "3C454.3", "--around", 10, "--dry-run"
    assert bare(*asked, *around).out.count("wanted") == 3
    wrong = bare(*asked, "--calibrator", "3C4543")
    assert (wrong.status, wrong.out) == (1, "")
    assert "3C454.3" in wrong.err
    assert bare("convert", tmp_path).status == 2
    assert bare(*asked, "--reader", "hdf5").status == 2
    unknown = bare(*asked, "--set", "threshold=5")
    assert unknown.status == 2
    assert "threshold_sigma" in unknown.err
    refused = bare(*asked, "--set", "threshold_sigma=1")
    assert (refused.status, refused.err.startswith("dsa110: --threshold-sigma '1'")) == (1, True)
