"""The registry of caltable sets and their validity: rows beside the `caltables` products.

A set is registered on the draft of its product, so that tables and rows become visible in one transaction and
the sidecar holds both. Its id is `<product id>/<name>`, so a re-run never takes another set's id.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dsa110_assets.archive import files, naming, rows
from dsa110_assets.archive.index import caltable_sets, products
from dsa110_assets.calibration.select import CaltableSet
from dsa110_assets.errors import NotFoundError, SilentWrongnessError

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive

ASSET = "caltables"
ACTIVE, REJECTED, SUPERSEDED = "active", "rejected", "superseded"
BY_HAND = "caltables_by_hand"
"""The asset of products with sets that a person imported or had solved."""
Changes = dict[str, Any]
"""The changes made to a set by hand: `valid`, `retired` spans, and a `history` of who did what, when and why."""


@dataclass(frozen=True)
class RegisteredSet(CaltableSet):
    """A registered set: its product, the reason of its rejection (None if it was not rejected), its figures, whether retention removed
    its tables, and the history of changes by hand. A set is also superseded or rejected when its whole product is.
    """

    product_id: str
    reason: str | None
    figures: Mapping[str, Any]
    removed: bool
    history: tuple[str, ...] = ()


def register(
    draft: Draft,
    name: str,
    paths: Iterable[Path],
    *,
    mid_mjd: float,
    valid_start_mjd: float,
    valid_end_mjd: float,
    dec_deg: float,
    antennas: Iterable[str],
    calibrator: str,
    anchor: str,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Register a set of tables written below `draft.path`; it is published with the draft.

    `name` distinguishes it from the others of its product (letters, digits, `_.+:-`), such as 3C138-20260125T0512.
    Raises SilentWrongnessError if the name is taken, a table is missing or the validity is empty.
    """
    tables = [Path(draft.path, path) for path in paths]
    for table in tables:
        if not table.exists() or not table.resolve().is_relative_to(draft.path.resolve()):
            raise SilentWrongnessError(f"caltable set {name}: {table} is not among its product's files")
    if not tables or not valid_start_mjd <= mid_mjd <= valid_end_mjd:
        raise SilentWrongnessError(f"caltable set {name}: has no tables, or {mid_mjd} lies outside its validity")
    if name in {known["name"] for known in draft.caltable_sets}:
        raise SilentWrongnessError(f"caltable set {name}: registered twice")
    draft.caltable_sets.append(
        {
            "name": name,
            "paths": [table.relative_to(draft.path).as_posix() for table in tables],
            "mid_mjd": float(mid_mjd),
            "valid_start_mjd": float(valid_start_mjd),
            "valid_end_mjd": float(valid_end_mjd),
            "dec_deg": float(dec_deg),
            "antennas": sorted(antennas),
            "calibrator": calibrator,
            "anchor": anchor,
            "figures": dict(figures or {}),
        }
    )


def sets(archive: Archive, status: str | None = None, between: tuple[float, float] | None = None) -> list[RegisteredSet]:
    """All registered sets in order of time, or only those of one status (active, rejected, superseded), or between two times [MJD].

    Sets of a trial are included only if `archive` is that trial's view; its nights then replace those of science.
    """
    trial = naming.in_trial(ASSET, archive.trial)

    def work(connection: Connection) -> list[RegisteredSet]:
        columns = (caltable_sets, products.c.asset, products.c.partition_key, products.c.state, products.c.reason, products.c.removed)
        query = sa.select(*columns).join(products, products.c.id == caltable_sets.c.product_id)
        query = query.where(rows.is_science(products) | (products.c.asset == trial))
        if between is not None:
            query = query.where(caltable_sets.c.mid_mjd.between(*between))
        found = connection.execute(query.order_by(caltable_sets.c.mid_mjd, caltable_sets.c.set_id)).all()
        replaced = {row.partition_key for row in found if row.asset == trial} if archive.trial else set()
        kept = [row for row in found if row.asset == trial or row.partition_key not in replaced]
        return [entry for row in kept if (entry := _set(archive.root, row)) is not None]

    return [entry for entry in archive.index.read(work) if status is None or entry.status == status]


