"""Conversion of table cells to numbers and text, whatever program wrote the table."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky.columns import Column, parse_unit
from dsa110_assets.sky.text_tables import is_missing


def text(table: Table, column: str) -> list[str]:
    """Return the cells as text without surrounding blanks; '' for those that are masked or marked as missing."""
    values = table[column]
    masked = getattr(values, "mask", np.zeros(len(values), dtype=bool))
    return ["" if is_masked or is_missing(cell) else cell for cell, is_masked in zip(raw_text(table, column), masked, strict=True)]


def raw_text(table: Table, column: str) -> list[str]:
    """Return the cells as text without surrounding blanks, including marks for missing values."""
    values = np.asarray(table[column])
    return [(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip() for value in values]


def is_text(table: Table, column: str) -> bool:
    return bool(table[column].dtype.kind in "OSU")


def floats(table: Table, column: str, path: Path) -> NDArray[np.float64]:
    """Return the cells as numbers, NaN where missing. Raises ConfigurationError naming the first row that is not a number."""
    values = table[column]
    if values.ndim != 1:
        raise ConfigurationError(f"catalogue {path}, column {column!r} has {values.shape[1:]} values a row: one number is needed")
    if not is_text(table, column):
        try:
            numbers = values.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"catalogue {path}, column {column!r}: {error}: numbers are needed") from error
        return np.asarray(numbers.filled(np.nan) if hasattr(numbers, "filled") else numbers, dtype=np.float64)
    parsed = numbers_of_text(table, column)
    if parsed is not None:
        return parsed
    cells = [cell or "nan" for cell in text(table, column)]
    row = next(i for i, cell in enumerate(cells) if not _is_number(cell))
    raise ConfigurationError(f"catalogue {path}, column {column!r}, row {row + 1}: {cells[row]!r} is not a number: numbers are needed")


def numbers_of_text(table: Table, column: str) -> NDArray[np.float64] | None:
    """Return text cells as numbers, NaN where missing; None if any cell is neither a number nor missing."""
    values = np.asarray(table[column])
    if not hasattr(table[column], "mask"):
        try:
            return values.astype(np.float64)  # the common case, a hundred times faster than cell by cell
        except ValueError:
            pass
    try:
        return np.array([cell or "nan" for cell in text(table, column)]).astype(np.float64)
    except ValueError:
        return None


def unit(table: Table, column: Column, path: Path, default: str | None = None) -> u.UnitBase | None:
    """Return the unit of a column from the table or from the column's name, else the default.

    Raises ConfigurationError if the unit is not supported, or if the table and the name give different units.
    """
    table_unit = str(table[column.name].unit or "").strip()
    stated = [text for text in (table_unit, column.unit) if text] or [text for text in (default,) if text]
    try:
        units = [parse_unit(text) for text in stated]
    except ValueError as error:
        raise ConfigurationError(
            f"catalogue {path}, column {column.name!r}: {error}: give the column one of these in brackets, or in its name"
        ) from error
    if any(parsed != units[0] for parsed in units):
        raise ConfigurationError(
            f"catalogue {path}, column {column.name!r} is in {table_unit} by the table but not by its name: correct its name or its unit"
        )
    return units[0] if units else None


def quantity(table: Table, column: Column, unit_name: str, path: Path, default: str | None = None) -> NDArray[np.float64]:
    """Return the numbers in the unit `unit_name` (Jy, Hz). Raises ConfigurationError if the unit is missing or of another kind."""
    given_unit = unit(table, column, path, default)
    if given_unit is None:
        raise ConfigurationError(f"catalogue {path}, column {column.name!r} has no unit: rename it, as in '{column.name}_{unit_name}'")
    if not given_unit.is_equivalent(u.Unit(unit_name)):
        raise ConfigurationError(f"catalogue {path}, column {column.name!r} is in {given_unit}: {unit_name} is needed")
    return np.asarray(floats(table, column.name, path) * given_unit.to(u.Unit(unit_name)))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
