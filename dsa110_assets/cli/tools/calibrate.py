"""`dsa110 calibrate` and `dsa110 apply`: solve for tables from a measurement set, and apply tables to one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.options import SET_HELP, assigned, of_field, validated
from dsa110_assets.cli.tools.common import CATALOGUES, DRY_RUN, FORCE, JSON

FLAGS = {"gain_solint_s": "--solint", "min_snr_bandpass": "--min-snr-bandpass", "min_snr_gain": "--min-snr", "refant_chain": "--refant"}
SHOWN = (
    "calibrator", "anchor", "refant", "dead_receptor_names", "bandpass_snr", "gain_snr", "bandpass_flag_fraction", "flux_ratio",
    "closure_phase_deg", "closure_amplitude", "reduced_chi2",
)  # fmt: skip


def _field(name: str) -> Any:
    return of_field(SolveOptions, name, FLAGS[name])


@app.command(epilog="Example: dsa110 calibrate out/20260125T2225.ms --calibrator 3C454.3 --out tables")
def calibrate(
    ms: Annotated[Path, typer.Argument(help="A raw measurement set, as dsa110 convert makes it.")],
    out: Annotated[Path, typer.Option(help="Directory to create.")],
    calibrator: str | None = typer.Option(None, help="Calibrator by its VLA or 3C name; default: the best that transits in the data."),
    model: Annotated[Path | None, typer.Option(help="Solve against all sources of this catalogue instead.")] = None,
    field_model: str = typer.Option(
        "catalogue", help="catalogue: the calibrator and the sources around it, corrected by the data; none: only the calibrator."
    ),
    catalogues: list[Path] | None = CATALOGUES,
    delays: bool = typer.Option(False, "--delays", help="Separate a delay per receptor from the bandpass: K.cal."),
    skip_bandpass: bool = typer.Option(False, "--skip-bandpass", help="Solve only for gains, from data corrected by --before."),
    before: Annotated[list[Path] | None, typer.Option(help="With --skip-bandpass: a table to apply first; repeatable.")] = None,
    skip_gains: bool = typer.Option(False, "--skip-gains", help="One bandpass for the whole transit, and no G.cal."),
    second_gains: float | None = typer.Option(
        None, min=1, help="Make 2G.cal: gains at this interval [s], from data corrected by the other tables."
    ),
    solint: str = typer.Option("60", help="Length of a gain solution [s]; inf: one per transit."),
    min_snr_gain: float = _field("min_snr_gain"),
    min_snr_bandpass: float = _field("min_snr_bandpass"),
    refant: str | None = typer.Option(None, help="Stations tried in turn as reference antenna, such as 103,104; default: the outriggers."),
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    force: bool = FORCE,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Solve for bandpass and gains; write CASA tables and a report with plots to OUT: B.cal, G.cal, and K.cal or 2G.cal on request."""
    if field_model not in ("catalogue", "none"):
        raise typer.BadParameter(f"--field-model {field_model!r}: catalogue or none")
    if calibrator and model:
        raise typer.BadParameter("--calibrator or --model: give only one of them")
    values: dict[str, Any] = {
        "gain_solint_s": math.inf if solint == "inf" else solint, "solve_delays": delays, "min_snr_gain": min_snr_gain,
        "min_snr_bandpass": min_snr_bandpass,
    }  # fmt: skip
    if refant is not None:
        values["refant_chain"] = refant.split(",")
    options = validated(SolveOptions, values | assigned(SolveOptions, settings), FLAGS)
    from dsa110_assets.tools import calibrate as tool

    tables = tool.Tables(not skip_bandpass, not skip_gains, second_gains, tuple(before or ()))
    with console.progress_bar(f"calibrating {ms}") as progress:
        made = tool.calibrate(
            ms, out, calibrator, options, tables, model=model, catalogue_files=catalogues or (), field=field_model == "catalogue",
            force=force, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    if as_json:
        console.emit_json({"tables": made.paths, "figures": made.figures})
    elif dry_run:
        console.say(f"would solve against {made.figures['calibrator']} and make {out}; nothing was written")
    else:
        rows = [(name, _cell(made.figures[name])) for name in SHOWN if name in made.figures]
        console.table(("", str(out)), [*(("table", str(path)) for path in made.paths), *rows])


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


@app.command("apply", epilog="Example: dsa110 apply raw.ms tables/B.cal tables/G.cal --out calibrated.ms")
def apply_tables(
    ms: Annotated[Path, typer.Argument(help="A raw measurement set, as dsa110 convert makes it.")],
    tables: Annotated[list[Path], typer.Argument(help="CASA tables (K, B or G Jones), in the order in which they are applied.")],
    out: Annotated[Path, typer.Option(help="Measurement set to make.")],
    average: int = typer.Option(0, min=0, help="Channels averaged into one; 0: as many as fit into 1 MHz."),
    average_times: int = typer.Option(1, min=1, help="Integrations averaged into one."),
    keep_fields: bool = typer.Option(False, "--keep-fields", help="Average nothing, and keep the phase centre of every integration."),
    force: bool = FORCE,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Write the corrected data, averaged and with one phase centre, as a measurement set in Jy that can be imaged."""
    from dsa110_assets.tools import apply as tool

    with console.progress_bar(f"calibrating {ms}") as progress:
        made = tool.apply(
            ms, tables, out, channels=average, times=average_times, keep_fields=keep_fields, force=force, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip
    if as_json:
        console.emit_json(made)
    elif dry_run:
        console.say(f"would make {out}, {made.channels} channels averaged into one; nothing was written")
    else:
        console.say(f"{made.path}: {made.channels} channels averaged into one, {made.flag_fraction:.1%} flagged")
