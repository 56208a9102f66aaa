"""Taylor terms and spectral index of every pixel, from images of parts of the band that were cleaned separately.

I(nu) = tt0 + tt1 (nu - nu0) / nu0 and alpha = tt1 / tt0, as in Rau & Cornwell (2011, A&A 532, A71) and CASA's mtmfs. They
clean the terms together, which is worth its code where single parts of the band are too shallow or too poorly covered to be cleaned.
Neither is the case here: the index of a source of S / sigma = 100 has an error of 0.3 over a band of 13 %, and a source whose index can
be measured at all stands out in a quarter of the band as well. Each part is divided by its own primary beam, which narrows with frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io.fits import Header
from numpy.typing import NDArray

from dsa110_assets.imaging.fits import write_image
from dsa110_assets.imaging.restoring import set_beam
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.imaging.tile import TileImage
from dsa110_assets.mosaics.beams import common_beam, to_beam

Image = NDArray[np.float32]
LEAST_SNR = 100.0
"""The least ratio of tt0 to its noise for which alpha is given: the error from noise is then 0.3 over the whole band."""
PARTS = 4
"""The number of parts of the band: a fit to this many loses 3 % of the precision that a fit to every channel would have."""


@dataclass(frozen=True)
class Terms:
    """`tt0`, `tt1` [Jy/beam, corrected for the primary beam], `alpha` and `alpha_error` (from noise), (ny, nx) float32.

    All are NaN beyond the primary beam's limit; `alpha` and its error also where tt0 is below `LEAST_SNR` times its noise. `header` has
    nu0 as RESTFRQ.
    """

    tt0: Image
    tt1: Image
    alpha: Image
    alpha_error: Image
    header: Header


def taylor_terms(parts: Sequence[TileImage], threads: int = 1) -> Terms:
    """The terms from images of at least two parts of a band, on one grid: a weighted least-squares line through each pixel's fluxes.

    The curvature of I = nu^alpha shifts tt0 by alpha (alpha - 1) / 2 times the mean of ((nu - nu0) / nu0)^2, 0.1 % at alpha = -1; nu0 is
    the weighted mean frequency of the parts, about which tt0 and tt1 are nearly independent.
    """
    beam = common_beam([part.beam for part in parts])
    pixel_deg = float(parts[0].header["CDELT2"])
    frequencies = np.array([float(part.header["RESTFRQ"]) for part in parts])
    noise = [robust_rms(to_beam(part.residual, part.beam, beam, pixel_deg, threads)) for part in parts]
    reference_hz = float(np.average(frequencies, weights=1 / np.square(noise)))
    sums = np.zeros((5, *parts[0].image.shape))
    for part, rms_jy, x in zip(parts, noise, frequencies / reference_hz - 1, strict=True):
        response = np.where(part.primary_beam >= part.pblimit, part.primary_beam, np.nan)
        weight = np.square(response / rms_jy, dtype=np.float64)
        flux = to_beam(part.image, part.beam, beam, pixel_deg, threads) / response
        sums += np.stack([weight, weight * x, weight * x * x, weight * flux, weight * x * flux])
    w, wx, wxx, wf, wxf = sums
    scale = w * wxx - wx * wx
    tt0, tt1 = (wxx * wf - wx * wxf) / scale, (w * wxf - wx * wf) / scale
    alpha = tt1 / tt0
    error = np.sqrt((w + 2 * alpha * wx + alpha**2 * wxx) / scale) / np.abs(tt0)
    significant = tt0 * np.sqrt(scale / wxx) >= LEAST_SNR
    header = parts[0].header.copy()
    set_beam(header, beam)
    header["RESTFRQ"] = (reference_hz, "[Hz] of tt0")
    header["BANDWID"] = (sum(float(part.header["BANDWID"]) for part in parts), "[Hz] of all parts")
    alpha, error = np.where(significant, alpha, np.nan), np.where(significant, error, np.nan)
    return Terms(tt0.astype(np.float32), tt1.astype(np.float32), alpha.astype(np.float32), error.astype(np.float32), header)


def write(terms: Terms, directory: Path) -> None:
    """Write image.tt0.fits, image.tt1.fits, alpha.fits and alpha-error.fits into an existing directory."""
    for name, plane, unit, kind in (
        ("image.tt0.fits", terms.tt0, "Jy/beam", "Taylor term 0, divided by the primary beam"),
        ("image.tt1.fits", terms.tt1, "Jy/beam", "Taylor term 1, divided by the primary beam"),
        ("alpha.fits", terms.alpha, "", f"spectral index where tt0 is above {LEAST_SNR:g} sigma"),
        ("alpha-error.fits", terms.alpha_error, "", "error of the spectral index from noise"),
    ):
        header = terms.header.copy()
        header["BUNIT"], header["IMTYPE"] = unit, kind
        write_image(plane, header, directory / name)
