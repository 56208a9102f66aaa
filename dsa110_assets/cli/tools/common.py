"""Options shared by all commands on files."""

from __future__ import annotations

from typing import Any

import typer

FORCE: Any = typer.Option(False, "--force", help="Replace an output that one of these commands made before.")
DRY_RUN: Any = typer.Option(False, "--dry-run", help="Check everything and say what would be made; write nothing.")
JSON: Any = typer.Option(False, "--json", help="Print JSON, and nothing else, on standard output.")
CATALOGUES: Any = typer.Option(
    None, "--catalogue-file", help="A catalogue in addition to the packaged calibrators, best first; repeatable."
)


def parse_range(text: str | None, flag: str) -> tuple[int, int] | None:
    """Return (first, last) of `A..B`, both included, or of one number. Raises typer.BadParameter."""
    if text is None:
        return None
    first, _, last = text.partition("..")
    if not (first.isdigit() and (last or first).isdigit() and int(first) <= int(last or first)):
        raise typer.BadParameter(f"{flag} {text!r}: write A..B, both included and A no more than B, or one number")
    return int(first), int(last or first)


def parse_direction(text: str | None, flag: str) -> tuple[float, float] | None:
    """Return ICRS (ra, dec) [deg] of `RA,DEC`: degrees, or hours and degrees with colons or letters. Raises typer.BadParameter."""
    if text is None:
        return None
    from astropy.coordinates import SkyCoord

    ra, _, dec = text.partition(",")
    unit = ("hourangle", "deg") if any(mark in ra for mark in ":h ") else "deg"
    try:
        direction = SkyCoord(ra.strip(), dec.strip(), unit=unit)
    except ValueError as error:
        raise typer.BadParameter(f"{flag} {text!r}: write RA,DEC such as 218.5,16.3 [deg] or 14:34:00,+16:18:00") from error
    return float(direction.ra.deg), float(direction.dec.deg)
