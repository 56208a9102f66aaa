"""`dsa110 checks`: the checks that products failed, with figure and limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_bound

if TYPE_CHECKING:
    from dsa110_assets.portal.rows import CheckRow

RECENT_NIGHTS = 2


@app.command(epilog="Example: dsa110 checks --asset tile_image --since 2026-01-20")
def checks(
    asset: str | None = typer.Option(None, help="Only this asset, for example tile_image."),
    since: str | None = typer.Option(None, help=f"From this UTC time on; default: the last {RECENT_NIGHTS} nights with data."),
    until: str | None = typer.Option(None, help="Up to this UTC time; a date alone includes its whole day."),
    every: bool = typer.Option(False, "--all", help="Also the checks that passed."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, and nothing else, on standard output."),
) -> None:
    """List the checks that failed, with product, figure, limit and severity; ERROR first."""
    from dsa110_assets.analyst import known_asset, open_archive
    from dsa110_assets.portal.rows import check_rows

    store = open_archive().store
    start, named = parse_bound(since), known_asset(store, asset)
    if start is None:
        start = min(store.nights(RECENT_NIGHTS), default=None)
    judged = check_rows(store.products(named, start, parse_bound(until)))
    shown = sorted((row for row in judged if every or not row.passed), key=lambda row: (row.passed, row.severity != "ERROR"))
    if as_json:
        console.emit_json(shown)
        return
    console.table(
        ("product", "check", "severity", "said"),
        [(row.product_id, row.check, "passed" if row.passed else row.severity, _said(row)) for row in shown],
    )
    failed = [row for row in judged if not row.passed]
    errors = sum(row.severity == "ERROR" for row in failed)
    console.warn(f"{len(failed)} of {len(judged)} checks failed, {errors} of severity ERROR" + (f", since {start}" if start else ""))


def _said(row: CheckRow) -> str:
    return row.reason or ", ".join(f"{name} {console.cell(value)}" for name, value in row.figures.items() if not isinstance(value, list))
