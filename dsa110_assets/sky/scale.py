"""At which frequency a catalogue's fluxes are: what its table, its survey and its name say, and that they agree."""

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
"""Frequencies this near are the same: fluxes differ by 1.4 % for an index of -0.7."""
LIMITS_HZ = (10e6, 100e9)
_IN_NAME = re.compile(r"@(\d+(?:\.\d+)?)_?(mhz|ghz)", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """What a caller says of a file: `name`, of the catalogue, which may be a survey's; the frequency [Hz] of its fluxes."""

    path: Path
    name: str | None = None
    frequency_hz: float | None = None


@dataclass(frozen=True)
class _Witness:
    says: str
    frequency_hz: float
    survey: surveys.Survey | None = None


def frequency(
    table: Table, columns: Sequence[Column], form: surveys.Form | None, flux: Column, names: Sequence[str], told: Told
) -> tuple[surveys.Survey | None, NDArray[np.float64]]:
    """The survey a table is known as, and the frequency [Hz] of every row's flux, NaN where a row of a column has none.

    A column of frequencies goes before everything. Else the setting, the file's header, the survey its columns are known
    by, its name ('tgss.tsv', 'deep@943.5MHz.csv'), the acronym of its sources and the name of the flux column
    ('S1.4') are asked, and must agree. The platform's own form (ra_deg, dec_deg, flux_mjy) without any of these is at
    1.4 GHz. Raises ConfigurationError: nobody says it, or they differ.
    """
    heard = _witnesses(table, form, flux, names, told)
    survey = next((witness.survey for witness in heard if witness.survey), None)
    column = find(columns, "frequency")
    if column is not None:
        own = quantity(table, column, "Hz", told.path, form.frequency_unit if form else None)
        if flux.frequency_hz is not None and np.any(np.abs(own[own > 0] / flux.frequency_hz - 1) > SAME_WITHIN):
            raise ConfigurationError(
                f"catalogue {told.path}: column {flux.name!r} is at {flux.frequency_hz / 1e6:g} MHz by its name, but column "
                f"{column.name!r} says another frequency: rename one of them"
            )
        return survey, _of_column(own, column, told)
    for witness in heard[1:]:
        if abs(witness.frequency_hz / heard[0].frequency_hz - 1) > SAME_WITHIN:
            raise ConfigurationError(
                f"catalogue {told.path}: {_sentence(heard[0])}, but {_sentence(witness)}: rename the file or its columns, or correct "
                "DSA110_CATALOGUE_FREQUENCIES_MHZ, so that they agree"
            )
    if heard:
        return survey, np.full(len(table), heard[0].frequency_hz)
    if surveys.is_own({one.name.strip().lower() for one in columns}) and not surveys.may_be_several(_stem(told.path)):
        return None, np.full(len(table), LIST_FREQUENCY_HZ)
    raise ConfigurationError(
        f"catalogue {told.path} does not say at which frequency its fluxes are: add a column frequency_mhz, name the file after its "
        f"survey ({', '.join(s.name for s in surveys.SURVEYS[:5])}, ...) or its frequency, as in {told.path.stem}@943.5MHz"
        f"{told.path.suffix}, or set DSA110_CATALOGUE_FREQUENCIES_MHZ='{{\"{told.path.name}\": 943.5}}'"
    )


def _of_column(own: NDArray[np.float64], column: Column, told: Told) -> NDArray[np.float64]:
    """A column's frequencies, those it lacks as told. ConfigurationError: it is not in its unit, or the setting differs."""
    given = own[own > 0]
    strange = given[(given < LIMITS_HZ[0]) | (given > LIMITS_HZ[1])]
    if strange.size:
        raise ConfigurationError(
            f"catalogue {told.path}, column {column.name!r}: a frequency of {strange[0]:g} Hz is beyond radio surveys: correct its unit"
        )
    if told.frequency_hz is None:
        return np.where(own > 0, own, np.nan)
    if np.any(np.abs(given / told.frequency_hz - 1) > SAME_WITHIN):
        raise ConfigurationError(
            f"catalogue {told.path}: DSA110_CATALOGUE_FREQUENCIES_MHZ says {told.frequency_hz / 1e6:g} MHz, but column {column.name!r} "
            f"{given[0] / 1e6:g} MHz: take the file out of the setting, or correct the column"
        )
    return np.where(own > 0, own, told.frequency_hz)


def _sentence(witness: _Witness) -> str:
    return f"{witness.says} {witness.frequency_hz / 1e6:g} MHz"


def _witnesses(table: Table, form: surveys.Form | None, flux: Column, names: Sequence[str], told: Told) -> list[_Witness]:
    """What is said of the frequency, the most trusted first."""
    heard: list[_Witness] = []
    if told.frequency_hz is not None:
        heard.append(_Witness("the setting says", told.frequency_hz))
    if "frequency_hz" in table.meta:
        heard.append(_Witness("its header says", float(table.meta["frequency_hz"])))
    by_columns = surveys.named(table.meta.get("survey", form.survey if form and form.survey else ""))
    if by_columns:
        heard.append(_of_survey("its columns are those of", by_columns))
    named = surveys.named(told.name) if told.name else surveys.of_file(_stem(told.path))
    if named:
        heard.append(_of_survey("it is called", named))
    in_name = _IN_NAME.search(told.path.name)
    if in_name:
        heard.append(_Witness("its name says", float(in_name[1]) * {"mhz": 1e6, "ghz": 1e9}[in_name[2].lower()]))
    by_sources = surveys.of_source_names(name for name in names if name)
    if by_sources:
        heard.append(_of_survey("its sources have names of", by_sources))
    # a caller who names the survey knows what the column holds
    if flux.frequency_hz is not None and not (told.name and named):
        heard.append(_Witness(f"column {flux.name!r} says", flux.frequency_hz))
    return heard


def _stem(path: Path) -> str:
    """The file's name without its formats' endings, of which a release may have several."""
    return _IN_NAME.sub("", re.sub(r"(\.(csv|tsv|txt|dat|fits?|vot|votable|xml|parquet|ecsv|gz|asc|bin))+$", "", path.name.lower()))


def _of_survey(says: str, survey: surveys.Survey) -> _Witness:
    return _Witness(f"{says} {survey.name}, at", survey.frequency_hz, survey)
