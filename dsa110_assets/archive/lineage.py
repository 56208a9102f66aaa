"""Where products come from and what was made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dsa110_assets.archive import files, rows
from dsa110_assets.archive.index import product_inputs
from dsa110_assets.archive.product import FileLeaf, LineageNode, Product

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

MANIFEST = "manifest.json"


def dependents(archive: Archive, product: Product) -> list[Product]:
    """The products made directly from `product`, sorted by partition."""

    def work(connection: Connection) -> list[Product]:
        query = sa.select(product_inputs.c.product_id).where(product_inputs.c.input_id == product.id)
        return list(rows.by_ids(connection, archive.root, connection.scalars(query).all()).values())

    return sorted(archive.index.read(work), key=lambda p: (p.partition or "", p.asset, p.version))


def lineage(archive: Archive, product: Product) -> LineageNode:
    """The whole ancestry of `product`. Inputs exist before what is made from them, so circles cannot be."""

    def work(connection: Connection) -> dict[str, Product]:
        known, wanted = {product.id: product}, set(product.inputs)
        while missing := wanted - known.keys():
            found = rows.by_ids(connection, archive.root, missing)
            known |= found
            wanted = {i for p in found.values() for i in p.inputs}
            wanted &= wanted - (missing - found.keys())  # an id no index row tells more about
        return known

    return _build(product, archive.index.read(work))


def _build(product: Product, known: dict[str, Product]) -> LineageNode:
    """Nodes for `product` and its ancestors, without recursion: chains of nights grow long."""
    nodes: dict[str, LineageNode] = {}
    stack = [product]
    while stack:
        top = stack[-1]
        if top.id in nodes:  # reached by two ways
            stack.pop()
            continue
        inputs = [known[i] for i in top.inputs if i in known]
        if pending := [p for p in inputs if p.id not in nodes]:
            stack += pending
            continue
        stack.pop()
        nodes[top.id] = LineageNode(top, None, (*(nodes[p.id] for p in inputs), *_leaves(top)))
    return nodes[product.id]


def _leaves(product: Product) -> list[LineageNode]:
    """The inbox files a product's manifest names; none for products without a manifest."""
    manifest = files.read_json(product.path / MANIFEST) or {}
    return [
        LineageNode(
            None, FileLeaf(entry["path"], entry.get("size_bytes"), entry.get("digest"), entry.get("subband"))
        )
        for entry in manifest.get("files", [])
    ]
