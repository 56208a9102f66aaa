"""The meaning of the index's rows: writing and reading products, versions, current and superseded, state.

There is one rule: of one asset's partition, the highest version is current unless it is rejected; every other is
superseded unless rejected. Rejecting a product does not make an older one current again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dsa110_assets.archive import counters, files, naming
from dsa110_assets.archive.index import caltable_sets, product_inputs, products
from dsa110_assets.archive.product import HELD, Json, Product, flaw
from dsa110_assets.errors import NotFoundError, SilentWrongnessError, SupersededError

_MANY = 500  # ids in one IN (...): SQLite's limit on variables is far above


def insert(connection: Connection, sidecar: Json, state: Json, follows: int | None = None) -> None:
    """Index the product that a sidecar describes, with the state in its state file ({} for a new one).

    Does nothing if the same product is indexed already (a sweep and a publisher may both index it).
    Raises SilentWrongnessError if another product has its id, SupersededError if the last version is not `follows`.
    """
    key = sidecar["partition"] or ""
    known = connection.execute(sa.select(products.c.digest, products.c.created_at).where(products.c.id == sidecar["id"])).first()
    if known is not None:
        if tuple(known) != (sidecar["digest"], sidecar["created_at"]):
            raise SilentWrongnessError(f"{sidecar['id']}: the index holds another product of this id; run: dsa110 archive reindex")
        return
    same = (products.c.asset == sidecar["asset"]) & (products.c.partition_key == key)
    newest = connection.scalar(sa.select(sa.func.max(products.c.version)).where(same)) or 0
    require_last(newest, follows, sidecar)
    if newest < sidecar["version"]:
        # A version committed after `newest` was read is not superseded here: the insert below then violates
        # `one_current_product`, and the transaction runs again and sees that version.
        older = same & (products.c.version <= newest) & (products.c.state == "current")
        connection.execute(products.update().where(older).values(state="superseded"))
    standing = "current" if newest < sidecar["version"] else "superseded"
    texts = {name: json.dumps(sidecar[name], sort_keys=True) for name in ("settings", "engines", "metadata")}
    plain = ("id", "asset", "version", "code_version", "run_id", "size_bytes", "digest", "created_at")
    connection.execute(
        products.insert(),
        {
            **{name: sidecar[name] for name in plain},
            **texts,
            "partition_key": key,
            "state": "rejected" if state.get("rejected") else standing,
            "reason": state.get("rejected"),
            "pinned": bool(state.get("pinned")),
            "removed": bool(state.get("removed_at")),
            "held": sidecar["metadata"].get(HELD) or None,
        },
    )
    inputs = [{"product_id": sidecar["id"], "position": i, "input_id": input_id} for i, input_id in enumerate(sidecar["inputs"])]
    if inputs:
        connection.execute(product_inputs.insert(), inputs)
    sets = [
        {
            "set_id": f"{sidecar['id']}/{contents['name']}",
            "product_id": sidecar["id"],
            "position": position,
            "contents": _with_changes(contents, state),
            "mid_mjd": contents["mid_mjd"],
            "rejected": state.get("rejected_sets", {}).get(contents["name"]),
        }
        for position, contents in enumerate(sidecar.get("caltable_sets", []))
    ]
    if sets:
        connection.execute(caltable_sets.insert(), sets)
    counters.add(connection, counters.of_product(sidecar))


def require_last(newest: int, follows: int | None, sidecar: Json) -> None:
    """Raise SupersededError if the last version is not the one a product is to follow, because another was published meanwhile."""
    if follows is not None and newest != follows:
        raise SupersededError(
            f"{sidecar['asset']} {sidecar['partition'] or ''}: version {newest} was published while this run made the product to follow "
            f"version {follows}: another run did its work, and it publishes nothing"
        )


def apply_state(connection: Connection, product_id: str, state: Json) -> None:
    """Bring a product's row in line with its state file. A rejected product stays rejected; `removed` is not touched here, because a
    removal is written to the row first."""
    values: dict[str, Any] = {"pinned": bool(state.get("pinned"))}
    if state.get("rejected"):
        values |= {"state": "rejected", "reason": state["rejected"]}
    connection.execute(products.update().where(products.c.id == product_id).values(values))
    rejected = state.get("rejected_sets", {})
    query = sa.select(caltable_sets.c.set_id, caltable_sets.c.contents).where(caltable_sets.c.product_id == product_id)
    for row in connection.execute(query).all():
        contents = json.loads(row.contents)
        columns = {"rejected": rejected.get(contents["name"]), "contents": _with_changes(contents, state)}
        connection.execute(caltable_sets.update().where(caltable_sets.c.set_id == row.set_id).values(columns))


def _with_changes(contents: Json, state: Json) -> str:
    """The contents of a caltable set's row as JSON: the published values and the changes made by hand since."""
    return json.dumps({**contents, "changes": state.get("changed_sets", {}).get(contents["name"], {})}, sort_keys=True)


def is_science(table: Any) -> sa.ColumnElement[bool]:
    """The SQL condition that a product was not made by a trial, for `products` or an alias of it."""
    found: sa.ColumnElement[bool] = ~table.c.asset.contains(naming.TRIAL_MARK)
    return found


def select(
    connection: Connection,
    root: Path,
    *conditions: sa.ColumnElement[bool],
    order: Sequence[sa.ColumnElement[Any]] = (products.c.partition_key, products.c.asset, products.c.version),
    limit: int | None = None,
) -> list[Product]:
    """The products that meet all conditions, in this order; at most `limit`, if given."""
    rows = connection.execute(sa.select(products).where(*conditions).limit(limit).order_by(*order)).all()
    inputs = inputs_of(connection, [row.id for row in rows])
    return [product for row in rows if (product := _product(root, row, inputs.get(row.id, ()))) is not None]


