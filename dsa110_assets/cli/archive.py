"""`dsa110 archive`: verification, index, backups, retention and other upkeep of the archive."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa110_assets import plain_text
from dsa110_assets.cli import console
from dsa110_assets.cli.app import EXIT_INCOMPLETE, app
from dsa110_assets.errors import NotFoundError

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings

JSON_HELP = "Print JSON, and nothing else, on standard output."
commands = typer.Typer(help="The archive: verify, reindex, migrate, backup, restore, retain and others.", no_args_is_help=True)
app.add_typer(commands, name="archive")


@commands.command(epilog="Example: dsa110 archive verify --asset tile_image")
def verify(
    asset: str | None = typer.Option(None, help="Only products of this asset."),
    rebuild: bool = typer.Option(False, "--rebuild", help="Reject damaged products: the next `dsa110 process` makes them again."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Read every byte of every product and compare with its digest; exit status 1 if any differs."""
    from dsa110_assets.analyst import known_asset
    from dsa110_assets.archive import integrity

    _, store = _open()
    chosen = [p for p in store.products(known_asset(store, asset), state=None) if not p.removed]
    found: list[integrity.Problem] = []
    with console.progress_bar("verifying") as progress:
        for number, product in enumerate(chosen, 1):
            found += integrity.verify(store, [product])
            progress(number, len(chosen), product.id)
    if as_json:
        rows = [{"product_id": problem.product.id, "problems": problem.problems} for problem in found]
        console.emit_json({"verified": len(chosen), "damaged": rows})
    else:
        for problem in found:
            console.say(f"{problem.product.id}: {'; '.join(problem.problems)}")
        console.say(f"{len(chosen)} products verified, {len(found)} damaged")
    if found and rebuild:
        remade = [product.id for product in integrity.reject_damaged(store, found)]
        console.warn(f"{len(remade)} damaged products will be made again by: dsa110 process")
    elif found:
        console.warn("to make the damaged products again: dsa110 archive verify --rebuild, then: dsa110 process")
    if found:
        raise typer.Exit(EXIT_INCOMPLETE)


@commands.command(epilog="Example: dsa110 archive reindex")
def reindex() -> None:
    """Rebuild the index from the records beside the products; exit status 1 if a record is not credible."""
    from dsa110_assets import settings
    from dsa110_assets.archive import integrity
    from dsa110_assets.archive.store import Archive

    configured = settings.load()
    done = integrity.reindex(configured.archive, configured.database_url)
    with Archive(configured.archive, configured.database_url) as store:
        swept = integrity.sweep(store, everywhere=True)
    console.say(f"{done.products} products and {done.quarantined} quarantine records indexed")
    for path in swept.removed:
        console.say(f"removed {path}, left over from a crash")
    for path, why in done.refused.items():
        console.say(f"refused {path}: {why}")
    if done.refused:
        raise typer.Exit(EXIT_INCOMPLETE)


