"""Row 22: a wrong calibration table fails a HARD check, and no product is made with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dsa110_assets.archive import caltable_registry, lineage
from dsa110_assets.archive.store import Archive
from dsa110_assets.calibration import solve
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.orchestration.assets import calibration
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings
from dsa110_assets_tests.faults.figures import record_figure

Spoil = Callable[[Gains], Gains]


def swapped(gains: Gains) -> Gains:
    """Swap the gains of two working antennas."""
    first, second = np.flatnonzero(~gains.dead_receptors.any(axis=1))[[1, 4]]
    order = np.arange(len(gains.antenna_names))
    order[[first, second]] = second, first
    return replace(gains, values=gains.values[:, order])


def zero(gains: Gains) -> Gains:
    """Set the gains of one antenna to zero without flagging them."""
    values = gains.values.copy()
    values[:, np.flatnonzero(~gains.dead_receptors.any(axis=1))[2]] = 0
    return replace(gains, values=values)


def all_zero(gains: Gains) -> Gains:
    return replace(gains, values=np.zeros_like(gains.values))


@pytest.mark.row(22)
@pytest.mark.parametrize("spoil", [swapped, zero, all_zero])
def test_tables_of_a_faulty_solver_are_held(processed: Settings, monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    """The tables are spoiled between solving and judging, so that only a comparison with the data can reveal it."""

    def engine(used: Any, model: Any, options: Any, field_name: str) -> solve.Solution:
        solution = solve.solve(used, model, options, field_name=field_name)
        return replace(solution, bandpass=spoil(solution.bandpass))

    monkeypatch.setattr(calibration, "_other_engine", lambda settings, directory: engine)
    with Archive(processed.archive) as archive:
        good = archive.products("caltables")[0]
        archive.reject(good.id, "to be solved again")
        before = {p.id for p in archive.products(state=None)}
        report = process(processed, through="tile_image")
        assert not report.ok
        assert [(one.asset, one.error_class) for one in report.failed] == [("caltables", "Held")]
        assert "usable" in report.failed[0].reason
        new = [p for p in archive.products(state=None) if p.id not in before]
        escaped = [p.id for p in new if p.asset != "caltables"]
        assert caltable_registry.sets(archive, "active") == []
        record_figure(22, "bad tables injected", 1)
        record_figure(22, "escape rate", len(escaped))
        assert escaped == []
        assert {p.asset for p in new} == {"caltables"}


@pytest.mark.row(22)
def test_a_table_of_another_strip_is_never_chosen(processed: Settings) -> None:
    """A second set for the night is registered whose strip is 4 degrees away, nearer in time than any other set."""
    with Archive(processed.archive) as archive:
        (good,) = caltable_registry.sets(archive, "active")
        observed = archive.products("measurement_set")[0]
        middle = (float(observed.metadata["mjd_start"]) + float(observed.metadata["mjd_end"])) / 2
        made = {"settings": {}, "code_version": "1", "run_id": "wrong strip"}
        with archive.publish("caltables", "2026-01-24", [observed.id], **made) as draft:
            for path in good.paths:
                (draft.path / path.name).mkdir()
                (draft.path / path.name / "table.dat").write_bytes((path / "table.dat").read_bytes())
            caltable_registry.register(
                draft, "other-strip", [path.name for path in good.paths], mid_mjd=middle, valid_start_mjd=middle - 1,
                valid_end_mjd=middle + 1, dec_deg=good.dec_deg + 4.0, antennas=good.antennas, calibrator="other", anchor=good.anchor,
            )  # fmt: skip
        assert process(processed, through="tile_image").made == ()  # its presence changes nothing
        caltable_registry.reject(archive, good.set_id, "so that only the wrong one is left")
        report = process(processed, through="tile_image")
        assert {one.what.split()[0] for one in report.waiting} == {"calibrated_ms"}
        escaped = [one.product_id for one in report.made]
        made_with_it = lineage.dependents(archive, draft.product)
        record_figure(22, "bad tables injected", 1)
        record_figure(22, "escape rate", len(escaped) + len(made_with_it))
        assert (escaped, made_with_it) == ([], [])
