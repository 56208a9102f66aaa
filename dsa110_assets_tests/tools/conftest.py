"""A transit of 3C454.3 seen by twelve antennas without noise, as a raw set, with its sky."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.tools.calibrate import Solved, calibrate
from dsa110_assets.tools.convert import GroupSelection, convert
from dsa110_assets_tests.tiny import SUBBANDS, simulate_tiny

CALIBRATOR = "3C454.3"
FAST = SolveOptions(field_rounds=2)


@dataclass(frozen=True)
class Transit:
    """The raw set `ms`, the simulator's `catalogue`, and tables solved with them."""

    inbox: Path
    ms: Path
    catalogue: Path
    solved: Solved


@pytest.fixture(scope="package")
def transit(tmp_path_factory: pytest.TempPathFactory) -> Transit:
    place = tmp_path_factory.mktemp("tools")
    inbox = place / "inbox"
    simulate_tiny(inbox, start="2026-01-25T22:25:00", groups=1, antennas=12, noise_scale=0.0, dead_receptors=1, variables=False)
    (made,) = convert(inbox, place / "sets", GroupSelection(calibrator=CALIBRATOR), n_subbands=SUBBANDS, min_subbands=SUBBANDS)
    catalogue = inbox / "catalogue.csv"
    solved = calibrate(made.path, place / "tables", CALIBRATOR, FAST, catalogue_files=[catalogue])
    return Transit(inbox, made.path, catalogue, solved)
