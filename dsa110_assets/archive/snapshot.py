"""The current products of a span, read at once, for callers that need thousands of them one by one."""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, TypeVar

from dsa110_assets.archive import naming, windows
from dsa110_assets.archive.index import products
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive

T = TypeVar("T")
MOST_TRUSTED = 50_000
_in_place_at_s: dict[str, float] = {}
"""The time when files were last found in place [s, monotonic], by product id: a day's measurement sets alone are 20,000 files."""


class Snapshot(Archive):
    """An archive that answers some queries from the products of `assets` (None: all) from `since` to `until`, read when it was made.

    These are `current`, `get`, and `products` of one asset in state current. The results of `once` are kept. Catalogues belong to every
    span. Queries outside the span, and all others, go to the archive as it is now. The files of a product that this process found in
    place less than `trusted_s` ago are not checked again.
    """

    def __init__(
        self, archive: Archive, since: datetime, until: datetime, assets: Collection[str] | None = None, trusted_s: float = 0.0
    ) -> None:
        self.root, self.index, self._trusted_s = archive.root, archive.index, trusted_s
        self._since, self._until, self._assets = windows.key(since)[:10], windows.key(until), assets
        of_assets = [] if assets is None else [products.c.asset.in_(sorted(assets))]
        inside = windows.conditions(products.c.partition_key, self._since, self._until)
        catalogues = self._select(products.c.partition_key == "", products.c.state == "current")
        found = [*catalogues, *self._select(*of_assets, products.c.state == "current", *inside)]
        self._by_id: dict[str, Product] = {product.id: product for product in found}
        self._current = {(product.asset, product.partition): product for product in found}
        self._of: dict[str, list[Product]] = defaultdict(list)
        for product in found:
            self._of[product.asset].append(product)
        self._answers: dict[Any, Any] = {}

    def current(self, asset: str, partition: str | None = None, *, check: bool = False, removed: bool = False) -> Product | None:
        """As `Archive.current`; whether files are in place is checked now, unless that was done less than `trusted_s` ago."""
        if not self._holds(asset, partition, partition):
            return super().current(asset, partition, check=check, removed=removed)
        found = self._current.get((naming.check_asset(asset), naming.check_partition(partition)))
        if found is None or (found.removed and not removed):
            return None
        return found if not check or found.removed or self._trusted(found) else None

    def get(self, product_id: str) -> Product:
        """As `Archive.get`; each product is read only once, because it never changes."""
        if product_id not in self._by_id:
            self._by_id[product_id] = super().get(product_id)
        return self._by_id[product_id]

    def products(
        self,
        asset: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        state: str | None = "current",
        *,
        removed: bool = False,
        trials: bool = False,
    ) -> list[Product]:
        """As `Archive.products`."""
        if asset is None or since is None or until is None or state != "current":
            return super().products(asset, since, until, state, removed=removed, trials=trials)
        low, high = windows.first(since), windows.last(until)
        if not self._holds(asset, low, high):
            return super().products(asset, since, until, state, removed=removed)
        of_asset = self._of[naming.check_asset(asset)]
        start, end = bisect_left(of_asset, low, key=_partition), bisect_right(of_asset, high, key=_partition)
        return [product for product in of_asset[start:end] if removed or not product.removed]

    def once(self, question: Any, ask: Callable[[], T]) -> T:
        """As `Archive.once`, but a repeated question returns the first answer."""
        if question not in self._answers:
            self._answers[question] = ask()
        answer: T = self._answers[question]
        return answer

    def _trusted(self, product: Product) -> bool:
        """Whether the files are in place now, or were less than `trusted_s` ago."""
        now_s = time.monotonic()
        if now_s - _in_place_at_s.get(product.id, -math.inf) < self._trusted_s:
            return True
        if not self._in_place(product):
            return False
        if self._trusted_s:
            _in_place_at_s[product.id] = now_s
        if len(_in_place_at_s) > MOST_TRUSTED:
            _in_place_at_s.clear()
        return True

    def _holds(self, asset: str, low: str | None, high: str | None) -> bool:
        """Whether the snapshot covers an asset from one partition key to another."""
        if low is None or high is None:
            return True
        return self._since <= low and high <= f"{self._until}U" and (self._assets is None or asset in self._assets)


def _partition(product: Product) -> str:
    return product.partition or ""
