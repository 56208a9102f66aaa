"""Sources: measured on every hour's mosaic, followed over the nights, and searched for variability."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import xxhash

from dsa110_assets.orchestration.assets.imaging import NEIGHBOUR_TILES, tile_inputs, tiles_of
from dsa110_assets.orchestration.judging import judges
from dsa110_assets.orchestration.judging.rules import FEWEST_REFERENCES, SAME_SETTINGS, WARN, Rule
from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.orchestration.specification.spec import Asset
from dsa110_assets.telescope import timegrid
from dsa110_assets.variability.options import VARIABILITY_FILE

if TYPE_CHECKING:
    import pandas as pd

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.photometry.options import EnsembleOptions
    from dsa110_assets.photometry.past import Past
    from dsa110_assets.settings import Settings


CARRIED = "known_sources"
"""Figure of an hour: digests of the known sources it passes on to later hours, by hour of right ascension."""
FARTHEST_DEG = 7.5
"""No tile extends farther than this from its meridian."""
HISTORY_NIGHTS = 7
"""Number of earlier nights with which an hour's fluxes are compared."""


def _mosaic_and_carried(archive: "Archive", settings: "Settings", hour: str) -> recipes.Ingredients | None:
    """The hour's mosaic, the catalogue, and the names and sizes of sources in its sky that earlier hours pass on, by their digests.

    For each hour of right ascension, the last hour that observed it is used (`photometry.carried`). It is not an input: only a
    change in what it passes on makes later hours stale, and the number of inputs does not grow with the number of nights.
    """
    mosaic, catalogue = recipes.usable(archive, "hour_mosaic", hour), recipes.usable(archive, "source_catalog", None)
    if mosaic is None or catalogue is None:
        return None
    last = _last_of_bins(archive, hour, _sky_bins(hour, float(mosaic.metadata.get("pointing_dec_deg", 0.0))))
    digests = {ra_hour: product.metadata[CARRIED][ra_hour] for ra_hour, product in last.items() if product is not None}
    known = {ra_hour: digest for ra_hour, digest in digests.items() if digest}
    return recipes.Ingredients((mosaic, catalogue), {"known_sources": known} if known else {}, prepared=last)


def _sky_bins(hour: str, dec_deg: float) -> list[str]:
    """The hours of right ascension that an hour's tiles and their neighbours may cover, as '05'."""
    from dsa110_assets.telescope import site

    start, reach = timegrid.parse_key(hour), NEIGHBOUR_TILES * timegrid.OBSERVATION_WINDOW
    margin_deg = FARTHEST_DEG / max(math.cos(math.radians(dec_deg)), 0.1)
    first_deg = timegrid.mean_sidereal_deg(timegrid.datetime_to_mjd(start - reach), site.LONGITUDE_DEG) - margin_deg
    wide_deg = (timegrid.HOUR + 2 * reach) / timegrid.NIGHT * 360 * timegrid.SIDEREAL_RATIO + 2 * margin_deg
    return [f"{number % 24:02d}" for number in range(math.floor(first_deg / 15), math.floor((first_deg + wide_deg) / 15) + 1)][:24]


def _last_of_bins(archive: "Archive", hour: str, bins: "Sequence[str]") -> "dict[str, Product | None]":
    """For each of these hours of right ascension, the last usable product before this hour that observed it; None if none did.

    It is nearly always one of the day before; for the others the index is queried.
    """
    start = timegrid.parse_key(hour)
    first, last = (timegrid.key(start - timedelta(hours=number)) for number in (26, 1))
    recent = recipes.all_usable(archive, "source_measurements", first, last)
    last_by_bin = {ra_hour: next((p for p in reversed(recent) if ra_hour in p.metadata.get(CARRIED, ())), None) for ra_hour in bins}

    def older(ra_hour: str) -> "Product | None":
        return archive.once(
            (CARRIED, ra_hour, hour[:10]), lambda: archive.newest_with("source_measurements", (CARRIED, ra_hour), hour[:10])
        )

    return {ra_hour: product or older(ra_hour) for ra_hour, product in last_by_bin.items()}


def _history(archive: "Archive", hour: str) -> "list[Product]":
    """The products of earlier nights' hours that observed the same sky and whose data exist."""
    start = timegrid.parse_key(hour)
    earlier_times = [start - number * timegrid.NIGHT / timegrid.SIDEREAL_RATIO for number in range(1, HISTORY_NIGHTS + 1)]
    keys = {timegrid.hour_key(timegrid.datetime_to_mjd(moment + part * timegrid.HOUR)) for moment in earlier_times for part in (0, 0.99)}
    candidates = [recipes.usable(archive, "source_measurements", key) for key in sorted(keys)]
    return [product for product in candidates if product is not None and not product.removed]


