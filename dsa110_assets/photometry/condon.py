"""Errors of a two-dimensional Gaussian fit in correlated noise: Condon (1997, PASP 109, 166).

  rho^2(alpha) = theta_M theta_m / (4 theta_B theta_b) [1 + (theta_B/theta_M)^2]^alpha_M
                 [1 + (theta_b/theta_m)^2]^alpha_m SNR^2
with alpha = (3/2, 3/2) for the peak, (5/2, 1/2) for the major axis and the position along it, and (1/2, 5/2) for the minor
axis, the position along that and the position angle. Then sigma_A/A = sqrt(2)/rho, sigma_theta/theta = sqrt(2)/rho and sigma_x0
= theta/(sqrt(4 ln 2) rho): for a point source rho = sqrt(2) SNR, so sigma_A is the rms. (Some codes drop the sqrt(2), or use
the NVSS position factor, sqrt(2) larger.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
PA_UNKNOWN_DEG = 180 / np.sqrt(12)
"""Standard deviation of an unconstrained angle: uniform over 180 degrees."""


@dataclass(frozen=True)
class CondonErrors:
    """One-sigma errors; each an array of the arguments' shape, in the arguments' units."""

    peak: FloatArray
    integrated: FloatArray
    major: FloatArray
    minor: FloatArray
    pa_deg: FloatArray
    along_major: FloatArray
    along_minor: FloatArray

    def on_sky(self, pa_deg: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return position errors (east, north), from those along the axes of a source at position angle `pa_deg`."""
        sin, cos = np.sin(np.deg2rad(pa_deg)), np.cos(np.deg2rad(pa_deg))
        east = np.hypot(self.along_major * sin, self.along_minor * cos)
        north = np.hypot(self.along_major * cos, self.along_minor * sin)
        return east, north


def condon_errors(
    peak: ArrayLike, rms: ArrayLike, major: ArrayLike, minor: ArrayLike, beam_major: float, beam_minor: float
) -> CondonErrors:
    """Return the errors of free Gaussian fits. `peak` and `rms` [Jy/beam]; FWHMs of source and beam in one length unit.

    The integrated flux is peak * major * minor / (beam_major * beam_minor). NaN in gives NaN out.
    """
    peak_, rms_, major_, minor_ = (np.asarray(value, dtype=np.float64) for value in (peak, rms, major, minor))
    base = major_ * minor_ / (4 * beam_major * beam_minor) * (peak_ / rms_) ** 2
    along, across = 1 + (beam_major / major_) ** 2, 1 + (beam_minor / minor_) ** 2
    rho_peak = np.sqrt(base * along**1.5 * across**1.5)
    rho_major = np.sqrt(base * along**2.5 * across**0.5)
    rho_minor = np.sqrt(base * along**0.5 * across**2.5)
    relative_size = 2 / rho_major**2 + 2 / rho_minor**2
    beams = beam_major * beam_minor / (major_ * minor_)
    with np.errstate(divide="ignore"):
        pa_rad = 2 / rho_minor * major_ * minor_ / (major_**2 - minor_**2)
    return CondonErrors(
        peak=np.abs(peak_) * np.sqrt(2) / rho_peak,
        integrated=np.abs(peak_) / beams * np.sqrt(2 / rho_peak**2 + beams * relative_size),
        major=major_ * np.sqrt(2) / rho_major,
        minor=minor_ * np.sqrt(2) / rho_minor,
        pa_deg=np.minimum(np.abs(np.rad2deg(pa_rad)), PA_UNKNOWN_DEG),
        along_major=major_ / (np.sqrt(4 * np.log(2)) * rho_major),
        along_minor=minor_ / (np.sqrt(4 * np.log(2)) * rho_minor),
    )
