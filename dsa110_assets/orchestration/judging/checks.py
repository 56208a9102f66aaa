"""Failed checks of severity ERROR, as products recorded them. This module is for frequent queries and does without Dagster, which
takes a second to load."""

from collections.abc import Iterable
from dataclasses import dataclass

from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS, Product


@dataclass(frozen=True)
class FailedCheck:
    """A check of severity ERROR that failed for a product which was published nevertheless."""

    product_id: str
    asset: str
    partition: str | None
    check: str
    reason: str


def failed(products: Iterable[Product]) -> list[FailedCheck]:
    """Return the failed checks of severity ERROR of these products.

    If a product does not record which of its failed checks have that severity, all of them are taken to have it.
    """
    return [
        FailedCheck(product.id, product.asset, product.partition, check, verdicts[check])
        for product in products
        if product.metadata.get("n_failed_checks")
        for verdicts in [product.metadata[VERDICTS]]
        for check in product.metadata.get(FAILED_ERRORS, [name for name, reason in verdicts.items() if reason])
    ]
