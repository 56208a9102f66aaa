"""`dsa110 calibration`: list the tables, show which are in force, import and solve sets, and mark one as bad."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import EXIT_INCOMPLETE, app
from dsa110_assets.cli.times import parse_date, parse_time
from dsa110_assets.errors import NotFoundError
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.caltable_registry import RegisteredSet
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds

JSON_HELP = "Print JSON, and nothing else, on standard output."
SET_HELP = "Set id, its last part, its product id, or a path of one of its tables."
commands = typer.Typer(
    help="Calibration tables: list them, show which are in force; by hand: import, solve, reject, retire.", no_args_is_help=True
)
app.add_typer(commands, name="calibration")


@commands.command("list", epilog="Example: dsa110 calibration list --json")
def list_sets(as_json: bool = typer.Option(False, "--json", help=JSON_HELP)) -> None:
    """List all sets of tables, oldest first."""
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
    table: str = typer.Argument(..., help=SET_HELP),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Show one set: its tables, validity, antennas and quality figures."""
    from dsa110_assets.archive import caltable_registry

    registered = caltable_registry.find(_store(), table)
    if as_json:
        console.emit_json(registered)
        return
    reference = _reference(registered)
    console.table(
        ("", registered.set_id),
        [
            ("status", f"{registered.status}{f': {registered.reason}' if registered.reason else ''}"),
            ("calibrator", f"{registered.calibrator}, flux scale {registered.anchor}"),
            ("transit", f"{console.cell(timegrid.mjd_to_datetime(registered.mid_mjd))} UTC at declination {registered.dec_deg:.3f} deg"),
            ("valid", f"{_valid(registered)} UTC"),
            ("reference antenna", reference),
            *(("by hand", line) for line in registered.history),
            ("antennas", f"{len(registered.antennas)}: {' '.join(sorted(registered.antennas))}"),
            *(("table", str(path)) for path in registered.paths),
            *((name, console.cell(value)) for name, value in sorted(registered.figures.items())),
        ],
    )


@commands.command(epilog="Example: dsa110 calibration reject caltables-20260125-v1 --reason 'antenna 5 swapped'")
def reject(
    table: str = typer.Argument(..., help=SET_HELP),
    reason: str = typer.Option("", help="The reason, recorded permanently; default: rejected by you."),
) -> None:
    """Mark a set as bad: it is not chosen again, and the products made with it, no others, become stale."""
    from dsa110_assets.archive import caltable_registry
    from dsa110_assets.archive.stale import stale

    store = _store()
    found = caltable_registry.find(store, table)
    before = {one.product.id for one in stale(store)}
    rejected = caltable_registry.reject(store, found.set_id, reason.strip() or f"rejected by {getpass.getuser()}")
    after = [one.product for one in stale(store) if one.product.id not in before]
    console.say(f"rejected {rejected.set_id}: {rejected.reason}")
    console.say(f"{len(after)} products are stale now; `dsa110 process` makes them again with the next best tables")
    for product in after:
        console.say(f"  {product.id}")


@commands.command(epilog="Example: dsa110 calibration retire caltables-20260125-v1 --from 2026-01-26T04:00 --reason 'antenna 5 moved'")
def retire(
    table: str = typer.Argument(..., help=SET_HELP),
    start: str | None = typer.Option(None, "--from", help="UTC time from which it is not used; default: from the beginning."),
    end: str | None = typer.Option(None, "--until", help="UTC time until which it is not used; default: without end."),
    reason: str = typer.Option("", help="Why; recorded for ever."),
) -> None:
    """Exclude a set from use in a span of time; `calibration reject` excludes it from all times, `calibration restore` allows it again."""
    from dsa110_assets.archive import caltable_registry

    if start is None and end is None:
        raise typer.BadParameter("name --from, --until or both; for all times there is `dsa110 calibration reject`")
    store = _store()
    found = caltable_registry.find(store, table)
    span = _mjd(start), _mjd(end)
    note = caltable_registry.line(f"retired {_span_text(start, end)}", getpass.getuser(), reason)
    caltable_registry.retire(store, found.set_id, *span, note)
    affected = caltable_registry.made_with(store, found, span)
    console.say(f"retired {found.set_id} {_span_text(start, end)}")
    console.say(f"{len(affected)} products were made with it there; `dsa110 process` makes them again with the next best tables")
    for product_id in affected:
        console.say(f"  {product_id}")


