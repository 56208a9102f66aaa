"""Radio surveys: their frequencies and resolutions, and how their tables are recognised."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache

from dsa110_assets.sky.calibrators import LIST_FREQUENCY_HZ, LIST_NAME


@dataclass(frozen=True)
class Survey:
    """A survey: `beam_arcsec` is the FWHM within which its sources are blended. `prefixes`: beginnings of the names of its files
    and sources, in lower case without punctuation between the letters."""

    name: str
    frequency_hz: float
    beam_arcsec: float
    prefixes: tuple[str, ...] = ()


SURVEYS = (
    Survey("NVSS", 1.4e9, 45.0, ("nvss",)),
    Survey("FIRST", 1.4e9, 5.4),
    Survey("RACS-LOW", 887.5e6, 25.0, ("racslow", "racsdr1")),
    Survey("RACS-MID", 1367.5e6, 11.2, ("racsmid",)),
    Survey("RACS-HIGH", 1655.5e6, 11.8, ("racshigh",)),
    Survey("VLASS", 3.0e9, 2.5, ("vlass",)),
    Survey("SUMSS", 843e6, 45.0, ("sumss",)),
    Survey("MGPS-2", 843e6, 45.0, ("mgps",)),
    Survey("TGSS", 147.5e6, 25.0, ("tgss",)),
    Survey("LOTSS", 144e6, 6.0, ("lotss", "iltj")),
    Survey("LOLSS", 54e6, 15.0, ("lolss",)),
    Survey("GLEAM", 200e6, 120.0, ("gleamegc", "gleam")),
    Survey("GLEAM-X", 200e6, 60.0, ("gleamx",)),
    Survey("WENSS", 325e6, 54.0, ("wenss",)),
    Survey("VLSSR", 73.8e6, 75.0, ("vlssr",)),
    Survey("VCSS", 340e6, 15.0, ("vcss",)),
    # the widest standards of the list extend over two arcmin and have one entry each
    Survey(LIST_NAME, LIST_FREQUENCY_HZ, 120.0),
)
_BY_NAME = {survey.name: survey for survey in SURVEYS}

_FIRST_FILE = re.compile(r"first|(first|catalog)_\d\d[a-z]{3}\d\d")
"""FIRST is an English word: a file belongs to the survey only if its whole name is this, or that of a release."""
_RACS_LATER_LOW = re.compile(r"racslow[2-9]")
"""Later epochs of RACS-low were observed at 943.5 MHz."""
_DESIGNATION = re.compile(r"\s*([A-Za-z][\w.-]{1,24}?)[ _-]*J(?=\d{4})")
"""The acronym of a source's name, before the J of its position."""
_DISTRIBUTORS = re.compile(r"^(as110derivedcatalogue|cirada)")
"""Prefixes that some file names have before the survey's name."""


@dataclass(frozen=True)
class Form:
    """The table format of a survey or a source finder, recognised by columns (lower case) that must all be present.

    `flux` is the column of total fluxes, in `unit` if the file itself gives none. Positions that are numbers are in degrees.
    A column of frequencies is in `frequency_unit`. `survey` is None if the columns do not determine it.
    """

    columns: frozenset[str]
    flux: str
    unit: str
    survey: str | None = None
    frequency_unit: str | None = None


def _form(survey: str | None, columns: str, flux: str, unit: str, frequency_unit: str | None = None) -> Form:
    return Form(frozenset(columns.split()), flux, unit, survey, frequency_unit)


