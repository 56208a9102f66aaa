"""Solving the night's calibrator transits, and calibrating every observation with the nearest solution."""

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
    """The observation calibrated with the table set nearest in time, compared with the sky, averaged, with one phase centre."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        stages, settings, choice = publishing.Stages(), platform.settings, found.prepared
        product = found.only("measurement_set")
        with stages("calibrate"):
            note = f"{product.id} {choice.set.set_id}"
            sky = solving.as_seen(read_sky_model(found.only("sky_model").path), found.only("caltables"))
            made = solving.calibrate(product.path / MEASUREMENT_SET, choice.set, settings, sky, draft.path / CALIBRATED, note)
        antennas = frozenset(product.metadata["antennas"])
        return {
            **{name: product.metadata[name] for name in ("mjd_start", "mjd_end", "pointing_dec_deg", "n_subbands")},
            **stages.seconds,
            "caltable_set": choice.set.set_id,
            "caltable_age_h": choice.age_h,
            "caltable_fallback": choice.fallback,
            "caltable_reason": choice.reason,
            "caltable_dec_offset_deg": abs(choice.set.dec_deg - float(product.metadata["pointing_dec_deg"])),
            "n_antennas_without_tables": len(antennas - choice.set.antennas),
            "calibrator": choice.set.calibrator,
            "anchor": choice.set.anchor,
            "flag_fraction_calibrated": made.flag_fraction,
            "n_channels": int(made.frame.frequencies_hz.size),
            "n_times": int(made.frame.times_mjd.size),
            **solving.write_verdicts(made, choice.set, draft.path, draft.path / CALIBRATED),
        }

    return publishing.produce(context, platform, make)
