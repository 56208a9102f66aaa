"""`dsa110 convert`: convert subband files to measurement sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import EXIT_INCOMPLETE, app
from dsa110_assets.cli.options import SET_HELP, assigned, validated
from dsa110_assets.cli.times import parse_time
from dsa110_assets.cli.tools.common import DRY_RUN, FORCE, JSON
from dsa110_assets.visibilities.options import FlaggingOptions

if TYPE_CHECKING:
    from dsa110_assets.tools.convert import Converted


@app.command(epilog="Example: dsa110 convert /data/incoming out --calibrator 3C286 --around 10")
def convert(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="INBOX OUT", help="Directory of subband files, or the files of one group; last, the directory to write into."
        ),
    ],
    since: str | None = typer.Option(None, help="Only groups that start at this UTC time or later."),
    until: str | None = typer.Option(None, help="Only groups that start before this UTC time."),
    calibrator: str | None = typer.Option(None, help="Only groups in which this calibrator (VLA or 3C name) transits."),
    around: float = typer.Option(0.0, min=0, help="With --calibrator: also groups within this time of the transit [min]."),
    find_only: bool = typer.Option(False, "--find-only", help="List the selected groups, and write nothing."),
    skip_existing: bool = typer.Option(False, "--skip-existing", help="Leave existing measurement sets unchanged, and continue."),
    reader: str = typer.Option("direct", help="Program that reads the files: direct or pyuvdata."),
    subbands: int = typer.Option(16, min=1, max=16, help="Subbands that make a complete group."),
    min_subbands: int = typer.Option(14, min=1, max=16, help="Groups with fewer subbands are left out; missing ones are flagged."),
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    force: bool = FORCE,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Write groups of subband files as flagged measurement sets, not yet calibrated, such as OUT/20260125T2225.ms.

    Exit status 1 if a selected group has too few subbands.
    """
    *inputs, out = places
    if not inputs:
        raise typer.BadParameter("name an inbox, or subband files, and then the directory to write into")
    if reader not in ("direct", "pyuvdata"):
        raise typer.BadParameter(f"--reader {reader!r}: direct or pyuvdata")
    start, end = (parse_time(text) if text else None for text in (since, until))
    flagging = validated(FlaggingOptions, assigned(FlaggingOptions, settings), {})
    from dsa110_assets.tools import convert as tool

    inbox = inputs[0] if len(inputs) == 1 and not inputs[0].is_file() else inputs
    selection = tool.GroupSelection(start, end, calibrator, around)
    with console.progress_bar(f"converting into {out}") as progress:
        done = tool.convert(
            inbox, out, selection, flagging=flagging, engine="direct" if reader == "direct" else "pyuvdata", n_subbands=subbands,
            min_subbands=min_subbands, skip_existing=skip_existing or find_only, force=force, dry_run=dry_run or find_only,
            progress=progress,
        )  # fmt: skip
    _tell(done, subbands, as_json, find_only)
    if any(one.state == "incomplete" for one in done) and not find_only:
        raise typer.Exit(EXIT_INCOMPLETE)


def _tell(done: list[Converted], subbands: int, as_json: bool, find_only: bool) -> None:
    from dsa110_assets.telescope import timegrid

    rows = [
        {
            "observation": one.group.observation, "state": one.state, "mjd_start": one.group.mjd_start, "path": one.path,
            "subbands": len(one.group.files), "missing": one.group.missing(subbands), "transit_mjd": one.transit_mjd,
            "pointing_dec_deg": one.group.pointing_dec_deg, "flag_fraction": one.flag_fraction,
        }
        for one in done
    ]  # fmt: skip
    if as_json:
        console.emit_json(rows)
        return
    console.table(
        ("observation", "state", "subbands", "dec deg", "transit (UTC)", "flagged", "measurement set"),
        [
            (
                row["observation"], row["state"], row["subbands"], row["pointing_dec_deg"],
                None if one.transit_mjd != one.transit_mjd else timegrid.mjd_to_datetime(one.transit_mjd), one.flag_fraction,
                None if find_only else str(one.path),
            )
            for one, row in zip(done, rows, strict=True)
        ],
    )  # fmt: skip