def _earlier_hours(archive: "Archive", found: recipes.Ingredients) -> "list[Product]":
    """The products of earlier hours that are read when an hour is measured."""
    carrying = [product for product in found.prepared.values() if product is not None]
    products = [*carrying, *_history(archive, found.only("hour_mosaic").partition or "")]
    return list({product.id: product for product in products}.values())


@Asset(
    "source_measurements", grain="hour", kinds={"parquet"}, code_version="5", inputs=("hour_mosaic", "source_catalog"),
    finder=_mosaic_and_carried, reads_through="hour_mosaic", also_reads=_earlier_hours, reaches_back=True, shaping=("photometry",),
    uses_up=("hour_mosaic",),
    figures=("n_sources", "n_detected", "n_new", "flux_ratio", "history_flux_ratio", "completeness",
             "false_detection_rate", "n_suspect_tiles"),
    rules=(
        SAME_SETTINGS,
        Rule("flux_ratio", "fluxes agree with the catalogue", ("flux_ratio", "flux_ratio_error", "n_compared"),
             judges.if_known("n_compared", judges.flux_ratio()), limits=("max_flux_offset",)),
        Rule("flux_scale", "fluxes roughly agree with the catalogue: a product beyond the limits is held",
             ("flux_ratio", "flux_ratio_error", "n_compared"), judges.if_known("n_compared", judges.flux_scale, FEWEST_REFERENCES),
             hard=True, limits=("min_flux_ratio", "max_flux_ratio")),
        Rule("history", "fluxes agree with those of the same sources in earlier hours",
             ("history_flux_ratio", "history_flux_ratio_error", "history_count"),
             judges.if_known("history_count", judges.flux_ratio("history_flux_ratio")), limits=("max_flux_offset",)),
        Rule("tiles", "no tile was suspect", ("n_suspect_tiles", "n_suspect_rows"), judges.none_of("n_suspect_tiles"), severity=WARN),
        Rule("completeness", "catalogue sources that should be seen are", ("completeness", "n_expected"),
             judges.if_known("n_expected", judges.at_least("completeness", lambda t: t.min_completeness)), severity=WARN,
             limits=("min_completeness",)),
        Rule("false_detections", "few negative sources are found for each positive one", ("false_detection_rate",),
             judges.at_most("false_detection_rate", lambda t: t.max_false_detections), severity=WARN,
             limits=("max_false_detections",)),
    ),
)  # fmt: skip
def source_measurements(step: Step) -> Mapping[str, Any]:
    """Every known source in the hour's mosaic, with its flux if detected or else its limit, and every new source."""
    import pandas as pd

    from dsa110_assets.imaging import spectra
    from dsa110_assets.photometry import carried, hourfigures, hourrows, measure, transits

    options, mosaic = step.settings.photometry, step.input("hour_mosaic")
    tiles = tiles_of(step.archive, [mosaic])
    image, noise = mosaic.path / "mosaic.fits", mosaic.path / "noise.fits"
    passed_on = carried.read({int(ra_hour): product.path for ra_hour, product in step.prepared.items() if product is not None})
    known = carried.known_sources(pd.read_parquet(step.input("source_catalog").path / "source_catalog.parquet"), passed_on)
    history = _history(step.archive, step.partition)
    with step.timed("measure"):
        rows = measure.measure_mosaic(
            image,
            noise,
            known,
            options,
            step.partition,
            float(mosaic.metadata["mid_mjd"]),
            mosaic.id,
        )
    with step.timed("negative"):
        negative = hourrows.negative_detections(image, noise, options)
    with step.timed("tiles"):
        span = (f([float(tile.metadata[name]) for tile in tiles]) for f, name in ((min, "mjd_start"), (max, "mjd_end")))
        rows = rows.assign(mjd=transits.transit_mjd(rows["ra_deg"], rows["dec_deg"], *span))
        table = _tile_table(tiles, mosaic)
        inputs = tile_inputs(tiles, mosaic.metadata.get("tile_scales"))
        rows = hourrows.with_spectra(rows, [tile.path / spectra.FILE for tile in tiles], image)
        rows = hourrows.with_tiles(rows, inputs, table, step.settings.coadd.pb_cutoff)
        rows = hourrows.with_doubts(rows, negative, step.thresholds.max_false_detections)
    table.to_parquet(step.directory / hourrows.TILES)
    rows.to_parquet(step.directory / hourrows.FILE)
    passed_on = carried.carry(passed_on, rows)
    passed_on.to_parquet(step.directory / carried.FILE)
    return {
        **hourfigures.measurement_figures(rows, negative.size),
        "negative_snr_max": float(negative.max(initial=0.0)),
        **hourfigures.history_figures(rows, [product.path / hourrows.FILE for product in history]),
        "history_of": [product.id for product in history],
        **hourfigures.suspect_figures(rows, table),
        CARRIED: carried.digests(passed_on, [int(ra_hour) for ra_hour in step.prepared]),
        "mid_mjd": mosaic.metadata["mid_mjd"],
        "frequency_hz": float(rows["frequency_hz"].iloc[0]) if len(rows) else float("nan"),
    }


