"""Imported catalogues: read from any common table, put into one form, merged by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import Angle
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import calibrators
from dsa110_assets.sky.calibrators import LIST_FREQUENCY_HZ, LIST_NAME, LIST_SPECTRAL_INDEX
from dsa110_assets.sky.names import position_name

COLUMNS = (
    "source_id", "name", "ra_deg", "dec_deg", "flux_jy", "frequency_hz", "spectral_index", "catalogue",
)  # fmt: skip

FREQUENCIES_HZ = {
    "NVSS": 1.4e9, "FIRST": 1.4e9, "RACS-LOW": 887.5e6, "RACS-MID": 1367.5e6, "RACS-HIGH": 1655.5e6,
    "VLASS": 3.0e9, "SUMSS": 843e6, "TGSS": 147.5e6, "VLA": LIST_FREQUENCY_HZ,
}  # fmt: skip
"""Survey frequencies, by catalogue name, for tables without a frequency column; 1.4 GHz for any other
name."""

_ROLES: dict[str, tuple[str, ...]] = {
    "ra": ("ra", "raj2000", "ra_j2000", "_raj2000", "ra_icrs", "right_ascension", "racen"),
    "dec": ("dec", "de", "dej2000", "decj2000", "dec_j2000", "_dej2000", "de_icrs", "dec_icrs",
    "declination", "deccen"),
    "flux": (
        "flux", "total_flux", "integrated_flux", "int_flux", "fint", "flux_20_cm", "flux_int", "s1.4",
        "s_total",
        "total_flux_source", "peak_flux", "fpeak", "flux_peak",
    ),
    "name": ("name", "source_name", "component_name", "designation", "nvss", "first", "source", "source_id",
    "id"),
    "index": ("spectral_index", "alpha", "spindex", "spidx", "spix"),
    "frequency": ("frequency", "freq", "reference_frequency", "ref_freq"),
}  # fmt: skip
"""Column names, without their units, in order of preference: total fluxes before peak fluxes."""

_UNIT_TOKENS = {
    "jy": u.Jy, "mjy": u.mJy, "ujy": u.uJy, "deg": u.deg, "degrees": u.deg, "rad": u.rad, "arcsec": u.arcsec,
    "hourangle": u.hourangle, "hours": u.hourangle, "hz": u.Hz, "mhz": u.MHz, "ghz": u.GHz,
}  # fmt: skip
"""Units as whole words in column names; catalogues write mJy in lower case and never mean megajansky."""


def read_catalogue(path: Path, name: str | None = None) -> pd.DataFrame:
    """A catalogue as a table with the columns of `COLUMNS` (ICRS degrees, Jy, Hz).

    CSV, FITS, Parquet and VOTable; columns are found by name, units come from the table or from the column's
    name ('flux_mjy', 'S1.4 [mJy]') and are converted by astropy. Positions without a unit are degrees, or
    sexagesimal when text; a flux must have a unit. A flux that is missing or not positive becomes NaN, a
    missing spectral index -0.7. Raises ConfigurationError naming file, column or row, and the remedy.
    """
    if not path.is_file():
        raise ConfigurationError(f"catalogue {path} is not there: correct the path")
    try:
        table = _read_table(path)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"catalogue {path} cannot be read ({error}): give CSV, FITS, Parquet or VOTable"
        ) from error
    catalogue = name or path.stem
    columns = {_bare(column): column for column in reversed(table.colnames)}
    ra = _angle(table, _column(columns, "ra", path), u.hourangle, path)
    dec = _angle(table, _column(columns, "dec", path), u.deg, path)
    _check_positions(ra, dec, path)
    flux = _quantity(table, _column(columns, "flux", path), u.Jy, path)
    frequency_column = _column(columns, "frequency", None)
    default_frequency = FREQUENCIES_HZ.get(catalogue.upper(), LIST_FREQUENCY_HZ)
    frequency = (
        _quantity(table, frequency_column, u.Hz, path)
        if frequency_column
        else np.full(len(ra), default_frequency)
    )
    index_column = _column(columns, "index", None)
    index = _floats(table, index_column, path) if index_column else np.full(len(ra), np.nan)
    name_column = _column(columns, "name", None)
    given = [str(text).strip() for text in table[name_column]] if name_column else [""] * len(ra)
    names = [text or position_name(catalogue, a, d) for text, a, d in zip(given, ra, dec, strict=True)]
    return pd.DataFrame(
        {
            "source_id": _unique(names),
            "name": names,
            "ra_deg": ra,
            "dec_deg": dec,
            "flux_jy": np.where(flux > 0, flux, np.nan),
            "frequency_hz": np.where(np.isfinite(frequency), frequency, default_frequency),
            "spectral_index": np.where(np.isfinite(index), index, LIST_SPECTRAL_INDEX),
            "catalogue": catalogue,
        }
    )


def merge(frames: Sequence[pd.DataFrame], precedence: Sequence[str], radius_arcsec: float) -> pd.DataFrame:
    """One catalogue of several: a source is left out if one of a preferred catalogue lies within the radius.

    `precedence` names catalogues, best first; others follow in the order given. Sources of one catalogue are
    never matched with each other. Source ids stay; one that occurs twice gets a '-2'.
    """
    rank = {catalogue.upper(): i for i, catalogue in enumerate(precedence)}
    whole = pd.concat(list(frames), ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    parts = [part for _, part in whole.groupby("catalogue", sort=False)]
    parts.sort(key=lambda part: rank.get(str(part["catalogue"].iloc[0]).upper(), len(rank)))
    kept: list[pd.DataFrame] = []
    chord = 2 * np.sin(np.deg2rad(radius_arcsec / 3600) / 2)
    for part in parts:
        fresh = part
        if kept:
            known = cKDTree(np.concatenate([unit_vectors(other) for other in kept]))
            distance, _ = known.query(unit_vectors(part), distance_upper_bound=chord)
            fresh = part[~np.isfinite(distance)]
        if len(fresh):
            kept.append(fresh)
    if not kept:
        return pd.DataFrame(columns=list(COLUMNS))
    merged = pd.concat(kept, ignore_index=True)[list(COLUMNS)]
    return merged.assign(source_id=_unique(list(merged["source_id"])))


def builtin() -> pd.DataFrame:
    """The VLA-list calibrators that have a flux, at 1.4 GHz; standards with their Perley-Butler flux and
    local slope."""
    known = [c for c in calibrators.load() if c.standard or c.flux_20cm_jy is not None]
    return pd.DataFrame(
        {
            "source_id": [f"VLA J{c.name}" if c.name[0].isdigit() else c.name for c in known],
            "name": [c.name for c in known],
            "ra_deg": [c.ra_deg for c in known],
            "dec_deg": [c.dec_deg for c in known],
            "flux_jy": [float(c.flux_jy(LIST_FREQUENCY_HZ)) for c in known],
            "frequency_hz": LIST_FREQUENCY_HZ,
            "spectral_index": [c.spectral_index for c in known],
            "catalogue": LIST_NAME,
        }
    )


def _read_table(path: Path) -> Table:
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if suffixes & {".csv", ".txt", ".tsv"}:
        return Table.from_pandas(pd.read_csv(path, sep=None, engine="python", comment="#"))
    if ".parquet" in suffixes:
        return Table.from_pandas(pd.read_parquet(path))
    if suffixes & {".fits", ".fit"}:
        return Table.read(path, format="fits", unit_parse_strict="silent")
    if suffixes & {".vot", ".votable", ".xml"}:
        return Table.read(path, format="votable")
    raise ValueError(f"unknown kind of file {path.suffix!r}")


def _split(column: str) -> tuple[str, u.UnitBase | None]:
    """A column's bare name and the unit its name carries: 'S1.4 [mJy]' -> 's1.4', mJy; 'flux_jy' -> 'flux',
    Jy."""
    match = re.fullmatch(r"\s*(.*?)\s*[\[(]\s*([^\])]+)\s*[\])]\s*", column)
    if match:
        unit = _UNIT_TOKENS.get(match[2].lower())
        return match[1].lower().replace(" ", "_"), unit
    words = column.strip().lower().replace(" ", "_").split("_")
    if len(words) > 1 and words[-1] in _UNIT_TOKENS:
        return "_".join(words[:-1]), _UNIT_TOKENS[words[-1]]
    return "_".join(words), None


def _bare(column: str) -> str:
    return _split(column)[0]


def _column(columns: dict[str, str], role: str, path: Path | None) -> str:
    """The table's column for a role; '' if there is none and `path` is None."""
    for bare in _ROLES[role]:
        if bare in columns:
            return columns[bare]
    if path is None:
        return ""
    raise ConfigurationError(
        f"catalogue {path} has no {role} column (has {', '.join(columns.values())}): "
        f"name one {_ROLES[role][0]!r}"
    )


