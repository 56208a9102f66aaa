"""Conversion of a table's positions to degrees, from degrees, hours or sexagesimal, in one column each or in parts."""

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

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import cells
from dsa110_assets.sky.columns import Column, find, sexagesimal
from dsa110_assets.sky.text_tables import is_missing

Float = NDArray[np.float64]
_PLAIN = r"([+-]?)\s*(\d+)[\s:]+(\d+)[\s:]+(\d+(?:\.\d*)?)"
_BEFORE_2000 = re.compile(r"\bB1[89]\d\d|\b(19[05]0|18[57]5)(\.0*)?\b|FK4", re.IGNORECASE)
_IS_2000 = re.compile(r"\bJ?2000(\.0*)?\b|ICRS|FK5", re.IGNORECASE)
_SIGNS = {"-": -1, "\u2013": -1, "-1": -1, "-1.0": -1, "s": -1, "": 1, "+": 1, "1": 1, "+1": 1, "1.0": 1, "n": 1}
"""Texts for the sign of a declination; word processors turn a minus into an en dash."""
_UNITLESS = frozenset({"ra", "raj2000", "ra_j2000", "ra_icrs", "right_ascension", "racen", "alpha_j2000"})
"""Names that do not determine the unit: tables use them for both hours and degrees."""


def degrees(table: Table, columns: Sequence[Column], is_known: bool, path: Path) -> tuple[Float, Float]:
    """Return ICRS right ascension (0..360) and declination [deg]. `is_known`: the table has a known form, with numbers in degrees.

    Raises ConfigurationError naming the column or row; numbers without a unit that may be hours are refused.
    """
    parts = sexagesimal(columns)
    ra_column, dec_column = find(columns, "ra"), find(columns, "dec")
    if parts and (ra_column is None or ra_column.name == parts["ra_h"]):
        _check_equinox(table, list(parts.values()), path)
        ra, dec = _of_parts(table, parts, path)
    else:
        if ra_column is None or dec_column is None:
            role = "ra" if ra_column is None else "dec"
            listed = ", ".join(column.name for column in columns)
            raise ConfigurationError(f"catalogue {path} has no {role} column (has {listed}): name one '{role}_deg'")
        _check_equinox(table, [ra_column.name, dec_column.name], path)
        ra, dec = _ra(table, ra_column, is_known, path), _angle(table, dec_column, u.deg, path)
    _check(ra, dec, path)
    return np.mod(ra, 360.0), dec


def _check_equinox(table: Table, names: Sequence[str], path: Path) -> None:
    """Raise ConfigurationError if the file, or its description of a position's column, names an equinox before J2000 but not J2000."""
    stated = [str(table.meta.get("equinox", "")), *(str(table[name].description or "") for name in names)]
    for text in stated:
        if _BEFORE_2000.search(text) and not _IS_2000.search(text):
            raise ConfigurationError(
                f"catalogue {path}: its positions are of another equinox ({text.strip()}): give J2000, which VizieR adds as "
                "_RAJ2000 and _DEJ2000"
            )


def _ra(table: Table, column: Column, is_known: bool, path: Path) -> Float:
    ra = _angle(table, column, u.hourangle, path)
    unit, is_text = cells.unit(table, column, path), _is_sexagesimal(table, column)
    if np.any(ra >= 24) or is_known:
        return ra
    if unit is u.deg and is_text:
        raise ConfigurationError(
            f"catalogue {path}, column {column.name!r} is sexagesimal, in degrees and below 24 in every row: name it ra if it is in hours"
        )
    if unit is None and not is_text and column.bare in _UNITLESS:
        raise ConfigurationError(
            f"catalogue {path}, column {column.name!r} is below 24 in every row and has no unit: name it ra_deg, or ra_h if it is in hours"
        )
    return ra


def _is_sexagesimal(table: Table, column: Column) -> bool:
    return cells.is_text(table, column.name) and cells.numbers_of_text(table, column.name) is None


def _angle(table: Table, column: Column, sexagesimal_unit: u.UnitBase, path: Path) -> Float:
    """Return the column in degrees; text that is not plain numbers is sexagesimal, in `sexagesimal_unit` unless it has a unit."""
    unit = cells.unit(table, column, path, "h" if column.bare == "rah" else None)
    if unit is not None and (not unit.is_equivalent(u.deg) or unit in (u.arcsec, u.arcmin)):
        raise ConfigurationError(f"catalogue {path}, column {column.name!r} is in {unit}: an angle in degrees, hours or radians is needed")
    if sexagesimal_unit is u.deg and unit is u.hourangle:
        raise ConfigurationError(f"catalogue {path}, column {column.name!r} is a declination in hours: degrees are needed")
    if _is_sexagesimal(table, column):
        return _of_text(cells.text(table, column.name), unit or sexagesimal_unit, column, path)
    return cells.floats(table, column.name, path) * float((unit or u.deg).to(u.deg))


