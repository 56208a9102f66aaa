"""Images: a tile per observation, a mosaic per hour and per night."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import coadding, describe, measuring, publishing, recipes
from dsa110_assets.orchestration.assets.calibration import CALIBRATED
from dsa110_assets.orchestration.assets.catalogues import read_sky_model
from dsa110_assets.orchestration.resources import Platform

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft


@describe.asset("tile_image")
def tile_image(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The observation's image: cleaned, with its residual, primary beam, PSF and primary-beam corrected twin."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        from dsa110_assets.imaging import fits, spectra

        stages, settings, product = publishing.Stages(), platform.settings, found.only("calibrated_ms")
        sky = read_sky_model(found.only("sky_model").path)
        with stages("image"):
            tile = coadding.image(product.path / CALIBRATED, settings, sky, draft.path)
        with stages("write"):
            fits.write_tile(tile, draft.path, publishing.fits_cards(context, found, product.metadata["anchor"]))
            spectra.point_table(tile).to_parquet(draft.path / measuring.POINTS)
        return {**coadding.of_observation(product), **tile.figures, **stages.seconds}

    return publishing.produce(context, platform, make)


@describe.asset("hour_mosaic")
def hour_mosaic(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The hour's tiles, and the two before and after it, as one image corrected for the primary beam."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        stages = publishing.Stages()
        tiles = found.all("tile_image")
        with stages("coadd"):
            cards = publishing.fits_cards(context, found, coadding.anchor(tiles))
            most_different = platform.thresholds.max_neighbour_difference
            figures = coadding.mosaic(tiles, platform.settings, most_different, draft.path, cards)
        hour = coadding.windows_completed(platform.archive, "tile_image", context.partition_key[:13])
        return {**figures, **hour, **stages.seconds}

    return publishing.produce(context, platform, make)


@describe.asset("night_mosaic")
def night_mosaic(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """The night as one image, with its coverage (MOC) and HiPS tiles: every tile of its hours counts once."""

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        from dsa110_assets.mosaics import sky_tiles

        stages = publishing.Stages()
        tiles = coadding.tiles_of(platform.archive, found.all("hour_mosaic"))
        with stages("coadd"):
            cards = publishing.fits_cards(context, found, coadding.anchor(tiles))
            most_different = platform.thresholds.max_neighbour_difference
            figures = coadding.mosaic(tiles, platform.settings, most_different, draft.path, cards)
        with stages("hips"):
            figures |= sky_tiles.write_sky_tiles(draft.path / "mosaic.fits", draft.path)
        night = coadding.windows_completed(platform.archive, "tile_image", context.partition_key)
        return {**figures, **night, "n_hours": len(found.products), **stages.seconds}

    return publishing.produce(context, platform, make)
