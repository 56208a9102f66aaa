"""Retention: which products' data may be removed, and why each is removed or kept. Raw files are never touched.

Only data are removed, or moved to cold storage where there is one. The record (inputs, settings, digest, figures) stays in the
index and on disk, in the product's state file, so that lineage and light curves keep their provenance.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from dsa110_assets.archive import claims, cold, files, naming, rows, stale
from dsa110_assets.archive.index import products
from dsa110_assets.archive.product import Product, record
from dsa110_assets.errors import DsaError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from dsa110_assets.archive.store import Archive
    from dsa110_assets.thresholds import Thresholds

log = logging.getLogger(__name__)
NEVER = frozenset({"subband_group"})
"""Assets that are never removed: lineage ends at their manifests, and they are small."""


@dataclass(frozen=True)
class Decision:
    """The decision of retention on one product, and the reason."""

    product: Product
    remove: bool
    reason: str


def plan(archive: Archive, thresholds: Thresholds, consumers: Mapping[str, Sequence[str]], now: datetime) -> list[Decision]:
    """A decision for every product whose data exist, by partition.

    `consumers` names, for each asset, the assets that are always made from it (measurement_set ->
    calibrated_ms). A product is kept until an up-to-date current product of each of these was made from it. A consumer written
    `hour_mosaic/night_mosaic` uses the product through each hour mosaic that was made from it; it is required only while the
    product is younger than its time in `retention_days`.
    Always kept are: pinned products and all they were made from; products that running work reads; inputs of stale
    products; subband_groups; assets with no time in `retention_days`. Ages count from publication. While less than
    `retention_free_gb` would be free, products protected by nothing but their age are removed too, the oldest first.
    """
    rules = _Rules(thresholds, consumers, now)

    def work(connection: Connection) -> list[Decision]:
        existing = rows.select(connection, archive.root, ~products.c.removed)
        decisions = _decide(connection, archive.root, existing, rules)
        lacking = thresholds.retention_free_gb * 1e9 - shutil.disk_usage(archive.root).free
        early = _removed_early(connection, archive.root, decisions, lacking, rules)
        return [early.get(decision.product.id, decision) for decision in decisions]

    return archive.index.read(work)


def retain(
    archive: Archive,
    thresholds: Thresholds,
    consumers: Mapping[str, Sequence[str]],
    *,
    dry_run: bool,
    now: datetime | None = None,
) -> list[Decision]:
    """Carry out the plan and return its decisions; with `dry_run`, only return them.

    For a batch of products at a time, the decision is made again and the removal marked in one transaction that no other writer
    can overlap. So a pin, a rejection or a new dependent that comes before a product's mark keeps the product. The data are removed
    afterwards. An error on one product's files does not stop the others: it is logged, and `integrity.sweep` completes the removal.
    If every removal fails, the first error is raised.
    """
    moment = now or datetime.now(UTC)
    decisions = plan(archive, thresholds, consumers, moment)
    if dry_run:
        return decisions
    removable = [decision.product.id for decision in decisions if decision.remove]
    rules, gone = _Rules(thresholds, consumers, moment, frozenset(removable)), dict[str, Decision]()
    failed: list[DsaError | OSError] = []
    for chunk in rows.chunks(removable):
        done, errors = _remove_batch(archive, chunk, rules)
        gone, failed = gone | done, failed + errors
    if failed and not gone:
        raise failed[0]
    if len(gone) < len(removable):  # plan again for what still exists
        decisions = [*gone.values(), *plan(archive, thresholds, consumers, moment)]
        return sorted(decisions, key=lambda d: (d.product.partition or "", d.product.asset, d.product.version))
    return [gone.get(d.product.id, d) for d in decisions]


def remove(archive: Archive, product: Product) -> bool:
    """Remove a product's data and keep its record; False, and nothing changed, if running work reads it.

    If the process is killed in between, `integrity.sweep` completes the removal.
    """
    with claims.claim(archive.root, [naming.parse_id(product.id).directory.parent], name="retention"):
        archive.index.write(lambda c: rows.set_removed(c, [product.id], True))
        return _finish(archive, product)


def take_data(archive: Archive, product: Product) -> None:
    """Complete a removal whose row is written: put the record into the state file, then remove the files."""
    if not archive.state(product.id).get("removed_at"):
        sidecar = files.read_json(product.path / naming.SIDECAR) or record(product)
        gone = {"removed_at": datetime.now(UTC).isoformat(), "record": sidecar}
        archive.change_state(product.id, lambda state: state | gone)
    cold.put(archive, product)
    with files.typed_errors(f"Removing {product.path}"):
        files.remove_tree(product.path)


@dataclass(frozen=True)
class _Rules:
    """The inputs of the decisions. `early`: ids of products no longer protected by their age."""

    thresholds: Thresholds
    consumers: Mapping[str, Sequence[str]]
    now: datetime
    early: frozenset[str] = frozenset()


def _mark(connection: Connection, root: Path, ids: Sequence[str], rules: _Rules) -> list[Decision]:
    """Decide on these products again and mark the rows of those to be removed, in one exclusive transaction."""
    existing = [p for p in rows.by_ids(connection, root, ids).values() if not p.removed]
    going = [d for d in _decide(connection, root, existing, rules) if d.remove]
    rows.set_removed(connection, [d.product.id for d in going], True)
    return going


def _finish(archive: Archive, product: Product) -> bool:
    """Remove the data of a product whose row is marked; undo the mark if work that has begun meanwhile reads the product.

    That work claimed the product before it read the row, and the row was written before the claims are read
    here: at least one of the two sees the other.
    """
    if product.id in claims.read_now(archive.root):
        archive.index.write(lambda c: rows.set_removed(c, [product.id], False))
        return False
    take_data(archive, product)
    return True


def _remove_batch(archive: Archive, ids: Sequence[str], rules: _Rules) -> tuple[dict[str, Decision], list[DsaError | OSError]]:
    """Mark some products and remove their data. Return those removed, by id, and the errors of those that were marked only.

    After an error the claim stays, so that the sweep completes the removal.
    """
    gone: dict[str, Decision] = {}
    failed: list[DsaError | OSError] = []
    try:
        with claims.claim(archive.root, [naming.parse_id(i).directory.parent for i in ids], name="retention"):
            for decision in archive.index.exclusively(partial(_mark, root=archive.root, ids=ids, rules=rules)):
                try:
                    if _finish(archive, decision.product):
                        gone[decision.product.id] = decision
                except (DsaError, OSError) as error:
                    log.error("%s: its data are not removed yet: %s", decision.product.id, error)
                    failed.append(error)
            if failed:
                raise failed[0]
    except (DsaError, OSError) as error:
        if error not in failed:
            raise
    return gone, failed


def _removed_early(
    connection: Connection, root: Path, decisions: Sequence[Decision], lacking_bytes: float, rules: _Rules
) -> dict[str, Decision]:
    """The oldest products that only their age protects: as many as make up `lacking_bytes`, less what is removed anyway."""
    lacking_bytes -= sum(decision.product.size_bytes for decision in decisions if decision.remove)
    if lacking_bytes <= 0:
        return {}
    young = sorted((d.product for d in decisions if not d.remove), key=lambda product: (product.created_at, product.id))
    found: dict[str, Decision] = {}
    for decision in _decide(connection, root, young, replace(rules, early=frozenset(product.id for product in young))):
        if decision.remove and lacking_bytes > 0:
            lacking_bytes -= decision.product.size_bytes
            found[decision.product.id] = decision
    return found


def _decide(connection: Connection, root: Path, existing: Sequence[Product], rules: _Rules) -> list[Decision]:
    """A decision for each of these products. The graph is queried only for those old enough to be removed."""
    by_age = [_by_age(product, rules) for product in existing]
    old = [decision.product for decision in by_age if decision.remove]
    if not old:
        return by_age
    outdated = [entry.product for entry in stale.find(connection, root)]
    needed = {i for p in outdated for i in p.inputs} | claims.read_now(root)
    pinned = rows.ancestors(connection, rows.pinned(connection))
    excluded = {p.id for p in outdated}
    users = rows.current_users(connection, [p.id for p in old], excluded)
    intermediate = {path.partition("/")[0] for paths in rules.consumers.values() for path in paths if "/" in path}
    through = rows.current_users(connection, {i for by in users.values() for asset in intermediate for i in by.get(asset, ())}, excluded)
    unfinished = {p.id: _unfinished(_consumers(p, rules), users.get(p.id, {}), through) for p in old}
    decided = {p.id: _must_stay(p, pinned, needed, unfinished[p.id]) for p in old}
    return [decided.get(decision.product.id) or decision for decision in by_age]


def _consumers(product: Product, rules: _Rules) -> list[str]:
    """The assets that must be made from a product before it is removed; once it is old enough, only those made from it directly."""
    before_time = _age_days(product, rules) < rules.thresholds.retention_days.get(product.asset, 0.0)
    return [path for path in rules.consumers.get(product.asset, ()) if before_time or "/" not in path]


def _age_days(product: Product, rules: _Rules) -> float:
    return (rules.now - product.created_at).total_seconds() / 86400


def _unfinished(consumers: Sequence[str], users: Mapping[str, set[str]], through: Mapping[str, Mapping[str, set[str]]]) -> str | None:
    """The first of a product's consumers that was not yet made from it, or from its dependents; None if all were."""
    for path in consumers:
        first, _, second = path.partition("/")
        if first not in users:
            return first
        if second and any(second not in through.get(i, {}) for i in users[first]):
            return second
    return None


