"""Where the telescope is: the position its own files carry (the CASA observatory OVRO_MMA)."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from astropy.coordinates import EarthLocation

TELESCOPE_NAME = "OVRO_MMA"
LATITUDE_DEG = 37.2334051
LONGITUDE_DEG = -118.2830
ALTITUDE_M = 1188.0519


@cache
def location() -> EarthLocation:
    """The site as an astropy EarthLocation (WGS84)."""
    import astropy.units as u  # here, not above: the settings know the stations and must load at once
    from astropy.coordinates import EarthLocation

    return EarthLocation.from_geodetic(LONGITUDE_DEG * u.deg, LATITUDE_DEG * u.deg, ALTITUDE_M * u.m)


def location_itrf_m() -> NDArray[np.float64]:
    """The site's geocentric ITRF position [m], shape (3,) float64."""
    return np.array([location().x.to_value("m"), location().y.to_value("m"), location().z.to_value("m")])


LATITUDE_RAD = math.radians(LATITUDE_DEG)
LONGITUDE_RAD = math.radians(LONGITUDE_DEG)
