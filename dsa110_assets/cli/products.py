"""`dsa110 products`, `lightcurve`, `spectrum` and `lineage`: the content of the archive, and its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dsa110_assets import plain_text
from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_bound
from dsa110_assets.errors import ConfigurationError

FLUXES = ("flux_jy", "error_jy", "limit_jy", "rms_jy")
JSON_HELP = "Print JSON, and nothing else, on standard output."


@app.command(epilog="Example: dsa110 products --asset tile_image --since 2026-01-25 --json")
def products(
    asset: str | None = typer.Option(None, help="Only this asset, for example tile_image."),
    since: str | None = typer.Option(None, help="From this UTC time on."),
    until: str | None = typer.Option(None, help="Up to this UTC time; a date alone includes its whole day."),
    state: str = typer.Option("current", help="current, superseded, rejected or all."),
    trial: str | None = typer.Option(None, help="The products of this trial, instead of those of science."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """List the published products."""
    from dsa110_assets.analyst import known_asset, open_archive
    from dsa110_assets.archive.trials import Trial
    from dsa110_assets.portal.rows import product_row

    if state not in ("current", "superseded", "rejected", "all"):
        raise typer.BadParameter(f"--state {state!r}: use current, superseded, rejected or all")
    store = open_archive(trial=trial).store
    list_products = store.own if isinstance(store, Trial) else store.products
    found = list_products(known_asset(store, asset), parse_bound(since), parse_bound(until), None if state == "all" else state)
    if as_json:
        console.emit_json([product_row(product) for product in found])
        return
    console.table(
        ("product", "partition", "asset", "version", "size", "published (UTC)", "state"),
        [(p.id, p.partition, p.asset, p.version, plain_text.size(p.size_bytes), p.created_at, p.state) for p in found],
    )
    console.warn(f"{len(found)} products")


@app.command(epilog='Example: dsa110 lightcurve "NVSS J123456+161622" --out curve.ecsv')
def lightcurve(
    source: str = typer.Argument(..., help="Source id; case, blanks and underscores matter only between ids that differ in nothing else."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
    out: Annotated[Path | None, typer.Option(help="Write to this file: .csv, .ecsv, .fits, .vot, .parquet or .json.")] = None,
) -> None:
    """Show the light curve of a source: flux, error, limit, and the product in which each point was measured."""
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.portal.rows import light_curve_json

    archive = open_archive()
    curve = light_curve_json(archive, source)
    if out is not None:
        _write(archive.light_curve(source), curve, out)
        console.warn(f"{len(curve['points'])} points of {curve['source_id']} in {out}")
    if as_json:
        console.emit_json(curve)
    elif out is None:
        console.table(
            ("epoch", "MJD", "flux mJy", "error", "limit", "rms", "detected", "flags", "measured in"),
            [
                (p["epoch"], f"{p['mjd']:.5f}", *(_milli(p[key]) for key in FLUXES), p["detected"],
                 p["flags"], p["product_id"])
                for p in curve["points"]
            ],
            title=f"{curve['source_id']}  RA {curve['ra_deg']:.5f}  Dec {curve['dec_deg']:+.5f} deg (ICRS)",
        )  # fmt: skip


@app.command(epilog='Example: dsa110 spectrum "NVSS J123456+161622" --epoch 2026-01-25T22:00')
def spectrum(
    source: str = typer.Argument(..., help="Source id; case, blanks and underscores matter only between ids that differ in nothing else."),
    epoch: Annotated[str | None, typer.Option(help="An epoch of its light curve; default: the last whose data are kept.")] = None,
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Show a source's flux density in every subband, measured in the calibrated visibilities."""
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.portal.rows import spectrum_json

    measured = spectrum_json(open_archive().spectrum(source, epoch))
    if as_json:
        console.emit_json(measured)
        return
    index = "" if measured["spectral_index"] is None else f"  index {measured['spectral_index']:.3f} ± {measured['spectral_index_err']:.3f}"
    console.table(
        ("subband", "MHz", "flux mJy", "error"),
        [
            (subband["subband"], f"{subband['frequency_hz'] / 1e6:.2f}", _milli(subband["flux_jy"]), _milli(subband["error_jy"]))
            for subband in measured["subbands"]
        ],
        title=f"{measured['source_id']}  {measured['epoch']}  in {measured['product_id']}{index}",
    )


@app.command(epilog="Example: dsa110 lineage tile_image-20260125T2225-v1")
def lineage(
    product: str = typer.Argument(..., help="Product id, or a path inside a product."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Show what a product was made from, down to the subband files."""
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.portal.rows import lineage_json

    node = open_archive().lineage(product)
    if as_json:
        console.emit_json(lineage_json(node))
        return
    console.say(str(node))
    console.warn(f"{len(node.files())} subband files")


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


def _write(curve: Any, rows: dict[str, Any], out: Path) -> None:
    """Write a light curve in the format of the file's suffix. Raises ConfigurationError."""
    import json

    from dsa110_assets.analyst_files import TABLE_FORMATS, write_light_curve

    try:
        if out.suffix == ".json":
            out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        elif out.suffix in (".csv", ".parquet"):
            import pandas as pd

            frame = pd.DataFrame(rows["points"])
            frame.insert(0, "source_id", rows["source_id"])
            frame.to_csv(out, index=False) if out.suffix == ".csv" else frame.to_parquet(out, index=False)
        elif out.suffix in TABLE_FORMATS:
            write_light_curve(curve, out)
        else:
            formats = ", ".join([".csv", ".parquet", ".json", *TABLE_FORMATS])
            raise ConfigurationError(f"--out {out}: its suffix is not a known format; use {formats}")
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written: {error.strerror}") from error
