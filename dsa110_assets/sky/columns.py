"""Identification of the columns of external tables: role, unit and frequency, from column names and file metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import astropy.units as u

ROLES: dict[str, tuple[str, ...]] = {
    "ra": ("ra", "raj2000", "ra_j2000", "_raj2000", "ra_icrs", "_ra.icrs", "_ra", "radeg", "ra_deg_cont", "right_ascension", "racen",
           "alpha_j2000", "rah"),
    "dec": ("dec", "de", "dej2000", "decj2000", "dec_j2000", "_dej2000", "de_icrs", "dec_icrs", "_de.icrs", "_de", "dedeg", "decdeg",
            "dec_deg_cont", "declination", "deccen", "delta_j2000"),
    "flux": ("flux", "total_flux", "integrated_flux", "int_flux", "fint", "flux_int", "s_total", "stotal", "ftot", "sint",
             "int_flux_wide", "fintwide", "speaktot", "total_flux_source"),
    "peak": ("peak_flux", "fpeak", "flux_peak", "speak", "sp", "peak"),
    "name": ("name", "component_name", "source_name", "island_name", "compname", "designation", "nvss", "first", "tgssadr", "gleam",
             "source", "source_id", "id"),
    "index": ("spectral_index", "alpha", "spindex", "spidx", "spix", "spec_index", "spec_indx", "sp_index", "sp_alpha",
              "alpha-sp"),
    "frequency": ("frequency", "freq", "reference_frequency", "ref_freq", "frequency_obs"),
}  # fmt: skip
"""Column names of each role, without their units, in order of preference."""

SELECTIONS = ("duplicate_flag", "dupflag", "quality_flag", "qualflag")
SEXAGESIMAL: dict[str, tuple[str, ...]] = {
    "ra_h": ("rah", "rahr", "rahour", "rahours"), "ra_m": ("ram", "ramin"), "ra_s": ("ras", "rasec"),
    "sign": ("de-", "design", "dec-", "decsign", "desig"),
    "dec_d": ("ded", "decd"), "dec_m": ("dem", "decm", "demin", "decmin"), "dec_s": ("des", "decs", "desec", "decsec"),
}  # fmt: skip
"""Columns of a position that is written in parts; the names are compared without punctuation between the letters."""

_BASES = {
    "jy": u.Jy, "jansky": u.Jy, "janskys": u.Jy, "mjy": u.mJy, "millijy": u.mJy, "millijansky": u.mJy, "ujy": u.uJy, "microjy": u.uJy,
    "microjansky": u.uJy, "deg": u.deg, "degs": u.deg, "degree": u.deg, "degrees": u.deg, "d:m:s": u.deg, "dms": u.deg,
    "dd:mm:ss": u.deg, "rad": u.rad, "radian": u.rad, "radians": u.rad, "arcsec": u.arcsec, "arcmin": u.arcmin,
    "h": u.hourangle, "hr": u.hourangle, "hrs": u.hourangle, "hour": u.hourangle, "hours": u.hourangle, "hourangle": u.hourangle,
    "h:m:s": u.hourangle, "hms": u.hourangle, "hh:mm:ss": u.hourangle, "hz": u.Hz, "khz": u.kHz, "mhz": u.MHz, "ghz": u.GHz,
}  # fmt: skip
"""Units as catalogues write them; mJy and MHz occur in any case, and never mean megajansky."""
_SIGNS = str.maketrans({"µ": "u", "μ": "u", "°": "deg", "−": "-"})
_BEAM = re.compile(r"\s*(/\s*|per\s+|[\s.*]+)(beam|bm|psf)(\^|\*\*)?\(?(?P<power>[+-]?1)?\)?$")
_FRAMES = re.compile(r"[\s_]*[\[(]\s*(j?2000(\.0)?|icrs|fk5)\s*[\])]", re.IGNORECASE)
"""A reference frame in the place of a unit: 'RA (2000)'."""
_BRACKETED = re.compile(r"\s*(.*?)\s*[\[(]\s*([^\])]*?)\s*[\])]\s*")
_BAND = re.compile(r"(s|f|flux)_?(?P<value>\d+([.p]\d+)?)_?(?P<unit>mhz|ghz|cm)?(_?[\[(]?(?P<flux>[um]?jy)[\])]?)?")
"""Flux columns whose name contains the frequency: S1.4, S1400, flux_150_mhz, int_flux_20_cm."""
_WAVELENGTHS_HZ = {"20": 1.4e9, "21": 1.42e9, "36": 843e6, "90": 330e6, "92": 325e6}
"""The frequencies that surveys mean by a wavelength [cm]: NVSS and FIRST measured at 1.4 GHz, which is 21.4 cm."""
NEAREST_HZ = 1.4e9


@dataclass(frozen=True)
class Column:
    """What a column's name states: `bare`, the name in lower case without its unit; the unit; and the frequency [Hz] of a flux."""

    name: str
    bare: str
    unit: str | None = None
    frequency_hz: float | None = None


