"""`dsa110 trial`: products made with settings other than the platform's, kept apart from science products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dsa110_assets import plain_text
from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_time

if TYPE_CHECKING:
    from dsa110_assets.orchestration.running.process import Progress

commands = typer.Typer(
    help="Trials: products made with other settings, which are no input of science: make, list, show, delete.", no_args_is_help=True
)
app.add_typer(commands, name="trial")
JSON_HELP = "Print JSON, and nothing else, on standard output."


@commands.command(
    epilog="Example: dsa110 trial make robust_0 --set imaging.robust=0 --asset tile_image --since 2026-01-26T04:50 --until 2026-01-26T05:00"
)
def make(
    name: str = typer.Argument(..., help="The trial's name: lower-case letters, digits and _."),
    change: Annotated[list[str] | None, typer.Option("--set", help="A setting to change, such as imaging.robust=0; repeatable.")] = None,
    asset: str = typer.Option("tile_image", help="The first asset to make."),
    through: str | None = typer.Option(None, help="Continue up to this asset, for example hour_mosaic; default: only the first."),
    since: str | None = typer.Option(None, help="Only windows from this UTC time on."),
    until: str | None = typer.Option(None, help="Only windows before this UTC time."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Make part of the graph again with other settings, for a trial. Science products are not changed."""
    from dsa110_assets import settings
    from dsa110_assets.cli.home import with_dagster_home
    from dsa110_assets.portal.rows import product_row

    pairs = [text.partition("=") for text in change or ()]
    for key, equals, _ in pairs:
        if not equals:
            raise typer.BadParameter(f"--set {key}: write NAME=VALUE, such as imaging.robust=0")
    start, end = (parse_time(text) if text else None for text in (since, until))
    configured = with_dagster_home(settings.load())
    from dsa110_assets.orchestration.running import trial_runs

    with console.progress_bar(f"trial {name}") as bar:

        def progress(now: Progress) -> None:
            bar(now.done, now.total, f"{now.phase} {now.text}".strip())

        found = trial_runs.make(configured, name, {key: value for key, _, value in pairs}, asset, through, start, end, progress)
    if as_json:
        console.emit_json([product_row(product) for product in found])
        return
    console.table(("product", "seconds", "path"), [(p.id, f"{p.metadata.get('seconds', 0):.1f}", p.path) for p in found])
    console.warn(f"{len(found)} products of the trial {name}")


@commands.command("list", epilog="Example: dsa110 trial list --json")
def list_trials(as_json: bool = typer.Option(False, "--json", help=JSON_HELP)) -> None:
    """List every trial: its settings, and when it was first made."""
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.archive import trials

    found = trials.definitions(open_archive().store)
    if as_json:
        console.emit_json(found)
        return
    console.table(
        ("trial", "settings", "first made (UTC)"), [(trial.name, trials.describe(trial.settings), trial.created_at) for trial in found]
    )
    console.warn(f"{len(found)} trials")


@commands.command(epilog="Example: dsa110 trial delete robust_0")
def delete(name: str = typer.Argument(..., help="The trial's name.")) -> None:
    """Remove a trial's data; its records are kept."""
    from dsa110_assets import settings
    from dsa110_assets.archive import trials
    from dsa110_assets.archive.store import Archive

    configured = settings.load()
    with Archive(configured.archive, configured.database_url) as archive:
        removed = trials.delete(archive, name)
    console.say(f"{name}: {len(removed)} products, {plain_text.size(sum(product.size_bytes for product in removed))} removed")
