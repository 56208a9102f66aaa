"""Imported catalogues: read from any common table format, converted to one form, and merged by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import calibrators, columns, positions, repeats, scale, surveys, table_files
from dsa110_assets.sky.calibrators import LIST_FREQUENCY_HZ, LIST_NAME, LIST_SPECTRAL_INDEX
from dsa110_assets.sky.cells import floats, quantity, text
from dsa110_assets.sky.names import position_name, unique

COLUMNS = (
    "source_id", "name", "ra_deg", "dec_deg", "flux_jy", "frequency_hz", "spectral_index", "catalogue",
)  # fmt: skip

MERGE_RADIUS_ARCSEC = 15.0
"""Entries of two catalogues closer than this are one source: positions are good to a few arcsec, for extended sources less."""
STEEPEST = 4.0
"""No source has a steeper spectrum: values such as -99 mean that the index is unknown."""
SIGN_COUNT, SIGN_INDEX = 10, 0.3
"""If at least so many sources have a median index above this, the table uses the other sign: S ~ nu^-alpha."""
VLASS_GOOD_QUALITY = (0, 4)
"""The components that VLASS recommends; the others are sidelobes, noise, or from a bad image."""


def read_catalogue(path: Path, name: str | None = None, frequency_hz: float | None = None) -> pd.DataFrame:
    """Return a catalogue as a table with the columns of `COLUMNS` (ICRS degrees, Jy, Hz); `attrs["n_repeats"]` rows were left out.

    The file is CSV or other text, FITS, Parquet or VOTable, under any name. Columns are identified by name. Units come from
    the table, the column's name ('flux_mjy', 'S1.4 [mJy]') or the form of the recognised survey. Positions are in degrees,
    in hours where the table says so, or sexagesimal. The frequency comes from a column, from `frequency_hz`, or from the
    file's header, its survey (`name`, if that is a survey) or the file's name; see `scale.frequency`. A flux that is missing
    or not positive becomes NaN, and a missing spectral index -0.7. A source that is listed twice is kept once. Raises
    ConfigurationError naming the file, the column or row, and the remedy.
    """
    if not path.is_file():
        raise ConfigurationError(f"catalogue {path} is not there: correct the path")
    table = table_files.read(path)
    parsed = [columns.column(column) for column in table.colnames]
    form = surveys.of_columns({one.bare for one in parsed} | {one.name.strip().lower() for one in parsed})
    table = _selected(table, parsed, form, path)
    ra, dec = positions.degrees(table, parsed, form is not None, path)
    flux_column = _flux_column(parsed, form, path)
    flux = quantity(table, flux_column, "Jy", path, form.unit if form and flux_column.bare == form.flux else None)
    _check_same_flux(table, parsed, flux_column, flux, path)
    given = _given_names(table, parsed)
    survey, frequency = scale.frequency(table, parsed, form, flux_column, given, scale.Stated(path, name, frequency_hz))
    catalogue = name or (survey.name if survey else path.stem)
    names = [text or position_name(catalogue, a, d) for text, a, d in zip(given, ra, dec, strict=True)]
    frame = pd.DataFrame(
        {
            "source_id": names,
            "name": names,
            "ra_deg": ra,
            "dec_deg": dec,
            "flux_jy": np.where((flux > 0) & np.isfinite(flux) & np.isfinite(frequency), flux, np.nan),
            "frequency_hz": frequency,
            "spectral_index": _spectral_index(table, parsed, path),
            "catalogue": catalogue,
        }
    )
    if not np.isfinite(frame["flux_jy"]).any():
        raise ConfigurationError(
            f"catalogue {path}, column {flux_column.name!r}: no row has a flux above 0: name the column of fluxes flux_mjy, or correct it"
        )
    keep = repeats.without_repeats(frame)
    frame = frame[keep].reset_index(drop=True)
    frame["source_id"] = unique(list(frame["name"]))
    frame.attrs["n_repeats"] = int((~keep).sum())
    return frame


def read_positions(path: Path) -> pd.DataFrame:
    """Return the directions in a table of any form that `read_catalogue` reads, with or without fluxes: source_id, ra_deg, dec_deg (ICRS).

    Raises ConfigurationError as `read_catalogue` does.
    """
    if not path.is_file():
        raise ConfigurationError(f"positions {path} are not there: correct the path")
    table = table_files.read(path)
    parsed = [columns.column(column) for column in table.colnames]
    ra, dec = positions.degrees(table, parsed, False, path)
    names = [text or position_name(path.stem, a, d) for text, a, d in zip(_given_names(table, parsed), ra, dec, strict=True)]
    return pd.DataFrame({"source_id": unique(names), "ra_deg": ra, "dec_deg": dec})


def merge(frames: Sequence[pd.DataFrame], precedence: Sequence[str], radius_arcsec: float) -> pd.DataFrame:
    """Merge catalogues: a source is left out if a preferred catalogue has it, within the radius or as several components.

    `precedence` names catalogues, best first; others, and two of the same name, follow in the order given. Sources of one
    frame are never matched with each other. Source ids are kept; a repeated id gets a '-2'. See `repeats.not_yet_listed`.
    """
    rank = {catalogue.upper(): i for i, catalogue in reversed(list(enumerate(precedence)))}
    parts = [part for frame in frames for _, part in frame.groupby("catalogue", sort=False)]
    parts.sort(key=lambda part: rank.get(str(part["catalogue"].iloc[0]).upper(), len(rank)))
    merged_so_far: pd.DataFrame | None = None
    for part in parts:
        added = part if merged_so_far is None else part[repeats.not_yet_listed(part, merged_so_far, radius_arcsec)]
        merged_so_far = added if merged_so_far is None else pd.concat([merged_so_far, added], ignore_index=True)
    if merged_so_far is None:
        return pd.DataFrame(columns=list(COLUMNS))
    merged = merged_so_far.reset_index(drop=True)[list(COLUMNS)]
    return merged.assign(source_id=unique(list(merged["source_id"])))


def with_builtin(imported: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Merge imported catalogues, in their order of precedence, and then the packaged calibrators."""
    frames = [*imported, builtin()]
    return merge(frames, [str(frame["catalogue"].iloc[0]) for frame in frames if len(frame)], MERGE_RADIUS_ARCSEC)


