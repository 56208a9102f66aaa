"""Sources: measured on every hour's mosaic, followed over the nights, searched for change."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import coadding, describe, measuring, publishing, recipes
from dsa110_assets.orchestration.resources import Platform

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft


@describe.asset("source_measurements")
def source_measurements(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """Every known source in the hour's mosaic, detected or with its limit, and every new one."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        from dsa110_assets.photometry import measure, transits

        stages, options, mosaic = publishing.Stages(), platform.settings.photometry, found.only("hour_mosaic")
        tiles = coadding.tiles_of(platform.archive, [mosaic])
        image, noise = mosaic.path / "mosaic.fits", mosaic.path / "noise.fits"
        known = measuring.known_sources(found.only("source_catalog"), found.all("source_measurements"))
        with stages("measure"):
            rows = measure.measure_mosaic(
                image,
                noise,
                known,
                options,
                context.partition_key,
                float(mosaic.metadata["mid_mjd"]),
                mosaic.id,
            )
        with stages("negative"):
            negative = measuring.negative_detections(image, noise, options)
        with stages("tiles"):
            span = (f([float(tile.metadata[name]) for tile in tiles]) for f, name in ((min, "mjd_start"), (max, "mjd_end")))
            rows = rows.assign(mjd=transits.transit_mjd(rows["ra_deg"], rows["dec_deg"], *span))
            table = measuring.tile_table(tiles, mosaic)
            inputs = coadding.tile_inputs(tiles, mosaic.metadata.get("tile_scales"))
            rows = measuring.with_spectra(rows, tiles, mosaic)
            rows = measuring.with_tiles(rows, inputs, table, platform.settings.coadd.pb_cutoff)
            rows = measuring.with_doubts(rows, negative, platform.thresholds.max_false_detections)
        table.to_parquet(draft.path / measuring.TILES)
        rows.to_parquet(draft.path / measuring.MEASUREMENTS)
        return {
            **measuring.measurement_figures(rows, negative.size),
            "negative_snr_max": float(negative.max(initial=0.0)),
            **measuring.history_figures(rows, found.all("source_measurements")),
            **measuring.suspect_figures(rows, table),
            **stages.seconds,
            "mid_mjd": mosaic.metadata["mid_mjd"],
            "frequency_hz": float(rows["frequency_hz"].iloc[0]) if len(rows) else float("nan"),
        }

    return publishing.produce(context, platform, make)


@describe.asset("light_curves")
def light_curves(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """Every source's fluxes of this night, on the scale that steady sources keep from night to night."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        from dsa110_assets.photometry import ensemble, nightrows

        stages, options = publishing.Stages(), platform.settings.ensemble
        hours = found.all("source_measurements")
        past, given = measuring.past_of(found.all("light_curves"), options)
        with stages("sort"):
            files = [product.path / measuring.MEASUREMENTS for product in hours]
            rows, names = nightrows.measured(files, context.partition_key, past.names, given, options.merge_arcsec)
        with stages("normalise"):
            night = ensemble.normalise(rows, replace(past, names=names), options)
        nightrows.write(night.curves, draft.path)
        night.past.write(draft.path)
        figures = dict(night.figures)
        first = {} if figures["n_comparable_epochs"] else {"ensemble_note": "first epoch: nothing to normalise against"}
        figures["frequency_hz"] = measuring.common_frequency_hz(hours)
        return {"n_hours": len(files), **figures, "n_rows": int(figures["n_rows"]), **first, **stages.seconds}

    return publishing.produce(context, platform, make)


@describe.asset("variability")
def variability(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """Metrics of every light curve until this night, and candidates with their false-discovery rate at the actual number of
    epochs.
    """

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        from dsa110_assets.archive.light_curves import Nights
        from dsa110_assets.variability import candidates, curves, injection

        stages, options = publishing.Stages(), platform.settings.variability
        nights = recipes.nights_until(platform.archive, context.partition_key)
        light_curves = curves.OnDisk(Nights.of([product.path for product in nights]))
        with stages("search"):
            table = candidates.search(light_curves, options)
        table.to_parquet(draft.path / measuring.VARIABILITY)
        with stages("inject"):
            trial = curves.sample(light_curves, measuring.INJECTED_ROWS)
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
            **measuring.false_alarm_figures(figures["false_alarm_rate"], injected, options.max_false_discovery_rate),
            **stages.seconds,
        }

    return publishing.produce(context, platform, make)