def _floats(table: Table, column: str, path: Path) -> NDArray[np.float64]:
    try:
        values = table[column].astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"catalogue {path}, column {column!r}: {error}: numbers are needed"
        ) from error
    return np.asarray(values.filled(np.nan) if hasattr(values, "filled") else values, dtype=np.float64)


def _unit(table: Table, column: str) -> u.UnitBase | None:
    unit = table[column].unit
    return unit if unit is not None else _split(column)[1]


def _quantity(table: Table, column: str, wanted: u.UnitBase, path: Path) -> NDArray[np.float64]:
    unit = _unit(table, column)
    if unit is None:
        raise ConfigurationError(
            f"catalogue {path}, column {column!r} has no unit: rename it, as in '{column}_{wanted}'"
        )
    per_beam = (u.beam, wanted / u.beam)  # a point source's peak in Jy/beam is its flux density
    try:
        factor = unit.to(wanted) if unit.is_equivalent(wanted) else unit.to(per_beam[1])
    except u.UnitConversionError as error:
        raise ConfigurationError(f"catalogue {path}, column {column!r}: {error}") from error
    return np.asarray(_floats(table, column, path) * factor)


def _angle(table: Table, column: str, sexagesimal: u.UnitBase, path: Path) -> NDArray[np.float64]:
    """Degrees; text is sexagesimal in `sexagesimal` units."""
    values = table[column]
    if values.dtype.kind in "OSU":
        try:
            return np.asarray(Angle([str(text) for text in values], unit=sexagesimal).to_value(u.deg))
        except ValueError as error:
            raise ConfigurationError(f"catalogue {path}, column {column!r}: {error}") from error
    unit = _unit(table, column) or u.deg
    if not unit.is_equivalent(u.deg):
        raise ConfigurationError(f"catalogue {path}, column {column!r} is in {unit}: an angle is needed")
    return _floats(table, column, path) * float(unit.to(u.deg))


def _check_positions(ra: NDArray[np.float64], dec: NDArray[np.float64], path: Path) -> None:
    wrong = ~((ra >= -180) & (ra <= 360) & (np.abs(dec) <= 90))
    if np.any(wrong):
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigurationError(
            f"catalogue {path}, row {row + 1}: position ({ra[row]}, {dec[row]}) deg is not on the sky"
        )
    np.mod(ra, 360.0, out=ra)


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def unit_vectors(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Positions (ra_deg, dec_deg) as unit vectors (n, 3)."""
    ra, dec = (
        np.deg2rad(frame["ra_deg"].to_numpy(np.float64)),
        np.deg2rad(frame["dec_deg"].to_numpy(np.float64)),
    )
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
