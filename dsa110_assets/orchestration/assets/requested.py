"""Mosaics that somebody asked for: any tiles, on a grid of their own or about a place."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive import naming, requested
from dsa110_assets.orchestration import coadding, policy, publishing, recipes, requesting
from dsa110_assets.orchestration.assets.imaging import rules_of_mosaic
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.spec import Asset

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


def _tiles_asked_for(archive: "Archive", settings: "Settings", partition: str) -> recipes.Ingredients | None:
    request = requested.find(archive, partition.removeprefix(naming.NAME_MARK))
    tiles = requesting.tiles(archive, request)
    return recipes.Ingredients(tuple(tiles), {"requested": request.wanted}, request) if tiles else None


@Asset(
    requested.ASSET, grain="request", kinds={"fits"}, code_version="1", inputs=("tile_image",), finder=_tiles_asked_for,
    shaping=("coadd",), keep_days=365, of_what_is_kept=True, told=False, image=True, asks=requesting.FIELDS,
    nothing_made="the archive has no usable tile of what was asked for; `dsa110 requested show` tells what that was",
    rules=rules_of_mosaic("tiles"),
)  # fmt: skip
def requested_mosaic(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """A mosaic that somebody asked for by a name: of any time, tiles or place. No measurement and no light curve is made from it."""
    with policy.decided(context.retry_number):
        requesting.keep_asked(platform.archive, context.partition_key, context.op_execution_context.op_config)

    def make(found: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        stages, tiles, request = publishing.Stages(), found.all("tile_image"), found.prepared
        cards = publishing.fits_cards(context, platform, found, coadding.anchor(tiles))
        options, target = requesting.grid(request, tiles, platform.settings.coadd)
        with stages("coadd"):
            figures = coadding.mosaic(tiles, options, platform.thresholds.max_neighbour_difference, draft.path, cards, target)
        return {**figures, "requested_by": request.by, **stages.seconds}

    return publishing.produce(context, platform, make)
