"""Comparison of a tile with the sky model: flux scale and astrometry, each with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.imaging.restoring import Beam
from dsa110_assets.imaging.statistics import SIGMA_PER_MAD
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

FloatArray = NDArray[np.float64]
_MIN_SNR = 10.0
_MIN_RESPONSE = 0.5
_CLIP_SIGMA = 3.0
_ROBUST_FROM = 6
"""The median absolute deviation of fewer values is too uncertain: their plain scatter is used, and none is left out."""
PRIOR_FLUX_SCATTER = 0.03
"""The error of a single source beyond its noise (catalogue, variability, neighbours) that is assumed before others have shown it."""
PRIOR_OFFSET_BEAMS = 0.03
"""The same for its position, in minor axes."""


class Factor(NamedTuple):
    """A robust mean, its standard error, the scatter of single values beyond their own errors, and the number of values kept."""

    value: float
    error: float
    scatter: float
    n: int


def robust_mean(values: FloatArray, errors: FloatArray, prior_scatter: float) -> Factor:
    """Return the mean of (n,) values with standard errors, without those beyond 3 sigma of the median; NaN without any.

    The variance of a value is that of its own error plus a common scatter. The scatter is measured: the squared scaled MAD, for
    six or more values, with Croux & Rousseeuw's (1992) n/(n - 0.8), less the median squared error. It is averaged with
    `prior_scatter` as if that were one more value: with one value the prior dominates, with many the values do. The error is
    never below that expected from scatter and errors.
    """
    if not values.size:
        return Factor(np.nan, np.nan, np.nan, 0)
    middle = float(np.median(values))
    few = values.size < _ROBUST_FROM
    if few:
        spread = float(np.sqrt(np.sum((values - middle) ** 2) / max(values.size - 1, 1)))
    else:
        spread = SIGMA_PER_MAD * float(np.median(np.abs(values - middle))) * values.size / (values.size - 0.8)
    excess = max(spread**2 - float(np.median(errors**2)), 0.0)
    common = ((values.size - 1) * excess + prior_scatter**2) / values.size
    variance = errors**2 + common
    kept = few | (np.abs(values - middle) <= _CLIP_SIGMA * np.sqrt(variance))
    weight = 1 / variance[kept]
    mean = float(np.sum(weight * values[kept]) / weight.sum())
    return Factor(mean, float(weight.sum() ** -0.5), float(np.sqrt(common)), int(kept.sum()))


def reference_figures(
    image: NDArray[np.float32],
    primary_beam: NDArray[np.float32],
    header: Header,
    rms_jy: float,
    sky: SkyModel,
) -> dict[str, float]:
    """Return robust means over the model's isolated sources expected above 10 sigma within the beam's half-power width.

    reference_count; flux_ratio (image over model at the image's frequency, RESTFRQ), flux_ratio_error, flux_ratio_scatter (of
    single sources beyond noise) and, in arcseconds east and north, astrometry_ra_arcsec, astrometry_dec_arcsec (image minus
    model) with astrometry_ra_error_arcsec, astrometry_dec_error_arcsec. reference_missing: the number of them without a peak
    within one beam. NaN if no source counts.
    """
    compared, missing = _compared(image, primary_beam, header, rms_jy, sky)
    flux = robust_mean(compared.ratio, 1 / compared.snr, PRIOR_FLUX_SCATTER)
    figures = {
        "reference_count": float(compared.ratio.size),
        "reference_missing": float(missing),
        "flux_ratio": flux.value,
        "flux_ratio_error": flux.error,
        "flux_ratio_scatter": flux.scatter,
    }
    beam = Beam(header["BMAJ"], header["BMIN"], header["BPA"])
    prior = 3600 * PRIOR_OFFSET_BEAMS * beam.bmin_deg
    for name, offset, variance in zip(("ra", "dec"), (compared.east, compared.north), np.diag(beam.covariance), strict=True):
        mean = robust_mean(offset, 3600 * np.sqrt(variance) / compared.snr, prior)
        figures[f"astrometry_{name}_arcsec"], figures[f"astrometry_{name}_error_arcsec"] = mean.value, mean.error
    return figures


@dataclass(frozen=True)
class _Compared:
    """Sources with a peak (n,): flux over model, offsets east and north [arcsec] from the model, expected signal-to-noise."""

    ratio: FloatArray
    east: FloatArray
    north: FloatArray
    snr: FloatArray


def _compared(
    image: NDArray[np.float32], primary_beam: NDArray[np.float32], header: Header, rms_jy: float, sky: SkyModel
) -> tuple[_Compared, int]:
    """Return the model's sources compared with the image's peaks, and the number of sources without a peak.

    A peak lies where noise adds to it. Where noise is correlated like the (Gaussian) beam, with covariance C, its gradient has
    covariance sigma^2 C^-1 and the peak curvature S C^-1: the peak is too high by sigma^2 / S, which is subtracted, and is
    displaced by C^(1/2) sigma / S (Condon 1997, PASP 109, 166, eq. 21, to a factor of order one).
    """
    x, y, apparent = _expected(primary_beam, header, rms_jy, sky)
    beam_pixels = header["BMAJ"] / header["CDELT2"]
    peaks = find_peaks(image, 0.5 * _MIN_SNR * rms_jy)
    rows = []
    for index in np.arange(x.size if peaks.x.size else 0):
        distance = np.hypot(peaks.x - x[index], peaks.y - y[index])
        nearest = int(np.argmin(distance))
        if distance[nearest] < beam_pixels:
            gain = rms_jy**2 / apparent[index]
            rows.append(
                (
                    (peaks.value[nearest] - gain) / apparent[index],
                    (x[index] - peaks.x[nearest]) * 3600 * header["CDELT2"],
                    (peaks.y[nearest] - y[index]) * 3600 * header["CDELT2"],
                    apparent[index] / rms_jy,
                )
            )
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return _Compared(*columns), x.size - len(rows)


def _expected(primary_beam: NDArray[np.float32], header: Header, rms_jy: float, sky: SkyModel) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return pixel coordinates and apparent fluxes [Jy] of the model's sources that an image is compared with."""
    wcs = WCS(header).celestial
    ra, dec = np.asarray(sky.ra_rad), np.asarray(sky.dec_rad)
    near = astrometry.separation_deg(ra, dec, *np.deg2rad(wcs.wcs.crval)) < 0.75 * primary_beam.shape[0] * header["CDELT2"]
    expected = np.asarray(sky.flux_at(np.array([header["RESTFRQ"]])))[near, 0]
    x, y = wcs.wcs_world2pix(np.rad2deg(ra[near]), np.rad2deg(dec[near]), 0)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < primary_beam.shape[1]) & (row < primary_beam.shape[0])
    response = np.zeros(x.size)
    response[inside] = primary_beam[row[inside], column[inside]]
    chosen = (response >= _MIN_RESPONSE) & (expected * response > _MIN_SNR * rms_jy)
    chosen &= _isolated(x, y, expected * response, 3 * header["BMAJ"] / header["CDELT2"])
    return x[chosen], y[chosen], (expected * response)[chosen]


def _isolated(x: FloatArray, y: FloatArray, apparent_jy: FloatArray, radius: float) -> NDArray[np.bool_]:
    """Return which sources have no other model source within `radius` pixels brighter than a hundredth of their own flux."""
    isolated = np.ones(x.size, dtype=np.bool_)
    for index in range(x.size):
        close = np.hypot(x - x[index], y - y[index]) < radius
        close[index] = False
        isolated[index] = not np.any(apparent_jy[close] > 0.01 * apparent_jy[index])
    return isolated
