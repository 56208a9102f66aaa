"""Images: a tile per observation, a mosaic per hour and per night."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets.orchestration.assets.calibration import CALIBRATED
from dsa110_assets.orchestration.assets.catalogues import read_sky_model
from dsa110_assets.orchestration.judging import checks, judges
from dsa110_assets.orchestration.judging.rules import FEWEST_REFERENCES, SAME_SETTINGS, WARN, Rule
from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.orchestration.specification.spec import Asset
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.imaging.tile import TileImage
    from dsa110_assets.mosaics.coadd import TileInput
    from dsa110_assets.mosaics.options import CoaddOptions
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.model import SkyModel


_OFFSETS = ("astrometry_ra_arcsec", "astrometry_dec_arcsec", "astrometry_ra_error_arcsec", "astrometry_dec_error_arcsec")
_OBSERVATION = ("mjd_start", "mjd_end", "pointing_dec_deg", "n_subbands", "caltable_set", "caltable_age_h", "anchor")
_GAINS = (
    "receptors_lost", "antennas_lost", "n_antennas_lost", "n_antennas_kept", "flux_scale", "flux_scale_error", "flux_scale_applied",
    "drift_amplitude", "drift_phase_deg", "epoch_gains", "caltable_sets", "caltable_weights",
)  # fmt: skip
"""Results of the calibration for antennas and gains, if they were judged, and the sets it interpolated between, if it did."""
NEIGHBOUR_TILES = 2
STRIP_TOLERANCE_DEG = 1.0
"""Tiles further than this from the hour's median declination belong to another strip."""


@Asset(
    "tile_image", grain="observation", kinds={"fits", "ducc"}, code_version="9", inputs=("calibrated_ms", "sky_model"),
    shaping=("imaging", "imaging_engine"), pool="imaging",
    keep_days=365, uses_up=("calibrated_ms",), image=True,
    columns={"rms_jy": "Rms [Jy]", "dynamic_range": "Dynamic range", "flux_ratio": "Flux ratio"},
    memory_per_input=2.8,  # 1.7 GiB in all for a calibrated set of 0.5 GB, plus a tenth
    rules=(
        Rule("sane", "the image has a positive noise and a possible beam", ("rms_jy", "beam_major_arcsec", "beam_minor_arcsec"),
             judges.every(judges.finite_rms, judges.beam), hard=True),
        Rule("references", "bright catalogue sources are in the image", ("reference_missing", "reference_count"), judges.references,
             hard=True, limits=("max_missing_references",)),
        Rule("flux_scale", "fluxes roughly agree with the catalogue: an image beyond the limits is not published",
             ("flux_ratio", "flux_ratio_error", "reference_count"),
             judges.if_known("reference_count", judges.flux_scale, FEWEST_REFERENCES), hard=True,
             limits=("min_flux_ratio", "max_flux_ratio")),
        Rule("position", "positions roughly agree with the catalogue: an image beyond the limits is not published", _OFFSETS,
             judges.if_known("reference_count", judges.position, FEWEST_REFERENCES), hard=True, limits=("astrometry_fail_arcsec",)),
        Rule("rms", "the noise is what the radiometer equation allows", ("rms_jy", "rms_over_radiometer"), judges.rms,
             limits=("min_rms_ratio", "max_rms_ratio", "max_tile_rms_jy")),
        Rule("dynamic_range", "the brightest source stands out", ("dynamic_range",),
             judges.at_least("dynamic_range", lambda t: t.min_dynamic_range), severity=WARN, limits=("min_dynamic_range",)),
        Rule("flux_ratio", "fluxes agree with the catalogue", ("flux_ratio", "flux_ratio_error", "reference_count"),
             judges.if_known("reference_count", judges.flux_ratio()), limits=("max_flux_offset",)),
        Rule("astrometry", "positions agree with the catalogue", _OFFSETS, judges.if_known("reference_count", judges.astrometry),
             limits=("astrometry_warn_arcsec", "astrometry_warn_beams")),
    ),
)  # fmt: skip
def tile_image(step: Step) -> Mapping[str, Any]:
    """The observation's image: cleaned, with its residual, primary beam, PSF and a version corrected for the primary beam."""
    from dsa110_assets.imaging import fits, spectra

    calibrated, sky = step.input("calibrated_ms"), read_sky_model(step.input("sky_model").path)
    with step.timed("image"):
        tile = image(calibrated.path / CALIBRATED, step.settings, sky, step.directory)
    with step.timed("write"):
        fits.write_tile(tile, step.directory, step.fits_cards(calibrated.metadata["anchor"]))
        spectra.point_table(tile).to_parquet(step.directory / spectra.FILE)
    passed_on = {name: calibrated.metadata[name] for name in (*_OBSERVATION, *_GAINS) if name in calibrated.metadata}
    return {**passed_on, **tile.figures}


