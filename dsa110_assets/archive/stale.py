"""Current products that are out of date: exactly the dependents of rejected or replaced products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dsa110_assets.archive import caltable_registry, rows
from dsa110_assets.archive.index import caltable_sets, product_inputs, products
from dsa110_assets.archive.product import Product

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from dsa110_assets.archive.store import Archive


@dataclass(frozen=True)
class Stale:
    """A current product that was not made from the current inputs, and the reasons."""

    product: Product
    reasons: tuple[str, ...]


def stale(archive: Archive) -> list[Stale]:
    """The current products that must be made again, inputs before their dependents.

    A product is stale if an input was rejected, was superseded by a version with other bytes, or is itself
    stale; or if a caltable set it was made with (`caltable_registry.used_by`) was rejected. An input whose data
    retention removed is not a reason: it was valid when it was used. The work grows with the number of rejected,
    replaced or stale products, not with the archive.
    """
    return archive.index.read(lambda c: find(c, archive.root))


def following(archive: Archive, ids: Iterable[str]) -> list[str]:
    """The ids of these products and of all current ones made from them, directly or indirectly: all that becomes stale with them."""

    def work(connection: Connection) -> list[str]:
        found = set(ids)
        fresh = set(found)
        while fresh:
            fresh = {dependent for dependent, _ in _current_dependents(connection, fresh)} - found
            found |= fresh
        return sorted(found)

    return archive.index.read(work)


def find(connection: Connection, root: Path) -> list[Stale]:
    """As `stale`, within a transaction."""
    causes: dict[str, list[str]] = {}
    for dependent, reason in (*_replaced(connection), *_rejected_sets(connection)):
        causes.setdefault(dependent, []).append(reason)
    found = rows.by_ids(connection, root, causes)
    fresh = list(found)
    while fresh:  # what is made from something stale is stale
        further = _current_dependents(connection, fresh)
        for dependent, source in further:
            causes.setdefault(dependent, []).append(f"{source} is stale")
        new = rows.by_ids(connection, root, {dependent for dependent, _ in further} - found.keys())
        found |= new
        fresh = list(new)
    return [Stale(found[i], tuple(dict.fromkeys(causes[i]))) for i in _inputs_first(found)]


def _replaced(connection: Connection) -> list[tuple[str, str]]:
    """(id of a current product, why it is stale) for each input that was rejected, or replaced by other bytes."""
    dependent, other = products.alias(), products.alias()
    same = (other.c.asset == products.c.asset) & (other.c.partition_key == products.c.partition_key)
    newest = sa.select(sa.func.max(other.c.version)).where(same).scalar_subquery()
    latest = products.alias()
    query = (
        sa.select(dependent.c.id, products.c.id, products.c.state, products.c.reason, latest.c.id)
        .join(product_inputs, product_inputs.c.input_id == products.c.id)
        .join(dependent, dependent.c.id == product_inputs.c.product_id)
        .join(latest, (latest.c.asset == products.c.asset) & (latest.c.partition_key == products.c.partition_key))
        .where(products.c.state != "current", dependent.c.state == "current", latest.c.version == newest, rows.is_science(dependent))
        .where((products.c.state == "rejected") | (latest.c.digest != products.c.digest))
        .order_by(dependent.c.id, product_inputs.c.position)
    )
    return [
        (product_id, f"{input_id} was rejected: {reason}" if state == "rejected" else f"{input_id} was replaced by {latest_id}")
        for product_id, input_id, state, reason, latest_id in connection.execute(query)
    ]


def _rejected_sets(connection: Connection) -> list[tuple[str, str]]:
    """(id of a current product, why it is stale) for products made with a rejected caltable set, whose product is among the inputs."""
    query = (
        sa.select(products.c.id, products.c.metadata, caltable_sets.c.set_id, caltable_sets.c.rejected)
        .join(product_inputs, product_inputs.c.product_id == products.c.id)
        .join(caltable_sets, caltable_sets.c.product_id == product_inputs.c.input_id)
        .where(caltable_sets.c.rejected.is_not(None), products.c.state == "current", rows.is_science(products))
        .order_by(products.c.id, caltable_sets.c.set_id)
    )
    return [
        (row.id, f"caltable set {row.set_id} was rejected: {row.rejected}")
        for row in connection.execute(query)
        if row.set_id in caltable_registry.used_by(rows.decode(row.metadata))
    ]


def _current_dependents(connection: Connection, ids: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs (id of a current product, the one of `ids` it was made from)."""
    found: list[tuple[str, str]] = []
    for chunk in rows.chunks(ids):
        query = (
            sa.select(products.c.id, product_inputs.c.input_id)
            .join(product_inputs, product_inputs.c.product_id == products.c.id)
            .where(product_inputs.c.input_id.in_(chunk), products.c.state == "current", rows.is_science(products))
        )
        found += [(row.id, row.input_id) for row in connection.execute(query)]
    return sorted(found)


def _inputs_first(found: Mapping[str, Product]) -> list[str]:
    """The ids of these products, each after those it is made from (without recursion, because chains of nights grow long)."""
    placed: dict[str, None] = {}
    for start in sorted(found, key=lambda i: (found[i].partition or "", found[i].asset, found[i].version)):
        stack = [start]
        while stack:
            pending = [i for i in found[stack[-1]].inputs if i in found and i not in placed]
            if pending:
                stack += pending
            else:
                placed.setdefault(stack.pop())
    return list(placed)
