"""`dsa110 export`: write light curves, sources and lists of images to files; also the coverage and the HiPS of a night."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.sources import select
from dsa110_assets.cli.times import parse_bound, parse_date, parse_time
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from astropy.table import Table

    from dsa110_assets.archive.product import Product

FRAME_FORMATS = (".csv", ".parquet")
Out = Annotated[Path, typer.Argument(help="File to write: .vot, .fits, .ecsv, .parquet or .csv; an older one is replaced.")]
Ra = Annotated[str | None, typer.Option(help="Right ascension: degrees, or 05:21:10 or 5h21m10s.")]
Dec = Annotated[str | None, typer.Option(help="Declination: degrees, or +16:38:22 or 16d38m22s.")]
Radius = Annotated[str | None, typer.Option(help="Radius about that position: degrees, or 30arcmin; 0.05 deg unless given.")]
MinFlux = Annotated[float | None, typer.Option(min=0, help="Smallest mean flux density [Jy].")]
MaxFlux = Annotated[float | None, typer.Option(min=0, help="Largest mean flux density [Jy].")]
Since = Annotated[str | None, typer.Option(help="From this UTC time on.")]
Until = Annotated[str | None, typer.Option(help="Up to this UTC time; a date alone includes its whole day.")]
commands = typer.Typer(help="Export to files: light-curves, sources, images, moc, hips.", no_args_is_help=True)
app.add_typer(commands, name="export")


@commands.command("sources", epilog="Example: dsa110 export sources bright.vot --min-flux-jy 0.1")
def sources(
    out: Out, ra: Ra = None, dec: Dec = None, radius: Radius = None, min_flux_jy: MinFlux = None, max_flux_jy: MaxFlux = None
) -> None:  # fmt: skip
    """Write the sources with a light curve, as `dsa110 sources` lists them."""
    from dsa110_assets.analyst import open_archive

    _check(out)
    _write(select(open_archive().sources(ra, dec, radius), min_flux_jy, max_flux_jy, None), out, "sources")


@commands.command("light-curves", epilog="Example: dsa110 export light-curves curves.parquet --ra 80.3 --dec 16.6 --radius 0.5")
def light_curves(
    out: Out,
    source: Annotated[
        list[str] | None, typer.Option(help="Only this source id; repeatable. Default: all within the cone and fluxes.")
    ] = None,
    ra: Ra = None,
    dec: Dec = None,
    radius: Radius = None,
    min_flux_jy: MinFlux = None,
    max_flux_jy: MaxFlux = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Write light curves of many sources as one table, with a row per source and epoch."""
    from dsa110_assets.analyst import open_archive

    _check(out)
    archive = open_archive()
    names = source or [str(name) for name in select(archive.sources(ra, dec, radius), min_flux_jy, max_flux_jy, None)["source_id"]]
    points = archive.light_curves(names)
    mjd = points["mjd"].to_value("d")
    _write(points[(mjd >= _mjd(since, -math.inf)) & (mjd < _mjd(until, math.inf))], out, "light curve points")


def _mjd(text: str | None, otherwise: float) -> float:
    """Return a bound as MJD; a date alone that ends a range means the end of that day."""
    bound = parse_bound(text)
    if bound is None or text is None:
        return otherwise
    return timegrid.datetime_to_mjd(parse_time(text)) + (isinstance(bound, str) and otherwise > 0)


@commands.command("images", epilog="Example: dsa110 export images tiles.csv --asset tile_image --since 2026-01-25")
def images(
    out: Out,
    asset: Annotated[str, typer.Option(help="tile_image, hour_mosaic or night_mosaic.")] = "tile_image",
    since: Since = None,
    until: Until = None,
) -> None:
    """Write a list of images: path, centre, frequency, beam and noise of each."""
    from astropy.table import QTable

    from dsa110_assets.analyst import open_archive
    from dsa110_assets.orchestration.graph import specifications

    _check(out)
    image_assets = [specification.name for specification in specifications().values() if specification.image]
    if asset not in image_assets:
        raise ConfigurationError(f"--asset {asset}: is no image; choose from {', '.join(image_assets)}")
    found = open_archive().store.products(asset, parse_bound(since), parse_bound(until))
    if not found:
        raise NotFoundError(f"there is no {asset} to list; `dsa110 products` lists all products")
    rows = [_image(product) for product in found]
    table = QTable({name: [row[name] for row in rows] for name in rows[0]}, meta={"product_id": found[-1].id})
    for name, unit in (("ra", "deg"), ("dec", "deg"), ("frequency", "Hz"), ("beam_major", "arcsec"), ("beam_minor", "arcsec"),
                       ("rms", "Jy"), ("mjd_start", "d"), ("mjd_end", "d")):  # fmt: skip
        table[name].unit = unit
    _write(table, out, "images")


