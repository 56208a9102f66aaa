"""Commands on files outside any archive: from subband files to a table of fluxes, and one-sentence errors."""

from __future__ import annotations

from pathlib import Path

from dsa110_assets.visibilities import measurement_set
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.imaging.synthetic import observe
from dsa110_assets_tests.tiny import SUBBANDS


def test_convert(bare: Run, tiny_run: Path, tmp_path: Path) -> None:
    command = "convert", tiny_run, tmp_path / "out", "--subbands", SUBBANDS, "--min-subbands", SUBBANDS
    found = bare(*command, "--calibrator", "3C454.3", "--find-only", "--json")
    assert (found.status, [(one["observation"], one["state"]) for one in found.json]) == (0, [("2026-01-25T22:25", "wanted")])
    assert not (tmp_path / "out").exists()
    around = "--calibrator", "3C454.3", "--around", 10, "--dry-run"
    assert bare(*command, *around).out.count("wanted") == 3
    wrong = bare(*command, "--calibrator", "3C4543")
    assert (wrong.status, wrong.out) == (1, "")
    assert "3C454.3" in wrong.err
    assert bare("convert", tmp_path).status == 2
    assert bare(*command, "--reader", "hdf5").status == 2
    unknown = bare(*command, "--set", "threshold=5")
    assert unknown.status == 2
    assert "threshold_sigma" in unknown.err
    refused = bare(*command, "--set", "threshold_sigma=1")
    assert (refused.status, refused.err.startswith("dsa110: --threshold-sigma '1'")) == (1, True)


def test_image(bare: Run, tmp_path: Path) -> None:
    ms = tmp_path / "a.ms"
    measurement_set.write(observe([(0.0, 0.0, 1.0)], n_antennas=12, n_times=2, n_subbands=2, noise_jy=0.1), ms, unit="Jy")
    command = "image", ms, "--out", tmp_path / "look", "--field", 1, "--quick", "--threads", 1
    assert "nothing was written" in bare(*command, "--dry-run").out
    made = bare(*command, "--json")
    assert made.status == 0, made.err
    assert abs(made.json["figures"]["image"]["peak_jy"] - 1) < 0.05
    again = bare(*command)
    assert (again.status, again.err.count("\n")) == (1, 1)
    assert "--force" in again.err
    assert bare(*command, "--force").status == 0
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("state")) == ["a.ms", "look"]
    for wrong in (("--subbands", "3..1"), ("--stokes", "V"), ("--phase-centre", "north"), ("--engine", "wsclean")):
        assert bare(*command, "--force", *wrong).status == 2
    refused = bare(*command, "--force", "--robust", "1", "--weighting", "brigs")
    assert (refused.status, refused.err.startswith("dsa110: --weighting 'brigs'")) == (1, True)


def test_from_a_set_to_fluxes(bare: Run, tmp_path: Path) -> None:
    """calibrate and apply refuse calibrated sets; photometry and mosaic accept the output of image."""
    ms, look = tmp_path / "a.ms", tmp_path / "look"
    measurement_set.write(observe([(0.0, 0.0, 1.0)], n_antennas=12, n_times=2, n_subbands=2, noise_jy=0.1), ms, unit="Jy")
    for command in (("calibrate", ms), ("apply", ms, tmp_path / "B.cal")):
        refused = bare(*command, "--out", tmp_path / "x")
        assert (refused.status, refused.err.count("\n"), "calibrated already" in refused.err) == (1, 1, True)
    assert bare("calibrate", ms, "--out", tmp_path / "x", "--field-model", "sky").status == 2
    assert bare("calibrate", ms, "--out", tmp_path / "x", "--refant", "first").err.startswith("dsa110: --refant")
    assert bare("image", ms, "--out", look, "--field", 1, "--quick", "--threads", 1).status == 0
    table = tmp_path / "fluxes.csv"
    found = bare("photometry", look, "--blind", "--out", table, "--json")
    assert found.status == 0, found.err
    assert abs(found.json[0]["flux_jy"] - 1) < 0.05
    assert table.is_file()
    assert bare("photometry", look, "--blind", "--adaptive", "--out", table).status == 2
    coadded = bare("mosaic", look, "--out", tmp_path / "mosaic", "--json")
    assert (coadded.status, coadded.json["tiles"]) == (0, [str(look)])
    again = bare("photometry", tmp_path / "mosaic", "--blind", "--out", tmp_path / "again.vot", "--json")
    assert abs(again.json[0]["flux_jy"] - 1) < 0.05
    lost = bare("mosaic", look, "--out", tmp_path / "m", "--centre", "10,-20")
    assert (lost.status, lost.err.count("\n")) == (1, 1)