def around(archive: Archive, mjd: float, days: float) -> list[RegisteredSet]:
    """The sets within `days` of the whole day that contains `mjd` [MJD], so that one query serves all observations of a day."""
    first, last = math.floor(mjd - days), math.floor(mjd) + math.ceil(days) + 1
    return archive.once(("caltable sets", first, last), lambda: sets(archive, between=(first, last)))


def get(archive: Archive, set_id: str) -> RegisteredSet:
    """The set with this id. Raises NotFoundError, which lists the existing sets."""
    by_id = {entry.set_id: entry for entry in sets(archive)}
    if set_id not in by_id:
        raise NotFoundError(f"There is no caltable set {set_id}; there is {', '.join(by_id) or 'none yet'}")
    return by_id[set_id]


def find(archive: Archive, name: str) -> RegisteredSet:
    """The set that a person names by its id, the last part of the id, its product's id, or a table's path.

    Raises NotFoundError if none matches (it lists the last existing sets), or more than one.
    """
    known = sets(archive)
    matching = [entry for entry in known if name == entry.set_id]
    if not matching:
        loose = [entry for entry in known if name in (entry.set_id.partition("/")[2], entry.product_id, *map(str, entry.paths))]
        matching = [entry for entry in loose if entry.status != SUPERSEDED] or loose
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise NotFoundError(f"{name} names {len(matching)} sets: {', '.join(entry.set_id for entry in matching)}")
    existing = ", ".join(entry.set_id for entry in known[-8:])
    raise NotFoundError(f"no caltable set {name!r}: there is {existing or 'none yet'}")


def made_with(archive: Archive, one: RegisteredSet, span: tuple[float | None, float | None] = (None, None)) -> list[str]:
    """The ids of the current products made with a set, for observations whose middle lies in [from, until) (MJD; None: open)."""

    def holds(metadata: Mapping[str, Any]) -> bool:
        middle = (float(metadata["mjd_start"]) + float(metadata["mjd_end"])) / 2
        return (span[0] is None or middle >= span[0]) and (span[1] is None or middle < span[1])

    made = [p for p in archive.dependents(one.product_id) if p.state == "current" and one.set_id in used_by(p.metadata)]
    return [product.id for product in made if span == (None, None) or holds(product.metadata)]


def line(what: str, by: str, reason: str = "") -> str:
    """A permanent line of a set's history: what was done, by whom, when and why."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{what}, by {by} at {now}" + (f": {reason.strip()}" if reason.strip() else "")


def used_by(metadata: Mapping[str, Any]) -> frozenset[str]:
    """The ids of the sets that a product with these metadata was made with: `caltable_set`, or both where gains were interpolated."""
    nearest = metadata.get("caltable_set")
    return frozenset((*([nearest] if nearest else ()), *metadata.get("caltable_sets", ())))


def reject(archive: Archive, set_id: str, reason: str) -> RegisteredSet:
    """Mark a set as bad: it is not chosen again, and exactly the products made with it become stale."""
    if not reason.strip():
        raise NotFoundError(f"{set_id}: a rejection needs a reason")
    return _mark(archive, set_id, reason.strip())


def restore(archive: Archive, set_id: str, note: str = "restored") -> RegisteredSet:
    """Undo the rejection and all retirements of a set."""
    marked = _mark(archive, set_id, None)
    if not marked.retired:
        return marked
    return _change(archive, set_id, note, lambda changes: {key: value for key, value in changes.items() if key != "retired"})


def retire(archive: Archive, set_id: str, from_mjd: float | None, until_mjd: float | None, note: str) -> RegisteredSet:
    """Exclude a set from use for observations in [from, until) (MJD; None: open). Raises NotFoundError for an empty span.

    Exactly the products of that time that were made with it become stale.
    """
    if from_mjd is not None and until_mjd is not None and from_mjd >= until_mjd:
        raise NotFoundError(f"{set_id}: MJD {from_mjd:.4f} to {until_mjd:.4f} is not a span of time; exchange --from and --until")
    span = [from_mjd, until_mjd]
    return _change(archive, set_id, note, lambda changes: {**changes, "retired": [*changes.get("retired", []), span]})


def extend(archive: Archive, set_id: str, from_mjd: float | None, until_mjd: float | None, note: str) -> RegisteredSet:
    """Change the start and end of a set's validity (MJD; None: unchanged). Raises NotFoundError if its transit would lie outside."""
    current = get(archive, set_id)
    start = current.valid_start_mjd if from_mjd is None else from_mjd
    end = current.valid_end_mjd if until_mjd is None else until_mjd
    if not start <= current.mid_mjd <= end:
        raise NotFoundError(
            f"{set_id}: its transit at MJD {current.mid_mjd:.4f} must lie within its validity; to exclude a span of time, use `retire`"
        )
    return _change(archive, set_id, note, lambda changes: {**changes, "valid": [start, end]})