def image(ms_path: Path, settings: "Settings", sky: "SkyModel", work_dir: Path) -> "TileImage":
    """Image a calibrated measurement set with the configured engine."""
    from dsa110_assets.visibilities import measurement_set

    if settings.imaging_engine == "casa":
        from dsa110_assets.engines import casa_imaging

        return casa_imaging.make_tile(ms_path, settings.imaging, sky, work_dir=work_dir)
    from dsa110_assets.imaging import tile

    return tile.make_tile(measurement_set.mapped(ms_path), settings.imaging, sky)


def rules_of_mosaic(parts: str) -> tuple[Rule, ...]:
    """The first rules of every mosaic, in this order; `parts` names what it is made from."""
    return (
        SAME_SETTINGS,
        Rule("noise_map", "the noise map matches the scatter of the pixels", ("measured_over_noise",), judges.noise_map, hard=True,
             limits=("max_noise_ratio_error",)),
        Rule("overlap", f"neighbouring {parts} roughly agree on the fluxes of the sources they share",
             ("overlap_flux_ratio", "overlap_flux_scatter", "overlap_pairs"), judges.if_known("overlap_pairs", judges.overlap),
             hard=True, limits=("max_overlap_difference",)),
        Rule("neighbours", "the most discrepant pair of tiles agrees", ("overlap_flux_worst", "overlap_worst_error", "overlap_worst_tiles"),
             judges.neighbours, limits=("max_neighbour_difference",)),
        Rule("one_scale", "flux scales of different calibrators agree where they meet",
             ("n_anchors", "anchor_difference", "anchor_difference_error", "anchor_scales"), judges.one_scale,
             limits=("max_flux_offset",)),
    )  # fmt: skip


