"""Attenuation of a drifting sky by the primary beam: its mean over a tile, and its variation from sample to sample.

The dishes point at hour angle 0 while the tile has one phase centre, so the sky moves through the beam by up to 1.3 degrees
during a tile: a source a degree off axis fades to less than half. Its flux in the image is the mean of its attenuated fluxes
over integrations and channels, with the weights of the image. The ratio of each sample's attenuation to that mean is a smooth
function of time, frequency and direction, and therefore a sum of a few products of a function of the sample and one of the
direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from dsa110_assets.telescope import astrometry, beam
from dsa110_assets.visibilities.types import Visibilities

_COARSE_DEG = 0.06
"""Spacing of the points where the beam is computed; cubic splines between them are accurate to 1e-6."""
_FREQUENCIES = 8
"""Number of frequencies where the beam is computed; linear interpolation between them is accurate to 5e-5."""
_FAINTEST = 0.02
"""The mean response below which the variation of the response is not followed, because near the null its ratio to the mean diverges."""


@dataclass(frozen=True)
class Attenuation:
    """`mean` (ny, nx) float32: the tile's effective primary beam (and mean spectrum), finite everywhere.

    The attenuation of a sample (time, channel) is mean * (1 + sum of pattern * ratio) over `terms`, each a pattern (time,
    channel) float32 and a ratio (ny, nx) float32.
    """

    mean: NDArray[np.float32]
    terms: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def ratios_near(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
        """Return (term, point) float32: the ratios at the pixels nearest to 0-based coordinates within the image."""
        at = np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)
        return np.array([ratio[at] for _, ratio in self.terms], np.float32).reshape(len(self.terms), at[0].size)


def attenuation(
    vis: Visibilities,
    weight_time_channel: NDArray[np.float64],
    header: Header,
    n_pixels: int,
    n_terms: int = 0,
    spectral_index: float = 0.0,
) -> Attenuation:
    """Return the attenuation of a square image, with the best `n_terms` terms (principal components).

    `weight_time_channel` (time, channel): sums of the imaging weights. `spectral_index`: that of typical sources. The image
    shows their flux at the header's RESTFRQ times `mean`, and the terms follow their spectra too.
    """
    coarse, ra, dec = _coarse_grid(header, n_pixels)
    frequencies, interpolation = _frequency_grid(vis.frequencies_hz)
    pointings = astrometry.meridian_icrs_rad(vis.times_mjd, vis.pointing_dec_rad)
    power = np.stack(
        [beam.power(astrometry.separation_deg(ra, dec, *pointing)[None], frequencies[:, None, None]) for pointing in pointings]
    )
    power *= ((frequencies / float(header["RESTFRQ"])) ** spectral_index)[:, None, None]
    power = power.reshape(vis.times_mjd.size * frequencies.size, ra.size)
    weights = (weight_time_channel @ interpolation).reshape(-1)
    mean = weights @ power / weights.sum()

    # a spline is linear in the values it interpolates, so it is a matrix along each axis
    to_pixels = make_interp_spline(coarse, np.eye(coarse.size))(np.arange(n_pixels, dtype=np.float64))

    def full(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.asarray(to_pixels @ values.reshape(ra.shape) @ to_pixels.T, dtype=np.float32)

    terms = []
    if n_terms:
        ratio = np.where(mean > _FAINTEST, power / np.maximum(mean, _FAINTEST) - 1, 0.0)
        # directions count by the square root of their response: bright ones matter more, but the rim must
        # not be lost
        weighted = ratio * np.sqrt(mean)
        _, vectors = np.linalg.eigh(weighted @ weighted.T)
        for column in vectors.T[::-1][:n_terms]:
            pattern = column.reshape(vis.times_mjd.size, -1) @ interpolation.T
            terms.append((pattern.astype(np.float32), full(column @ ratio)))
    return Attenuation(full(mean), tuple(terms))


def _coarse_grid(header: Header, n_pixels: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixel coordinates of the coarse points along an axis, and ICRS (ra, dec) [rad] of all of them."""
    count = max(8, int(np.ceil(n_pixels * float(header["CDELT2"]) / _COARSE_DEG)))
    coarse = np.linspace(-1, n_pixels, count)
    columns, rows = np.meshgrid(coarse, coarse)
    ra_deg, dec_deg = WCS(header).celestial.wcs_pix2world(columns, rows, 0)
    return coarse, np.deg2rad(ra_deg), np.deg2rad(dec_deg)


def _frequency_grid(frequencies_hz: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a few frequencies, and the matrix (channel, frequency) that interpolates linearly between them."""
    if frequencies_hz.size <= _FREQUENCIES:
        return frequencies_hz, np.eye(frequencies_hz.size)
    grid = np.linspace(frequencies_hz[0], frequencies_hz[-1], _FREQUENCIES)
    matrix = np.stack([np.interp(frequencies_hz, grid, unit) for unit in np.eye(_FREQUENCIES)], axis=-1)
    return grid, matrix
