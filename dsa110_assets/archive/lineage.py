"""Lineage: the products that a product was made from, and those made from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dsa110_assets.archive import files, rows
from dsa110_assets.archive.index import product_inputs
from dsa110_assets.archive.product import FileLeaf, LineageNode, Product

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def dependents(archive: Archive, product: Product) -> list[Product]:
    """The products made directly from `product`, sorted by partition."""

    def work(connection: Connection) -> list[Product]:
        query = sa.select(product_inputs.c.product_id).where(product_inputs.c.input_id == product.id)
        return list(rows.by_ids(connection, archive.root, connection.scalars(query).all()).values())

    return sorted(archive.index.read(work), key=lambda p: (p.partition or "", p.asset, p.version))


def lineage(archive: Archive, product: Product) -> LineageNode:
    """The whole ancestry of `product`. It has no cycles, because inputs exist before the products made from them."""

    def work(connection: Connection) -> dict[str, Product]:
        known, required = {product.id: product}, set(product.inputs)
        while missing := required - known.keys():
            found = rows.by_ids(connection, archive.root, missing)
            known |= found
            required = {i for p in found.values() for i in p.inputs}
            required &= required - (missing - found.keys())  # ids without a row in the index are not queried again
        return known

    return _build(product, archive.index.read(work))


def _build(product: Product, known: dict[str, Product]) -> LineageNode:
    """The node of `product`, with those of its ancestors, built without recursion because chains of nights grow long."""
    nodes: dict[str, LineageNode] = {}
    stack = [product]
    while stack:
        top = stack[-1]
        if top.id in nodes:  # reached on two paths
            stack.pop()
            continue
        inputs = [known[i] for i in top.inputs if i in known]
        if pending := [p for p in inputs if p.id not in nodes]:
            stack += pending
            continue
        stack.pop()
        nodes[top.id] = LineageNode(top, None, (*(nodes[p.id] for p in inputs), *(LineageNode(None, leaf) for leaf in raw_files(top))))
    return nodes[product.id]


def raw_files(product: Product) -> list[FileLeaf]:
    """The inbox files listed in a product's manifest; [] for products without a manifest, or with one of another kind."""
    try:
        manifest = files.read_json(product.path / MANIFEST)
        entries = () if manifest is None else manifest["files"]
        return [FileLeaf(str(entry["path"]), entry.get("size_bytes"), entry.get("digest"), entry.get("subband")) for entry in entries]
    except (AttributeError, LookupError, TypeError) as error:
        log.warning("%s names no files (%s); run: dsa110 archive verify", product.path / MANIFEST, error)
        return []
