"""The position of the telescope, as its own files state it (the CASA observatory OVRO_MMA)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

TELESCOPE_NAME = "OVRO_MMA"
LATITUDE_DEG = 37.2334051
LONGITUDE_DEG = -118.2830
ALTITUDE_M = 1188.0519
_WGS84 = 1
"""ERFA's number for the ellipsoid."""


def location_itrf_m() -> NDArray[np.float64]:
    """The site's geocentric ITRF position [m], shape (3,) float64."""
    return itrf_m(LONGITUDE_RAD, LATITUDE_RAD, ALTITUDE_M)


def itrf_m(longitude_rad: ArrayLike, latitude_rad: ArrayLike, altitude_m: ArrayLike) -> NDArray[np.float64]:
    """Geocentric ITRF positions [m] (..., 3) of geodetic ones (WGS84); the arguments broadcast."""
    import erfa  # not at the top: the settings import the stations and must load quickly

    return np.asarray(erfa.gd2gc(_WGS84, longitude_rad, latitude_rad, altitude_m))


LATITUDE_RAD = math.radians(LATITUDE_DEG)
LONGITUDE_RAD = math.radians(LONGITUDE_DEG)