@commands.command(epilog="Example: dsa110 calibration extend caltables-20260125-v1 --until 2026-01-27T06:00")
def extend(
    table: str = typer.Argument(..., help=SET_HELP),
    start: str | None = typer.Option(None, "--from", help="UTC time from which it is valid; default: unchanged."),
    end: str | None = typer.Option(None, "--until", help="UTC time until which it is valid; default: unchanged."),
    reason: str = typer.Option("", help="Why; recorded for ever."),
) -> None:
    """Lengthen or shorten the validity of a set: outside its validity it is used only if no other set is available."""
    from dsa110_assets.archive import caltable_registry

    if start is None and end is None:
        raise typer.BadParameter("name --from, --until or both")
    store = _store()
    note = caltable_registry.line(f"validity set {_span_text(start, end)}", getpass.getuser(), reason)
    now = caltable_registry.extend(store, caltable_registry.find(store, table).set_id, _mjd(start), _mjd(end), note)
    console.say(f"{now.set_id} is valid {_valid(now)} UTC")


@commands.command(epilog="Example: dsa110 calibration restore caltables-20260125-v1")
def restore(table: str = typer.Argument(..., help=SET_HELP)) -> None:
    """Cancel the rejection and retirements of a set."""
    from dsa110_assets.archive import caltable_registry

    store = _store()
    note = caltable_registry.line("restored", getpass.getuser())
    restored = caltable_registry.restore(store, caltable_registry.find(store, table).set_id, note)
    console.say(f"{restored.set_id} is {restored.status} again")


