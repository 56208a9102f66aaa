"""Times in the forms that analysts use: text, dates, datetimes, day numbers, of Python, NumPy, pandas and astropy."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dsa110_assets.errors import NotFoundError
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from astropy.time import Time

    Moment: TypeAlias = str | float | np.floating[Any] | np.integer[Any] | date | datetime | np.datetime64 | Time

FORMS = "use 2026-01-25, 2026-01-25T22:25 (UTC), a datetime, an MJD or an astropy Time"
_DAYS = ("datetime64[Y]", "datetime64[M]", "datetime64[D]")


def bound(value: Moment | None) -> datetime | str | None:
    """A bound of a time range in the form that the archive accepts: text, also for a date, which means its whole day; else a datetime.

    Raises NotFoundError, which lists the accepted forms.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.datetime64) and value.dtype in _DAYS and not np.isnat(value):
        return str(value.astype("datetime64[D]"))
    return None if value is None else moment(value)


def moment(value: Moment) -> datetime:
    """The UTC datetime of a time; one without a zone is UTC, a date means its start. Raises NotFoundError, which lists the forms."""
    try:
        found = _datetime(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise NotFoundError(f"{value!r} is no time; {FORMS}") from error


def _datetime(value: Any) -> datetime:
    """As `moment`, but raises the errors of the conversion."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, str):
        return datetime.fromisoformat(value.strip())
    if isinstance(value, datetime):
        if value != value:
            raise ValueError("not a time")  # pandas' NaT
        return datetime.fromtimestamp(value.timestamp(), UTC) if value.tzinfo else value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, np.datetime64):
        return datetime.fromisoformat(str(value.astype("datetime64[us]")))
    if isinstance(value, bool | np.bool_):
        raise TypeError("a truth value")
    if not isinstance(value, int | float | np.integer | np.floating):
        value = value.utc.mjd
    return timegrid.mjd_to_datetime(timegrid.require_mjd(float(value)))