def _image(product: Product) -> dict[str, Any]:
    """Return an image's row of the list; NaN where its record has no value."""
    from astropy.io import fits

    from dsa110_assets.analyst_views import Image

    path = Image.of(product).path
    header, metadata = fits.getheader(path), product.metadata
    numbers = {"beam_major": "beam_major_arcsec", "beam_minor": "beam_minor_arcsec", "rms": "rms_jy"}
    figures = {name: _number(metadata.get(key)) for name, key in numbers.items()}
    times = {name: _number(metadata.get(name)) for name in ("mjd_start", "mjd_end")}
    return {
        "image_id": product.id, "partition": product.partition or "", "path": str(path),
        "ra": float(header["CRVAL1"]), "dec": float(header["CRVAL2"]), "frequency": _number(header.get("CRVAL3")),
        **figures, **times, "anchor": str(metadata.get("anchor", "")), "failed_checks": int(metadata.get("n_failed_checks", 0)),
    }  # fmt: skip


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


@commands.command(epilog="Example: dsa110 export moc coverage.fits --night 2026-01-25")
def moc(
    out: Annotated[Path, typer.Argument(help="File to write: .fits, or .json for Aladin Lite.")],
    night: str = typer.Option(..., "--night", help="UTC night."),
) -> None:
    """Write the part of the sky a night covers, as a MOC (IVOA)."""
    coverage = _night(night).path / "coverage.moc.fits"
    if out.suffix not in (".fits", ".json"):
        raise ConfigurationError(f"{out}: its suffix is not a MOC format; use .fits or .json")
    from mocpy import MOC

    with _writing(out):
        MOC.from_fits(str(coverage)).save(out, format=out.suffix[1:], overwrite=True)
    console.warn(f"coverage of {night} in {out}")


@commands.command(epilog="Example: dsa110 export hips /data/www/2026-01-25 --night 2026-01-25")
def hips(
    out: Annotated[Path, typer.Argument(help="Directory to make.")],
    night: str = typer.Option(..., "--night", help="UTC night."),
) -> None:
    """Write a night's image as a HiPS for Aladin and other viewers; `dsa110 archive survey` makes one of all nights."""
    source = _night(night).path / "hips"
    if out.exists():
        raise ConfigurationError(f"{out} exists: name a new directory, so that no tile of another night is left in it")
    with _writing(out):
        shutil.copytree(source, out)
    console.warn(f"HiPS of {night} in {out}")


def _night(night: str) -> Product:
    from dsa110_assets.analyst import open_archive

    return open_archive().product("night_mosaic", parse_date(night).isoformat())


def _check(out: Path) -> None:
    """Raise ConfigurationError for a suffix that is not a format, before any long work is done."""
    from dsa110_assets.analyst_files import TABLE_FORMATS

    if out.suffix not in (*FRAME_FORMATS, *TABLE_FORMATS):
        raise ConfigurationError(f"{out}: its suffix names no format; use {', '.join((*TABLE_FORMATS, *FRAME_FORMATS))}")


def _write(table: Table, out: Path, what: str) -> None:
    """Write a table in the format of the file's suffix. Raises NotFoundError if the table is empty."""
    from dsa110_assets.analyst_files import write_table
    from dsa110_assets.portal.rows import table_rows

    if not len(table):
        raise NotFoundError(f"there are no {what} to write to {out}: nothing matches the request")
    with _writing(out):
        if out.suffix in FRAME_FORMATS:
            import pandas as pd

            frame = pd.DataFrame(table_rows(table))
            frame.to_csv(out, index=False) if out.suffix == ".csv" else frame.to_parquet(out, index=False)
        else:
            write_table(table, out, what.replace(" ", "_"), f"{what.capitalize()} of the DSA-110 continuum survey")
    console.warn(f"{len(table)} {what} in {out}")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written ({error.strerror or error}); name another place") from error
