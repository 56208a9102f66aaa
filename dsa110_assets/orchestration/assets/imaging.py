"""Images: a tile per observation, a mosaic per hour and per night."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import coadding, judges, measuring, publishing, recipes
from dsa110_assets.orchestration.assets.calibration import CALIBRATED
from dsa110_assets.orchestration.assets.catalogues import read_sky_model
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.rules import FEWEST_REFERENCES, SAME_SETTINGS, WARN, Rule
from dsa110_assets.orchestration.spec import Asset
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


_OFFSETS = ("astrometry_ra_arcsec", "astrometry_dec_arcsec", "astrometry_ra_error_arcsec", "astrometry_dec_error_arcsec")
NEIGHBOUR_TILES = 2
STRIP_TOLERANCE_DEG = 1.0
"""Tiles further than this from the hour's median declination belong to another strip."""


@Asset(
    "tile_image", grain="observation", kinds={"fits", "ducc"}, code_version="7", inputs=("calibrated_ms", "sky_model"),
    shaping=("imaging", "imaging_engine"), pool="imaging",
    keep_days=365, uses_up=("calibrated_ms",), image=True,
    columns={"rms_jy": "Rms [Jy]", "dynamic_range": "Dynamic range", "flux_ratio": "Flux ratio"},
    memory_per_input=2.8,  # 1.7 GiB in all for a calibrated set of 0.5 GB, and a tenth more
    rules=(
        Rule("sane", "the image has a positive noise and a possible beam", ("rms_jy", "beam_major_arcsec", "beam_minor_arcsec"),
             judges.every(judges.finite_rms, judges.beam), hard=True),
        Rule("references", "bright catalogue sources are in the image", ("reference_missing", "reference_count"), judges.references,
             hard=True),
        Rule("flux_scale", "fluxes are the catalogue's within reason: what is beyond is not published",
             ("flux_ratio", "flux_ratio_error", "reference_count"),
             judges.if_known("reference_count", judges.flux_scale, FEWEST_REFERENCES), hard=True),
        Rule("position", "sources are where the catalogue has them, within reason: what is beyond is not published", _OFFSETS,
             judges.if_known("reference_count", judges.position, FEWEST_REFERENCES), hard=True),
        Rule("rms", "the noise is what the radiometer equation allows", ("rms_jy", "rms_over_radiometer"), judges.rms),
        Rule("dynamic_range", "the brightest source stands out", ("dynamic_range",),
             judges.at_least("dynamic_range", lambda t: t.min_dynamic_range), severity=WARN),
        Rule("flux_ratio", "fluxes agree with the catalogue", ("flux_ratio", "flux_ratio_error", "reference_count"),
             judges.if_known("reference_count", judges.flux_ratio())),
        Rule("astrometry", "positions agree with the catalogue", _OFFSETS, judges.if_known("reference_count", judges.astrometry)),
    ),
)  # fmt: skip
def tile_image(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The observation's image: cleaned, with its residual, primary beam, PSF and primary-beam corrected twin."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        from dsa110_assets.imaging import fits, spectra

        stages, settings, product = publishing.Stages(), platform.settings, found.only("calibrated_ms")
        sky = read_sky_model(found.only("sky_model").path)
        with stages("image"):
            tile = coadding.image(product.path / CALIBRATED, settings, sky, draft.path)
        with stages("write"):
            fits.write_tile(tile, draft.path, publishing.fits_cards(context, platform, found, product.metadata["anchor"]))
            spectra.point_table(tile).to_parquet(draft.path / measuring.POINTS)
        return {**coadding.of_observation(product), **tile.figures, **stages.seconds}

    return publishing.produce(context, platform, make)


def rules_of_mosaic(parts: str) -> tuple[Rule, ...]:
    """What every mosaic is asked first, in this order; `parts` are what it is made of."""
    return (
        SAME_SETTINGS,
        Rule("noise_map", "the noise map is what the pixels show", ("measured_over_noise",), judges.noise_map, hard=True),
        Rule("overlap", f"neighbouring {parts} agree on the sources they share, within reason",
             ("overlap_flux_ratio", "overlap_flux_scatter", "overlap_pairs"), judges.if_known("overlap_pairs", judges.overlap),
             hard=True),
        Rule("neighbours", "the two tiles that agree least agree", ("overlap_flux_worst", "overlap_worst_error", "overlap_worst_tiles"),
             judges.neighbours),
        Rule("one_scale", "flux scales of different calibrators agree where they meet",
             ("n_anchors", "anchor_difference", "anchor_difference_error", "anchor_scales"), judges.one_scale),
    )  # fmt: skip


def _coadded(
    context: dg.AssetExecutionContext, platform: Platform, found: recipes.Ingredients, tiles: "list[Product]", draft: "Draft"
) -> dict[str, Any]:
    """The tiles as one mosaic in the draft; its figures."""
    cards = publishing.fits_cards(context, platform, found, coadding.anchor(tiles))
    return coadding.mosaic(tiles, platform.settings.coadd, platform.thresholds.max_neighbour_difference, draft.path, cards)


def _tiles_of_hour(archive: "Archive", settings: "Settings", hour: str) -> recipes.Ingredients | None:
    """The hour's tiles and the last two before and first two after it, of the hour's own strip. Tiles of the hour that are
    of another are named, so that one that comes later is not passed over in silence."""
    start = timegrid.parse_key(hour)

    def tiles_between(since: datetime, until: datetime) -> "list[Product]":
        return recipes.all_usable(archive, "tile_image", timegrid.key(since), timegrid.key(until - timegrid.OBSERVATION_WINDOW))

    within = tiles_between(start, start + timegrid.HOUR)
    if not within:
        return None
    before = tiles_between(start - timegrid.HOUR, start)
    after = tiles_between(start + timegrid.HOUR, start + 2 * timegrid.HOUR)
    decs = sorted(_dec(product) for product in within)
    strip = decs[len(decs) // 2]
    tiles = [*before[-NEIGHBOUR_TILES:], *within, *after[:NEIGHBOUR_TILES]]
    elsewhere = [product.id for product in within if abs(_dec(product) - strip) > STRIP_TOLERANCE_DEG]
    facts = {"left_out": elsewhere} if elsewhere else {}
    return recipes.Ingredients(tuple(p for p in tiles if abs(_dec(p) - strip) <= STRIP_TOLERANCE_DEG), facts)


def _dec(product: "Product") -> float:
    return float(product.metadata["pointing_dec_deg"])


@Asset(
    "hour_mosaic", grain="hour", kinds={"fits"}, code_version="4", inputs=("tile_image",), finder=_tiles_of_hour,
    shaping=("coadd",), reach=NEIGHBOUR_TILES * timegrid.OBSERVATION_WINDOW, uses_up=("tile_image",), image=True,
    figures=("n_tiles", "n_left_out", "rms_jy", "measured_over_noise", "overlap_flux_ratio", "overlap_flux_worst", "windows_completed"),
    rules=(
        *rules_of_mosaic("tiles"),
        Rule("one_strip", "all tiles of the hour are in its mosaic", ("n_left_out", "pointing_dec_deg"), judges.one_strip),
        Rule("completeness", "the hour's observations were imaged", ("windows_completed",),
             judges.at_least("windows_completed", lambda t: t.min_windows_completed), severity=WARN),
    ),
)  # fmt: skip
def hour_mosaic(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The hour's tiles, and the two before and after it, as one image corrected for the primary beam."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        stages = publishing.Stages()
        tiles = found.all("tile_image")
        with stages("coadd"):
            figures = _coadded(context, platform, found, tiles, draft)
        hour = coadding.windows_completed(platform.archive, "tile_image", context.partition_key[:13])
        hour |= coadding.left_out(platform.archive, found.facts.get("left_out", ()))
        return {**figures, **hour, **stages.seconds}

    return publishing.produce(context, platform, make)


def _mosaics_of_night(archive: "Archive", settings: "Settings", night: str) -> recipes.Ingredients | None:
    found = recipes.all_usable(archive, "hour_mosaic", night, night)
    return recipes.Ingredients(tuple(found)) if found else None


@Asset(
    "night_mosaic", grain="night", kinds={"fits", "hips"}, code_version="4", inputs=("hour_mosaic",), finder=_mosaics_of_night,
    reads_through="hour_mosaic", shaping=("coadd",), image=True,
    figures=("n_tiles", "area_deg2", "rms_jy", "windows_completed"),
    rules=(
        *rules_of_mosaic("hours"),
        Rule("completeness", "the night's hours are in", ("windows_completed",),
             judges.at_least("windows_completed", lambda t: t.min_windows_completed), severity=WARN),
    ),
)  # fmt: skip
def night_mosaic(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The night as one image, with its coverage (MOC) and HiPS tiles: every tile of its hours counts once."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        from dsa110_assets.mosaics import sky_tiles

        stages = publishing.Stages()
        tiles = coadding.tiles_of(platform.archive, found.all("hour_mosaic"))
        with stages("coadd"):
            figures = _coadded(context, platform, found, tiles, draft)
        with stages("hips"):
            figures |= sky_tiles.write_sky_tiles(draft.path / "mosaic.fits", draft.path, f"continuum/{context.partition_key}")
        night = coadding.windows_completed(platform.archive, "tile_image", context.partition_key)
        return {**figures, **night, "n_hours": len(found.products), **stages.seconds}

    return publishing.produce(context, platform, make)
