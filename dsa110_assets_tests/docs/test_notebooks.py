"""Notebooks run from top to bottom, and their results are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from dsa110_assets.sky import catalogues
from dsa110_assets.telescope import astrometry
from dsa110_assets_tests.docs import pages

NOTEBOOKS = pages.DOCS / "notebooks"


def run(notebook: Path) -> dict[str, Any]:
    """The namespace after running all cells of a notebook."""
    names: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}:{cell['id']}", "exec"), names)
    return names


@pytest.mark.slow
def test_from_a_measurement_set_to_a_light_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four brightest sources that a tile detects have the simulator's fluxes at all epochs: to 4 errors plus 5 % for a quick look."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    made = run(NOTEBOOKS / "measurement-set-to-light-curve.ipynb")
    assert len(made["brightest"]) == 4
    true = catalogues.read_catalogue(made["catalogue"])
    for name in made["brightest"]:
        curve = made["rows"][made["rows"]["source_id"] == name]
        place = np.deg2rad(curve[["ra_deg", "dec_deg"]].to_numpy()[0])
        away = astrometry.separation_deg(*np.deg2rad(true[["ra_deg", "dec_deg"]].to_numpy().T), *place)
        flux = true["flux_jy"][int(np.argmin(away))] * (curve["frequency_hz"].mean() / true["frequency_hz"][0]) ** -0.7
        assert np.all(np.abs(curve["flux_jy"] / flux - 1) < 0.05 + 4 * curve["flux_err_jy"] / flux), name


def test_notebooks_hold_no_output_and_are_found_from_a_page() -> None:
    page = (pages.DOCS / "by-hand.md").read_text(encoding="utf-8")
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert [cell["id"] for cell in cells if cell.get("outputs")] == []
        assert f"notebooks/{notebook.name}" in page
