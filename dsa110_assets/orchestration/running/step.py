"""The step that an asset's body works with: its partition, its inputs, the settings, and the draft it writes into."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets import __version__, tracing
from dsa110_assets.archive import naming

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dagster as dg

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.resources import Platform
    from dsa110_assets.orchestration.specification.recipes import Ingredients
    from dsa110_assets.orchestration.specification.spec import Asset
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds


@dataclass(frozen=True)
class Step:
    """One partition of one asset while it is made. A body reads each `input`, writes files below `directory`, and returns figures."""

    context: "dg.AssetExecutionContext"
    platform: "Platform"
    asset: "Asset"
    ingredients: "Ingredients"
    draft: "Draft"
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each part that was `timed`; it is added to the figures as `<part>_s`."""

    @property
    def partition(self) -> str:
        """The partition's key; '' for a catalogue."""
        return self.context.partition_key if self.context.has_partition_key else ""

    @property
    def settings(self) -> "Settings":
        """The settings this product is made with."""
        return self.platform.settings

    @property
    def thresholds(self) -> "Thresholds":
        """The thresholds in force."""
        return self.platform.thresholds

    @property
    def archive(self) -> "Archive":
        """The archive that inputs are read from."""
        return self.platform.archive

    @property
    def directory(self) -> Path:
        """The directory that the product's files are written to; empty at first."""
        return self.draft.path

    @property
    def facts(self) -> "Mapping[str, Any]":
        """The facts that the finder noted beside the inputs; they are recorded with the product."""
        return self.ingredients.facts

    @property
    def prepared(self) -> Any:
        """The data that the finder has already read, so that the body need not read them again."""
        return self.ingredients.prepared

    def input(self, asset: str) -> "Product":
        """The only input of this asset."""
        return self.ingredients.only(asset)

    def inputs(self, asset: str) -> "list[Product]":
        """The inputs of this asset, in time order."""
        return self.ingredients.all(asset)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time a part of the work under this name."""
        began = time.perf_counter()
        with tracing.span(part):
            yield
        self.seconds[f"{part}_s"] = round(time.perf_counter() - began, 3)

    def fits_cards(self, anchor: str) -> dict[str, str]:
        """The FITS header cards for an image's origin: the product, its inputs, code version, run and flux anchor.

        The product is named without its version, which only publishing decides; together with the run the name is unambiguous.
        """
        name = naming.in_trial(self.asset.name, self.archive.trial)
        return {
            "ORIGIN": f"dsa110_assets {__version__}",
            "PRODUCT": f"{name}-{naming.compact(self.partition)}",
            "CODEVER": self.asset.code_version,
            "RUNID": self.context.run.run_id,
            "ANCHOR": anchor,
            **{f"INPUT{number:03d}": product_id for number, product_id in enumerate(self.ingredients.ids, start=1)},
        }
