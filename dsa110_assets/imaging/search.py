"""Bright sources in residual visibilities, without CLEAN: the peaks of one dirty image."""

from __future__ import annotations

import math

import numpy as np
from astropy.wcs import WCS

from dsa110_assets.imaging.geometry import choose_pixels, tile_header
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.imaging.restoring import Beam
from dsa110_assets.imaging.slant import flattened
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.imaging.stokes import stokes_i
from dsa110_assets.imaging.weighting import imaging_weights
from dsa110_assets.sky.calibrators import LIST_SPECTRAL_INDEX
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.sky.names import position_name
from dsa110_assets.visibilities.phasing import to_common_centre
from dsa110_assets.visibilities.types import Visibilities

_OPTIONS = ImagingOptions(weighting="natural", field_deg=4.4, epsilon=1e-3)
"""The field extends to where the beam is 15 %; natural weights, like those of fits to visibilities."""
_LEAST_SIGMA = 8.0


def bright_sources(residual: Visibilities, least_jy: float) -> SkyModel:
    """Return the peaks above `least_jy` and 8 sigma: ICRS positions and apparent fluxes, brightest first; sidelobes are among
    them.

    `residual`: calibrated visibilities [Jy] less their model, with any phase centres. Raises BadDataError if all of it is
    flagged.
    """
    vis = to_common_centre(residual)
    field_rad = math.radians(_OPTIONS.field_deg)
    stokes, slant = flattened(stokes_i(vis), field_rad)
    weighted = imaging_weights(stokes, "natural", 0.0, field_rad)
    n_pixels, pixel_rad = choose_pixels(weighted, _OPTIONS)
    # one thread adds in a fixed order, so that tables made again, and all products made with them, are the same to the last bit
    gridder = Gridder(stokes.uvw, n_pixels, pixel_rad, _OPTIONS.epsilon, threads=1)
    total = float(np.sum(weighted.weights, dtype=np.float64))
    image = gridder.to_image(stokes.data, weighted.weights) / total
    level = max(least_jy, _LEAST_SIGMA * robust_rms(image))
    peaks = find_peaks(image, level)
    # only the header's coordinates are used: any beam will do
    header = tile_header(vis, n_pixels, pixel_rad, Beam(1 / 60, 1 / 60, 0.0), stokes.spread(weighted.weights))
    header["PV2_1"], header["PV2_2"] = slant.pv
    wcs = WCS(header)
    ra, dec = wcs.all_pix2world(peaks.x, peaks.y, 0)
    return SkyModel(
        names=tuple(position_name("DSA", float(a), float(d)) for a, d in zip(ra, dec, strict=True)),
        ra_rad=np.deg2rad(ra),
        dec_rad=np.deg2rad(dec),
        flux_jy=peaks.value,
        spectral_index=np.full(peaks.value.size, LIST_SPECTRAL_INDEX),
    )