def write_mosaic(
    step: Step, tiles: "Sequence[Product]", options: "CoaddOptions | None" = None, target: "Header | None" = None
) -> dict[str, Any]:
    """Write the tiles as one mosaic to the step's directory, on the grid `target` (None: one that holds them all), with `options` (None:
    those of the settings). Return its figures, in which `suspects` includes the tiles for which a soft rule failed."""
    from dsa110_assets.mosaics.assemble import assemble

    anchors = {tile.id: str(tile.metadata["anchor"]) for tile in tiles}
    suspicions = {tile.id: "; ".join(f"{check.check}: {check.reason}" for check in checks.failed([tile])) for tile in tiles}
    anchor = ", ".join(sorted(set(anchors.values())))
    figures = assemble(
        tile_inputs(tiles), anchors, suspicions, options or step.settings.coadd, step.thresholds.max_neighbour_difference, step.directory,
        step.fits_cards(anchor), target,
    )  # fmt: skip
    times = [_middle_mjd(tile) for tile in tiles]
    return {
        **figures,
        "antennas_lost": sorted({name for tile in tiles for name in tile.metadata.get("antennas_lost", ())}),
        "mid_mjd": sum(times) / len(times),
        "mjd_start": min(float(tile.metadata["mjd_start"]) for tile in tiles),
        "mjd_end": max(float(tile.metadata["mjd_end"]) for tile in tiles),
        "pointing_dec_deg": _dec(tiles[len(tiles) // 2]),
        "anchor": anchor,
    }


def tile_inputs(tiles: "Sequence[Product]", scales: "Mapping[str, float] | None" = None) -> "list[TileInput]":
    """The tile products as inputs of `coadd`; `scales` by product id are the divisors of fluxes (1 if not named)."""
    from dsa110_assets.mosaics.coadd import TileInput

    return [
        TileInput(
            image_path=p.path / "image.fits",
            primary_beam_path=p.path / "primary-beam.fits",
            rms_jy=float(p.metadata["rms_jy"]),
            product_id=p.id,
            mjd=_middle_mjd(p),
            scale=(scales or {}).get(p.id, 1.0),
        )
        for p in tiles
    ]


def _middle_mjd(product: "Product") -> float:
    return (float(product.metadata["mjd_start"]) + float(product.metadata["mjd_end"])) / 2


def windows_completed(archive: "Archive", asset: str, window: str) -> dict[str, float]:
    """The number of observations taken in an hour or night (its key, or the key's beginning), and the share that have this asset."""
    taken = [p for p in archive.products("subband_group", window[:10], window[:10]) if (p.partition or "").startswith(window)]
    done = {p.partition for p in archive.products(asset, window[:10], window[:10])}
    return {
        "n_observations": len(taken),
        "windows_completed": sum(p.partition in done for p in taken) / max(len(taken), 1),
    }


def left_out(archive: "Archive", elsewhere: "Sequence[str]") -> dict[str, Any]:
    """Figures that report the hour's tiles (ids) that point elsewhere than its mosaic and are not in it."""
    named = [f"{i} at {float(archive.get(i).metadata['pointing_dec_deg']):.2f} deg" for i in elsewhere]
    return {"n_left_out": len(named), "left_out": named}


def tiles_of(archive: "Archive", mosaics: "Sequence[Product]") -> "list[Product]":
    """The tiles from which hour mosaics were made, each once: neighbouring hours share tiles, but a night counts them once."""
    ids = sorted({i for m in mosaics for i in m.inputs})
    tiles = [archive.get(i) for i in ids]
    return sorted((t for t in tiles if t.asset == "tile_image"), key=lambda t: t.partition or "")


def _tiles_of_hour(archive: "Archive", settings: "Settings", hour: str) -> recipes.Ingredients | None:
    """The hour's tiles, the last two before and the first two after it, of the hour's own strip. Tiles of the hour that belong to
    another strip are recorded, so that the mosaic becomes stale when another such tile arrives."""
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
             judges.at_least("windows_completed", lambda t: t.min_windows_completed), severity=WARN,
             limits=("min_windows_completed",)),
    ),
)  # fmt: skip
def hour_mosaic(step: Step) -> Mapping[str, Any]:
    """The hour's tiles, and the two before and after it, as one image corrected for the primary beam."""
    tiles = step.inputs("tile_image")
    with step.timed("coadd"):
        figures = write_mosaic(step, tiles)
    hour = windows_completed(step.archive, "tile_image", step.partition[:13])
    hour |= left_out(step.archive, step.facts.get("left_out", ()))
    return {**figures, **hour}


def _mosaics_of_night(archive: "Archive", settings: "Settings", night: str) -> recipes.Ingredients | None:
    mosaics = recipes.all_usable(archive, "hour_mosaic", night, night)
    return recipes.Ingredients(tuple(mosaics)) if mosaics else None


@Asset(
    "night_mosaic", grain="night", kinds={"fits", "hips"}, code_version="4", inputs=("hour_mosaic",), finder=_mosaics_of_night,
    reads_through="hour_mosaic", shaping=("coadd",), image=True, patience=4.0,
    figures=("n_tiles", "area_deg2", "rms_jy", "windows_completed"),
    rules=(
        *rules_of_mosaic("hours"),
        Rule("completeness", "the night's hours are in", ("windows_completed",),
             judges.at_least("windows_completed", lambda t: t.min_windows_completed), severity=WARN,
             limits=("min_windows_completed",)),
    ),
)  # fmt: skip
def night_mosaic(step: Step) -> Mapping[str, Any]:
    """The night as one image, with its coverage (MOC) and HiPS tiles: every tile of its hours counts once."""
    from dsa110_assets.mosaics import sky_tiles

    tiles = tiles_of(step.archive, step.inputs("hour_mosaic"))
    with step.timed("coadd"):
        figures = write_mosaic(step, tiles)
    with step.timed("hips"):
        figures |= sky_tiles.write_sky_tiles(step.directory / "mosaic.fits", step.directory, f"continuum/{step.partition}")
    night = windows_completed(step.archive, "tile_image", step.partition)
    return {**figures, **night, "n_hours": len(step.ingredients.products)}
