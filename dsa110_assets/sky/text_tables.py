"""Reading of tables in text: with a plain or commented header, optional units and rules below it, any common separator."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO

import numpy as np
import pandas as pd
from astropy.table import Table

from dsa110_assets.sky import columns

MISSING = ("", "-", "--", "---", "nan", "null", "none", "n/a", "na", "...", "masked")
"""Marks of cells without a value, in lower case."""
_SEPARATORS = ("\t", "|", ";", ",")
_RULE = re.compile(r"[-=+]+")
_BRACKETS = re.compile(r"\(.*\)|\[.*\]")
_DESCRIBED = re.compile(r"#Column\t(?P<name>[^\t]+)\t[^\t]*\t(?P<description>[^\t]*).*")
_EQUINOX = re.compile(r"(?:equinox|epoch of coordinates|coordinate system|frame)\W+(\w[\w.]*)", re.IGNORECASE)
_REFERENCE = re.compile(r"reference\s+frequency[^:=]*[:=]\s*([\d.eE+]+)\s*([kMG]?Hz)?", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:col(?:umn)?\s*)?(\d+)[\s:.)=-]+(\S+).*", re.IGNORECASE)
_MAX_HEADER_LINES = 4
_NRAO_LISTING = re.compile(r"\bDist\b.*\bP_Flux\b|NVSSlist|\bP_Flux\b.*\bP_ang\b")
_SUMSS_ROW = re.compile(r"\d+ +\d+ +[\d.]+ +-?\d+ +\d+ +[\d.]+ .* J\d{4}[MP]\d{2}\b")
_SUMSS_NAMES = ("RAh", "RAm", "RAs", "DEd", "DEm", "DEs", "e_RA", "e_DE", "Sp", "e_Sp", "St", "e_St")
_SUMSS_UNITS = {"Sp": "mJy/beam", "St": "mJy"}


@dataclass(frozen=True)
class _Header:
    names: list[str]
    separator: str | None  # None: blanks
    units: dict[str, str] = field(default_factory=dict)
    line: int = 0  # the last line of the header


Needed = Callable[[Sequence[str]], Sequence[str]]
"""A function that returns, from the names of a header, those whose columns are to be read."""


def read(text: str, needed: Needed) -> Table:
    """Return the needed columns of a text table, all as text; `meta["frequency_hz"]` is set if a comment has a reference frequency.

    Only whole lines are comments: a '#' in a name is part of it. Raises ValueError naming the wrong line.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    body = [i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    if not body:
        raise ValueError("it has no rows")
    if _SUMSS_ROW.match(lines[body[0]].strip()):
        return _sumss([lines[i] for i in body])
    if _NRAO_LISTING.search(lines[body[0]]):
        raise ValueError("it is a listing of NRAO's NVSS browser, which leaves some columns out: take VIII/65 from VizieR instead")
    header, rows = _header(lines, body)
    _check_comments(lines, rows, header)
    table = _data(lines, rows, header, needed)
    for name, unit in header.units.items():
        if name in table.colnames and unit:
            table[name].unit = unit
    comments = [line for line in lines[: rows[0]] if line.lstrip().startswith("#")]
    for match in filter(None, map(_DESCRIBED.fullmatch, comments)):
        if match["name"] in table.colnames:
            table[match["name"]].description = match["description"]
    table.meta["equinox"] = " ".join(match[1] for match in map(_EQUINOX.search, comments) if match)
    frequency = _reference_frequency(comments)
    if frequency is not None:
        table.meta["frequency_hz"] = frequency
    return table


def is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _header(lines: list[str], body: list[int]) -> tuple[_Header, list[int]]:
    """Return the header and the line numbers of the rows after it. Raises ValueError if there is no header or no row."""
    found = _as_header(lines[body[0]])
    if found is not None:
        found, rest = replace(found, line=body[0]), body[1:]
    else:
        found, rest = _commented_header(lines, body[0]), body
        if found is None and (found := _strange_header(lines[body[0]])) is not None:
            found, rest = replace(found, line=body[0]), body[1:]
        if found is None:
            raise ValueError(
                "no line names its columns, right ascension and declination among them: "
                "give the table a header such as name,ra_deg,dec_deg,flux_mjy"
            )
    header, rest = _with_units(found, lines, rest)
    if not rest:
        raise ValueError("it has a header but no rows")
    return header, rest


def _as_header(line: str) -> _Header | None:
    for separator in (*(s for s in _SEPARATORS if s in line), None):
        names = _fields(line, separator)
        if separator is None:
            names = [name for name in names if not re.fullmatch(r"[\[(]?(J?2000(\.0)?)[\])]?", name)]
        if columns.has_positions(names):
            return _Header(names, separator)
    return None


def _strange_header(line: str) -> _Header | None:
    """Return a first line of words as a header, although it has no positions, so that the message can list its columns."""
    for separator in _SEPARATORS:
        names = _fields(line, separator)
        if len(names) > 1 and not any(_is_number(name) for name in names):
            return _Header(names, separator)
    return None


def _commented_header(lines: list[str], first: int) -> _Header | None:
    """Return the header in the comments before the first row: one line, or several that together name every column."""
    comments = [(i, lines[i].strip().lstrip("#").strip()) for i in range(first)]
    comments = [(i, comment) for i, comment in comments if comment]
    for start in range(len(comments) - 1, -1, -1):
        for end in range(start + 1, min(start + _MAX_HEADER_LINES, len(comments)) + 1):
            header = _as_header(" ".join(comment for _, comment in comments[start:end]))
            if header is not None and _fits(header, lines[first]):
                units = _fields(comments[end][1], header.separator) if end < len(comments) else []
                is_units = len(units) == len(header.names) and any(columns.is_unit(unit) for unit in _bare(units))
                return replace(header, units=_units(header.names, units) if is_units else {}, line=comments[end - 1][0])
    numbered = [match for _, comment in comments if (match := _NUMBERED.fullmatch(comment))]
    header = _Header([match[2] for i, match in enumerate(numbered, 1) if int(match[1]) == i], None, line=first)
    return header if columns.has_positions(header.names) and _fits(header, lines[first]) else None


def _fits(header: _Header, row: str) -> bool:
    separator = header.separator
    if separator is not None and separator not in row:
        return False
    return len(_fields(row, separator)) - len(header.names) in ((0, 4) if separator is None else (0,))


def _with_units(header: _Header, lines: list[str], rest: list[int]) -> tuple[_Header, list[int]]:
    """Return the header with the units from the line below it, and the rows without lines of units or rules."""
    if rest and _is_rule(lines[rest[0]], header.separator):
        rest = rest[1:]
    elif len(rest) > 1 and _is_rule(lines[rest[1]], header.separator):
        header, rest = replace(header, units=_units_of_line(header, lines[rest[0]])), rest[2:]
    elif rest and _is_unit_line(header, lines[rest[0]]):
        header, rest = replace(header, units=_units_of_line(header, lines[rest[0]])), rest[1:]
    repeated_rules = [i for i in rest if _is_rule(lines[i], header.separator)]
    if repeated_rules:
        raise ValueError(f"line {repeated_rules[0] + 1} begins another table: give each table a separate file")
    return header, rest


def _units_of_line(header: _Header, line: str) -> dict[str, str]:
    """Return the units below a header, where a quotation mark may mean arcsec. Raises ValueError if their number does not fit."""
    for units in (_fields(line, header.separator), line.strip("|" if header.separator == "|" else "\n").split(header.separator)):
        if len(units) == len(header.names):
            return _units(header.names, units)
    raise ValueError(f"the line of units has {len(units)} fields, the header {len(header.names)}: correct it")


def _units(names: list[str], units: list[str]) -> dict[str, str]:
    return {name: unit.strip().strip('"') for name, unit in zip(names, _bare(units), strict=True) if not is_missing(unit)}


def _bare(units: list[str]) -> list[str]:
    """Return the units without brackets if all of them have brackets; if only some have, [mJy] marks a logarithm and stays."""
    present = [unit for unit in units if not is_missing(unit)]
    bracketed = len(present) > 1 and all(_BRACKETS.fullmatch(unit) for unit in present)
    return [unit.strip("()[]") for unit in units] if bracketed else units


def _is_rule(line: str, separator: str | None) -> bool:
    if line.lstrip()[0] not in "-=+|":
        return False
    cells = [cell.strip() for cell in _fields(line.strip("+"), "+" if line.startswith("+") else separator)]
    return any(len(cell) > 2 for cell in cells) and all(not cell or _RULE.fullmatch(cell) for cell in cells)


def _is_unit_line(header: _Header, line: str) -> bool:
    cells = _fields(line, header.separator)
    if len(cells) != len(header.names):
        return False
    return any(columns.is_unit(cell) for cell in _bare(cells)) and not any(re.search(r"\d", cell) for cell in cells)


def _fields(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    if separator == "|":
        line = line.strip().strip("|")
    (cells,) = csv.reader([line], delimiter=separator, skipinitialspace=True)
    return [cell.strip() for cell in cells]


def _check_comments(lines: list[str], rows: list[int], header: _Header) -> None:
    """Raise ValueError for a line after the header that begins with '#' and has every column: it may be a row or a comment."""
    for i in range(header.line + 1, rows[-1]):
        if not lines[i].lstrip().startswith("#"):
            continue
        cells = _fields(lines[i], header.separator)
        if len(cells) == len(header.names) and any(_is_number(cell) for cell in cells):
            raise ValueError(f"line {i + 1} begins with '#' and has every column: put the name in quotes, or remove the line")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _data(lines: list[str], rows: list[int], header: _Header, needed: Needed) -> Table:
    names = _check_lengths(lines, rows, header)
    required = [name for name in names if name in set(needed(names))]
    columns.check_once(names, required)
    text = "\n".join(lines[i].strip("|") if header.separator == "|" else lines[i] for i in rows)
    frame = pd.read_csv(
        StringIO(text), sep=header.separator or r"\s+", header=None, names=range(len(names)), index_col=False,
        usecols=[names.index(name) for name in required], dtype=str, keep_default_na=False, skipinitialspace=True, skip_blank_lines=False,
    )  # fmt: skip
    return Table({name: np.array([cell.strip() for cell in frame[names.index(name)]], dtype=str) for name in required})


def _check_lengths(lines: list[str], rows: list[int], header: _Header) -> list[str]:
    """Return the column names; those of a position in six words per row are expanded. Raises ValueError for a row of another length."""
    names = header.names
    counts = [_count(lines[i], header.separator) for i in rows]
    if header.separator is None and set(counts) == {len(names) + 4}:
        names = _in_parts(names)
    elif header.separator is not None and set(counts) == {len(names) + 1} and all(lines[i].endswith(header.separator) for i in rows):
        names = [*names, ""]  # every row ends with a separator
    for i, count in zip(rows, counts, strict=True):
        if count != len(names):
            raise ValueError(
                f"line {i + 1} has {count} fields, the header {len(header.names)}: correct the line, or put its text in quotes"
            )
    return names


def _count(line: str, separator: str | None) -> int:
    if separator is None or '"' in line or separator == "|":
        return len(_fields(line, separator))
    return line.count(separator) + 1


def _in_parts(names: list[str]) -> list[str]:
    parsed = [columns.column(name) for name in names]
    ra, dec = columns.find(parsed, "ra"), columns.find(parsed, "dec")
    if ra is None or dec is None or names.index(dec.name) != names.index(ra.name) + 1:
        return names
    at = names.index(ra.name)
    return [*names[:at], "RAh", "RAm", "RAs", "DEd", "DEm", "DEs", *names[at + 2 :]]


def _sumss(lines: list[str]) -> Table:
    """Return the table of SUMSS's own text file: no header, positions in parts, the mosaic's name in every row."""
    cells = [line.split()[: len(_SUMSS_NAMES)] for line in lines]
    wrong = next((i for i, line in enumerate(lines) if not _SUMSS_ROW.match(line.strip())), None)
    if wrong is not None:
        raise ValueError(f"row {wrong + 1} does not have the form of SUMSS rows")
    table = Table({name: np.array(cells, dtype=str)[:, i] for i, name in enumerate(_SUMSS_NAMES)})
    for name, unit in _SUMSS_UNITS.items():
        table[name].unit = unit
    table.meta["survey"] = "SUMSS"
    return table


def _reference_frequency(lines: list[str]) -> float | None:
    stated = {_hz(match[1], match[2]) for line in lines if (match := _REFERENCE.search(line))}
    return stated.pop() if len(stated) == 1 else None


def _hz(number: str, unit: str | None) -> float:
    return float(number) * {None: 1.0, "hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}[unit.lower() if unit else None]
