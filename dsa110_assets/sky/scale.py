"""The frequency of a catalogue's fluxes, from its table, its survey and its name, which must agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import surveys
from dsa110_assets.sky.calibrators import LIST_FREQUENCY_HZ
from dsa110_assets.sky.cells import quantity
from dsa110_assets.sky.columns import Column, find

SAME_WITHIN = 0.02
"""Frequencies closer than this fraction are the same: fluxes differ by 1.4 % for an index of -0.7."""
LIMITS_HZ = (10e6, 100e9)
_IN_NAME = re.compile(r"@(\d+(?:\.\d+)?)_?(mhz|ghz)", re.IGNORECASE)


@dataclass(frozen=True)
class Stated:
    """What the caller states about a file: `name` of the catalogue, which may be a survey's, and the frequency [Hz] of its fluxes."""

    path: Path
    name: str | None = None
    frequency_hz: float | None = None


@dataclass(frozen=True)
class _Statement:
    phrase: str
    frequency_hz: float
    survey: surveys.Survey | None = None


def frequency(
    table: Table, columns: Sequence[Column], form: surveys.Form | None, flux: Column, names: Sequence[str], stated: Stated
) -> tuple[surveys.Survey | None, NDArray[np.float64]]:
    """Return the survey a table is recognised as, and the frequency [Hz] of every row's flux, NaN where the column of frequencies has none.

    A column of frequencies takes precedence. Otherwise the frequency comes from the setting, the file's header, the survey
    recognised by the columns, the file's name ('tgss.tsv', 'deep@943.5MHz.csv'), the acronym of the sources and the name of
    the flux column ('S1.4'); all that are present must agree. A table in the platform's own form (ra_deg, dec_deg, flux_mjy)
    without any of these is at 1.4 GHz. Raises ConfigurationError if none gives a frequency or if they differ.
    """
    statements = _statements(table, form, flux, names, stated)
    survey = next((statement.survey for statement in statements if statement.survey), None)
    column = find(columns, "frequency")
    if column is not None:
        column_hz = quantity(table, column, "Hz", stated.path, form.frequency_unit if form else None)
        if flux.frequency_hz is not None and np.any(np.abs(column_hz[column_hz > 0] / flux.frequency_hz - 1) > SAME_WITHIN):
            raise ConfigurationError(
                f"catalogue {stated.path}: column {flux.name!r} is at {flux.frequency_hz / 1e6:g} MHz by its name, but column "
                f"{column.name!r} says another frequency: rename one of them"
            )
        return survey, _of_column(column_hz, column, stated)
    for statement in statements[1:]:
        if abs(statement.frequency_hz / statements[0].frequency_hz - 1) > SAME_WITHIN:
            raise ConfigurationError(
                f"catalogue {stated.path}: {_sentence(statements[0])}, but {_sentence(statement)}: rename the file or its columns, or "
                "correct DSA110_CATALOGUE_FREQUENCIES_MHZ, so that they agree"
            )
    if statements:
        return survey, np.full(len(table), statements[0].frequency_hz)
    if surveys.is_own({one.name.strip().lower() for one in columns}) and not surveys.may_be_several(_stem(stated.path)):
        return None, np.full(len(table), LIST_FREQUENCY_HZ)
    raise ConfigurationError(
        f"catalogue {stated.path} does not say at which frequency its fluxes are: add a column frequency_mhz, name the file after its "
        f"survey ({', '.join(s.name for s in surveys.SURVEYS[:5])}, ...) or its frequency, as in {stated.path.stem}@943.5MHz"
        f"{stated.path.suffix}, or set DSA110_CATALOGUE_FREQUENCIES_MHZ='{{\"{stated.path.name}\": 943.5}}'"
    )


def _of_column(column_hz: NDArray[np.float64], column: Column, stated: Stated) -> NDArray[np.float64]:
    """Return a column's frequencies, missing ones from `stated`. Raises ConfigurationError for a wrong unit or a setting that differs."""
    positive_hz = column_hz[column_hz > 0]
    implausible = positive_hz[(positive_hz < LIMITS_HZ[0]) | (positive_hz > LIMITS_HZ[1])]
    if implausible.size:
        raise ConfigurationError(
            f"catalogue {stated.path}, column {column.name!r}: {implausible[0]:g} Hz is beyond radio surveys: correct its unit"
        )
    if stated.frequency_hz is None:
        return np.where(column_hz > 0, column_hz, np.nan)
    if np.any(np.abs(positive_hz / stated.frequency_hz - 1) > SAME_WITHIN):
        raise ConfigurationError(
            f"catalogue {stated.path}: DSA110_CATALOGUE_FREQUENCIES_MHZ says {stated.frequency_hz / 1e6:g} MHz, but column {column.name!r} "
            f"{positive_hz[0] / 1e6:g} MHz: take the file out of the setting, or correct the column"
        )
    return np.where(column_hz > 0, column_hz, stated.frequency_hz)


def _sentence(statement: _Statement) -> str:
    return f"{statement.phrase} {statement.frequency_hz / 1e6:g} MHz"


def _statements(table: Table, form: surveys.Form | None, flux: Column, names: Sequence[str], stated: Stated) -> list[_Statement]:
    """Return all statements about the frequency, the most trusted first."""
    statements: list[_Statement] = []
    if stated.frequency_hz is not None:
        statements.append(_Statement("the setting says", stated.frequency_hz))
    if "frequency_hz" in table.meta:
        statements.append(_Statement("its header says", float(table.meta["frequency_hz"])))
    by_columns = surveys.named(table.meta.get("survey", form.survey if form and form.survey else ""))
    if by_columns:
        statements.append(_of_survey("its columns are those of", by_columns))
    named = surveys.named(stated.name) if stated.name else surveys.of_file(_stem(stated.path))
    if named:
        statements.append(_of_survey("it is called", named))
    in_name = _IN_NAME.search(stated.path.name)
    if in_name:
        statements.append(_Statement("its name says", float(in_name[1]) * {"mhz": 1e6, "ghz": 1e9}[in_name[2].lower()]))
    by_sources = surveys.of_source_names(name for name in names if name)
    if by_sources:
        statements.append(_of_survey("its sources have names of", by_sources))
    # a caller who names the survey knows what the column contains, so the column's name is ignored
    if flux.frequency_hz is not None and not (stated.name and named):
        statements.append(_Statement(f"column {flux.name!r} says", flux.frequency_hz))
    return statements


def _stem(path: Path) -> str:
    """Return the file's name without its format suffixes; released files may have several."""
    return _IN_NAME.sub("", re.sub(r"(\.(csv|tsv|txt|dat|fits?|vot|votable|xml|parquet|ecsv|gz|asc|bin))+$", "", path.name.lower()))


def _of_survey(phrase: str, survey: surveys.Survey) -> _Statement:
    return _Statement(f"{phrase} {survey.name}, at", survey.frequency_hz, survey)
