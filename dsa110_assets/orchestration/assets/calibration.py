"""Solving the night's calibrator transits, and calibrating every observation with the nearest solution or by interpolation between two."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive import caltable_registry, files
from dsa110_assets.orchestration.assets.catalogues import read_sky_model
from dsa110_assets.orchestration.assets.ingest import MEASUREMENT_SET
from dsa110_assets.orchestration.calibrating import calibrators
from dsa110_assets.orchestration.judging import judges
from dsa110_assets.orchestration.judging.rules import WARN, Rule
from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes, spec
from dsa110_assets.orchestration.specification.spec import Asset

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.calibration.calibrated import Calibrated
    from dsa110_assets.calibration.gains import Gains
    from dsa110_assets.calibration.night import Engine
    from dsa110_assets.calibration.transit_sets import TransitSet
    from dsa110_assets.calibration.transits import Transit
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.model import SkyModel
    from dsa110_assets.thresholds import Thresholds

CALIBRATED, TRANSITS = "calibrated.ms", "transits.json"
_TRANSIT_LIMITS = (
    "max_solution_flag_fraction", "min_solution_snr", "min_gain_amplitude", "max_gain_amplitude", "max_closure_phase_deg",
    "max_closure_excess", "max_reduced_chi2", "max_field_flux_difference", "max_calibrator_offset_arcsec", "min_receptor_flux_ratio",
)  # fmt: skip
"""The thresholds by which a transit's tables are refused (`calibration.quality`)."""
FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26))
"""Warns when no tables at all were made for a day. The age of an observation's tables has a separate check."""


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
    "caltables", grain="night", kinds={"casacore", "numba"}, code_version="6",
    inputs=("measurement_set", "sky_model", "calibrator_catalog"), finder=_transit_sets,
    nothing_made="no calibrator transits in its measurement sets",
    shaping=("transits", "solve", "solve_engine"), before_window_ends=True,
    freshness=FRESHNESS, pool="solving",
    figures=("calibrators", "anchor", "n_sets", "n_transits", "bandpass_snr", "gain_snr", "closure_phase_deg", "closure_amplitude_excess",
             "field_group_count", "field_flux_ratio", "calibrator_flux_factor", "scale_spread"),
    memory_per_input=0.35,  # 0.8 GiB in all for a set of 1.4 GB, plus a tenth
    rules=(
        Rule("usable", "at least one transit passed signal-to-noise, flags, amplitudes and closure", ("n_sets", "n_transits"),
             judges.solved, hard=True, limits=_TRANSIT_LIMITS),
        Rule("all_transits", "every transit passed", ("n_sets", "n_transits"), judges.refused, severity=WARN,
             limits=_TRANSIT_LIMITS),
        Rule("one_scale", "all transits give one flux scale", ("scale_spread", "scales"), judges.transits_of_one_scale,
             limits=("max_scale_spread",)),
        Rule("as_listed", "calibrators have the flux, place and size they are listed with", ("calibrators_corrected",),
             judges.listed("calibrators_corrected"), severity=WARN),
        Rule("judged_by_field", "the catalogue sources of every calibrator's field judged it", ("calibrators_unjudged",),
             judges.listed("calibrators_unjudged"), severity=WARN),
        Rule("flux_anchor", "the anchor of the flux scale is recorded", ("anchor",), judges.anchored, hard=True),
    ),
)  # fmt: skip
def caltables(step: Step) -> Mapping[str, Any]:
    """The night's calibration: bandpass and gains of every calibrator transit, as CASA tables, with validity."""
    from dsa110_assets.calibration import transit_sets

    sky = read_sky_model(step.input("sky_model").path)
    sets = [solve_transit(product, transit, sky, step.settings, step.thresholds, step.directory) for product, transit in step.prepared]
    solved, refused = (
        [transit_set for transit_set in sets if not transit_set.problems],
        [transit_set for transit_set in sets if transit_set.problems],
    )
    write_transits(step.directory, [*solved, *refused])
    for transit_set in solved:
        register(step.draft, transit_set, step.settings.transits.validity_days, solved)
    return transit_sets.night_figures(solved, refused)


