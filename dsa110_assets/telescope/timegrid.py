"""The time grid: integrations, groups, and the UTC windows that name partitions.

A partition key is the UTC start of its window: `2026-01-25T22:25` (5-minute observation windows),
`2026-01-25T22:00` (hours) and `2026-01-25` (nights; a night is a UTC day).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

INTEGRATION_S = 96 * 0.134217728
INTEGRATIONS_PER_FILE = 24
GROUP_S = INTEGRATION_S * INTEGRATIONS_PER_FILE
OBSERVATION_WINDOW = timedelta(minutes=5)
HOUR = timedelta(hours=1)
NIGHT = timedelta(days=1)
SIDEREAL_RATIO = 1.002737909350795
EARTH_RATE_RAD_S = 2 * math.pi * SIDEREAL_RATIO / 86400
"""Rate of the hour angle per UTC second."""
MJD_UNIX_EPOCH = 40587
ROUNDING_D = 1e-9
"""Keys are exact; this tolerance [d] only absorbs the rounding error of a day number as a float64."""
MJD_RANGE = (40587.0, 88128.0)
"""1970 to 2100: a bare number outside this range is a mistake, not a time."""
_OBSERVATION = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d[05]")
_HOUR = re.compile(r"\d{4}-\d\d-\d\dT\d\d:00")
_NIGHT = re.compile(r"\d{4}-\d\d-\d\d")


def require_mjd(number: float) -> float:
    """Return the number if it can be a modified Julian date [d]. Raises ValueError outside 1970 to 2100, for example for a Julian date or
    NaN."""
    if not MJD_RANGE[0] <= number <= MJD_RANGE[1]:
        raise ValueError(f"{number} is no modified Julian date from {MJD_RANGE[0]:.0f} to {MJD_RANGE[1]:.0f}")
    return number


def mjd_to_datetime(mjd: float) -> datetime:
    """UTC datetime (aware, microseconds) of a UTC modified Julian date [d]."""
    return datetime.fromtimestamp(0, UTC) + timedelta(days=mjd - MJD_UNIX_EPOCH)


def datetime_to_mjd(moment: datetime) -> float:
    """UTC modified Julian date [d] of a datetime; a datetime without a time zone is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime.fromtimestamp(0, UTC)) / timedelta(days=1) + MJD_UNIX_EPOCH


def mean_sidereal_deg(mjd: float, longitude_deg: float) -> float:
    """Mean sidereal time [deg, 0 to 360) at an east longitude, to 0.01 deg: for choosing what may be visible, not for positions.

    IAU 1982's linear terms about J2000 (MJD 51544.5), with UTC for UT1 (0.004 deg) and without nutation (0.005 deg).
    """
    return (280.46061837 + 360.98564736629 * (mjd - 51544.5) + longitude_deg) % 360


def observation_key(mjd: float) -> str:
    """Partition key of the 5-minute window that holds `mjd` (for a group, the centre of its first integration)."""
    moment = mjd_to_datetime(mjd)
    return moment.replace(minute=moment.minute // 5 * 5).strftime("%Y-%m-%dT%H:%M")


def hour_key(mjd: float) -> str:
    """Partition key of the UTC hour that holds `mjd`."""
    return mjd_to_datetime(mjd).strftime("%Y-%m-%dT%H:00")


def night_key(mjd: float) -> str:
    """Partition key of the UTC day that holds `mjd`."""
    return mjd_to_datetime(mjd).strftime("%Y-%m-%d")


def key(start: datetime) -> str:
    """Partition key of the observation or hour that starts at this moment (UTC)."""
    return start.strftime("%Y-%m-%dT%H:%M")


def hour_of(observation: str) -> str:
    """The hour key of an observation key."""
    return parse_key(observation).strftime("%Y-%m-%dT%H:00")


def night_of(key: str) -> str:
    """The night key of an observation, hour or night key."""
    return parse_key(key).strftime("%Y-%m-%d")


def parse_key(key: str) -> datetime:
    """UTC start of the window that a partition key names. Raises ValueError for anything else."""
    if not (_OBSERVATION.fullmatch(key) or _HOUR.fullmatch(key) or _NIGHT.fullmatch(key)):
        raise ValueError(f"{key!r} is no partition key; use 2026-01-25T22:25 (of 5 min), 2026-01-25T22:00 or 2026-01-25")
    return datetime.fromisoformat(key).replace(tzinfo=UTC)
