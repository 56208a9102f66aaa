"""The rules as Dagster's asset checks.

On 5-minute assets checks are unpartitioned and never block: their partitioned state would cost minutes at every
tick after a year, and an unpartitioned blocking check is all or nothing. There the gate in `publishing` does
the stopping. On hour and night assets they are partition-aware, and the HARD ones block.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets.orchestration import rules

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product


def specs(asset: str, judged: "Iterable[rules.Rule]", partitions_def: dg.TimeWindowPartitionsDefinition | None) -> list[dg.AssetCheckSpec]:
    """The checks of an asset that is judged by these rules."""
    coarse = partitions_def is not None and not partitions_def.cron_schedule.startswith("*/5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                rule.check,
                asset=asset,
                description=rule.description,
                blocking=rule.hard and (coarse or partitions_def is None),
                partitions_def=partitions_def if coarse else None,
                metadata={"hard": rule.hard, "figures": list(rule.figures)},
            )
            for rule in judged
        ]


@dataclass(frozen=True)
class FailedCheck:
    """A check of severity ERROR that spoke against a product that is there nevertheless."""

    product_id: str
    asset: str
    partition: str | None
    check: str
    reason: str


def failed(products: "Iterable[Product]") -> list[FailedCheck]:
    """What checks of severity ERROR say against these products."""
    return [
        FailedCheck(product.id, product.asset, product.partition, verdict.check, verdict.reason)
        for product in products
        if product.metadata.get("n_failed_checks")
        for verdict in rules.from_metadata(product.asset, product.metadata)
        if not verdict.passed and verdict.severity == rules.ERROR
    ]
