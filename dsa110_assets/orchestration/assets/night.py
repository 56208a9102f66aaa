"""The night, told on one page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import describe, publishing, recipes, report
from dsa110_assets.orchestration.resources import Platform

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft


@describe.asset("night_report")
def night_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[Any] | None:
    """One self-contained HTML page: what was seen, what failed and why, images, checks, candidates."""

    def make(_: recipes.Ingredients, draft: "Draft") -> Mapping[str, Any]:
        night, archive = context.partition_key, platform.archive
        failures = report.failures_of(context.instance, archive, night)
        return report.write(draft.path, night, archive, failures)

    return publishing.produce(context, platform, make)
