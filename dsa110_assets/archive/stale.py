"""Which current products are out of date: exactly the dependents of what was rejected or replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dsa110_assets.archive import rows
from dsa110_assets.archive.index import caltable_sets
from dsa110_assets.archive.product import Product

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dsa110_assets.archive.store import Archive


@dataclass(frozen=True)
class Stale:
    """A current product that no longer follows from what is current, and why."""

    product: Product
    reasons: tuple[str, ...]


def stale(archive: Archive) -> list[Stale]:
    """Current products to be made again, inputs before what is made from them.

    A product is stale if an input was rejected, was superseded by a version with other bytes, or is itself
    stale; or if the caltable set it names in `metadata['caltable_set']` was rejected. An input whose data
    retention removed is not a reason: it was right when it was used.
    """

    def work(connection: Connection) -> tuple[dict[str, Product], dict[str, str]]:
        everything = {p.id: p for p in rows.select(connection, archive.root)}
        query = sa.select(caltable_sets.c.set_id, caltable_sets.c.rejected).where(
            caltable_sets.c.rejected.is_not(None)
        )
        return everything, {row.set_id: row.rejected for row in connection.execute(query)}

    everything, rejected_sets = archive.index.read(work)
    newest = {(p.asset, p.partition): p for p in sorted(everything.values(), key=lambda p: p.version)}
    found: dict[str, tuple[str, ...]] = {}
    order = _inputs_first(everything)
    for product in order:
        if product.state == "current":
            found[product.id] = _reasons(product, everything, newest, rejected_sets, found)
    return [Stale(p, found[p.id]) for p in order if found.get(p.id)]


def _reasons(
    product: Product,
    everything: Mapping[str, Product],
    newest: Mapping[tuple[str, str | None], Product],
    rejected_sets: Mapping[str, str],
    found: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    reasons = []
    for one in (everything[i] for i in product.inputs if i in everything):
        latest = newest[one.asset, one.partition]
        if one.state == "rejected":
            reasons.append(f"{one.id} was rejected: {one.reason}")
        elif latest.version > one.version and latest.digest != one.digest:
            reasons.append(f"{one.id} was replaced by {latest.id}")
        elif found.get(one.id):
            reasons.append(f"{one.id} is stale")
    caltable_set = product.metadata.get("caltable_set")
    if isinstance(caltable_set, str) and caltable_set in rejected_sets:
        reasons.append(f"caltable set {caltable_set} was rejected: {rejected_sets[caltable_set]}")
    return tuple(reasons)


def _inputs_first(everything: Mapping[str, Product]) -> list[Product]:
    """All products, each after its inputs (no recursion: chains of nights grow long)."""
    placed: dict[str, Product] = {}
    for start in everything.values():
        stack = [start]
        while stack:
            top = stack[-1]
            pending = [everything[i] for i in top.inputs if i in everything and i not in placed]
            if pending:
                stack += pending
            else:
                placed.setdefault(top.id, stack.pop())
    return list(placed.values())
