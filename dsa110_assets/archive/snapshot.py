"""The current products of a span, read at once, for whoever asks for thousands of them one by one."""

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
"""When files were last found in place [s, monotonic], by product id: a day's measurement sets alone are 20,000 files."""


class Snapshot(Archive):
    """An archive that answers from what the span from `since` to `until` held of some assets (all, without) when this was made:
    `current`, `get`, and `products` of one asset and its current state. What is asked `once` is asked once.

    Catalogues belong to every span. What lies outside it, and all other questions, are asked of the archive as it is now. A product
    whose files this process found in place less than `trusted_s` ago is not looked for again.
    """

    def __init__(
        self, archive: Archive, since: datetime, until: datetime, assets: Collection[str] | None = None, trusted_s: float = 0.0
    ) -> None:
        self.root, self.index, self._trusted_s = archive.root, archive.index, trusted_s
        self._since, self._until, self._assets = windows.key(since)[:10], windows.key(until), assets
        of = [] if assets is None else [products.c.asset.in_(sorted(assets))]
        inside = windows.conditions(products.c.partition_key, self._since, self._until)
        catalogues = self._select(products.c.partition_key == "", products.c.state == "current")
        there = [*catalogues, *self._select(*of, products.c.state == "current", *inside)]
        self._by_id: dict[str, Product] = {product.id: product for product in there}
        self._current = {(product.asset, product.partition): product for product in there}
        self._of: dict[str, list[Product]] = defaultdict(list)
        for product in there:
            self._of[product.asset].append(product)
        self._answers: dict[Any, Any] = {}

    def current(self, asset: str, partition: str | None = None, *, check: bool = False, removed: bool = False) -> Product | None:
        """As `Archive.current`; whether files are in place is looked up now, but for those trusted."""
        if not self._holds(asset, partition, partition):
            return super().current(asset, partition, check=check, removed=removed)
        found = self._current.get((naming.check_asset(asset), naming.check_partition(partition)))
        if found is None or (found.removed and not removed):
            return None
        return found if not check or found.removed or self._trusted(found) else None

    def get(self, product_id: str) -> Product:
        """As `Archive.get`; a product never changes, and is asked for once."""
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
        of = self._of[naming.check_asset(asset)]
        start, end = bisect_left(of, low, key=_partition), bisect_right(of, high, key=_partition)
        return [product for product in of[start:end] if removed or not product.removed]

    def once(self, question: Any, ask: Callable[[], T]) -> T:
        """As `Archive.once`, asked once."""
        if question not in self._answers:
            self._answers[question] = ask()
        answer: T = self._answers[question]
        return answer

    def _trusted(self, product: Product) -> bool:
        """Whether the files are in place, or were a short time ago."""
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
        """Whether everything of an asset from one partition key to another was read."""
        if low is None or high is None:
            return True
        return self._since <= low and high <= f"{self._until}U" and (self._assets is None or asset in self._assets)


def _partition(product: Product) -> str:
    return product.partition or ""