def _tile_table(tiles: "Sequence[Product]", mosaic: "Product") -> "pd.DataFrame":
    """One row of facts for each tile of a mosaic, in the order of `tiles`; `suspicion` is '' if the tile is not suspect."""
    import pandas as pd

    columns = ("partition", "mjd_start", "mjd_end", "caltable_set", "anchor", "rms_over_radiometer", "flux_ratio", "flux_ratio_error")
    scales, suspects = mosaic.metadata.get("tile_scales", {}), mosaic.metadata.get("suspects", {})
    rows = [
        {
            "product_id": tile.id,
            **{name: {"partition": tile.partition, **tile.metadata}.get(name) for name in columns},
            "divided_by": scales.get(tile.id, 1.0),
            "antennas_lost": ", ".join(tile.metadata.get("antennas_lost", ())),
            "suspicion": suspects.get(tile.id, ""),
        }
        for tile in tiles
    ]
    return pd.DataFrame(rows)


def _night_and_past(archive: "Archive", settings: "Settings", night: str) -> recipes.Ingredients | None:
    """The night's measurements, and the light curves of the latest earlier night that has any, which hold everything needed from the
    past. Measurements whose data retention removed count too: if they did not, the night would be made again without those hours.
    """
    hours = recipes.all_usable(archive, "source_measurements", night, night)
    return recipes.Ingredients((*_night_before(archive, night), *hours)) if hours else None


def _night_before(archive: "Archive", night: str) -> "list[Product]":
    """The usable light curves of the latest night before this one; [] if there are none."""
    until = night
    while True:
        day = f"{timegrid.parse_key(until) - timegrid.NIGHT:%Y-%m-%d}"
        nights = archive.nights(1, "light_curves", day)
        if not nights:
            return []
        if (product := recipes.usable(archive, "light_curves", nights[0])) is not None:
            return [product]
        until = nights[0]


@Asset(
    "light_curves", grain="night", kinds={"parquet"}, code_version="4", inputs=("source_measurements",), finder=_night_and_past,
    nights_before=True, reaches_back=True, of_kept_data_only=True, shaping=("ensemble",), patience=4.0,
    uses_up=("source_measurements",),
    figures=("n_sources", "n_epochs", "n_references_min", "residual_rms", "correction_max_percent"),
    rules=(
        SAME_SETTINGS,
        Rule("ensemble", "enough reference sources normalise every epoch that can be compared with another",
             ("n_references_min", "n_comparable_epochs", "n_epochs", "ensemble_note"),
             judges.if_known("n_comparable_epochs", judges.at_least("n_references_min", lambda t: t.min_references)), severity=WARN,
             limits=("min_references",)),
        Rule("residual_rms", "constant sources scatter as their errors say", ("residual_rms", "n_steady"), judges.residuals,
             severity=WARN, limits=("min_residual_rms", "max_residual_rms")),
    ),
)  # fmt: skip
def light_curves(step: Step) -> Mapping[str, Any]:
    """Every source's fluxes of this night, on the flux scale that steady sources keep constant from night to night."""
    from dsa110_assets.photometry import ensemble, hourrows, nightrows

    options, hours = step.settings.ensemble, step.inputs("source_measurements")
    past, past_rows = past_of(step.inputs("light_curves"), options)
    with step.timed("sort"):
        files = [product.path / hourrows.FILE for product in hours]
        rows, names = nightrows.measured(files, step.partition, past.names, past_rows, options.merge_arcsec)
    with step.timed("normalise"):
        night = ensemble.normalise(rows, replace(past, names=names), options)
    nightrows.write(night.curves, step.directory)
    night.past.write(step.directory)
    figures = dict(night.figures)
    note = "" if figures["n_comparable_epochs"] else "first epoch: nothing to normalise against"
    figures["frequency_hz"] = _common_frequency_hz(hours)
    return {"n_hours": len(files), **figures, "n_rows": int(figures["n_rows"]), "ensemble_note": note}


