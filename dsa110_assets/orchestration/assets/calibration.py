"""Solving the night's calibrator transits, and calibrating every observation with the nearest solution or between two."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive import caltable_registry
from dsa110_assets.orchestration import calibrators, judges, publishing, recipes, solving
from dsa110_assets.orchestration.assets.catalogues import read_sky_model
from dsa110_assets.orchestration.assets.ingest import MEASUREMENT_SET
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.rules import WARN, Rule
from dsa110_assets.orchestration.spec import Asset

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings

CALIBRATED = "calibrated.ms"
FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26))
"""A sign of life: no night's tables at all for a day. How old the tables of an observation are is its own check."""


def _transit_sets(archive: "Archive", settings: "Settings", night: str) -> recipes.Ingredients | None:
    """The measurement sets in which a calibrator transits that night, with the transit of each."""
    sky, catalog = recipes.usable(archive, "sky_model", None), recipes.usable(archive, "calibrator_catalog", None)
    if sky is None or catalog is None:
        return None
    sets = recipes.all_usable(archive, "measurement_set", night, night)
    observed = calibrators.observed_transits(sets, calibrators.known(archive), settings.transits)
    if not observed:
        return None
    facts = {"solved_transits": [f"{transit.calibrator.name}@{product.partition}" for product, transit in observed]}
    return recipes.Ingredients((*(product for product, _ in observed), sky, catalog), facts, prepared=observed)


@Asset(
    "caltables", grain="night", kinds={"casacore", "numba"}, code_version="5",
    inputs=("measurement_set", "sky_model", "calibrator_catalog"), finder=_transit_sets,
    nothing_made="no calibrator transits in its measurement sets",
    shaping=("transits", "solve", "solve_engine"), as_it_goes=True,
    freshness=FRESHNESS, pool="solving",
    figures=("calibrators", "anchor", "n_sets", "n_transits", "bandpass_snr", "gain_snr", "closure_phase_deg", "closure_amplitude_excess",
             "field_group_count", "field_flux_ratio", "calibrator_flux_factor", "scale_spread"),
    memory_per_input=0.35,  # 0.8 GiB in all for a set of 1.4 GB, and a tenth more
    rules=(
        Rule("usable", "at least one transit passed signal-to-noise, flags, amplitudes and closure", ("n_sets", "n_transits"),
             judges.solved, hard=True),
        Rule("all_transits", "every transit passed", ("n_sets", "n_transits"), judges.refused, severity=WARN),
        Rule("one_scale", "all transits give one flux scale", ("scale_spread", "scales"), judges.transits_of_one_scale),
        Rule("as_listed", "calibrators have the flux, place and size they are listed with", ("calibrators_corrected",),
             judges.listed("calibrators_corrected"), severity=WARN),
        Rule("judged_by_field", "the catalogue sources of every calibrator's field judged it", ("calibrators_unjudged",),
             judges.listed("calibrators_unjudged"), severity=WARN),
        Rule("flux_anchor", "what the flux scale rests on is recorded", ("anchor",), judges.anchored, hard=True),
    ),
)  # fmt: skip
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
            solving.register(draft, outcome, platform.settings.transits.validity_days, solved)
        return solving.night_figures(solved, refused)

    return publishing.produce(context, platform, make)


def _chosen_tables(archive: "Archive", settings: "Settings", partition: str) -> recipes.Ingredients | None:
    """The measurement set, the tables chosen for its time, and the sky it is compared with. WaitingError without tables."""
    product, sky = recipes.usable(archive, "measurement_set", partition), recipes.usable(archive, "sky_model", None)
    if product is None or sky is None:
        return None
    made = archive.current("calibrated_ms", partition, removed=True)
    used = caltable_registry.used_by(made.metadata) if made else frozenset()
    choice, tables = calibrators.choose_for(archive, settings, product, used=used)
    facts: dict[str, Any] = {"caltable_set": choice.nearest.set_id.partition("/")[2]}
    if len(choice.sets) > 1:
        facts["caltable_sets"] = [one.set_id.partition("/")[2] for one, _ in choice.in_time_order]
    return recipes.Ingredients((product, *tables, sky), facts, prepared=choice)


@Asset(
    "calibrated_ms", grain="observation", kinds={"casacore", "numba"}, code_version="6",
    inputs=("measurement_set", "caltables", "sky_model"), finder=_chosen_tables,
    shaping=("solve_engine", "epoch", "average_channels", "average_times"),
    keep_days=30, uses_up=("measurement_set",), told=False, columns={"caltable_age_h": "Table age [h]"},
    disk_per_input=1.2,  # measured 0.91 at full scale
    memory_per_input=0.6,  # 1.2 GiB in all for a set of 1.4 GB, and a tenth more
    rules=(
        Rule("staleness", "the tables are not too old", ("caltable_age_h",), judges.age),
        Rule("aging", "the tables are not getting old", ("caltable_age_h",), judges.aging, severity=WARN),
        Rule("interpolated", "where gains are interpolated between two table sets, these agree well enough",
             ("n_receptors_interpolated", "receptors_not_interpolated", "receptors_of_one_set"), judges.interpolated, severity=WARN),
        Rule("same_strip", "the tables are of this declination strip", ("caltable_dec_offset_deg",), judges.same_strip, hard=True),
        Rule("same_antennas", "the tables cover every antenna", ("n_antennas_without_tables",),
             judges.none_of("n_antennas_without_tables"), hard=True),
        Rule("antennas_judged", "the field is bright enough to tell of every antenna", ("antennas_judged", "gain_error"),
             judges.antennas_judged, severity=WARN),
        Rule("antennas", "every receptor sees the sky", ("n_receptors_lost", "n_antennas_lost"), judges.receptors_lost, severity=WARN),
        Rule("enough_antennas", "enough antennas see the sky", ("kept_antenna_fraction", "n_antennas_kept", "n_antennas_lost"),
             judges.if_known("antennas_judged", judges.at_least("kept_antenna_fraction", lambda t: t.min_antennas_kept)), hard=True),
        Rule("flux_scale", "the flux scale is that of the field's reference sources, or was corrected to it",
             ("flux_scale", "flux_scale_error", "flux_scale_applied", "flux_scale_references"),
             judges.of_references(judges.scale_left), hard=True),
        Rule("flux_scale_drift", "the tables' flux scale is that of the field's reference sources",
             ("flux_scale", "flux_scale_error", "flux_scale_applied"), judges.of_references(judges.scale_moved), severity=WARN),
        Rule("gain_drift", "gains are those of the tables", ("drift_amplitude", "drift_phase_deg", "epoch_gains"),
             judges.if_known("antennas_judged", judges.gain_drift), severity=WARN),
    ),
)  # fmt: skip
def calibrated_ms(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The observation calibrated with the tables nearest in time, compared with the sky, averaged, with one phase centre."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        stages, settings, choice = publishing.Stages(), platform.settings, found.prepared
        product, near = found.only("measurement_set"), choice.nearest
        (transits,) = [p for p in found.products if near.set_id.startswith(f"{p.id}/")]
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
