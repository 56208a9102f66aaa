"""`dsa110 image`: make an image of a calibrated measurement set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.options import SET_HELP, assigned, of_field, validated
from dsa110_assets.cli.tools.common import CATALOGUES, DRY_RUN, FORCE, JSON, parse_direction, parse_range
from dsa110_assets.imaging.options import ImagingOptions

if TYPE_CHECKING:
    from dsa110_assets.tools.image import Imaged

FLAGS = {
    "field_deg": "--field", "pixel_arcsec": "--pixel", "weighting": "--weighting", "robust": "--robust",
    "clean_iterations": "--iterations", "threshold_jy": "--threshold", "threads": "--threads",
}  # fmt: skip
SHOWN = ("rms_jy", "rms_over_radiometer", "peak_jy", "dynamic_range", "beam_major_arcsec", "beam_minor_arcsec", "pixel_arcsec", "n_pixels")


def _field(name: str) -> Any:
    return of_field(ImagingOptions, name, FLAGS[name])


@app.command(epilog="Example: dsa110 image calibrated.ms --quick --out look")
def image(
    ms: Annotated[Path, typer.Argument(help="A calibrated measurement set, in Jy.")],
    out: Annotated[Path, typer.Option(help="Directory to create.")],
    robust: float = _field("robust"),
    weighting: str = _field("weighting"),
    field_deg: float = _field("field_deg"),
    pixel_arcsec: float = _field("pixel_arcsec"),
    pixels: int | None = typer.Option(None, min=64, help="Side of the image [pixels], instead of --field or --pixel."),
    clean_iterations: int = _field("clean_iterations"),
    threshold_jy: float = _field("threshold_jy"),
    mask: str = typer.Option(
        "auto", help="Where to clean: auto, none (anywhere), catalogue, or a FITS image that is not 0 in these places."
    ),
    mask_radius: float = typer.Option(0.0, min=0, help="Radius of a catalogue mask's circles [arcsec]; 0: 1.5 beams."),
    phase_centre: str | None = typer.Option(None, help="Centre of the image, RA,DEC: 218.5,16.3 [deg] or 14:34:00,+16:18:00."),
    subbands: str | None = typer.Option(None, help="Only these subbands, A..B, both included."),
    times: str | None = typer.Option(None, help="Only these integrations, A..B, both included, counted from 0."),
    stokes: str = typer.Option("I", help="I or Q = (XX - YY) / 2."),
    cube: bool = typer.Option(False, "--cube", help="Image every subband separately, and write all to cube.fits at one beam."),
    spectral_terms: int = typer.Option(
        1, min=1, max=2, help="2: also Taylor terms tt0 and tt1 and the spectral index where it is known, from four parts of the band."
    ),
    engine: str = typer.Option("own", help="own, or casa: stock tclean, for comparison."),
    quick: bool = typer.Option(
        False, "--quick", help="Quick image within 10 s: fluxes above 30 sigma good to 5 %, noise up to 1.5 times that of the full image."
    ),
    catalogues: list[Path] | None = CATALOGUES,
    no_catalogue: bool = typer.Option(False, "--no-catalogue", help="Subtract no known source beyond the image, and compare no fluxes."),
    column: str = typer.Option("DATA", help="Column of the data: CORRECTED_DATA after CASA's applycal."),
    as_jy: bool = typer.Option(False, "--as-jy", help="Treat data without a unit as calibrated."),
    threads: int = _field("threads"),
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    force: bool = FORCE,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Make image, residual, PSF, primary beam and primary-beam corrected image (FITS), a PNG and a table of bright points in OUT."""
    for value, allowed, flag in ((stokes, ("I", "Q"), "--stokes"), (engine, ("own", "casa"), "--engine")):
        if value not in allowed:
            raise typer.BadParameter(f"{flag} {value!r}: {' or '.join(allowed)}")
    values: dict[str, Any] = {
        "robust": robust, "weighting": weighting, "field_deg": field_deg, "pixel_arcsec": pixel_arcsec, "threads": threads,
        "clean_iterations": clean_iterations, "threshold_jy": threshold_jy,
    }  # fmt: skip
    if pixels is not None:
        values |= {"field_deg": pixels * pixel_arcsec / 3600} if pixel_arcsec else {"pixel_arcsec": 3600 * field_deg / pixels}
    options = validated(ImagingOptions, values | assigned(ImagingOptions, settings), FLAGS)
    centre = parse_direction(phase_centre, "--phase-centre")
    from dsa110_assets.tools import image as tool
    from dsa110_assets.tools.data import Part

    part = Part(
        parse_range(subbands, "--subbands"), parse_range(times, "--times"), centre, "Q" if stokes == "Q" else "I", column, as_jy
    )  # fmt: skip
    catalogue_files = None if no_catalogue else catalogues or ()
    with console.progress_bar(f"imaging {ms}") as progress:
        made = tool.image(
            ms, out, tool.quick(options) if quick else options, part, mask=mask if mask in tool.MASKS else Path(mask),
            mask_radius_arcsec=mask_radius, catalogues=catalogue_files, engine="casa" if engine == "casa" else "own", cube=cube,
            spectral_terms=spectral_terms, force=force, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    _tell(made, as_json)


def _tell(made: Imaged, as_json: bool) -> None:
    figures_of = {("image" if number < 0 else f"sb{number:02d}"): dict(tile.figures) for number, tile in made.tiles.items()}
    if as_json:
        console.emit_json({"path": made.path, "figures": figures_of})
        return
    if not figures_of:
        console.say(f"would make {made.path}; nothing was written")
        return
    console.table(("", *SHOWN), [(name, *(figures[key] for key in SHOWN)) for name, figures in figures_of.items()], title=str(made.path))
