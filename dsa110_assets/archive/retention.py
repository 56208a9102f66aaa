"""Retention: which products' data may go, and why each goes or stays. Raw files are never touched.

What goes are the data, into cold storage where there is one; the record (inputs, settings, digest, figures) stays in the
index and on disk, in the product's state file, so lineage and light curves keep their provenance.
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
"""Their manifests are where lineage ends; they are small."""


@dataclass(frozen=True)
class Decision:
    """What retention does with one product, and why."""

    product: Product
    remove: bool
    reason: str


def plan(archive: Archive, thresholds: Thresholds, consumers: Mapping[str, Sequence[str]], now: datetime) -> list[Decision]:
    """A decision for every product whose data are there, by partition.

    `consumers` names, for each asset, the assets that are always made from it (measurement_set ->
    calibrated_ms): a product without an up-to-date current product of each is an unfinished one's input. One written
    `hour_mosaic/night_mosaic` reads the product through each hour mosaic that was made from it; it is asked for before the
    product's time only.
    Kept in any case: pinned products and all they were made from; what running work reads; inputs of stale
    products; subband_groups; assets with no time in `retention_days`. Ages count from publication. While less than
    `retention_free_gb` would be free, what nothing but its age protects goes too, the oldest first.
    """
    rules = _Rules(thresholds, consumers, now)

    def work(connection: Connection) -> list[Decision]:
        there = rows.select(connection, archive.root, ~products.c.removed)
        decisions = _decide(connection, archive.root, there, rules)
        lacking = thresholds.retention_free_gb * 1e9 - shutil.disk_usage(archive.root).free
        early = _early(connection, archive.root, decisions, lacking, rules)
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
    """Carry out the plan, or with `dry_run` only return it.

    What goes is decided again and marked in one transaction that no other writer can overlap, a batch at a time:
    whatever is pinned, rejected or made from a product before its mark keeps it. The data go after that. What fails on one
    product's files keeps no other's: it is logged, and `integrity.sweep` completes it. Where it fails for all of them, the first
    error is raised.
    """
    moment = now or datetime.now(UTC)
    decisions = plan(archive, thresholds, consumers, moment)
    if dry_run:
        return decisions
    wanted = [decision.product.id for decision in decisions if decision.remove]
    rules, gone = _Rules(thresholds, consumers, moment, frozenset(wanted)), dict[str, Decision]()
    failed: list[DsaError | OSError] = []
    for chunk in rows.chunks(wanted):
        done, errors = _taken(archive, chunk, rules)
        gone, failed = gone | done, failed + errors
    if failed and not gone:
        raise failed[0]
    if len(gone) < len(wanted):  # decided again, of what is still there
        decisions = [*gone.values(), *plan(archive, thresholds, consumers, moment)]
        return sorted(decisions, key=lambda d: (d.product.partition or "", d.product.asset, d.product.version))
    return [gone.get(d.product.id, d) for d in decisions]


def remove(archive: Archive, product: Product) -> bool:
    """Remove a product's data and keep its record; False, and nothing changed, if running work reads it.

    Killed in between, `integrity.sweep` completes it.
    """
    with claims.claim(archive.root, [naming.parse_id(product.id).directory.parent], name="retention"):
        archive.index.write(lambda c: rows.set_removed(c, [product.id], True))
        return _finish(archive, product)


def take_data(archive: Archive, product: Product) -> None:
    """Complete a removal whose row is written: the record into the state file, then the files."""
    if not archive.state(product.id).get("removed_at"):
        sidecar = files.read_json(product.path / naming.SIDECAR) or record(product)
        gone = {"removed_at": datetime.now(UTC).isoformat(), "record": sidecar}
        archive.change_state(product.id, lambda state: state | gone)
    cold.put(archive, product)
    with files.typed_errors(f"Removing {product.path}"):
        files.remove_tree(product.path)


@dataclass(frozen=True)
class _Rules:
    """What decisions go by. `early`: products whose age no longer protects them."""

    thresholds: Thresholds
    consumers: Mapping[str, Sequence[str]]
    now: datetime
    early: frozenset[str] = frozenset()


def _mark(connection: Connection, root: Path, ids: Sequence[str], rules: _Rules) -> list[Decision]:
    """Decide about these products again and write the rows of those that go, in one exclusive transaction."""
    there = [p for p in rows.by_ids(connection, root, ids).values() if not p.removed]
    going = [d for d in _decide(connection, root, there, rules) if d.remove]
    rows.set_removed(connection, [d.product.id for d in going], True)
    return going


def _finish(archive: Archive, product: Product) -> bool:
    """Take the data of a product whose row says so; back out if work that has begun meanwhile reads it.

    That work claimed the product before it read the row, and the row was written before the claims are read
    here: one of the two sees the other.
    """
    if product.id in claims.read_now(archive.root):
        archive.index.write(lambda c: rows.set_removed(c, [product.id], False))
        return False
    take_data(archive, product)
    return True


def _taken(archive: Archive, ids: Sequence[str], rules: _Rules) -> tuple[dict[str, Decision], list[DsaError | OSError]]:
    """Mark and take some products: what went, by id, and why what was marked did not. Then the claim stays, for the sweep."""
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


def _early(connection: Connection, root: Path, decisions: Sequence[Decision], lacking_bytes: float, rules: _Rules) -> dict[str, Decision]:
    """The oldest of those that only their age protects, as many as are `lacking_bytes` beside what goes anyway."""
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


def _decide(connection: Connection, root: Path, there: Sequence[Product], rules: _Rules) -> list[Decision]:
    """A decision for each of `there`. The graph is asked only about those whose age lets them go."""
    by_age = [_by_age(product, rules) for product in there]
    old = [decision.product for decision in by_age if decision.remove]
    if not old:
        return by_age
    outdated = [one.product for one in stale.find(connection, root)]
    needed = {i for p in outdated for i in p.inputs} | claims.read_now(root)
    pinned = rows.ancestors(connection, rows.pinned(connection))
    but = {p.id for p in outdated}
    users = rows.current_users(connection, [p.id for p in old], but)
    middle = {path.partition("/")[0] for paths in rules.consumers.values() for path in paths if "/" in path}
    through = rows.current_users(connection, {i for by in users.values() for asset in middle for i in by.get(asset, ())}, but)
    unfinished = {p.id: _unfinished(_consumers(p, rules), users.get(p.id, {}), through) for p in old}
    decided = {p.id: _must_stay(p, pinned, needed, unfinished[p.id]) for p in old}
    return [decided.get(decision.product.id) or decision for decision in by_age]


def _consumers(product: Product, rules: _Rules) -> list[str]:
    """What must be made from a product before it goes: at its time only what is made from it directly."""
    before_time = _age_days(product, rules) < rules.thresholds.retention_days.get(product.asset, 0.0)
    return [path for path in rules.consumers.get(product.asset, ()) if before_time or "/" not in path]


def _age_days(product: Product, rules: _Rules) -> float:
    return (rules.now - product.created_at).total_seconds() / 86400


def _unfinished(consumers: Sequence[str], users: Mapping[str, set[str]], through: Mapping[str, Mapping[str, set[str]]]) -> str | None:
    """The first of a product's consumers that is still to be made from it, or from what was; None if all are."""
    for path in consumers:
        first, _, second = path.partition("/")
        if first not in users:
            return first
        if second and any(second not in through.get(i, {}) for i in users[first]):
            return second
    return None


def _must_stay(product: Product, pinned: set[str], needed: set[str], unfinished: str | None) -> Decision | None:
    """The decision for an old product that stays nevertheless; None if it goes."""
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
