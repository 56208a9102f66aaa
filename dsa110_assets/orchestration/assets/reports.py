"""The night's report on one page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes, spec
from dsa110_assets.orchestration.specification.spec import Asset
from dsa110_assets.orchestration.watching import report

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


def _night(archive: "Archive", settings: "Settings", night: str) -> recipes.Ingredients | None:
    """All products of the night that the report covers; None if there are none."""
    products = [product for asset in spec.assets()["night_report"].inputs for product in archive.products(asset, night, night)]
    return recipes.Ingredients(tuple(products)) if products else None


@Asset(
    "night_report", grain="night", kinds={"html"}, code_version="3", inputs=spec.ALL_REPORTED, finder=_night, of_kept_data_only=True,
)  # fmt: skip
def night_report(step: Step) -> Mapping[str, Any]:
    """One self-contained HTML page: what was observed, what failed and why, images, checks, candidates."""
    failures = report.failures_of(step.context.instance, step.archive, step.partition)
    return report.write(step.directory, step.partition, step.archive, failures)