def solve_transit(
    product: "Product", transit: "Transit", sky: "SkyModel", settings: "Settings", thresholds: "Thresholds", directory: Path
) -> "TransitSet":
    """Solve a transit in a measurement set with the configured engine, and write its tables below `directory`."""
    from dsa110_assets.calibration import transit_sets
    from dsa110_assets.imaging.search import bright_sources

    code_version = spec.assets()["caltables"].code_version
    fingerprint = f"{code_version}|{settings.solve_engine}|{json.dumps(asdict(settings.solve), sort_keys=True)}"
    observed = transit_sets.TransitObservation(
        product.path / MEASUREMENT_SET, product.id, float(product.metadata["pointing_dec_deg"]), tuple(product.metadata["antennas"])
    )
    return transit_sets.solve_set(
        calibrators.set_name(transit, product, fingerprint), observed, transit, sky, settings.solve, thresholds, directory,
        search=bright_sources, engine=_other_engine(settings, directory),
    )  # fmt: skip


def _other_engine(settings: "Settings", directory: Path) -> "Engine | None":
    """CASA's solver if the settings choose it; None for our own."""
    if settings.solve_engine == "own":
        return None
    from dsa110_assets.engines import casa_calibration

    return partial(casa_calibration.solve, work_dir=directory.parent)


def write_transits(directory: Path, sets: "Sequence[TransitSet]") -> None:
    """Write transits.json: the result of every transit of the night, for refused ones with the reasons."""
    from dsa110_assets.calibration import transit_sets

    files.write_json(directory / TRANSITS, {"transits": transit_sets.records(sets)})