def parse_unit(text: str) -> u.UnitBase:
    """Return the unit a catalogue means by this text; 'mJy/beam', 'JY/BEAM' and 'mJy beam-1' are the flux of a point source.

    Raises ValueError if it is not a unit of position, flux or frequency; '[mJy]' marks a logarithm and is not a unit.
    """
    plain = text.strip().strip('"').translate(_SIGNS).replace("⁻¹", "-1").lower().rstrip(".")
    beam = _BEAM.search(plain)
    if beam and (beam[1].strip(" .*") or beam["power"] == "-1"):
        plain = plain[: beam.start()]
    base = _BASES.get(plain.strip())
    if base is None:
        raise ValueError(f"unit {text.strip()!r} is not one of Jy, mJy, uJy (or per beam), deg, h, rad, Hz, MHz, GHz")
    return base


def is_unit(text: str) -> bool:
    try:
        parse_unit(text)
    except ValueError:
        return False
    return True


def column(name: str) -> Column:
    """Parse a column's name: 'S1.4 [mJy]' -> s1.4 in mJy at 1.4 GHz; 'RA (2000)' -> ra; 'flux_jy' -> flux in Jy."""
    plain = _FRAMES.sub("", name).strip()
    band = _of_band(plain)
    if band is not None:
        return Column(name, *band)
    match = _BRACKETED.fullmatch(plain)
    if match and match[1]:
        return Column(name, _words(match[1]), match[2])
    words = _words(plain).split("_")
    if len(words) > 1 and words[-1] in _BASES:
        return Column(name, "_".join(words[:-1]), words[-1])
    return Column(name, "_".join(words))


def _words(text: str) -> str:
    return text.strip().lower().replace(" ", "_")


def _of_band(name: str) -> tuple[str, str | None, float] | None:
    plain = re.sub(r"^(int|total|peak)_", "", _words(name))
    match = _BAND.fullmatch(plain.replace("_[", "["))
    if match is None:
        return None
    hz = _band_hz(match["value"].replace("p", "."), match["unit"])
    return None if hz is None else (_words(name), match["flux"], hz)


def _band_hz(value: str, unit: str | None) -> float | None:
    if unit == "cm":
        return _WAVELENGTHS_HZ.get(value)
    number = float(value)
    if unit is None and number < 30 and "." not in value:
        return None  # a numbered column
    hz = number * (1e9 if unit == "ghz" or (unit is None and number < 30) else 1e6)
    return hz if 1e7 <= hz <= 1e11 else None


def find(columns: Sequence[Column], role: str) -> Column | None:
    """Return the most preferred column of a role, if possible one with a unit in its name; None if no column fits."""
    for bare in ROLES[role]:
        fitting = [candidate for candidate in columns if candidate.bare == bare]
        if fitting:
            return min(fitting, key=lambda candidate: candidate.unit is None)
    return None


def find_flux(columns: Sequence[Column]) -> Column | None:
    """Return the flux column: total flux first, then a name with a frequency (nearest to 1.4 GHz, integrated), then peak flux."""
    total = find(columns, "flux")
    if total is not None:
        return total
    banded = [
        (abs(math.log(candidate.frequency_hz / NEAREST_HZ)), not candidate.bare.startswith("int"), candidate)
        for candidate in columns
        if candidate.frequency_hz
    ]
    return min(banded, key=lambda candidate: candidate[:2])[2] if banded else find(columns, "peak")


def sexagesimal(columns: Iterable[Column]) -> dict[str, str]:
    """Return the column names of a position in parts, by part (ra_h, ra_m, ra_s, sign, dec_d, dec_m, dec_s); empty if there is none."""
    name_by_letters = {re.sub(r"[_\s]", "", re.sub(r"[\[(].*", "", one.name.strip().lower())): one.name for one in columns}
    parts = {part: name_by_letters[name] for part, names in SEXAGESIMAL.items() for name in names if name in name_by_letters}
    return parts if {"ra_h", "ra_m", "dec_d", "dec_m"} <= set(parts) else {}


def has_positions(names: Iterable[str]) -> bool:
    """Whether these column names are a catalogue's header, with right ascension and declination among them."""
    columns = [column(name) for name in names]
    return bool(sexagesimal(columns)) or (find(columns, "ra") is not None and find(columns, "dec") is not None)


def needed(names: Sequence[str], others: Iterable[str] = ()) -> list[str]:
    """Return the columns that the reader of catalogues needs, including `others` (lower case), the columns of a known form."""
    required = {bare for role in ROLES.values() for bare in role} | set(SELECTIONS) | set(others)
    columns = [column(name) for name in names]
    parts = set(sexagesimal(columns).values())
    return [
        candidate.name
        for candidate in columns
        if candidate.bare in required or candidate.name in parts or candidate.frequency_hz is not None
    ]


def check_once(names: Sequence[str], required: Iterable[str]) -> None:
    """Raise ValueError if another column has the same name, in any case, as one of the columns in `required`."""
    letters = [name.strip().lower() for name in names]
    for name in required:
        if letters.count(name.strip().lower()) > 1:
            raise ValueError(f"column {name!r} is there twice: remove one of them")
