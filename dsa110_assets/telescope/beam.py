"""The primary beam used everywhere: the Airy pattern of a uniformly illuminated 4.65 m dish.

A(x) = [2 J1(x) / x]^2 with x = pi D sin(theta) nu / c (Born & Wolf, Principles of Optics, section 8.5.2).
At 1.4 GHz its full width at half power is 2.72 degrees and its first null lies at 3.23 degrees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.constants import speed_of_light
from scipy.special import j1

from dsa110_assets.telescope.stations import DISH_DIAMETER_M


def power(separation_deg: ArrayLike, frequency_hz: ArrayLike) -> NDArray[np.float64]:
    """Power response, 1 on axis, at a separation [deg] from the pointing centre and a frequency [Hz].

    The arguments broadcast; float64 out; NaN in gives NaN out. Zero beyond 90 degrees (behind the dish).
    """
    separation_rad = np.deg2rad(np.asarray(separation_deg, dtype=np.float64))
    x = np.pi * DISH_DIAMETER_M * np.asarray(frequency_hz, dtype=np.float64) / speed_of_light * np.sin(separation_rad)
    with np.errstate(invalid="ignore", divide="ignore"):
        voltage = np.where(np.abs(x) < 1e-6, 1.0, 2 * j1(x) / x)
    return np.where(np.abs(separation_rad) > np.pi / 2, 0.0, voltage**2)