def builtin() -> pd.DataFrame:
    """Return the VLA-list calibrators that have a flux, at 1.4 GHz; standards have their Perley-Butler flux and
    local slope."""
    with_flux = [c for c in calibrators.load() if c.standard or c.flux_20cm_jy is not None]
    return pd.DataFrame(
        {
            "source_id": [f"VLA J{c.name}" if c.name[0].isdigit() else c.name for c in with_flux],
            "name": [c.name for c in with_flux],
            "ra_deg": [c.ra_deg for c in with_flux],
            "dec_deg": [c.dec_deg for c in with_flux],
            "flux_jy": [float(c.flux_jy(LIST_FREQUENCY_HZ)) for c in with_flux],
            "frequency_hz": LIST_FREQUENCY_HZ,
            "spectral_index": [c.spectral_index for c in with_flux],
            "catalogue": LIST_NAME,
        }
    )


def _selected(table: Table, parsed: Sequence[columns.Column], form: surveys.Form | None, path: Path) -> Table:
    """Return the table without the rows that VLASS itself marks as duplicates or as not a source."""
    if form is None or form.survey != "VLASS":
        return table
    keep = np.ones(len(table), dtype=bool)
    for column in parsed:
        if column.bare in ("duplicate_flag", "dupflag"):
            keep &= ~(floats(table, column.name, path) >= 2)
        elif column.bare in ("quality_flag", "qualflag"):
            keep &= np.isin(floats(table, column.name, path), VLASS_GOOD_QUALITY)
    if not keep.any():
        raise ConfigurationError(f"catalogue {path}: by its quality and duplicate flags none of its {len(table)} rows is a source")
    return table[keep]


def _flux_column(parsed: Sequence[columns.Column], form: surveys.Form | None, path: Path) -> columns.Column:
    if form is not None:
        return next(one for one in parsed if form.flux in (one.bare, one.name.strip().lower()))
    found = columns.find_flux(parsed)
    if found is None:
        raise ConfigurationError(f"catalogue {path} has no flux column (has {', '.join(one.name for one in parsed)}): name one 'flux_mjy'")
    return found


def _check_same_flux(table: Table, parsed: Sequence[columns.Column], column: columns.Column, flux: NDArray[np.float64], path: Path) -> None:
    """Raise ConfigurationError if another column, whose name differs only in its unit, has different fluxes."""
    for other in parsed:
        if other.bare == column.bare and other is not column and other.unit:
            ratio = quantity(table, other, "Jy", path) / np.where(flux > 0, flux, np.nan)
            if np.any(np.abs(ratio - 1) > scale.SAME_WITHIN):
                raise ConfigurationError(
                    f"catalogue {path}: columns {column.name!r} and {other.name!r} have different fluxes: remove one of them"
                )


def _given_names(table: Table, parsed: Sequence[columns.Column]) -> list[str]:
    """Return the names of the sources, '' where missing; running numbers do not count as names."""
    column = columns.find(parsed, "name")
    if column is None:
        return [""] * len(table)
    names = text(table, column.name)
    numbered = column.bare not in ("name", "designation") and all(re.fullmatch(r"\d*(\.0)?", name) for name in names)
    return [""] * len(table) if numbered else names


def _spectral_index(table: Table, parsed: Sequence[columns.Column], path: Path) -> NDArray[np.float64]:
    column = columns.find(parsed, "index")
    if column is None:
        return np.full(len(table), LIST_SPECTRAL_INDEX)
    index = floats(table, column.name, path)
    index = np.where(np.abs(index) <= STEEPEST, index, np.nan)
    given = index[np.isfinite(index)]
    if given.size >= SIGN_COUNT and np.median(given) > SIGN_INDEX:
        raise ConfigurationError(
            f"catalogue {path}, column {column.name!r}: the median index is {np.median(given):+.2f}, which suggests "
            "S ~ nu^-index: give it the sign of S ~ nu^index"
        )
    return np.where(np.isfinite(index), index, LIST_SPECTRAL_INDEX)
