"""`dsa110 sources`, `variables` and `judge`: the measured sources, those that vary, and people's judgements of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.times import parse_date
from dsa110_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from astropy.table import Table

JSON_HELP = "Print JSON, and nothing else, on standard output."
ORDERS = {
    "name": ("source_id", False), "flux": ("flux", True), "scatter": ("flux_rms", True),
    "epochs": ("n_epochs", True), "separation": ("separation", False),
}  # fmt: skip
"""The orders of `--sort`: the column, and whether the largest value comes first."""


@app.command(epilog="Example: dsa110 sources --ra 05:21:10 --dec 16.64 --radius 0.5 --min-flux-jy 0.1 --sort flux")
def sources(
    ra: str | None = typer.Option(None, help="Right ascension: degrees, or 05:21:10 or 5h21m10s."),
    dec: str | None = typer.Option(None, help="Declination: degrees, or +16:38:22 or 16d38m22s."),
    radius: str | None = typer.Option(None, help="Radius about that position: degrees, or 30arcmin; 0.05 deg unless given."),
    min_flux_jy: float | None = typer.Option(None, min=0, help="Smallest mean flux density [Jy]."),
    max_flux_jy: float | None = typer.Option(None, min=0, help="Largest mean flux density [Jy]."),
    sort: str | None = typer.Option(None, help=f"By {', '.join(ORDERS)}; default: separation in a cone, else name."),
    limit: int | None = typer.Option(None, min=1, help="List at most so many."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """List sources with a light curve: position, mean flux and its scatter, and how often each was seen."""
    from dsa110_assets.analyst import open_archive

    found = select(open_archive().sources(ra, dec, radius), min_flux_jy, max_flux_jy, sort)
    total, product_id = len(found), found.meta["product_id"]
    _print(found[:limit], as_json, {"total": total, "product_id": product_id}, "sources", f"{total} sources, from {product_id}")


def select(found: Table, min_flux_jy: float | None, max_flux_jy: float | None, sort: str | None) -> Table:
    """Return the sources within a range of flux, in order. Raises ConfigurationError for an unknown order or an empty range."""
    import numpy as np

    if min_flux_jy is not None and max_flux_jy is not None and min_flux_jy > max_flux_jy:
        raise ConfigurationError(f"--min-flux-jy {min_flux_jy:g} is above --max-flux-jy {max_flux_jy:g}: exchange them")
    if sort is not None and ORDERS.get(sort, ("", False))[0] not in found.colnames:
        sortable = [name for name, (column, _) in ORDERS.items() if column in found.colnames]
        raise ConfigurationError(f"--sort {sort}: choose from {', '.join(sortable)} (separation needs --ra and --dec)")
    flux_jy = found["flux"].to_value("Jy")
    found = found[(flux_jy >= (min_flux_jy or -np.inf)) & (flux_jy <= (np.inf if max_flux_jy is None else max_flux_jy))]
    if sort is None:
        return found
    column, largest_first = ORDERS[sort]
    values = np.asarray(found[column])
    if largest_first:
        values = -np.nan_to_num(values, nan=-np.inf)  # a source of one epoch has no scatter and comes last
    return found[np.argsort(values, kind="stable")]


@app.command(epilog="Example: dsa110 variables --max-false-discovery-rate 0.001 --night 2026-01-25")
def variables(
    max_false_discovery_rate: float = typer.Option(0.01, help="Largest expected share of false candidates among those listed, in (0, 1]."),
    night: str | None = typer.Option(None, help="UTC night; default: the latest."),
    limit: int | None = typer.Option(None, min=1, help="List at most so many."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """List sources that vary, judged over all nights until this one, most significant first."""
    from dsa110_assets.analyst import open_archive

    until = None if night is None else parse_date(night).isoformat()
    found = open_archive().variables(max_false_discovery_rate, until)
    total, product_id = len(found), found.meta["product_id"]
    facts = {"total": total, "product_id": product_id, "max_false_discovery_rate": max_false_discovery_rate}
    _print(found[:limit], as_json, facts, "candidates", f"{total} candidates, from {product_id}")


@app.command(epilog="Example: dsa110 judge 'NVSS J052109+163822' real --name 'A. Observer' --note 'in both polarisations'")
def judge(
    source: str = typer.Argument(help="Source id, as `dsa110 variables` lists it."),
    verdict: str = typer.Argument(help="real, artefact or unsure."),
    name: str = typer.Option(help="Who makes the judgement."),
    note: str = typer.Option("", help="The reason."),
) -> None:
    """Record a person's judgement of a candidate; the portal shows it with the source, even after reprocessing."""
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.analyst_tables import place
    from dsa110_assets.archive import judgements

    archive = open_archive()
    judgement = judgements.judge(archive.store, *place(archive.light_curve(source)), verdict=verdict, name=name, note=note)
    console.say(f"{judgement.source_id}: {judgement.verdict}, says {judgement.name}")


def _print(found: Table, as_json: bool, facts: dict[str, Any], name: str, last: str) -> None:
    from dsa110_assets.portal.rows import table_rows

    rows = table_rows(found)
    if as_json:
        console.emit_json({**facts, name: rows})
        return
    columns = list(rows[0]) if rows else list(found.colnames)
    console.table([column.replace("_", " ") for column in columns], [[_shown(name, row[name]) for name in columns] for row in rows])
    console.warn(last)


def _shown(name: str, value: Any) -> Any:
    """Return a value as the table shows it: positions and times need more digits than others."""
    exact = name.endswith(("_deg", "_mjd")) and value is not None
    return f"{value:.5f}" if exact else value
