"""How much a drifting sky was dimmed: the tile's effective primary beam.

The dishes point at hour angle 0 while the tile has one phase centre, so the sky moves through the beam by
1.3 degrees of right ascension during a tile. A source's flux in the image is the mean of its attenuated fluxes
over integrations and channels, weighted as the image is.
"""

from __future__ import annotations

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, RectBivariateSpline

from dsa110_assets.telescope import astrometry, beam
from dsa110_assets.visibilities.types import Visibilities

_COARSE_STEP = 16
"""Pixels between points where the beam is computed; a cubic spline between them is good to 1e-6."""
_TABLE_STEP_DEG = 0.02


def effective_beam(
    vis: Visibilities, weight_time_channel: NDArray[np.float64], header: Header, n_pixels: int
) -> NDArray[np.float32]:
    """Weighted mean power response (n_pixels, n_pixels) float32 over integrations and channels.

    `weight_time_channel` (time, channel): sums of the imaging weights. Finite everywhere on the image.
    """
    coarse = np.arange(-1, n_pixels + 2 * _COARSE_STEP, _COARSE_STEP, dtype=np.float64)
    columns, rows = np.meshgrid(coarse, coarse)
    ra_deg, dec_deg = WCS(header).celestial.wcs_pix2world(columns, rows, 0)
    ra, dec = np.deg2rad(ra_deg), np.deg2rad(dec_deg)
    pointings = astrometry.meridian_icrs_rad(vis.times_mjd, vis.pointing_dec_rad)
    total = float(weight_time_channel.sum())
    separations = [astrometry.separation_deg(ra, dec, *pointing) for pointing in pointings]
    radius = np.arange(0, max(float(s.max()) for s in separations) + 2 * _TABLE_STEP_DEG, _TABLE_STEP_DEG)
    by_channel = beam.power(radius[:, None], vis.frequencies_hz[None, :])
    mean = np.zeros_like(ra)
    for separation, weights in zip(separations, weight_time_channel, strict=True):
        mean += CubicSpline(radius, by_channel @ (weights / total))(separation)
    spline = RectBivariateSpline(coarse, coarse, mean, s=0)
    pixels = np.arange(n_pixels, dtype=np.float64)
    return np.asarray(spline(pixels, pixels), dtype=np.float32)
