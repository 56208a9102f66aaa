"""`dsa110 calibration`: which tables there are, which is in force, and marking one as bad."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import EXIT_UNDONE, app
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
    help="Calibration tables: which there are and is in force; by hand: import, solve, reject, retire.", no_args_is_help=True
)
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
    table: str = typer.Argument(..., help=SET_HELP),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """One set: its tables, validity, antennas and quality figures."""
    from dsa110_assets.archive import caltable_registry

    found = caltable_registry.find(_store(), table)
    if as_json:
        console.emit_json(found)
        return
    reference = _reference(found)
    console.table(
        ("", found.set_id),
        [
            ("status", f"{found.status}{f': {found.reason}' if found.reason else ''}"),
            ("calibrator", f"{found.calibrator}, flux scale {found.anchor}"),
            ("transit", f"{console.cell(timegrid.mjd_to_datetime(found.mid_mjd))} UTC at declination {found.dec_deg:.3f} deg"),
            ("valid", f"{_valid(found)} UTC"),
            ("reference antenna", reference),
            *(("by hand", line) for line in found.history),
            ("antennas", f"{len(found.antennas)}: {' '.join(sorted(found.antennas))}"),
            *(("table", str(path)) for path in found.paths),
            *((name, console.cell(value)) for name, value in sorted(found.figures.items())),
        ],
    )


@commands.command(epilog="Example: dsa110 calibration reject caltables-20260125-v1 --reason 'antenna 5 swapped'")
def reject(
    table: str = typer.Argument(..., help=SET_HELP),
    reason: str = typer.Option("", help="Why; recorded for ever. Default: rejected by you."),
) -> None:
    """Mark a set as bad: it is not chosen again, and exactly the products made with it become stale."""
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
    start: str | None = typer.Option(None, "--from", help="UTC time from which on it is not used; default: since ever."),
    end: str | None = typer.Option(None, "--until", help="UTC time until which it is not used; default: for ever."),
    reason: str = typer.Option("", help="Why; recorded for ever."),
) -> None:
    """Keep a set from being used for a span of time; `calibration reject` keeps it from all, `calibration restore` gives it back."""
    from dsa110_assets.archive import caltable_registry

    if start is None and end is None:
        raise typer.BadParameter("name --from, --until or both; for all times there is `dsa110 calibration reject`")
    store = _store()
    found = caltable_registry.find(store, table)
    span = _mjd(start), _mjd(end)
    told = caltable_registry.line(f"retired {_span_text(start, end)}", getpass.getuser(), reason)
    caltable_registry.retire(store, found.set_id, *span, told)
    used = caltable_registry.made_with(store, found, span)
    console.say(f"retired {found.set_id} {_span_text(start, end)}")
    console.say(f"{len(used)} products were made with it there; `dsa110 process` makes them again with the next best tables")
    for product_id in used:
        console.say(f"  {product_id}")


@commands.command(epilog="Example: dsa110 calibration extend caltables-20260125-v1 --until 2026-01-27T06:00")
def extend(
    table: str = typer.Argument(..., help=SET_HELP),
    start: str | None = typer.Option(None, "--from", help="UTC time from which on it is valid; default: as it is."),
    end: str | None = typer.Option(None, "--until", help="UTC time until which it is valid; default: as it is."),
    reason: str = typer.Option("", help="Why; recorded for ever."),
) -> None:
    """Have a set be valid longer, or less long: outside its validity it is used only if nothing else is there."""
    from dsa110_assets.archive import caltable_registry

    if start is None and end is None:
        raise typer.BadParameter("name --from, --until or both")
    store = _store()
    told = caltable_registry.line(f"validity set {_span_text(start, end)}", getpass.getuser(), reason)
    now = caltable_registry.extend(store, caltable_registry.find(store, table).set_id, _mjd(start), _mjd(end), told)
    console.say(f"{now.set_id} is valid {_valid(now)} UTC")


@commands.command(epilog="Example: dsa110 calibration restore caltables-20260125-v1")
def restore(table: str = typer.Argument(..., help=SET_HELP)) -> None:
    """Take a rejection and retirements back."""
    from dsa110_assets.archive import caltable_registry

    store = _store()
    told = caltable_registry.line("restored", getpass.getuser())
    restored = caltable_registry.restore(store, caltable_registry.find(store, table).set_id, told)
    console.say(f"{restored.set_id} is {restored.status} again")


@commands.command(epilog="Example: dsa110 calibration compare caltables-20260125-v1 caltables-20260126-v1")
def compare(
    first: str = typer.Argument(..., help=SET_HELP),
    second: str = typer.Argument(..., help="The set it is compared with."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Every receptor's gain in one set over its gain in another: ratio of amplitudes, phase, delay, and scatter of the phases."""
    import numpy as np

    from dsa110_assets.archive import caltable_registry
    from dsa110_assets.calibration import caltables
    from dsa110_assets.calibration.table_comparison import compare as against

    store = _store()
    sets = [caltable_registry.find(store, name) for name in (first, second)]
    with store.hold(*(one.product_id for one in sets)):
        found = against(*([caltables.read(path) for path in one.paths] for one in sets))
    rows = found.differences
    if as_json:
        console.emit_json({"first": sets[0].set_id, "second": sets[1].set_id, "reference": found.reference, "differences": rows})
        return
    console.table(
        ("antenna", "receptor", "ratio", "phase deg", "delay ns", "scatter deg"),
        [(d.antenna, d.receptor, d.ratio, d.phase_deg, d.delay_ns, d.scatter_deg) for d in rows if np.isfinite(d.ratio)],
        title=f"{sets[0].set_id} over {sets[1].set_id}, phases about antenna {found.reference}",
    )
    ratios, phases = (np.array([getattr(row, name) for row in rows]) for name in ("ratio", "phase_deg"))
    solved = np.isfinite(ratios)
    if not solved.any():
        console.say("no receptor is solved in both")
        return
    worst = rows[int(np.nanargmax(np.abs(np.log(ratios))))]
    turned = rows[int(np.nanargmax(np.abs(phases)))]
    console.say(
        f"{int(solved.sum())} of {len(rows)} receptors solved in both: median ratio {np.median(ratios[solved]):.4f} (flux scale "
        f"{np.median(ratios[solved]) ** 2:.4f}), farthest {worst.antenna}{worst.receptor} {worst.ratio:.3f}; "
        f"most turned {turned.antenna}{turned.receptor} {turned.phase_deg:.1f} deg"
    )