def removed_by_id(connection: Connection, asset: str | None = None, partition: str | None = None) -> dict[str, bool]:
    """Whether the data were removed, by id, for all versions of one asset's partition; without an asset, for all products."""
    query = sa.select(products.c.id, products.c.removed)
    if asset is not None:
        query = query.where(products.c.asset == asset, products.c.partition_key == (partition or ""))
    return {row.id: row.removed for row in connection.execute(query)}


def by_ids(connection: Connection, root: Path, ids: Iterable[str]) -> dict[str, Product]:
    """The products with these ids, by id; ids that are not in the index are left out."""
    return {p.id: p for chunk in chunks(ids) for p in select(connection, root, products.c.id.in_(chunk))}


def chunks(ids: Iterable[str]) -> list[list[str]]:
    """The distinct ids, sorted, in portions that fit one IN (...)."""
    distinct = sorted(set(ids))
    return [distinct[i : i + _MANY] for i in range(0, len(distinct), _MANY)]


def decode(text: str) -> Json:
    """The JSON object in a column's text. Raises ValueError if it is not an object."""
    contents = json.loads(text)
    if not isinstance(contents, dict):
        raise ValueError(f"{text[:40]!r} is not a JSON object")
    return contents


def number(value: Any) -> float | None:
    """A figure as returned by a database, which may give it as text; None if it is not a finite number."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def inputs_of(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The input ids of each product, in their recorded order, by product id."""
    found: dict[str, list[str]] = {}
    for chunk in chunks(ids):
        query = sa.select(product_inputs).where(product_inputs.c.product_id.in_(chunk))
        for row in connection.execute(query.order_by(product_inputs.c.product_id, product_inputs.c.position)):
            found.setdefault(row.product_id, []).append(row.input_id)
    return {product_id: tuple(inputs) for product_id, inputs in found.items()}


def set_removed(connection: Connection, ids: Iterable[str], removed: bool) -> None:
    """Record in the rows whether retention has removed these products' data."""
    for chunk in chunks(ids):
        connection.execute(products.update().where(products.c.id.in_(chunk)).values(removed=removed))


def pinned(connection: Connection) -> list[str]:
    """The ids of the pinned products."""
    return list(connection.scalars(sa.select(products.c.id).where(products.c.pinned)))


def ancestors(connection: Connection, ids: Iterable[str]) -> set[str]:
    """The ids of these products and of all products they were made from, directly or indirectly."""
    found, fresh = set(ids), set(ids)
    while fresh:
        fresh = {i for inputs in inputs_of(connection, sorted(fresh)).values() for i in inputs} - found
        found |= fresh
    return found


def current_users(connection: Connection, ids: Iterable[str], but: Collection[str]) -> dict[str, dict[str, set[str]]]:
    """For each of these products, by asset, the ids of the current products made from it, leaving out the products `but`."""
    found: dict[str, dict[str, set[str]]] = {}
    for chunk in chunks(ids):
        query = (
            sa.select(product_inputs.c.input_id, products.c.asset, products.c.id)
            .join(products, products.c.id == product_inputs.c.product_id)
            .where(product_inputs.c.input_id.in_(chunk), products.c.state == "current")
        )
        for row in connection.execute(query):
            if row.id not in but:
                found.setdefault(row.input_id, {}).setdefault(row.asset, set()).add(row.id)
    return found


def highest_version(connection: Connection, asset: str, partition: str | None) -> int:
    """The highest version in the index of this asset's partition; 0 if none."""
    same = (products.c.asset == asset) & (products.c.partition_key == (partition or ""))
    return connection.scalar(sa.select(sa.func.max(products.c.version)).where(same)) or 0


def _product(root: Path, row: Row[Any], inputs: tuple[str, ...]) -> Product | None:
    """The product of a row, read from its record on disk where the row cannot be read.

    If that cannot be read either, a message is logged and None returned: one bad row must not hide the others.
    """
    try:
        name = naming.ProductName(row.asset, row.partition_key or None, row.version)
        return _from_record(root, name, row, inputs, {part: decode(getattr(row, part)) for part in ("settings", "engines", "metadata")})
    except (ValueError, TypeError, NotFoundError) as error:
        remedy = "run: dsa110 archive reindex"
        try:
            name = naming.parse_id(row.id)
            record = files.read_json(root / name.directory / naming.SIDECAR)
            if why := flaw(record):
                raise ValueError(f"its own record {why}")
            found = _from_record(root, name, row, inputs, record)
        except (ValueError, TypeError, NotFoundError, OSError) as record_error:
            files.log_once(f"{root}: {row.id} is left out: its row in the index cannot be read ({error}), nor {record_error}; {remedy}")
            return None
        files.log_once(f"{root}: {row.id}: its row in the index cannot be read ({error}), its own record is used; {remedy}")
        return found


def _from_record(root: Path, name: naming.ProductName, row: Row[Any], inputs: tuple[str, ...], recorded: Json) -> Product:
    """The product of a row. `recorded` has its settings, engines and metadata: from the row's columns, or from its record on disk."""
    asset, trial = naming.of_trial(name.asset)
    return Product(
        id=row.id,
        asset=asset,
        partition=name.partition,
        version=name.version,
        path=root / name.directory,
        inputs=inputs,
        settings=recorded["settings"],
        code_version=row.code_version,
        engines=recorded["engines"],
        run_id=row.run_id,
        size_bytes=int(recorded.get("size_bytes", row.size_bytes)),
        digest=row.digest,
        created_at=datetime.fromisoformat(recorded.get("created_at", row.created_at)),
        metadata=recorded["metadata"],
        state=row.state,
        reason=row.reason,
        pinned=row.pinned,
        removed=row.removed,
        trial=trial,
    )