FORMS = (
    _form("VLASS", "component_name ra dec total_flux peak_to_ring", "total_flux", "mJy"),
    _form("VLASS", "component_name ra dec total_flux duplicate_flag quality_flag", "total_flux", "mJy"),
    _form("VLASS", "compname ftot dupflag", "ftot", "mJy"),
    _form("TGSS", "source_name ra dec total_flux rms_noise source_code mosaic_name", "total_flux", "mJy"),
    _form("TGSS", "source_name ra dec total_flux rms_noise mosaic_name", "total_flux", "mJy"),
    _form("TGSS", "tgssadr raj2000 dej2000 stotal", "stotal", "mJy"),
    _form("LOTSS", "source_name ra dec total_flux mosaic_id number_pointings", "total_flux", "mJy"),
    _form("LOTSS", "source raj2000 dej2000 speak speaktot", "speaktot", "mJy"),
    _form("LOTSS", "source radeg dedeg speak speaktot", "speaktot", "mJy"),
    _form("GLEAM", "raj2000 dej2000 int_flux_wide", "int_flux_wide", "Jy"),
    _form("GLEAM", "raj2000 dej2000 fintwide", "fintwide", "Jy"),
    _form("GLEAM", "raj2000 dej2000 fpwide", "fpwide", "Jy"),
    _form("RACS-LOW", "gaussian_id ra dec total_flux_gaussian", "total_flux_gaussian", "mJy"),
    _form("RACS-LOW", "ra dec total_flux_source e_total_flux_source", "total_flux_source", "mJy"),
    _form("RACS-LOW", "raj2000 dej2000 ftot fpk", "ftot", "mJy"),
    _form("FIRST", "ra dec fpeak fint", "fint", "mJy"),
    _form("FIRST", "raj2000 dej2000 fpeak fint", "fint", "mJy"),
    _form("FIRST", "rah ram ras fpeak fint", "fint", "mJy"),
    _form("SUMSS", "raj2000 dej2000 sp st mosaic", "st", "mJy"),
    _form("SUMSS", "rah ram ras sp st e_st", "st", "mJy"),
    _form("NVSS", "nvss raj2000 dej2000 s1.4", "s1.4", "mJy"),
    _form("NVSS", "raj2000 dej2000 s1.4 majaxis", "s1.4", "mJy"),
    _form("NVSS", "rah ram ras s1.4 majaxis", "s1.4", "mJy"),
    _form(None, "sbid field_id ra dec total_flux peak_flux", "total_flux", "mJy"),  # RACS-mid and -high
    _form(None, "ra_deg_cont dec_deg_cont flux_int", "flux_int", "mJy", "MHz"),  # CASDA: the frequency is a column
    _form(None, "isl_id ra dec total_flux e_total_flux", "total_flux", "Jy"),  # PyBDSF
    _form(None, "island ra_str dec_str ra dec local_rms int_flux", "int_flux", "Jy"),  # Aegean
)
"""The most specific first: a table has the first form whose columns it contains."""

OWN_FORM = frozenset({"ra_deg", "dec_deg"})
OWN_FLUXES = frozenset({"flux_jy", "flux_mjy", "flux_ujy"})
"""The platform's own form of a table, as the README describes it: its fluxes are at 1.4 GHz unless a column, the file's
name or a setting gives another frequency."""


def named(name: str) -> Survey | None:
    """Return the survey of this name, in any case; None if there is none."""
    return _BY_NAME.get(name.strip().upper().replace("_", "-"))


def of_columns(columns: Collection[str]) -> Form | None:
    """Return the form of a table with these columns (lower case); None if no form fits."""
    return next((form for form in FORMS if form.columns <= set(columns)), None)


def is_own(columns: Collection[str]) -> bool:
    """Whether a table with these columns (lower case) is in the platform's own form."""
    return set(columns) >= OWN_FORM and not OWN_FLUXES.isdisjoint(columns)


def of_file(stem: str) -> Survey | None:
    """Return the survey whose name a file's name begins with: NVSS-strip, racs_low.dr1, AS110_Derived_Catalogue_racs_mid_components_v01."""
    survey = named(stem)
    if survey is not None:
        return survey
    if _FIRST_FILE.fullmatch(stem.lower()):
        return _BY_NAME["FIRST"]
    return _beginning(_DISTRIBUTORS.sub("", _letters(stem)))


def may_be_several(stem: str) -> bool:
    """Whether a file has the name of a survey of several bands, but not of which band."""
    return of_file(stem) is None and _DISTRIBUTORS.sub("", _letters(stem)).startswith("racs")


def of_source_names(names: Iterable[str]) -> Survey | None:
    """Return the survey with whose acronym all of these source names begin; None if they do not agree or there are none."""
    common: Survey | None = None
    for name in names:
        survey = _of_source_name(name)
        if survey is None or (common is not None and survey is not common):
            return None
        common = survey
    return common


def _of_source_name(name: str) -> Survey | None:
    match = _DESIGNATION.match(name)
    return _of_acronym(match[1]) if match else None


@cache
def _of_acronym(acronym: str) -> Survey | None:
    letters = _letters(acronym)
    if letters == "first":
        return _BY_NAME["FIRST"]
    return _beginning(f"{letters}j" if letters == "ilt" else letters)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _beginning(letters: str) -> Survey | None:
    if _RACS_LATER_LOW.match(letters):
        return None
    fitting = [(prefix, survey) for survey in SURVEYS for prefix in survey.prefixes if letters.startswith(prefix)]
    return max(fitting, key=lambda match: len(match[0]))[1] if fitting else None
