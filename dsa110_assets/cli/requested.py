"""`dsa110 requested`: mosaics on request, of any time, tiles or position."""

from __future__ import annotations

import getpass
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsa110_assets import plain_text
from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_time
from dsa110_assets.cli.tools.common import JSON, parse_direction
from dsa110_assets.errors import ConfigurationError, DsaError

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.requested import Request
    from dsa110_assets.orchestration.requested.requested_mosaics import Standing

commands = typer.Typer(
    help="Mosaics on request, of any time, tiles or position, kept in the archive: make, list, show, delete.", no_args_is_help=True
)
app.add_typer(commands, name="requested")
NAME: Any = typer.Argument(..., help="The request's name: lower-case letters, digits and _.")


@commands.command(epilog="Example: dsa110 requested make standards --calibrator 3C286 --calibrator 3C48 --at 2026-01-26 --timespan 30")
def make(
    name: str = NAME,
    since: str | None = typer.Option(None, help="Tiles of observations that begin from this UTC time on."),
    until: str | None = typer.Option(None, help="Tiles of observations that begin before this UTC time."),
    tile: Annotated[list[str] | None, typer.Option(help="A tile, by product id or partition, instead of a time; repeatable.")] = None,
    centre: str | None = typer.Option(None, help="Centre of the mosaic, RA,DEC: 218.5,16.3 [deg] or 14:34:00,+16:18:00."),
    radius: float = typer.Option(1.0, help="Radius of the circle about the centre that the mosaic covers [deg]."),
    calibrator: Annotated[
        list[str] | None,
        typer.Option(help="Tiles around this calibrator's transit, centred on it; repeatable: then NAME_CALIBRATOR for each."),
    ] = None,
    at: str | None = typer.Option(None, help="Use the calibrator's transit nearest to this UTC time; default: to the newest tile."),
    timespan: float = typer.Option(60.0, help="Tiles whose middle lies within half of this of the transit [min]."),
    tier: str = typer.Option("science", help="science, or quick: a quarter of the pixels."),
    by: str | None = typer.Option(None, help="Who makes the request; default: the user's name."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show which tiles would be used; record and make nothing."),
    as_json: bool = JSON,
) -> None:
    """Request a mosaic and make it; a repeated request makes it again if its tiles or settings have changed."""
    from dsa110_assets import settings
    from dsa110_assets.cli.home import with_dagster_home
    from dsa110_assets.orchestration.requested import requested_mosaics, requesting

    if tier not in ("science", "quick"):
        raise typer.BadParameter(f"--tier {tier!r}: use science or quick")
    start, end, nearest_to = (parse_time(text) if text else None for text in (since, until, at))
    centre_direction = parse_direction(centre, "--centre")
    parsed = requesting.MosaicSelection(start, end, tuple(tile or ()), centre_direction, radius, at=nearest_to, timespan_min=timespan)
    parsed = replace(parsed, tier="quick" if tier == "quick" else "science")
    configured = with_dagster_home(settings.load())
    made, failed = [], []
    for request_name, one in requested_mosaics.of_calibrators(name, parsed, calibrator or ()).items():
        try:
            with console.progress_bar(f"requested {request_name}") as bar:
                made.append(
                    requested_mosaics.request(configured, request_name, one, by or getpass.getuser(), dry_run=dry_run, progress=bar)
                )
        except DsaError as error:
            if len(calibrator or ()) < 2:
                raise
            failed.append(f"{request_name}: {error}")
    if as_json:
        console.emit_json([_made_row(*one) for one in made])
    else:
        rows = [(r.name, len(found), p.id if p else "would be made", p.path if p else "") for r, found, p in made]
        console.table(("request", "tiles", "product", "path"), rows)
        for _, _, product in made:
            _warn_of_failed_checks(product)
    if failed:
        raise ConfigurationError(f"{len(made)} made; not made: {'; '.join(failed)}")


@commands.command("list", epilog="Example: dsa110 requested list --json")
def list_requests(as_json: bool = JSON) -> None:
    """List every request: its content, its mosaic, and whether that has to be made again."""
    from dsa110_assets import settings
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.archive import requested
    from dsa110_assets.orchestration.requested import requested_mosaics

    found = requested_mosaics.listed(open_archive().store, settings.load())
    if as_json:
        console.emit_json([_row(one) for one in found])
        return
    rows = [(s.request.name, requested.describe(s.request), s.request.by, s.product.id if s.product else "none", s.due) for s in found]
    console.table(("request", "of", "by", "product", "to be made"), rows)
    console.warn(f"{len(found)} requests")


@commands.command(epilog="Example: dsa110 requested show virgo_2026")
def show(name: str = NAME, as_json: bool = JSON) -> None:
    """Show one request: its content, tiles, figures and checks."""
    from dsa110_assets import settings
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.archive import requested
    from dsa110_assets.orchestration.requested import requested_mosaics

    one = requested_mosaics.show(open_archive().store, settings.load(), name)
    if as_json:
        console.emit_json(_row(one))
        return
    request, product = one.request, one.product
    rows: list[tuple[str, Any]] = [
        ("of", requested.describe(request)),
        ("asked for by", request.by),
        ("on (UTC)", f"{request.created_at:%Y-%m-%dT%H:%M:%S}"),
    ]
    rows.append(("to be made", one.due or "no: up to date"))
    if product is not None:
        rows += [("product", product.id), ("path", product.path), ("tiles", ", ".join(product.inputs))]
        rows += [(key, product.metadata[key]) for key in ("rms_jy", "area_deg2", "measured_over_noise", "overlap_flux_ratio")]
    console.table((request.name, ""), rows)
    _warn_of_failed_checks(product)


@commands.command(epilog="Example: dsa110 requested delete virgo_2026")
def delete(name: str = NAME) -> None:
    """Remove a request and its mosaic's data; records are kept for lineage."""
    from dsa110_assets import settings
    from dsa110_assets.cli.home import with_dagster_home
    from dsa110_assets.orchestration.requested import requested_mosaics

    removed = requested_mosaics.delete(with_dagster_home(settings.load()), name)
    console.say(f"{name}: {len(removed)} products, {plain_text.size(sum(product.size_bytes for product in removed))} removed")


def _row(standing: Standing) -> dict[str, Any]:
    from dsa110_assets.portal.rows import product_row

    return {"request": standing.request, "product": standing.product and product_row(standing.product), "due": standing.due}


def _made_row(request: Request, tiles: list[Product], product: Product | None) -> dict[str, Any]:
    from dsa110_assets.portal.rows import product_row

    return {"request": request, "tiles": [one.id for one in tiles], "product": product and product_row(product)}


def _warn_of_failed_checks(product: Product | None) -> None:
    """Print the checks of severity ERROR that the mosaic failed."""
    from dsa110_assets.orchestration.judging import checks

    for failed in checks.failed([product] if product else []):
        console.warn(f"{failed.product_id}: {failed.check}: {failed.reason}")