def _must_stay(product: Product, pinned: set[str], needed: set[str], unfinished: str | None) -> Decision | None:
    """The decision for an old product that is kept nevertheless; None if it is removed."""
    if product.id in pinned:
        return Decision(product, False, "pinned" if product.pinned else "a pinned product was made from it")
    if product.id in needed:
        return Decision(product, False, "needed by an unfinished product")
    if product.state == "current" and unfinished and not product.trial:
        return Decision(product, False, f"no up-to-date {unfinished} was made from it yet")
    return None


def _by_age(product: Product, rules: _Rules) -> Decision:
    thresholds = rules.thresholds
    age_days = _age_days(product, rules)
    if product.asset in NEVER and not product.trial:
        return Decision(product, False, "lineage ends here")
    if product.trial:
        limit, why = thresholds.trial_days, f"of the trial {product.trial}"
    elif product.state != "current":
        limit, why = thresholds.superseded_days, product.state
    elif product.asset not in thresholds.retention_days:
        return Decision(product, False, f"{product.asset} is kept for ever")
    else:
        limit, why = thresholds.retention_days[product.asset], "everything was made from it"
    age = f"{age_days:.1f} days old, kept for {limit:g}"
    if age_days >= limit:
        return Decision(product, True, f"{age}; {why}")
    if product.id in rules.early:
        return Decision(product, True, f"{age}, but less than {thresholds.retention_free_gb:g} GB are free; {why}")
    return Decision(product, False, age)
