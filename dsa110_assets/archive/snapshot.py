"""The current products of a span, read at once, for whoever asks for thousands of them one by one."""

from __future__ import annotations

from datetime import datetime

from dsa110_assets.archive import naming, windows
from dsa110_assets.archive.index import products
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive


class Snapshot(Archive):
    """An archive whose `current` and `get` answer from what the span from `since` to `until` held when this was made.

    Catalogues belong to every span. What lies outside it, and all other questions, are asked of the archive as it is now.
    """

    def __init__(self, archive: Archive, since: datetime, until: datetime) -> None:
        self.root, self.index = archive.root, archive.index
        self._since, self._until = windows.key(since)[:10], windows.key(until)
        catalogues = self._select(products.c.partition_key == "", products.c.state == "current")
        inside = archive.products(None, self._since, self._until, removed=True)
        self._current = {(product.asset, product.partition): product for product in (*catalogues, *inside)}
        self._by_id = {product.id: product for product in self._current.values()}

    def current(self, asset: str, partition: str | None = None, *, check: bool = False, removed: bool = False) -> Product | None:
        """As `Archive.current`; whether files are in place is looked up now."""
        if partition is not None and not self._since <= partition <= self._until:
            return super().current(asset, partition, check=check, removed=removed)
        found = self._current.get((naming.check_asset(asset), naming.check_partition(partition)))
        if found is None or (found.removed and not removed):
            return None
        return found if not check or found.removed or self._in_place(found) else None

    def get(self, product_id: str) -> Product:
        """As `Archive.get`."""
        return self._by_id.get(product_id) or super().get(product_id)
