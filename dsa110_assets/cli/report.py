"""`dsa110 report`: the figures that the platform promises, computed from what happened."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_time

SHOWN = 3
"""Number of cases shown for each figure; --json has all."""


@app.command(epilog="Example: dsa110 report --since 2026-01-25")
def report(
    since: str = typer.Option(..., help="Observations and runs from this UTC time on."),
    until: str | None = typer.Option(None, help="Observations and runs before this UTC time; default: now."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, and nothing else, on standard output."),
) -> None:
    """Measure success: zero-touch share, recovery, calibration, latency, queue, lost files, uptime; each with its definition."""
    from dsa110_assets import settings
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.portal import success

    configured = settings.load()
    store = Archive(configured.archive, configured.database_url)
    begin, end = parse_time(since), parse_time(until) if until else datetime.now(UTC)
    if end <= begin:
        raise typer.BadParameter(f"--until {until}: it is not after --since {since}")
    scanned = plan.scan_for_display(store, configured)
    figures = success.figures(store, configured.home_path, configured.inbox, scanned, begin, end)
    if as_json:
        console.emit_json({"since": begin, "until": end, "figures": figures})
        return
    console.table(
        ("what", "figure", "of", "promised", "against it"),
        [(figure.name, success.text_of(figure), figure.number, figure.promised, ", ".join(figure.cases[:SHOWN])) for figure in figures],
    )
    broken = [figure.name for figure in figures if figure.kept is False]
    console.warn(f"not kept: {', '.join(broken)}" if broken else "every promise was kept, as far as known")
