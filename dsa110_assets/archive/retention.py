"""Retention: which products' data may go, and why each goes or stays. Raw files are never touched.

What goes are the data; the record (inputs, settings, digest, figures) stays in the index and on disk, in the
product's state file, so lineage and light curves keep their provenance.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dsa110_assets.archive import files, naming
from dsa110_assets.archive.product import Product, record
from dsa110_assets.archive.publish import inputs_in_use
from dsa110_assets.archive.stale import stale

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.thresholds import Thresholds

log = logging.getLogger(__name__)
NEVER = frozenset({"subband_group"})
"""Their manifests are where lineage ends; they are small."""


@dataclass(frozen=True)
class Decision:
    """What retention does with one product, and why."""

    product: Product
    remove: bool
    reason: str


def plan(
    archive: Archive, thresholds: Thresholds, consumers: Mapping[str, Sequence[str]], now: datetime
) -> list[Decision]:
    """A decision for every product whose data are there, by partition.

    `consumers` names, for each asset, the assets that are always made from it (measurement_set ->
    calibrated_ms): a product without an up-to-date current product of each is an unfinished one's input.
    Kept in any case: pinned products and all they were made from; inputs of running publications and of stale
    products; subband_groups; assets with no time in `retention_days`. Ages count from publication.
    """
    everything = archive.products(state=None)
    by_id = {p.id: p for p in everything}
    pinned = _with_ancestors(by_id, [p.id for p in everything if p.pinned])
    stale_ids = {s.product.id for s in stale(archive)}
    needed = {i for p in everything if p.id in stale_ids for i in p.inputs} | inputs_in_use(archive.root)
    fresh_users: dict[str, set[str]] = {}
    for p in everything:
        if p.state == "current" and p.id not in stale_ids:
            for i in p.inputs:
                fresh_users.setdefault(i, set()).add(p.asset)
    decisions = []
    for product in everything:
        if not product.removed:
            keep = _must_stay(product, pinned, needed)
            unfinished = [
                a for a in consumers.get(product.asset, ()) if a not in fresh_users.get(product.id, set())
            ]
            decisions.append(keep or _by_age(product, thresholds, unfinished, now))
    return decisions


def retain(
    archive: Archive,
    thresholds: Thresholds,
    consumers: Mapping[str, Sequence[str]],
    *,
    dry_run: bool,
    now: datetime | None = None,
) -> list[Decision]:
    """Carry out the plan, or with `dry_run` only return it. What is pinned meanwhile stays."""
    moment = now or datetime.now(UTC)
    decisions = plan(archive, thresholds, consumers, moment)
    if dry_run:
        return decisions
    for decision in decisions:
        if decision.remove and not archive.get(decision.product.id).pinned:
            remove(archive, decision.product)
            log.info("removed the data of %s: %s", decision.product.id, decision.reason)
    return decisions


def remove(archive: Archive, product: Product) -> None:
    """Remove a product's data and keep its record. Killed in between, `integrity.sweep` completes it."""
    sidecar = files.read_json(product.path / naming.SIDECAR) or record(product)
    gone = {"removed_at": datetime.now(UTC).isoformat(), "record": sidecar}
    archive.change_state(product.id, lambda state: state | gone)
    with files.typed_errors(f"Removing {product.path}"):
        files.remove_tree(product.path)


def _must_stay(product: Product, pinned: set[str], needed: set[str]) -> Decision | None:
    """The decision for a product that stays whatever its age; None if its age decides."""
    if product.asset in NEVER:
        return Decision(product, False, "lineage ends here")
    if product.id in pinned:
        return Decision(product, False, "pinned" if product.pinned else "a pinned product was made from it")
    if product.id in needed:
        return Decision(product, False, "needed by an unfinished product")
    return None


def _by_age(product: Product, thresholds: Thresholds, unfinished: Sequence[str], now: datetime) -> Decision:
    age_days = (now - product.created_at).total_seconds() / 86400
    if product.state != "current":
        limit, why = thresholds.superseded_days, product.state
    elif product.asset not in thresholds.retention_days:
        return Decision(product, False, f"{product.asset} is kept for ever")
    elif unfinished:
        return Decision(product, False, f"no up-to-date {unfinished[0]} was made from it yet")
    else:
        limit, why = thresholds.retention_days[product.asset], "everything was made from it"
    if age_days < limit:
        return Decision(product, False, f"{age_days:.1f} days old, kept for {limit:g}")
    return Decision(product, True, f"{age_days:.1f} days old, kept for {limit:g}; {why}")


def _with_ancestors(by_id: Mapping[str, Product], ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    queue = list(ids)
    while queue:
        one = queue.pop()
        if one not in found:
            found.add(one)
            queue += by_id[one].inputs if one in by_id else ()
    return found