def past_of(earlier: "Sequence[Product]", options: "EnsembleOptions") -> "tuple[Past, pd.DataFrame | None]":
    """Return what the earlier night recorded for the next one, and the source_id and mjd of its rows; empty and None without such a
    night."""
    import pandas as pd

    from dsa110_assets.photometry import nightrows
    from dsa110_assets.photometry.past import Past

    if not earlier:
        return Past.nothing(options), None
    folder = earlier[-1].path
    return Past.read(folder), pd.read_parquet(folder / nightrows.FILE, columns=["source_id", "mjd"])


def _common_frequency_hz(measurements: "Sequence[Product]") -> float:
    """The median frequency [Hz] of the hours' fluxes; NaN if none is recorded."""
    import numpy as np

    known = [float(p.metadata["frequency_hz"]) for p in measurements if p.metadata.get("frequency_hz")]
    return float(np.median(known)) if known else float("nan")


def _curves_until(archive: "Archive", settings: "Settings", night: str) -> recipes.Ingredients | None:
    """The night's light curves, and the nights that are searched with them: their number and a digest of their contents.

    The nights are not inputs one by one, because a thousand nights would have half a million of those. The inputs of a night's light
    curves lead back through all earlier ones anyway.
    """
    product = recipes.usable(archive, "light_curves", night)
    if product is None:
        return None
    digests = archive.digests("light_curves", night)
    digest = xxhash.xxh3_128_hexdigest("\n".join(f"{key} {digest}" for key, digest in sorted(digests.items())).encode())
    return recipes.Ingredients((product,), {"nights_searched": {"number": len(digests), "digest": digest}})


def _nights_before(archive: "Archive", found: recipes.Ingredients) -> "list[Product]":
    """The light curves of earlier nights that are searched with those of a night."""
    night = found.only("light_curves")
    return [product for product in recipes.nights_until(archive, night.partition or "") if product.id != night.id]


INJECTED_ROWS = 200_000
"""Number of light-curve points on which the false-alarm rate is measured: enough sources, and independent of the history's length."""


@Asset(
    "variability", grain="night", kinds={"parquet"}, code_version="4", inputs=("light_curves",), finder=_curves_until,
    also_reads=_nights_before, reaches_back=True, shaping=("variability",), uses_up=("light_curves",), patience=4.0,
    figures=("n_tested", "n_candidates", "n_flare", "n_ese", "n_transient", "false_alarm_rate"),
    rules=(
        SAME_SETTINGS,
        Rule("false_alarms", "injected constant sources do not become candidates more often than claimed",
             ("false_alarm_ratio", "n_injected"),
             judges.if_known("n_injected", judges.at_most("false_alarm_ratio", lambda t: t.max_false_alarm_ratio)), severity=WARN,
             limits=("max_false_alarm_ratio",)),
    ),
)  # fmt: skip
def variability(step: Step) -> Mapping[str, Any]:
    """Metrics of every light curve up to this night, and candidates with their false-discovery rate at that number of epochs."""
    from dsa110_assets.archive.light_curves import Nights
    from dsa110_assets.variability import candidates, curves, injection

    options = step.settings.variability
    nights = recipes.nights_until(step.archive, step.partition)
    light_curves = curves.OnDisk(Nights.of([product.path for product in nights]))
    with step.timed("search"):
        table = candidates.search(light_curves, options)
    table.to_parquet(step.directory / VARIABILITY_FILE)
    with step.timed("inject"):
        trial = curves.sample(light_curves, INJECTED_ROWS)
        figures = injection.injection_figures(trial, options)
    tested = int((table["n_epochs"] >= 2).sum())
    injected = min(tested, int((trial["source_id"].value_counts() >= 2).sum()))
    kinds = table.loc[table["kind"] != "", "kind"]
    return {
        "n_nights": len(nights),
        "n_sources": len(table),
        "n_tested": tested,
        "n_candidates": len(kinds),
        **{f"n_{kind}": int((kinds == kind).sum()) for kind in ("flare", "ese", "transient", "variable")},
        **figures,
        **injection.false_alarm_figures(figures["false_alarm_rate"], injected, options.max_false_discovery_rate),
    }