Calibrator = Annotated[str | None, typer.Option(help="The calibrator they were solved on; default: the field their tables name.")]
Anchor = Annotated[
    str | None, typer.Option(help="What their flux scale rests on, as PB17:3C286; default: the calibrator's, if it is known.")
]
Dec = Annotated[float | None, typer.Option(min=-90, max=90, help="Apparent declination of their strip [deg]; default: that of --check.")]
Check = Annotated[Path | None, typer.Option(help="Measurement set they are tried on; default: the archive's nearest in time.")]
By = Annotated[str | None, typer.Option(help="Who made them, for the record; default: you.")]


@commands.command("import", epilog="Example: dsa110 calibration import /data/casa/3C286 --check /data/casa/check.ms --by 'A. Colleague'")
def import_(
    directory: Annotated[Path, typer.Argument(help="The folder in which the tables of one transit lie.")],
    name: Annotated[str | None, typer.Option(help="Name of the set; default: calibrator and folder.")] = None,
    calibrator: Calibrator = None,
    anchor: Anchor = None,
    dec: Dec = None,
    start: Annotated[str | None, typer.Option("--from", help="UTC time from which on they are valid; default: half a day before.")] = None,
    end: Annotated[str | None, typer.Option("--until", help="UTC time until which they are valid; default: half a day after.")] = None,
    order: Annotated[str | None, typer.Option(help="Their names in the order they apply, by commas; default: K, B, G, finer G.")] = None,
    check: Check = None,
    by: By = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Register tables of CASA or of a colleague, once a measurement set calibrated with them is found sound."""
    from dsa110_assets.orchestration.by_hand import Told, import_set

    names = tuple(part.strip() for part in (order or "").split(",") if part.strip())
    told = Told(name, calibrator, anchor, dec, _mjd(start), _mjd(end), names)
    configured, store, limits = _platform()
    made = import_set(store, configured, limits, directory, told, by or getpass.getuser(), check)
    if as_json:
        console.emit_json(made)
        return
    _say_registered(made)


@commands.command(epilog="Example: dsa110 calibration scan /data/casa --check /data/casa/check.ms")
def scan(
    directory: Annotated[Path, typer.Argument(help="Every folder below it in which tables lie is a set.")],
    check: Check = None,
    by: By = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Register the sets of tables in a folder, each as `calibration import` does; exit status 1 if one is refused."""
    from dsa110_assets.errors import BadDataError
    from dsa110_assets.orchestration import by_hand

    configured, store, limits = _platform()
    there = by_hand.folders(directory)
    known = {one.figures.get("imported_from") for one in _sets(store)}
    rows: list[dict[str, Any]] = []
    for place in there:
        row: dict[str, Any] = {"folder": place, "set_id": None, "reason": ""}
        if str(place.absolute()) in known:
            row["reason"] = "registered before"
        else:
            try:
                made = by_hand.import_set(store, configured, limits, place, by_hand.Told(), by or getpass.getuser(), check)
                row["set_id"] = made.set_id
            except BadDataError as error:
                row["reason"] = f"refused: {error}"
        rows.append(row)
    if as_json:
        console.emit_json(rows)
    else:
        console.table(("folder", "set", "why not"), [(str(row["folder"]), row["set_id"], row["reason"]) for row in rows])
    if not there:
        raise NotFoundError(f"{directory} holds no caltable (a folder with a table.dat), nor does any folder below it")
    if any(row["reason"].startswith("refused") for row in rows):
        raise typer.Exit(EXIT_UNDONE)


@commands.command(epilog="Example: dsa110 calibration solve --calibrator 3C454.3 --night 2026-01-25")
def solve(
    calibrator: str = typer.Option(..., "--calibrator", help="Its VLA, 3C or catalogue name."),
    night: str | None = typer.Option(None, help="UTC night; default: the last with measurement sets."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Solve the transit of a calibrator of your choice, also one that the platform would not take, and register its tables."""
    from dsa110_assets.orchestration.by_hand import solve_set

    configured, store, limits = _platform()
    when = parse_date(night).isoformat() if night else None
    made = solve_set(store, configured, limits, calibrator, when, getpass.getuser())
    if as_json:
        console.emit_json(made)
        return
    _say_registered(made)


def _say_registered(made: RegisteredSet) -> None:
    console.say(f"{made.set_id} is registered: {made.calibrator}, flux scale {made.anchor}, valid {_valid(made)} UTC")
    console.say("observations to which it is the nearest get it with the next `dsa110 process`")


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


def _reference(found: RegisteredSet) -> str:
    """Which antenna the phases are about, and why it and no other: those of the chain before it were passed over."""
    from dsa110_assets.archive.files import read_json

    refant = found.figures.get("refant")
    if refant is None or found.removed:
        return str(refant or "unknown")
    told = read_json(found.paths[0].parents[1] / "transits.json") or {"transits": []}
    own = [one["figures"] for one in told["transits"] if one["name"] == found.set_id.partition("/")[2]]
    passed = own[0].get("refants_passed_over", {}) if own else {}
    if not own:
        return f"{refant}, as the tables say"
    why = "; ".join(f"{name} {reason}" for name, reason in passed.items())
    return f"{refant}, passed over: {why}" if why else f"{refant}, the first of the chain"


def _valid(one: RegisteredSet) -> str:
    start, end = (console.cell(timegrid.mjd_to_datetime(t)) for t in (one.valid_start_mjd, one.valid_end_mjd))
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
