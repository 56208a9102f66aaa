"""`dsa110 photometry` and `dsa110 mosaic`: measure and combine images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.options import SET_HELP, assigned, validated
from dsa110_assets.cli.tools.common import CATALOGUES, DRY_RUN, FORCE, JSON, parse_direction
from dsa110_assets.mosaics.options import CoaddOptions
from dsa110_assets.photometry.options import PhotometryOptions

SHOWN = 20


@app.command(epilog="Example: dsa110 photometry image --catalogue --blind --out fluxes.csv")
def photometry(
    images: Annotated[list[Path], typer.Argument(help="FITS images, or directories that dsa110 image or dsa110 mosaic made.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv, .parquet or .vot.")],
    positions: Annotated[Path | None, typer.Option(help="Measure the positions in this table (ICRS; any form of a catalogue).")] = None,
    catalogue: bool = typer.Option(False, "--catalogue", help="Measure the known sources in each image; the default."),
    catalogues: list[Path] | None = CATALOGUES,
    blind: bool = typer.Option(False, "--blind", help="Measure the sources found in each image."),
    peak: bool = typer.Option(False, "--peak", help="Measure the brightest pixel within half a beam instead of fitting the beam."),
    adaptive: bool = typer.Option(False, "--adaptive", help="The images are subbands: make spectra, joining as few subbands as suffice."),
    target_snr: float = typer.Option(10.0, min=1, help="Signal-to-noise ratio that joined subbands must reach."),
    noise: Annotated[
        Path | None, typer.Option(help="Noise map [Jy/beam] if there is only one image; default: the image's own scatter.")
    ] = None,
    skip_outside: bool = typer.Option(False, "--skip-outside", help="Write no row for positions outside an image."),
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    force: bool = FORCE,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Measure fluxes [Jy] in images: forced at positions or catalogue sources, peaks, or blindly; and spectra over subbands."""
    if adaptive and blind:
        raise typer.BadParameter("--adaptive needs --positions or --catalogue: a source found in one subband may be missing from another")
    options = validated(PhotometryOptions, assigned(PhotometryOptions, settings), {})
    from dsa110_assets.tools import photometry as tool

    use_catalogues = catalogue or catalogues or not (positions or blind)
    sources = tool.Sources(positions, tuple(catalogues or ()) if use_catalogues else None, blind, skip_outside)
    with console.progress_bar("measuring") as progress:
        made = tool.photometry(
            images, out, sources, options, noise=noise, peak=peak, adaptive_snr=target_snr if adaptive else None, force=force,
            dry_run=dry_run, progress=progress,
        )  # fmt: skip
    if as_json:
        console.emit_json(console.records(made.table))
        return
    shown = [name for name in made.table if name not in ("ra_deg", "dec_deg", "limit_jy", "quality", "lowest_hz", "highest_hz")]
    console.table(shown, [[row[name] for name in shown] for row in console.records(made.table.head(SHOWN))])
    console.say(f"{len(made.table)} rows{', nothing was written' if dry_run else f' in {out}'}")


@app.command(epilog="Example: dsa110 mosaic tile-1 tile-2 --centre 218.5,16.3 --radius 1 --out mosaic")
def mosaic(
    tiles: Annotated[list[Path], typer.Argument(help="Directories made by dsa110 image, or of tile_image products.")],
    out: Annotated[Path, typer.Option(help="Directory to create.")],
    centre: str | None = typer.Option(None, help="Centre of the mosaic, RA,DEC: 218.5,16.3 [deg] or 14:34:00,+16:18:00."),
    radius: float = typer.Option(1.0, min=0.01, max=30, help="With --centre: radius of the mosaic [deg]."),
    calibrator: str | None = typer.Option(None, help="Only tiles around this calibrator's transit."),
    timespan: float = typer.Option(60.0, min=0, help="With --calibrator: the span about the transit [min]."),
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    force: bool = FORCE,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Coadd tiles: mosaic corrected for the primary beam, noise map and weights (FITS), and a PNG in OUT."""
    position = parse_direction(centre, "--centre")
    options = validated(CoaddOptions, assigned(CoaddOptions, settings), {})
    from dsa110_assets.tools import mosaic as tool

    with console.progress_bar(f"coadding into {out}") as progress:
        made = tool.mosaic(
            tiles, out, tool.TileSelection(position, radius, calibrator, timespan), options, force=force, dry_run=dry_run, progress=progress
        )
    figures = made.mosaic.figures if made.mosaic is not None else {}
    if as_json:
        console.emit_json({"path": made.path, "tiles": made.tiles, "figures": figures})
        return
    console.table(("", str(out)), [*figures.items(), *(("tile", str(path)) for path in made.tiles)])
    if dry_run:
        console.say(f"would coadd {len(made.tiles)} tiles; nothing was written")