@commands.command(epilog="Example: dsa110 archive migrate --dry-run")
def migrate(
    to: int | None = typer.Option(None, "--to", min=1, help="The target format; default: this version's. It may be an older one."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be done; change nothing."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Convert the index to the format of this version, or back to an older one, completely or not at all.

    An SQLite index is first copied into DSA110_BACKUPS.
    """
    from dsa110_assets.archive import migrations

    configured, store = _open()
    done = migrations.plan(store.index, to) if dry_run else migrations.migrate(store.index, to, saved=configured.backups_path)
    if as_json:
        steps = [{"from": step.begin, "to": step.end, "oldest": step.oldest, "what": step.what} for step in done.steps]
        console.emit_json({"dry_run": dry_run, "found": done.found, "oldest": done.oldest, "wanted": done.wanted, "steps": steps})
        return
    for step in done.steps:
        versions = f"formats {step.oldest} to {step.end}" if step.oldest < step.end else f"format {step.end} alone"
        console.say(f"{'would go' if dry_run else 'went'} from format {step.begin} to {step.end}: {step.what}; for versions of {versions}")
    if not done.steps:
        console.say(f"the index has format {done.wanted}; there is nothing to do")


@commands.command(epilog="Example: dsa110 archive backup /mnt/backup --keep 14")
def backup(
    destination: Annotated[Path | None, typer.Argument(help="Directory for backups; default: beside the archive.")] = None,
    keep: int | None = typer.Option(None, min=1, help="Number of backups to keep there; default: threshold `keep_backups`."),
) -> None:
    """Save the index, caltables, states, quarantine and Dagster's history: everything that cannot be computed again."""
    from dsa110_assets.archive import backup as backups
    from dsa110_assets.orchestration.resources import IN_FORCE
    from dsa110_assets.orchestration.watching import housekeeping
    from dsa110_assets.thresholds import load_thresholds

    configured, store = _open()
    kept = keep or load_thresholds(configured.thresholds_path, store.root / IN_FORCE).keep_backups
    made = backups.backup(store, destination or configured.backups_path, keep=kept, dagster=housekeeping.dagster_to_back_up(configured))
    console.say(f"{made.path}: {plain_text.size(made.size_bytes)}, {made.caltables} caltable products")
    for reason in made.left_out:
        console.say(f"left out: {reason}")


@commands.command(epilog="Example: dsa110 archive restore /mnt/backup/backup-20260125T223000")
def restore(
    source: Annotated[Path | None, typer.Argument(help="A backup, or a directory of backups, of which the newest is used.")] = None,
) -> None:
    """Restore index, caltables, states, quarantine and Dagster's history; newer products on disk are adopted.

    No part of the platform may run meanwhile.
    """
    from dsa110_assets import settings
    from dsa110_assets.archive import backup as backups
    from dsa110_assets.archive import integrity
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.watching import housekeeping

    configured = settings.load()
    location = source or configured.backups_path
    available = backups.backups(location)
    chosen = available[-1].path if available else location
    if source is None and not available:
        raise NotFoundError(f"there is no backup in {location}; name one: dsa110 archive restore PATH")
    backups.restore(chosen.absolute(), configured.archive, configured.database_url, housekeeping.dagster_to_back_up(configured))
    with Archive(configured.archive, configured.database_url) as store:
        swept = integrity.sweep(store, everywhere=True)
        count = len(store.products(state=None))
    console.say(f"restored {chosen}: {count} products, {len(swept.adopted)} of them newer than the backup")


@commands.command(epilog="Example: dsa110 archive retain --dry-run")
def retain(
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be removed and why; change nothing."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Remove data that are no longer needed, and say why each product is removed or kept. Records are kept.

    If the archive has a folder `cold`, or a link to one, the data are moved there.
    """
    from dsa110_assets.orchestration.resources import IN_FORCE
    from dsa110_assets.orchestration.watching import housekeeping
    from dsa110_assets.thresholds import chosen_thresholds, load_thresholds

    configured, store = _open()
    limits = (load_thresholds if dry_run else chosen_thresholds)(configured.thresholds_path, store.root / IN_FORCE)
    decisions = housekeeping.apply_retention(store, limits, dry_run=dry_run)
    if as_json:
        rows = [{"product_id": d.product.id, "remove": d.remove, "reason": d.reason,
                 "size_bytes": d.product.size_bytes} for d in decisions]  # fmt: skip
        console.emit_json({"dry_run": dry_run, "decisions": rows})
        return
    removed = [decision for decision in decisions if decision.remove]
    for decision in removed:
        console.say(f"{'would remove' if dry_run else 'removed'} {decision.product.id}: {decision.reason}")
    kept = Counter((d.product.asset, _kind(d.reason)) for d in decisions if not d.remove)
    console.table(("asset", "kept", "because"), [(asset, n, why) for (asset, why), n in sorted(kept.items())])
    size = plain_text.size(sum(decision.product.size_bytes for decision in removed))
    console.say(f"{len(removed)} of {len(decisions)} products, {size}, {'would be removed' if dry_run else 'removed'}")


@commands.command(epilog="Example: dsa110 archive recall measurement_set-20260125T2225-v1")
def recall(product: str = typer.Argument(..., help="Product id.")) -> None:
    """Bring a product's data back from cold storage, and pin it."""
    from dsa110_assets.archive import cold

    _, store = _open()
    console.say(f"{cold.recall(store, store.find(product).id).id} is back and pinned; unpin it to allow its removal")


@commands.command(epilog="Example: dsa110 archive pin light_curves-20260125-v1 --reason 'in the paper'")
def pin(
    product: str = typer.Argument(..., help="Product id or path."),
    reason: str = typer.Option("pinned", help="Why it is kept."),
) -> None:
    """Protect a product, and everything it was made from, against retention."""
    _, store = _open()
    console.say(f"{store.pin(store.find(product).id, reason).id} is pinned: {reason}")


@commands.command(epilog="Example: dsa110 archive unpin light_curves-20260125-v1")
def unpin(product: str = typer.Argument(..., help="Product id or path.")) -> None:
    """Let retention consider a product again."""
    _, store = _open()
    console.say(f"{store.unpin(store.find(product).id).id} is no longer pinned")


@commands.command(epilog="Example: dsa110 archive survey /data/www/dsa110")
def survey(
    out: Annotated[Path, typer.Argument(help="Directory of the survey, in which hips and weights are made or updated.")],
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Make one HiPS of all nights, besides those of single nights: the weighted mean of the current night mosaics."""
    from dsa110_assets.archive.files import exclusive_lock
    from dsa110_assets.mosaics.survey import Night, write_survey
    from dsa110_assets.orchestration.specification.recipes import all_usable

    _, store = _open()
    nights = [Night(p.id, p.path / "mosaic.fits", p.path / "noise.fits") for p in all_usable(store, "night_mosaic")]
    if not nights:
        raise NotFoundError("there is no night_mosaic that may be used yet: run `dsa110 process`, and see `dsa110 status`")
    out.mkdir(parents=True, exist_ok=True)
    process = f"process {os.getpid()}"
    with exclusive_lock(
        out / ".lock", process, lambda writer: f"{out} is being written by {writer}; wait until it has finished, or name another directory"
    ):
        figures = write_survey(nights, out)
    if as_json:
        console.emit_json(figures)
        return
    changed, tiles = int(figures["tiles_changed"]), int(figures["tiles"])
    console.say(f"{len(nights)} nights, {tiles} tiles over {figures['sky_area_deg2']:.1f} deg²; {changed} of them changed: {out / 'hips'}")


def _open() -> tuple[Settings, Archive]:
    from dsa110_assets import settings
    from dsa110_assets.archive.store import Archive

    configured = settings.load()
    return configured, Archive(configured.archive, configured.database_url)


def _kind(reason: str) -> str:
    """Return a retention reason without the age in it, so that the table counts such reasons together."""
    return reason.split(" days old, ")[-1] if " days old, " in reason else reason
