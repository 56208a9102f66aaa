"""Synthetic skies with a known truth, made without any code of the package under test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io.fits import Header
from astropy.wcs import WCS

FWHM = np.sqrt(8 * np.log(2))


@dataclass
class Sky:
    """Builds images: pixel 3 arcsec, beam 45 x 20 arcsec at PA 30 degrees unless given."""

    shape: tuple[int, int] = (512, 512)
    ra_deg: float = 150.0
    dec_deg: float = 16.0
    pixel_arcsec: float = 3.0
    beam_arcsec: tuple[float, float] = (45.0, 20.0)
    pa_deg: float = 30.0

    @property
    def header(self) -> Header:
        header = Header()
        header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, self.shape[1], self.shape[0]
        header["CTYPE1"], header["CTYPE2"] = "RA---SIN", "DEC--SIN"
        header["CUNIT1"] = header["CUNIT2"] = "deg"
        header["CRVAL1"], header["CRVAL2"] = self.ra_deg, self.dec_deg
        header["CRPIX1"], header["CRPIX2"] = self.shape[1] / 2, self.shape[0] / 2
        header["CDELT1"], header["CDELT2"] = -self.pixel_arcsec / 3600, self.pixel_arcsec / 3600
        header["BMAJ"], header["BMIN"], header["BPA"] = (
            self.beam_arcsec[0] / 3600,
            self.beam_arcsec[1] / 3600,
            self.pa_deg,
        )
        header["BUNIT"], header["RADESYS"] = "Jy/beam", "ICRS"
        return header

    def world(self, x, y):
        ra, dec = WCS(self.header).wcs_pix2world(np.asarray(x, float), np.asarray(y, float), 0)
        return np.asarray(ra) % 360, np.asarray(dec)

    def gaussian(self, x0, y0, major_arcsec=None, minor_arcsec=None, pa_deg=None, half=None):
        """A unit-peak Gaussian near the image centre: x runs to the west, so east is -x (position angle N to E)."""
        major, minor = major_arcsec or self.beam_arcsec[0], minor_arcsec or self.beam_arcsec[1]
        pa = np.deg2rad(self.pa_deg if pa_deg is None else pa_deg)
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        east, north = -(x - x0) * self.pixel_arcsec, (y - y0) * self.pixel_arcsec
        along = east * np.sin(pa) + north * np.cos(pa)
        across = east * np.cos(pa) - north * np.sin(pa)
        return np.exp(-0.5 * FWHM**2 * ((along / major) ** 2 + (across / minor) ** 2))

    def add(self, image, x0, y0, peak, **shape):
        """Add one Gaussian in a window around it (in place)."""
        reach = int(3 * (shape.get("major_arcsec") or self.beam_arcsec[0]) / self.pixel_arcsec)
        i, j = round(x0), round(y0)
        rows = slice(max(j - reach, 0), min(j + reach + 1, self.shape[0]))
        columns = slice(max(i - reach, 0), min(i + reach + 1, self.shape[1]))
        window = Sky(
            (rows.stop - rows.start, columns.stop - columns.start),
            pixel_arcsec=self.pixel_arcsec,
            beam_arcsec=self.beam_arcsec,
            pa_deg=self.pa_deg,
        )
        image[rows, columns] += peak * window.gaussian(x0 - columns.start, y0 - rows.start, **shape)

    def correlated_noise(self, rng, rms, correlation_beams=1.0):
        """Gaussian noise whose autocorrelation is the beam's shape scaled by `correlation_beams`; cyclic."""
        kernel = self.gaussian(self.shape[1] // 2, self.shape[0] // 2, *(np.array(self.beam_arcsec) * correlation_beams))
        power = np.abs(np.fft.fft2(np.fft.ifftshift(kernel)).real)
        field = np.fft.ifft2(np.fft.fft2(rng.standard_normal(self.shape)) * np.sqrt(power)).real
        return rms * field / np.sqrt(power.mean())


@pytest.fixture(scope="session")
def make_sky():
    return Sky
