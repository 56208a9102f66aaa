"""Solving the night's calibrator transits, and calibrating every observation with the nearest solution or between two."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import describe, publishing, recipes, solving
from dsa110_assets.orchestration.assets.catalogues import read_sky_model
from dsa110_assets.orchestration.assets.ingest import MEASUREMENT_SET
from dsa110_assets.orchestration.resources import Platform

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft

CALIBRATED = "calibrated.ms"


@describe.asset("caltables")
def caltables(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The night's calibration: bandpass and gains of every calibrator transit, as CASA tables, with validity."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        sky = read_sky_model(found.only("sky_model").path)
        solved: list[solving.Solved] = []
        refused: list[solving.Solved] = []
        for product, transit in found.prepared:
            outcome = solving.solve_transit(
                product,
                transit,
                product.path / MEASUREMENT_SET,
                sky,
                platform.settings,
                platform.thresholds,
                draft.path,
            )
            (refused if outcome.problems else solved).append(outcome)
        solving.write_transits(draft.path, [*solved, *refused])
        for outcome in solved:
            solving.register(draft, outcome, solved)
        return solving.night_figures(solved, refused)

    return publishing.produce(context, platform, make)


@describe.asset("calibrated_ms")
def calibrated_ms(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The observation calibrated with the tables nearest in time, compared with the sky, averaged, with one phase centre."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        stages, settings, choice = publishing.Stages(), platform.settings, found.prepared
        product, near = found.only("measurement_set"), choice.nearest
        (transits,) = [p for p in found.all("caltables") if near.set_id.startswith(f"{p.id}/")]
        with stages("calibrate"):
            ms_path = product.path / MEASUREMENT_SET
            tables, told = solving.tables_for(choice, ms_path)
            note = " ".join((product.id, *(one.set_id for one in choice.sets)))
            sky = solving.as_seen(read_sky_model(found.only("sky_model").path), transits)
            made = solving.calibrate(ms_path, tables, settings, sky, draft.path / CALIBRATED, note)
        antennas, dec_deg = frozenset(product.metadata["antennas"]), float(product.metadata["pointing_dec_deg"])
        return {
            **{name: product.metadata[name] for name in ("mjd_start", "mjd_end", "pointing_dec_deg", "n_subbands")},
            **stages.seconds,
            **told,
            "caltable_dec_offset_deg": max(abs(one.dec_deg - dec_deg) for one in choice.sets),
            "n_antennas_without_tables": len(antennas - frozenset.intersection(*(one.antennas for one in choice.sets))),
            "flag_fraction_calibrated": made.flag_fraction,
            "n_channels": int(made.frame.frequencies_hz.size),
            "n_times": int(made.frame.times_mjd.size),
            **solving.write_verdicts(made, near, draft.path, draft.path / CALIBRATED),
        }

    return publishing.produce(context, platform, make)
