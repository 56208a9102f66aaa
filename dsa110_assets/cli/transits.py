"""`dsa110 transits`: which calibrators cross the meridian on a night, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_date
from dsa110_assets.errors import DsaError

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive


@app.command(epilog="Example: dsa110 transits --date 2026-01-25 --calibrator 3C286 --json")
def transits(
    date: str = typer.Option(..., "--date", help="UTC night, for example 2026-01-25."),
    calibrator: str | None = typer.Option(None, help="Only this calibrator, by its VLA, 3C or catalogue name."),
    dec: float | None = typer.Option(None, min=-90, max=90, help="Pointing declination [deg]; default: that of the latest data."),
    limit: int = typer.Option(20, min=1, help="Number to list, best first (with --dec or data)."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List calibrator transits of a UTC night, best calibrator of the strip first.

    If neither --dec nor data give the pointing, the primary flux standards are listed.
    """
    from dsa110_assets.portal import overview

    night, archive = parse_date(date).isoformat(), _archive()
    strip = dec if dec is not None or archive is None else overview.pointing_dec_deg(archive)
    rows = overview.transits_of_night(night, strip, calibrator, overview.known_calibrators(archive))[:limit]
    if as_json:
        console.emit_json([row.as_json() for row in rows])
        return
    if not rows:
        console.say(f"no calibrator of the strip at {strip:.2f} deg transits on {night}; see --dec")
        return
    console.table(
        ("calibrator", "alias", "transit (UTC)", "MJD", "from strip deg", "beam", "flux Jy", "anchor"),
        [
            (
                r.calibrator,
                r.alias,
                r.utc[:19],
                f"{r.mjd:.5f}",
                r.dec_offset_deg,
                r.primary_beam,
                r.flux_jy,
                r.anchor,
            )
            for r in rows
        ],
        title=f"Transits of {night}" + (f", strip at {strip:.2f} deg" if strip is not None else ""),
    )


def _archive() -> AnalystArchive | None:
    """Return the archive, or None if there is none, because transits do not need it."""
    from dsa110_assets.analyst import open_archive

    try:
        return open_archive()
    except DsaError:
        return None
