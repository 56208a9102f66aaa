"""A tile against the sky model: flux scale and astrometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

_MIN_SNR = 10.0
_MIN_RESPONSE = 0.5


def reference_figures(
    image: NDArray[np.float32],
    primary_beam: NDArray[np.float32],
    header: Header,
    rms_jy: float,
    sky: SkyModel,
) -> dict[str, float]:
    """Medians over the model's isolated sources expected above 10 sigma within the beam's half-power width.

    reference_count; flux_ratio (image over model at the image's frequency) and, in arcseconds east and north,
    astrometry_ra_arcsec, astrometry_dec_arcsec (image minus model). reference_missing: how many of them
    have no peak within one beam. NaN where no source counts.
    """
    wcs = WCS(header).celestial
    ra, dec = np.asarray(sky.ra_rad), np.asarray(sky.dec_rad)
    near = (
        astrometry.separation_deg(ra, dec, *np.deg2rad(wcs.wcs.crval))
        < 0.75 * image.shape[0] * header["CDELT2"]
    )
    expected = np.asarray(sky.flux_at(np.array([header["RESTFRQ"]])))[near, 0]
    ra, dec = ra[near], dec[near]
    x, y = wcs.wcs_world2pix(np.rad2deg(ra), np.rad2deg(dec), 0)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
    response = np.zeros(ra.size)
    response[inside] = primary_beam[row[inside], column[inside]]
    beam_pixels = header["BMAJ"] / header["CDELT2"]
    chosen = (response >= _MIN_RESPONSE) & (expected * response > _MIN_SNR * rms_jy)
    chosen &= _isolated(x, y, expected * response, 3 * beam_pixels)
    peaks = find_peaks(image, 0.5 * _MIN_SNR * rms_jy)
    ratios, east, north = [], [], []
    for index in np.flatnonzero(chosen):
        if peaks.x.size == 0:
            break
        distance = np.hypot(peaks.x - x[index], peaks.y - y[index])
        nearest = int(np.argmin(distance))
        if distance[nearest] < beam_pixels:
            ratios.append(peaks.value[nearest] / (expected[index] * response[index]))
            east.append((x[index] - peaks.x[nearest]) * 3600 * header["CDELT2"])
            north.append((peaks.y[nearest] - y[index]) * 3600 * header["CDELT2"])
    figures = {"reference_count": float(len(ratios)), "reference_missing": float(chosen.sum() - len(ratios))}
    names = ("flux_ratio", "astrometry_ra_arcsec", "astrometry_dec_arcsec")
    for name, values in zip(names, (ratios, east, north), strict=True):
        figures[name] = float(np.median(values)) if values else float("nan")
    return figures


def _isolated(
    x: NDArray[np.float64], y: NDArray[np.float64], apparent_jy: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    """No other model source within `radius` pixels brighter than a hundredth of the source's own flux."""
    alone = np.ones(x.size, dtype=np.bool_)
    for index in range(x.size):
        close = np.hypot(x - x[index], y - y[index]) < radius
        close[index] = False
        alone[index] = not np.any(apparent_jy[close] > 0.01 * apparent_jy[index])
    return alone
