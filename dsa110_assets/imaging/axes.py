"""Frequency and Stokes of an image: two axes of one pixel in a file, where other tools expect them, and no axes in memory.

In memory a header has the two celestial axes of its pixels (ny, nx), and RESTFRQ is the image's frequency.
"""

from __future__ import annotations

import re

from astropy import units as u
from astropy.io.fits import Header

from dsa110_assets.errors import BadDataError

_KEYWORDS_OF_ONE_AXIS = ("NAXIS", "CTYPE", "CRVAL", "CDELT", "CRPIX", "CUNIT", "CROTA", "CNAME", "CRDER", "CSYER")
_KEYWORDS_OF_TWO_AXES = re.compile(r"(PC|CD)(\d+)_(\d+)|P[VS](\d+)_\d+")
_STOKES = {"I": 1.0, "Q": 2.0}


def with_axes(header: Header) -> Header:
    """Return a copy of a 2-axis header with axes 3 (FREQ, at RESTFRQ, as wide as BANDWID) and 4 (STOKES, from its STOKES).

    A header without RESTFRQ is returned unchanged, because the image's frequency is not known. RESTFREQ is added for PyBDSF,
    which looks for it in an image whose further axes were cut off.
    """
    complete = header.copy()
    if "RESTFRQ" not in header:
        return complete
    frequency_hz, width_hz = float(header["RESTFRQ"]), float(header.get("BANDWID", 1.0))
    stokes = _STOKES[str(header.get("STOKES", "I"))]
    for axis, kind, value, step, unit in ((3, "FREQ", frequency_hz, width_hz, "Hz"), (4, "STOKES", stokes, 1.0, "")):
        complete[f"CTYPE{axis}"] = kind
        complete[f"CRVAL{axis}"] = value
        complete[f"CDELT{axis}"] = step
        complete[f"CRPIX{axis}"] = 1.0
        complete[f"CUNIT{axis}"] = unit
    complete["RESTFREQ"] = (frequency_hz, "[Hz] RESTFRQ, as AIPS names it")
    complete["SPECSYS"] = ("TOPOCENT", "frequencies are the observatory's")
    return complete


def number_of_axes(header: Header) -> int:
    """Return the number of axes that a header describes: 2, or more with further axes of one pixel."""
    return max((axis for axis in range(3, 10) if f"CTYPE{axis}" in header), default=2)


def without_axes(header: Header, place: str) -> None:
    """Drop all but the first two axes, in place; RESTFRQ is then the frequency of the FREQ axis, if there was one.

    Raises BadDataError, naming `place`, if that frequency cannot be read.
    """
    further = range(3, max(int(header.get("NAXIS", 2)), number_of_axes(header)) + 1)
    for axis in further:
        if str(header.get(f"CTYPE{axis}", "")).startswith("FREQ"):
            header["RESTFRQ"] = (_frequency_hz(header, axis, place), "[Hz] frequency of the image")
    for axis in further:
        for keyword in _KEYWORDS_OF_ONE_AXIS:
            header.remove(f"{keyword}{axis}", ignore_missing=True)
    for keyword in [
        k for k in header if (match := _KEYWORDS_OF_TWO_AXES.fullmatch(k)) and max(int(g) for g in match.groups()[1:] if g) > 2
    ]:
        header.remove(keyword, ignore_missing=True)
    header.remove("WCSAXES", ignore_missing=True)
    header["NAXIS"] = 2


def _frequency_hz(header: Header, axis: int, place: str) -> float:
    """Return the frequency [Hz] of an axis's first and only pixel."""
    try:
        value, step, pixel = (float(header.get(f"{key}{axis}", default)) for key, default in (("CRVAL", 0), ("CDELT", 1), ("CRPIX", 0)))
        return float(((value + (1 - pixel) * step) * u.Unit(header.get(f"CUNIT{axis}") or "Hz")).to_value("Hz"))
    except (TypeError, ValueError) as error:
        raise BadDataError(f"{place}: the frequency on axis {axis} cannot be read ({error}); correct the header") from error
