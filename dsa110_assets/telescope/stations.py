"""Stations: the positions of the 117 antennas, and which of them are active."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.telescope import site

DISH_DIAMETER_M = 4.65
N_STATIONS = 117
DEFAULT_ELEVATION_M = 1182.6
"""Station 117's elevation is blank in the survey."""
INACTIVE_STATIONS = frozenset({10, 21, 22, 23, *range(52, 68), 117})
"""Not connected on 2026-01-25. Which antennas an observation has is determined by its file, not by this set."""


@dataclass(frozen=True)
class Stations:
    """The surveyed array: `names` ('1'..'117'), `itrf_m` (117, 3) geocentric float64 [m]."""

    names: tuple[str, ...]
    itrf_m: NDArray[np.float64]

    @property
    def relative_m(self) -> NDArray[np.float64]:
        """ITRF positions minus the site's, not rotated, as in UVH5 `antenna_positions`; (117, 3) [m]."""
        return self.itrf_m - site.location_itrf_m()


@cache
def surveyed() -> Stations:
    """All 117 stations from the packaged survey (WGS84 to ITRF)."""
    with files("dsa110_assets.telescope").joinpath("data/stations.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    names = tuple(row["station"] for row in rows)
    longitude, latitude = (np.deg2rad([float(row[name]) for row in rows]) for name in ("longitude_deg", "latitude_deg"))
    altitude_m = [float(row["elevation_m"] or DEFAULT_ELEVATION_M) for row in rows]
    return Stations(names, site.itrf_m(longitude, latitude, np.array(altitude_m)))


def active_stations() -> tuple[int, ...]:
    """Station numbers (1-based) of the 96 antennas connected on 2026-01-25, ascending."""
    return tuple(n for n in range(1, N_STATIONS + 1) if n not in INACTIVE_STATIONS)