def register(draft: "Draft", solved: "TransitSet", validity_days: float, others: "Sequence[TransitSet]" = ()) -> None:
    """Register a solved set with its validity [d] among the night's `others`; it becomes visible with the product."""
    from dsa110_assets.calibration import transit_sets

    start, end = transit_sets.validity(solved, others, validity_days)
    figures = {name: float(v) for name, v in solved.figures.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    caltable_registry.register(
        draft,
        solved.name,
        solved.paths,
        mid_mjd=float(solved.figures["mid_mjd"]),
        valid_start_mjd=start,
        valid_end_mjd=end,
        dec_deg=solved.observed.dec_deg,
        antennas=solved.observed.antennas,
        calibrator=solved.transit.calibrator.name,
        anchor=solved.figures["anchor"],
        figures=figures | {"measurement_set": solved.observed.name, "refant": solved.figures["refant"]},
    )


def _chosen_tables(archive: "Archive", settings: "Settings", partition: str) -> recipes.Ingredients | None:
    """The measurement set, the tables chosen for its time, and the sky model it is compared with. Raises WaitingError if there are no
    tables."""
    product, sky = recipes.usable(archive, "measurement_set", partition), recipes.usable(archive, "sky_model", None)
    if product is None or sky is None:
        return None
    calibrated = archive.current("calibrated_ms", partition, removed=True)
    used = caltable_registry.used_by(calibrated.metadata) if calibrated else frozenset()
    choice, tables = calibrators.choose_for(archive, settings, product, used=used)
    facts: dict[str, Any] = {"caltable_set": choice.nearest.set_id.partition("/")[2]}
    if len(choice.sets) > 1:
        facts["caltable_sets"] = [table_set.set_id.partition("/")[2] for table_set, _ in choice.in_time_order]
    return recipes.Ingredients((product, *tables, sky), facts, prepared=choice)


@Asset(
    "calibrated_ms", grain="observation", kinds={"casacore", "numba"}, code_version="7",
    inputs=("measurement_set", "caltables", "sky_model"), finder=_chosen_tables,
    shaping=("solve_engine", "epoch", "average_channels", "average_times"),
    keep_days=30, uses_up=("measurement_set",), reported=False, columns={"caltable_age_h": "Table age [h]"},
    disk_per_input=1.2,  # measured 0.91 at full scale
    memory_per_input=0.6,  # 1.2 GiB in all for a set of 1.4 GB, plus a tenth
    rules=(
        Rule("staleness", "the tables are not too old", ("caltable_age_h",), judges.age, limits=("calibration_stale_h",)),
        Rule("aging", "the tables are not getting old", ("caltable_age_h",), judges.aging, severity=WARN,
             limits=("calibration_aging_h",)),
        Rule("interpolated", "where gains are interpolated between two table sets, these agree well enough",
             ("n_receptors_interpolated", "receptors_not_interpolated", "receptors_of_one_set"), judges.interpolated, severity=WARN),
        Rule("same_strip", "the tables are of this declination strip", ("caltable_dec_offset_deg",), judges.same_strip, hard=True),
        Rule("same_antennas", "the tables cover every antenna", ("n_antennas_without_tables",),
             judges.none_of("n_antennas_without_tables"), hard=True),
        Rule("antennas_judged", "the field is bright enough to judge every antenna", ("antennas_judged", "gain_error"),
             judges.antennas_judged, severity=WARN),
        Rule("antennas", "every receptor sees the sky", ("n_receptors_lost", "n_antennas_lost"), judges.receptors_lost, severity=WARN),
        Rule("enough_antennas", "enough antennas see the sky", ("kept_antenna_fraction", "n_antennas_kept", "n_antennas_lost"),
             judges.if_known("antennas_judged", judges.at_least("kept_antenna_fraction", lambda t: t.min_antennas_kept)), hard=True,
             limits=("min_antennas_kept",)),
        Rule("flux_scale", "the flux scale is that of the field's reference sources, or was corrected to it",
             ("flux_scale", "flux_scale_error", "flux_scale_applied", "flux_scale_references"),
             judges.of_references(judges.scale_left), hard=True, limits=("max_flux_scale_left",)),
        Rule("flux_scale_drift", "the tables' flux scale is that of the field's reference sources",
             ("flux_scale", "flux_scale_error", "flux_scale_applied"), judges.of_references(judges.scale_moved), severity=WARN,
             limits=("flux_scale_warn",)),
        Rule("gain_drift", "gains are those of the tables", ("drift_amplitude", "drift_phase_deg", "epoch_gains"),
             judges.if_known("antennas_judged", judges.gain_drift), severity=WARN, limits=("max_gain_drift", "max_gain_drift_deg")),
    ),
)  # fmt: skip
def calibrated_ms(step: Step) -> Mapping[str, Any]:
    """The observation calibrated with the tables nearest in time, compared with the sky model, averaged, with one phase centre."""
    from dsa110_assets.calibration import chosen, transit_sets, verdicts

    choice, product = step.prepared, step.input("measurement_set")
    (night_tables,) = [p for p in step.ingredients.products if choice.nearest.set_id.startswith(f"{p.id}/")]
    ms_path, path = product.path / MEASUREMENT_SET, step.directory / CALIBRATED
    with step.timed("calibrate"):
        tables, figures_of_tables = chosen.tables_for(choice, ms_path)
        transits = files.read_json(night_tables.path / TRANSITS) or {"transits": []}
        sky = transit_sets.sky_with_measured_calibrators(read_sky_model(step.input("sky_model").path), transits["transits"])
        note = " ".join((product.id, *(table_set.set_id for table_set in choice.sets)))
        calibrated = calibrate(ms_path, tables, step.settings, sky, path, note)
    antennas, dec_deg = frozenset(product.metadata["antennas"]), float(product.metadata["pointing_dec_deg"])
    return {
        **{name: product.metadata[name] for name in ("mjd_start", "mjd_end", "pointing_dec_deg", "n_subbands")},
        **figures_of_tables,
        "caltable_dec_offset_deg": max(abs(table_set.dec_deg - dec_deg) for table_set in choice.sets),
        "n_antennas_without_tables": len(antennas - frozenset.intersection(*(table_set.antennas for table_set in choice.sets))),
        "flag_fraction_calibrated": calibrated.flag_fraction,
        "n_channels": int(calibrated.frame.frequencies_hz.size),
        "n_times": int(calibrated.frame.times_mjd.size),
        **verdicts.write(calibrated, choice.nearest.paths[0].parent, step.directory, path),
    }


def calibrate(ms_path: Path, tables: "Sequence[Gains]", settings: "Settings", sky: "SkyModel", path: Path, note: str) -> "Calibrated":
    """Write the measurement set at `ms_path` to `path`, corrected by `tables` and by comparison with `sky`, averaged as set."""
    from dsa110_assets.calibration import calibrated
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.visibilities import averaging, measurement_set

    with measurement_set.opened(ms_path) as stored:
        n_channels, width_hz = stored.frame.frequencies_hz.size, stored.frame.channel_width_hz
    channels = settings.average_channels or averaging.channels_up_to(averaging.WIDEST_HZ, n_channels, width_hz)
    options: dict[str, Any] = {
        "channels": channels, "times": settings.average_times, "observer_note": note,
        "against": calibrated.SkyComparison(sky, settings.epoch, bright_sources),
    }  # fmt: skip
    if settings.solve_engine == "own":
        return calibrated.calibrate_set(ms_path, tables, path, **options)
    from dsa110_assets.engines import casa_calibration

    vis = casa_calibration.apply(measurement_set.read(ms_path), tables, work_dir=path.parent.parent)
    return calibrated.write_averaged(vis, path, **options)