@commands.command(epilog="Example: dsa110 calibration compare caltables-20260125-v1 caltables-20260126-v1")
def compare(
    first: str = typer.Argument(..., help=SET_HELP),
    second: str = typer.Argument(..., help="The set to compare it with."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Divide each receptor's gain in one set by that in another: ratio of amplitudes, phase, delay, and scatter of the phases."""
    import numpy as np

    from dsa110_assets.archive import caltable_registry
    from dsa110_assets.calibration import caltables
    from dsa110_assets.calibration.table_comparison import compare as compare_tables

    store = _store()
    sets = [caltable_registry.find(store, name) for name in (first, second)]
    with store.hold(*(one.product_id for one in sets)):
        comparison = compare_tables(*([caltables.read(path) for path in one.paths] for one in sets))
    rows = comparison.differences
    if as_json:
        console.emit_json({"first": sets[0].set_id, "second": sets[1].set_id, "reference": comparison.reference, "differences": rows})
        return
    console.table(
        ("antenna", "receptor", "ratio", "phase deg", "delay ns", "scatter deg"),
        [(d.antenna, d.receptor, d.ratio, d.phase_deg, d.delay_ns, d.scatter_deg) for d in rows if np.isfinite(d.ratio)],
        title=f"{sets[0].set_id} over {sets[1].set_id}, phases about antenna {comparison.reference}",
    )
    ratios, phases = (np.array([getattr(row, name) for row in rows]) for name in ("ratio", "phase_deg"))
    solved = np.isfinite(ratios)
    if not solved.any():
        console.say("no receptor is solved in both")
        return
    worst = rows[int(np.nanargmax(np.abs(np.log(ratios))))]
    largest_phase = rows[int(np.nanargmax(np.abs(phases)))]
    console.say(
        f"{int(solved.sum())} of {len(rows)} receptors solved in both: median ratio {np.median(ratios[solved]):.4f} (flux scale "
        f"{np.median(ratios[solved]) ** 2:.4f}), farthest {worst.antenna}{worst.receptor} {worst.ratio:.3f}; "
        f"largest phase {largest_phase.antenna}{largest_phase.receptor} {largest_phase.phase_deg:.1f} deg"
    )


Calibrator = Annotated[str | None, typer.Option(help="The calibrator they were solved on; default: the field named in the tables.")]
Anchor = Annotated[
    str | None, typer.Option(help="What their flux scale rests on, such as PB17:3C286; default: the calibrator's, if known.")
]
Dec = Annotated[float | None, typer.Option(min=-90, max=90, help="Apparent declination of their strip [deg]; default: that of --check.")]
Check = Annotated[Path | None, typer.Option(help="Measurement set on which they are tested; default: the nearest in time in the archive.")]
By = Annotated[str | None, typer.Option(help="Who made them, for the record; default: you.")]


@commands.command("import", epilog="Example: dsa110 calibration import /data/casa/3C286 --check /data/casa/check.ms --by 'A. Colleague'")
def import_(
    directory: Annotated[Path, typer.Argument(help="The folder that contains the tables of one transit.")],
    name: Annotated[str | None, typer.Option(help="Name of the set; default: calibrator and folder.")] = None,
    calibrator: Calibrator = None,
    anchor: Anchor = None,
    dec: Dec = None,
    start: Annotated[str | None, typer.Option("--from", help="UTC time from which they are valid; default: half a day before.")] = None,
    end: Annotated[str | None, typer.Option("--until", help="UTC time until which they are valid; default: half a day after.")] = None,
    order: Annotated[
        str | None, typer.Option(help="Names of the tables in the order they apply, separated by commas; default: K, B, G, finer G.")
    ] = None,
    check: Check = None,
    by: By = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Register tables of CASA or of a colleague, after a measurement set calibrated with them has passed its checks."""
    from dsa110_assets.orchestration.calibrating.tables_by_hand import Stated, import_set

    names = tuple(part.strip() for part in (order or "").split(",") if part.strip())
    stated = Stated(name, calibrator, anchor, dec, _mjd(start), _mjd(end), names)
    configured, store, limits = _platform()
    made = import_set(store, configured, limits, directory, stated, by or getpass.getuser(), check)
    if as_json:
        console.emit_json(made)
        return
    _say_registered(made)


@commands.command(epilog="Example: dsa110 calibration scan /data/casa --check /data/casa/check.ms")
def scan(
    directory: Annotated[Path, typer.Argument(help="Every folder below it that contains tables is a set.")],
    check: Check = None,
    by: By = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Register the sets of tables in a folder, each as `calibration import` does; exit status 1 if one is refused."""
    from dsa110_assets.errors import BadDataError
    from dsa110_assets.orchestration.calibrating import tables_by_hand

    configured, store, limits = _platform()
    folders = tables_by_hand.folders(directory)
    registered_before = {one.figures.get("imported_from") for one in _sets(store)}
    rows: list[dict[str, Any]] = []
    for folder in folders:
        row: dict[str, Any] = {"folder": folder, "set_id": None, "reason": ""}
        if str(folder.absolute()) in registered_before:
            row["reason"] = "registered before"
        else:
            try:
                made = tables_by_hand.import_set(store, configured, limits, folder, tables_by_hand.Stated(), by or getpass.getuser(), check)
                row["set_id"] = made.set_id
            except BadDataError as error:
                row["reason"] = f"refused: {error}"
        rows.append(row)
    if as_json:
        console.emit_json(rows)
    else:
        console.table(("folder", "set", "why not"), [(str(row["folder"]), row["set_id"], row["reason"]) for row in rows])
    if not folders:
        raise NotFoundError(f"{directory} holds no caltable (a folder with a table.dat), nor does any folder below it")
    if any(row["reason"].startswith("refused") for row in rows):
        raise typer.Exit(EXIT_INCOMPLETE)


@commands.command(epilog="Example: dsa110 calibration solve --calibrator 3C454.3 --night 2026-01-25")
def solve(
    calibrator: str = typer.Option(..., "--calibrator", help="Its VLA, 3C or catalogue name."),
    night: str | None = typer.Option(None, help="UTC night; default: the last with measurement sets."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Solve the transit of any calibrator, even one that the platform would not choose, and register its tables."""
    from dsa110_assets.orchestration.calibrating.tables_by_hand import solve_set

    configured, store, limits = _platform()
    when = parse_date(night).isoformat() if night else None
    made = solve_set(store, configured, limits, calibrator, when, getpass.getuser())
    if as_json:
        console.emit_json(made)
        return
    _say_registered(made)


def _say_registered(made: RegisteredSet) -> None:
    console.say(f"{made.set_id} is registered: {made.calibrator}, flux scale {made.anchor}, valid {_valid(made)} UTC")
    console.say("the next `dsa110 process` uses it for the observations to which it is the nearest")


@commands.command(epilog="Example: dsa110 calibration active --at 2026-01-25T22:25")
def active(
    at: str = typer.Option("now", "--at", help="UTC time."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Show the set in force at a time, or both sets: those with which an observation taken then would be calibrated now."""
    from dsa110_assets.analyst import open_archive

    found = open_archive().caltables(at=parse_time(at))
    described: list[dict[str, Any]] = [
        {
            "set_id": one.set_id, "product_id": one.product_id, "calibrator": one.calibrator,
            "anchor": one.anchor, "mid_mjd": one.mid_mjd, "age_h": float(one.age.to_value("hour")),
            "status": one.status, "paths": one.paths, "weight": one.weight,
        }
        for one in found.sets
    ]  # fmt: skip
    if as_json:
        console.emit_json({**described[0], "interpolated_with": described[1:]})
        return
    for one in described:
        side = "before" if one["age_h"] >= 0 else "after"
        share = f", weight {one['weight']:.2f}" if len(described) > 1 else ""
        console.say(
            f"{one['set_id']}  {one['calibrator']}, flux scale {one['anchor']}, {console.age_text(abs(one['age_h']))} {side}{share}"
        )
        for path in one["paths"]:
            console.say(f"  {path}")


def _reference(registered: RegisteredSet) -> str:
    """Return the reference antenna and why it was chosen: the earlier ones of the chain were passed over."""
    from dsa110_assets.archive.files import read_json

    refant = registered.figures.get("refant")
    if refant is None or registered.removed:
        return str(refant or "unknown")
    transits = read_json(registered.paths[0].parents[1] / "transits.json") or {"transits": []}
    of_transit = [one["figures"] for one in transits["transits"] if one["name"] == registered.set_id.partition("/")[2]]
    passed = of_transit[0].get("refants_passed_over", {}) if of_transit else {}
    if not of_transit:
        return f"{refant}, as the tables say"
    why = "; ".join(f"{name} {reason}" for name, reason in passed.items())
    return f"{refant}, passed over: {why}" if why else f"{refant}, the first of the chain"


def _valid(registered: RegisteredSet) -> str:
    start, end = (console.cell(timegrid.mjd_to_datetime(t)) for t in (registered.valid_start_mjd, registered.valid_end_mjd))
    return f"{start} to {end}"


def _mjd(text: str | None) -> float | None:
    return None if text is None else timegrid.datetime_to_mjd(parse_time(text))


def _span_text(start: str | None, end: str | None) -> str:
    return " ".join([*([f"from {start}"] if start else []), *([f"until {end}"] if end else [])])


def _sets(store: Archive) -> list[RegisteredSet]:
    from dsa110_assets.archive.caltable_registry import ACTIVE, sets

    return sets(store, ACTIVE)


def _platform() -> tuple[Settings, Archive, Thresholds]:
    from dsa110_assets import settings
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.resources import IN_FORCE
    from dsa110_assets.thresholds import load_thresholds

    configured = settings.load()
    store = Archive(configured.archive, configured.database_url)
    return configured, store, load_thresholds(configured.thresholds_path, store.root / IN_FORCE)


def _store() -> Archive:
    from dsa110_assets.analyst import open_archive

    return open_archive().store
