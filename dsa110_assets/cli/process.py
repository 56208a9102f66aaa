"""`dsa110 process` and `dsa110 backfill`: run the graph now, or queue nights for the running platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa110_assets.cli import WARM, console
from dsa110_assets.cli.app import EXIT_CHECKS, EXIT_INCOMPLETE, app
from dsa110_assets.cli.times import parse_nights, parse_time

if TYPE_CHECKING:
    from dsa110_assets.orchestration.running.process import ProcessReport, Progress

SHOWN = 40


@app.command(epilog="Example: dsa110 process /data/incoming --since 2026-01-25 --through tile_image")
def process(
    inbox: Annotated[Path | None, typer.Argument(help="Directory of subband files; default: the setting `inbox`.")] = None,
    since: str | None = typer.Option(None, help="Only observation windows from this UTC time on."),
    until: str | None = typer.Option(None, help="Only observation windows before this UTC time."),
    through: str | None = typer.Option(None, help="Stop after this asset, for example tile_image."),
    improve: bool = typer.Option(
        False, "--improve", help="Only products for which nearer calibration tables exist than those they were made with."
    ),
    at_once: int | None = typer.Option(
        None, min=1, help="Observations processed at the same time (default: one per core, as memory allows)."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be made, and change nothing."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Make everything that is missing or out of date, to completion, through Dagster.

    Exit status 0 only if everything requested is made and no check of severity ERROR failed; 3 if all is made and one did fail.
    Killed and started again, it continues.
    """
    from dsa110_assets import settings
    from dsa110_assets.cli.home import with_dagster_home

    start, end = (parse_time(text) if text else None for text in (since, until))
    configured = settings.load(inbox=inbox)
    if not dry_run:
        from dsa110_assets.archive.store import Archive

        Archive.create(configured.archive, configured.database_url).close()
        configured = with_dagster_home(configured)
    if improve:
        from dsa110_assets.orchestration.planning.improve import improve as run_graph
    else:
        from dsa110_assets.orchestration.running.process import process as run_graph
    from dsa110_assets.orchestration.running import capacity
    from dsa110_assets.orchestration.running.process import SideBySide

    side_by_side = SideBySide(at_once or capacity.fitting_runs(), WARM)
    with console.progress_bar("looking at the inbox") as bar:

        def progress(now: Progress) -> None:
            bar(now.done, now.total, f"{now.phase} {now.text}".strip())

        report = run_graph(configured, start, end, through, dry_run, progress=progress, side_by_side=side_by_side)
    if as_json:
        console.emit_json(report)
    else:
        _tell(report, dry_run)
    if not dry_run and not report.ok:
        raise typer.Exit(EXIT_INCOMPLETE)
    if report.failed_checks:
        raise typer.Exit(EXIT_CHECKS)


def _tell(report: ProcessReport, dry_run: bool) -> None:
    if dry_run:
        _list("would make", [f"{s.asset} {s.partition or ''}: {s.reason}" for s in report.planned])
        console.say(f"{len(report.planned)} steps; nothing was changed")
        return
    made: dict[str, int] = {}
    for product in report.made:
        made[product.asset] = made.get(product.asset, 0) + 1
    if made:
        console.table(("asset", "made"), list(made.items()))
    _list("quarantined", report.quarantined)
    _list("waiting", [f"{w.what}: {w.reason}" for w in report.waiting])
    _list("failed", [f"{f.asset} {f.partition or ''}: {f.error_class}: {f.reason}" for f in report.failed])
    _list("check failed", [f"{c.product_id}: {c.check}: {c.reason}" for c in report.failed_checks])
    console.say(
        f"{len(report.made)} products made, {report.up_to_date} up to date, {len(report.waiting)} waiting, "
        f"{len(report.failed)} failed, {len(report.quarantined)} quarantined, in {report.seconds:.0f} s"
        f"; {console.failed_checks_text([(c.product_id, c.check) for c in report.failed_checks])}"
    )


def _list(title: str, lines: list[str] | tuple[str, ...]) -> None:
    for line in lines[:SHOWN]:
        console.say(f"{title}: {line}")
    if len(lines) > SHOWN:
        console.say(f"{title}: … and {len(lines) - SHOWN} more")


@app.command(epilog="Example: dsa110 backfill --nights 2026-01-20..2026-01-25 --asset tile_image")
def backfill(
    nights: str = typer.Option(..., "--nights", help="UTC nights D1..D2, both included, or one night."),
    asset: str | None = typer.Option(None, help="Only this asset; default: everything."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be queued, and change nothing."),
    as_json: bool = typer.Option(False, "--json", help="Print what was queued as JSON."),
) -> None:
    """Queue historical nights for the running platform (`dsa110 up`), behind live observations."""
    from dsa110_assets import settings
    from dsa110_assets.cli.home import with_dagster_home

    night_range = parse_nights(nights)
    configured = settings.load()
    if not dry_run:
        configured = with_dagster_home(configured)
    from dsa110_assets.orchestration.running.backfill import backfill as queue

    launches = queue(configured, night_range[0], night_range[-1], asset, dry_run=dry_run)
    if as_json:
        console.emit_json(launches)
        return
    console.table(
        ("backfill", "partitions", "from", "to", "assets"),
        [
            (launch.backfill_id, len(launch.partitions), *(launch.partitions[:1] or ("–",)),
             *(launch.partitions[-1:] or ("–",)), ", ".join(launch.assets))
            for launch in launches
        ],
    )  # fmt: skip
    for launch in launches:
        _list("left out", launch.left_out)
    if not dry_run:
        console.warn("queued; the daemon of `dsa110 up` runs them, and its web UI shows their progress")
