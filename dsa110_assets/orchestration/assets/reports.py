"""The night, told on one page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import publishing, recipes, report, spec
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.spec import Asset

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


def _night(archive: "Archive", settings: "Settings", night: str) -> recipes.Ingredients | None:
    """Everything the night has to show; its light curves, or at least a tile, must be there."""
    found = [product for asset in spec.assets()["night_report"].inputs for product in archive.products(asset, night, night)]
    return recipes.Ingredients(tuple(found)) if found else None


@Asset(
    "night_report", grain="night", kinds={"html"}, code_version="3", inputs=spec.ALL_TOLD, finder=_night, of_what_is_kept=True,
)  # fmt: skip
def night_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """One self-contained HTML page: what was seen, what failed and why, images, checks, candidates."""

    def make(_: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        night, archive = context.partition_key, platform.archive
        failures = report.failures_of(context.instance, archive, night)
        return report.write(draft.path, night, archive, failures)

    return publishing.produce(context, platform, make)
