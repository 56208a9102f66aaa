"""`dsa110 calibration`: which tables there are, which is in force, and marking one as bad."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_time
from dsa110_assets.errors import NotFoundError
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.caltable_registry import RegisteredSet
    from dsa110_assets.archive.store import Archive

JSON_HELP = "Print JSON, and nothing else, on standard output."
commands = typer.Typer(help="Calibration tables: list, show, reject, and which one is in force.", no_args_is_help=True)
app.add_typer(commands, name="calibration")


@commands.command("list", epilog="Example: dsa110 calibration list --json")
def list_sets(as_json: bool = typer.Option(False, "--json", help=JSON_HELP)) -> None:
    """Every set of tables, oldest first."""
    from dsa110_assets.archive.caltable_registry import sets

    found = sets(_store())
    if as_json:
        console.emit_json(found)
        return
    console.table(
        ("set", "transit (UTC)", "calibrator", "flux scale", "dec deg", "antennas", "status", "why"),
        [
            (s.set_id, timegrid.mjd_to_datetime(s.mid_mjd), s.calibrator, s.anchor, f"{s.dec_deg:.2f}",
             len(s.antennas), s.status, s.reason or ("retention has removed its tables" if s.removed else ""))
            for s in found
        ],
    )  # fmt: skip
    console.warn(f"{len(found)} sets")


@commands.command(epilog="Example: dsa110 calibration show caltables-20260125-v1")
def show(
    table: str = typer.Argument(..., help="Set id, its last part, its product id, or a path of one of its tables."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """One set: its tables, validity, antennas and quality figures."""
    found = find(_store(), table)
    if as_json:
        console.emit_json(found)
        return
    when = [timegrid.mjd_to_datetime(t) for t in (found.valid_start_mjd, found.mid_mjd, found.valid_end_mjd)]
    console.table(
        ("", found.set_id),
        [
            ("status", f"{found.status}{f': {found.reason}' if found.reason else ''}"),
            ("calibrator", f"{found.calibrator}, flux scale {found.anchor}"),
            ("transit", f"{console.cell(when[1])} UTC at declination {found.dec_deg:.3f} deg"),
            ("valid", f"{console.cell(when[0])} to {console.cell(when[2])} UTC"),
            ("antennas", f"{len(found.antennas)}: {' '.join(sorted(found.antennas))}"),
            *(("table", str(path)) for path in found.paths),
            *((name, console.cell(value)) for name, value in sorted(found.figures.items())),
        ],
    )


@commands.command(epilog="Example: dsa110 calibration reject caltables-20260125-v1 --reason 'antenna 5 swapped'")
def reject(
    table: str = typer.Argument(..., help="Set id, its last part, its product id, or a path of one of its tables."),
    reason: str = typer.Option("", help="Why; recorded for ever. Default: rejected by you."),
) -> None:
    """Mark a set as bad: it is not chosen again, and exactly the products made with it become stale."""
    from dsa110_assets.archive import caltable_registry
    from dsa110_assets.archive.stale import stale

    store = _store()
    found = find(store, table)
    before = {one.product.id for one in stale(store)}
    rejected = caltable_registry.reject(store, found.set_id, reason.strip() or f"rejected by {getpass.getuser()}")
    after = [one.product for one in stale(store) if one.product.id not in before]
    console.say(f"rejected {rejected.set_id}: {rejected.reason}")
    console.say(f"{len(after)} products are stale now; `dsa110 process` makes them again with the next best tables")
    for product in after:
        console.say(f"  {product.id}")


@commands.command(epilog="Example: dsa110 calibration restore caltables-20260125-v1")
def restore(
    table: str = typer.Argument(..., help="Set id, its last part, its product id, or a path."),
) -> None:
    """Take a rejection back."""
    from dsa110_assets.archive import caltable_registry

    store = _store()
    restored = caltable_registry.restore(store, find(store, table).set_id)
    console.say(f"{restored.set_id} is {restored.status} again")


@commands.command(epilog="Example: dsa110 calibration active --at 2026-01-25T22:25")
def active(
    at: str = typer.Option("now", "--at", help="UTC time."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """The set in force at a time, or both: what an observation taken then would be calibrated with now."""
    from dsa110_assets.analyst import open_archive

    found = open_archive().caltables(at=parse_time(at))
    told: list[dict[str, Any]] = [
        {
            "set_id": one.set_id, "product_id": one.product_id, "calibrator": one.calibrator,
            "anchor": one.anchor, "mid_mjd": one.mid_mjd, "age_h": float(one.age.to_value("hour")),
            "status": one.status, "paths": one.paths, "weight": one.weight,
        }
        for one in found.sets
    ]  # fmt: skip
    if as_json:
        console.emit_json({**told[0], "interpolated_with": told[1:]})
        return
    for one in told:
        side = "before" if one["age_h"] >= 0 else "after"
        share = f", weight {one['weight']:.2f}" if len(told) > 1 else ""
        console.say(
            f"{one['set_id']}  {one['calibrator']}, flux scale {one['anchor']}, {console.age_text(abs(one['age_h']))} {side}{share}"
        )
        for path in one["paths"]:
            console.say(f"  {path}")


def find(store: Archive, name: str) -> RegisteredSet:
    """The set a person means. Raises NotFoundError: unknown (saying which there are), or more than one."""
    from dsa110_assets.archive.caltable_registry import sets

    known = sets(store)
    matching = [one for one in known if name == one.set_id]
    if not matching:
        short = [one for one in known if name in (one.set_id.partition("/")[2], one.product_id, *map(str, one.paths))]
        matching = [one for one in short if one.status != "superseded"] or short
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise NotFoundError(f"{name} names {len(matching)} sets: {', '.join(one.set_id for one in matching)}")
    there = ", ".join(one.set_id for one in known[-8:])
    raise NotFoundError(f"no caltable set {name!r}: there is {there or 'none yet'}")


def _store() -> Archive:
    from dsa110_assets.analyst import open_archive

    return open_archive().store
