"""The Earth's orientation: UT1 - UTC and the pole, from the IERS bulletins that are installed with astropy.

astropy reads all fifty years of both bulletins, which takes a second of every process; here only the requested days are
read. The values are the same as astropy's: bulletin B's (preferably from the file of final values, else as repeated in
bulletin A), else bulletin A's measured or predicted ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import astropy_iers_data
import numpy as np
from numpy.typing import ArrayLike, NDArray

_ARCSEC_RAD = np.pi / 180 / 3600
_A = {"x": slice(18, 27), "y": slice(37, 46), "dut1": slice(58, 68)}
_A_REPEATS_B = {"x": slice(134, 144), "y": slice(144, 154), "dut1": slice(154, 165)}
_B = {"x": slice(26, 38), "y": slice(38, 50), "dut1": slice(50, 62)}
"""Columns of finals2000A.all and of eopc04, as their ReadMe files number them (from 1)."""
_A_MJD, _B_MJD = slice(7, 15), slice(16, 26)


def orientation(times_mjd: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(UT1 - UTC [s], pole x, pole y [rad]) at times [MJD UTC, d], each of their shape, float64.

    Values are linear between the bulletins' days, as in astropy, across leap seconds too. Outside the bulletins' years those of
    the first or last day are used, with a warning to update astropy-iers-data.
    """
    mjd = np.asarray(times_mjd, dtype=np.float64)
    first, last = _range()
    if mjd.size and not (first <= mjd.min() and mjd.max() <= last):
        warnings.warn(
            f"MJD {mjd.min():.1f} to {mjd.max():.1f} is not within the IERS bulletins ({first} to {last}): hour angles are "
            "off by up to 15 arcsec per second of UT1; update astropy-iers-data",
            stacklevel=2,
        )
    inside = np.clip(mjd, first, last)
    day = np.minimum(np.floor(inside).astype(np.int64), last - 1)
    days, which = np.unique(day, return_inverse=True)
    before, after = (np.array([_day(int(d) + step) for d in days]).reshape(-1, 3) for step in (0, 1))
    rise = after - before
    rise[:, 0] -= np.round(rise[:, 0])  # a leap second does not change the Earth's rotation
    share = (inside - day)[..., None]
    interpolated = before[which.reshape(mjd.shape)] + share * rise[which.reshape(mjd.shape)]
    return interpolated[..., 0], interpolated[..., 1] * _ARCSEC_RAD, interpolated[..., 2] * _ARCSEC_RAD


@contextmanager
def bulletins_as_installed() -> Iterator[None]:
    """Make astropy, as used by other libraries, take the Earth's orientation inside the block as `orientation` does.

    By default astropy looks for newer bulletins on the network, and refuses times after those it has, or bulletins a month old.
    """
    from astropy.utils import iers

    settings = {"auto_download": False, "auto_max_age": None, "iers_degraded_accuracy": "warn"}
    with ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(iers.conf.set_temp(name, value))
        yield


def last_day_mjd() -> int:
    """The last day [MJD] for which the installed bulletins measure or predict the Earth's orientation."""
    return _range()[1]


@cache
def _day(mjd: int) -> tuple[float, float, float]:
    """UT1 - UTC [s] and the pole [arcsec] at 0 h of one day."""
    line, columns = _bulletin_a()[mjd - _range()[0]], _A
    if line[_A_REPEATS_B["dut1"]].strip():
        columns = _A_REPEATS_B
        final, number = _bulletin_b(), mjd - _mjd(_bulletin_b()[0], _B_MJD)
        if 0 <= number < len(final):
            line, columns = final[number], _B
    return float(line[columns["dut1"]]), float(line[columns["x"]]), float(line[columns["y"]])


@cache
def _range() -> tuple[int, int]:
    """First and last day [MJD] of bulletin A, which has every day between."""
    lines = _bulletin_a()
    return _mjd(lines[0], _A_MJD), _mjd(lines[-1], _A_MJD)


@cache
def _bulletin_a() -> list[str]:
    """The lines that have values; the last lines, for future days without predictions, are left out."""
    lines = Path(astropy_iers_data.IERS_A_FILE).read_text("ascii").splitlines()
    return [line for line in lines if line[_A["dut1"]].strip() and line[_A["x"]].strip()]


@cache
def _bulletin_b() -> list[str]:
    lines = Path(astropy_iers_data.IERS_B_FILE).read_text("ascii").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _mjd(line: str, column: slice) -> int:
    return int(float(line[column]))
