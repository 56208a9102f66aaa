"""A strip and time without a listed calibrator: the imported catalogue's own bright source calibrates it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import casacore.tables as ct
import numpy as np
import pandas as pd
import pytest

from dsa110_assets.archive import caltable_registry
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration import calibrators
from dsa110_assets.orchestration.process import ProcessReport, process
from dsa110_assets.portal import overview
from dsa110_assets.settings import Settings
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets_tests.tiny import OPTIONS, tiny_settings


@pytest.mark.slow
def test_a_catalogue_source_calibrates_where_the_list_has_none(tmp_path: Path) -> None:
    """71.6 deg at 6 h UTC: the simulator adds a calibrator of 8 Jy that only its catalogue.csv knows.

    Before, such observations waited for ever. Its flux comes out of an image calibrated on itself within 2 %:
    what the 20 % noise of this telescope leaves after two major cycles.
    """
    inbox = tmp_path / "inbox"
    sky = OPTIONS | {"start": "2026-01-25T06:20:00", "dec_deg": 71.6, "variables": False}
    truth = simulate(inbox, SimulationOptions(**sky))
    (made,) = [source for source in truth["sources"] if source.get("synthetic")]
    settings = tiny_settings(inbox, tmp_path, catalogues=(inbox / "catalogue.csv",))
    report = process(settings, through="tile_image")
    assert (report.failed, report.waiting) == ((), ())
    archive = Archive(settings.archive)
    (only,) = caltable_registry.sets(archive)
    assert (only.calibrator, only.anchor) == (made["name"], f"catalogue:{made['name']}")
    tiles = archive.products("tile_image")
    assert len(tiles) == OPTIONS["groups"]
    assert {tile.metadata["anchor"] for tile in tiles} == {only.anchor}
    ratios = [float(tile.metadata["flux_ratio"]) for tile in tiles if tile.metadata.get("reference_count")]
    assert ratios
    assert ratios == pytest.approx([1.0] * len(ratios), abs=0.02)
    known = calibrators.known(archive)
    (row,) = overview.transits_of_night("2026-01-25", 71.6, made["name"], known)
    assert row.anchor == only.anchor
    told = json.loads((archive.products("caltables")[0].path / "transits.json").read_text())["transits"]
    assert [one["calibrator"] for one in told] == [made["name"]]
    table = pd.read_parquet(archive.current("calibrator_catalog", None).path / calibrators.CATALOG_FILE)  # type: ignore[union-attr]
    assert table.loc[table["name"] == made["name"], "anchor"].tolist() == [only.anchor]


def fields(settings: Settings) -> list[list[str]]:
    """The names of the fields of every measurement set, in order of time."""
    found = []
    for product in Archive(settings.archive).products("measurement_set"):
        with ct.table(f"{product.path / 'measurement_set.ms'}::FIELD", ack=False) as table:
            found.append(list(table.getcol("NAME")))
            if f"{NAMED}_t" in " ".join(found[-1]):
                assert product.metadata["calibrator_field"] in found[-1]
                times_s = table.getcol("TIME")
                assert found[-1].index(product.metadata["calibrator_field"]) == int(np.abs(times_s - TRANSIT_S).argmin())
    return found


NAMED, TRANSIT_S = "3C454.3", datetime(2026, 1, 25, 22, 26, 5, tzinfo=UTC).timestamp() + 40587 * 86400
"""To a second."""


def test_the_field_in_which_a_calibrator_transits_bears_its_name(finished_run: tuple[Settings, ProcessReport]) -> None:
    before, holding, after = fields(finished_run[0])
    assert [[name for name in names if not name.startswith("meridian_icrs_t")] for names in (before, after)] == [[], []]
    (named,) = (name for name in holding if not name.startswith("meridian_icrs_t"))
    assert named == f"{NAMED}_t{holding.index(named)}"


def test_which_a_setting_turns_off(settings: Settings) -> None:
    process(settings.model_copy(update={"name_calibrator_field": False}), through="measurement_set")
    assert {name.rpartition("_t")[0] for names in fields(settings) for name in names} == {"meridian_icrs"}
