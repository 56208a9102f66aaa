"""Requested mosaics: any tiles, on a grid that holds them all or around a given place."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive import naming, requested
from dsa110_assets.orchestration.assets.imaging import rules_of_mosaic, write_mosaic
from dsa110_assets.orchestration.requested import requesting
from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.orchestration.specification.spec import Asset

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


def _requested_tiles(archive: "Archive", settings: "Settings", partition: str) -> recipes.Ingredients | None:
    request = requested.find(archive, partition.removeprefix(naming.NAME_MARK))
    tiles = requesting.tiles(archive, request)
    return recipes.Ingredients(tuple(tiles), {"requested": request.wanted}, request) if tiles else None


@Asset(
    requested.ASSET, grain="request", kinds={"fits"}, code_version="1", inputs=("tile_image",), finder=_requested_tiles,
    shaping=("coadd",), keep_days=365, of_kept_data_only=True, reported=False, image=True,
    asks=requesting.FIELDS, keep_request=requesting.keep_asked,
    nothing_made="the archive has no usable tile for the request; `dsa110 requested show` shows what was requested",
    rules=rules_of_mosaic("tiles"),
)  # fmt: skip
def requested_mosaic(step: Step) -> Mapping[str, Any]:
    """A mosaic that somebody requested by a name: of any time, tiles or place. No measurement and no light curve is made from it."""
    tiles, request = step.inputs("tile_image"), step.prepared
    options, target = requesting.grid(request, tiles, step.settings.coadd)
    with step.timed("coadd"):
        figures = write_mosaic(step, tiles, options, target)
    return {**figures, "requested_by": request.by}
