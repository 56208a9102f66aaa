"""What checks of severity ERROR say against products, as these recorded it: for whoever asks often, without Dagster, which takes a
second to load."""

from collections.abc import Iterable
from dataclasses import dataclass

from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS, Product


@dataclass(frozen=True)
class FailedCheck:
    """A check of severity ERROR that spoke against a product that is there nevertheless."""

    product_id: str
    asset: str
    partition: str | None
    check: str
    reason: str


def failed(products: Iterable[Product]) -> list[FailedCheck]:
    """What checks of severity ERROR say against these products.

    Of what does not record which of its failed checks are of that severity, all are taken to be.
    """
    return [
        FailedCheck(product.id, product.asset, product.partition, check, said[check])
        for product in products
        if product.metadata.get("n_failed_checks")
        for said in [product.metadata[VERDICTS]]
        for check in product.metadata.get(FAILED_ERRORS, [name for name, reason in said.items() if reason])
    ]