def _change(archive: Archive, set_id: str, note: str, change: Callable[[Changes], Changes]) -> RegisteredSet:
    """Store `change(changes)` of a set in its product's state, with a history line `note` that says who did what."""
    current = get(archive, set_id)
    name = set_id.partition("/")[2]

    def work(state: dict[str, Any]) -> dict[str, Any]:
        before: Changes = state.get("changed_sets", {}).get(name, {})
        changed = {**change(before), "history": [*before.get("history", []), note]}
        return {**state, "changed_sets": {**state.get("changed_sets", {}), name: changed}}

    archive.change_state(current.product_id, work)
    return get(archive, set_id)


def _mark(archive: Archive, set_id: str, reason: str | None) -> RegisteredSet:
    current = get(archive, set_id)
    name = set_id.partition("/")[2]
    archive.change_state(current.product_id, lambda state: _with_rejection(state, name, reason))
    return get(archive, set_id)


def _with_rejection(state: dict[str, Any], name: str, reason: str | None) -> dict[str, Any]:
    rejected = {known: why for known, why in state.get("rejected_sets", {}).items() if known != name}
    return {**state, "rejected_sets": rejected | ({name: reason} if reason else {})}


def _set(root: Path, row: Any) -> RegisteredSet | None:
    """The set of a row. If the row cannot be read, a message is logged and None returned: it must not hide the others."""
    try:
        return _from_row(root, row, json.loads(row.contents))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        files.log_once(
            f"caltable set {row.set_id} is left out: its row in the index cannot be read ({error!r}); run: dsa110 archive reindex"
        )
        return None


def _from_row(root: Path, row: Any, contents: Any) -> RegisteredSet:
    changes: Changes = contents.get("changes", {})
    valid_start, valid_end = changes.get("valid", (contents["valid_start_mjd"], contents["valid_end_mjd"]))
    directory = root / naming.parse_id(row.product_id).directory
    status = REJECTED if row.rejected or row.state == "rejected" else SUPERSEDED if row.state != "current" else ACTIVE
    return RegisteredSet(
        set_id=row.set_id,
        paths=tuple(directory / path for path in contents["paths"]),
        antennas=frozenset(contents["antennas"]),
        status=status,
        product_id=row.product_id,
        reason=row.rejected or row.reason,
        figures=contents["figures"],
        removed=row.removed,
        history=tuple(changes.get("history", ())),
        valid_start_mjd=valid_start,
        valid_end_mjd=valid_end,
        retired=tuple((-math.inf if a is None else a, math.inf if b is None else b) for a, b in changes.get("retired", ())),
        **{key: contents[key] for key in ("mid_mjd", "dec_deg", "calibrator", "anchor")},
    )