def _of_text(texts: list[str], unit: u.UnitBase, column: Column, path: Path) -> Float:
    parts = pd.Series(texts, dtype=object).str.extract(f"^{_PLAIN}$")
    plain = parts[1].notna().to_numpy(bool)
    out = np.full(len(texts), np.nan)
    whole, minutes, seconds = (parts.loc[plain, i].to_numpy(np.float64) for i in (1, 2, 3))
    if np.any((minutes >= 60) | (seconds > 60)):
        row = int(np.flatnonzero(plain)[np.flatnonzero((minutes >= 60) | (seconds > 60))[0]])
        raise ConfigurationError(f"catalogue {path}, column {column.name!r}, row {row + 1}: {texts[row]!r} has 60 minutes or seconds")
    sign = np.where(parts.loc[plain, 0].to_numpy(object) == "-", -1.0, 1.0)
    out[plain] = sign * (whole + minutes / 60 + seconds / 3600) * float(unit.to(u.deg))
    for row in np.flatnonzero(~plain):
        out[row] = _of_word(texts[row], unit, int(row), column, path)
    return out


def _of_word(word: str, unit: u.UnitBase, row: int, column: Column, path: Path) -> float:
    try:
        float(word)
    except ValueError:
        try:
            return float(Angle(word, unit=unit).to_value(u.deg))
        except (ValueError, TypeError, u.UnitsError) as error:
            raise ConfigurationError(
                f"catalogue {path}, column {column.name!r}, row {row + 1}: {word!r} is not an angle: correct it"
            ) from error
    raise ConfigurationError(
        f"catalogue {path}, column {column.name!r}, row {row + 1}: {word!r} is a plain number "
        "among sexagesimal angles: write all angles in the same way"
    )


def _of_parts(table: Table, parts: dict[str, str], path: Path) -> tuple[Float, Float]:
    """Return degrees from right ascension in hours, minutes, seconds, and declination in sign, degrees, minutes, seconds."""
    values = {part: cells.floats(table, name, path) for part, name in parts.items() if part != "sign"}
    zero = np.zeros(len(table))
    for part in ("ra_m", "ra_s", "dec_m", "dec_s"):
        if np.any((values.get(part, zero) < 0) | (values.get(part, zero) > 60)):
            raise ConfigurationError(f"catalogue {path}, column {parts[part]!r} is not within 0 to 60")
    ra = 15 * (values["ra_h"] + values["ra_m"] / 60 + values.get("ra_s", zero) / 3600)
    if "sign" in parts:
        negative = _signs(table, parts["sign"], values["dec_d"], path)
    else:
        negative = _negative(table, parts["dec_d"], values["dec_d"], path)
    dec = np.abs(values["dec_d"]) + values["dec_m"] / 60 + values.get("dec_s", zero) / 3600
    return ra, np.where(negative, -dec, dec)


def _signs(table: Table, column: str, degrees: Float, path: Path) -> NDArray[np.bool_]:
    """Which rows are negative by a column of signs: '-', '+' or empty, -1 and 1, S and N; negative degrees need a negative sign."""
    signs = ["" if is_missing(cell) and cell != "-" else cell for cell in cells.raw_text(table, column)]
    unknown = next((i for i, cell in enumerate(signs) if cell.lower() not in _SIGNS), None)
    if unknown is not None:
        raise ConfigurationError(f"catalogue {path}, column {column!r}, row {unknown + 1}: {signs[unknown]!r} is no sign: write + or -")
    negative = np.array([_SIGNS[cell.lower()] < 0 for cell in signs])
    contradicting = np.flatnonzero((degrees < 0) & ~negative)
    if contradicting.size:
        raise ConfigurationError(
            f"catalogue {path}, row {contradicting[0] + 1}: its degrees are negative, its sign in column {column!r} is not: correct the row"
        )
    return negative


def _negative(table: Table, column: str, values: Float, path: Path) -> NDArray[np.bool_]:
    """Which degrees are negative if there is no column of signs: the text '-00' has a sign, but the number 0 may have lost it."""
    if cells.is_text(table, column):
        return np.array([cell.startswith("-") for cell in cells.text(table, column)])
    if np.any(values == 0) and np.any(values < 0):
        raise ConfigurationError(f"catalogue {path}, column {column!r}: the number 0 has no sign: add a column 'DE-' of signs")
    return np.signbit(values)


def _check(ra: Float, dec: Float, path: Path) -> None:
    wrong = ~((ra >= -180) & (ra <= 360) & (np.abs(dec) <= 90))
    if np.any(wrong):
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigurationError(
            f"catalogue {path}, row {row + 1}: position ({ra[row]}, {dec[row]}) deg is not on the sky: correct the row, or take it out"
        )
