"""The positions of an image's pixels on the sky, and the shape of the beam in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.errors import BadDataError

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

FloatArray = NDArray[np.float64]
FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))
_STEP_RAD = 1e-5
"""Step of the finite differences: 2 arcsec, small against any beam, large against rounding."""


def unit_vectors(ra_deg: ArrayLike, dec_deg: ArrayLike) -> FloatArray:
    """Return Cartesian directions (n, 3), from which separations are correct at 0 h and the poles without special cases."""
    ra, dec = np.deg2rad(np.asarray(ra_deg, np.float64)), np.deg2rad(np.asarray(dec_deg, np.float64))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


@dataclass(frozen=True)
class Geometry:
    """Celestial WCS, restoring beam (FWHM, degrees; position angle north through east), image shape."""

    wcs: WCS
    shape: tuple[int, int]
    bmaj_deg: float
    bmin_deg: float
    bpa_deg: float

    @classmethod
    def from_header(cls, header: Header, shape: tuple[int, int]) -> Geometry:
        """Read WCS and beam from a FITS header. Raises BadDataError without a beam or a celestial WCS."""
        from astropy.wcs import WCS  # the import takes half a second, which is saved where only tables are read

        beam = [header.get(key) for key in ("BMAJ", "BMIN", "BPA")]
        if not all(isinstance(value, int | float) and np.isfinite(value) for value in beam) or not beam[0] >= beam[1] > 0:
            raise BadDataError(f"image header has no usable beam (BMAJ, BMIN, BPA = {beam} deg): write it when imaging")
        wcs = WCS(header).celestial
        if wcs.naxis != 2:
            raise BadDataError("image header has no celestial coordinates (CTYPE RA/DEC): write the WCS when imaging")
        return cls(wcs, shape, float(beam[0]), float(beam[1]), float(beam[2]))

    def to_pixels(self, ra_deg: ArrayLike, dec_deg: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return 0-based pixel coordinates (x, y) of ICRS directions [deg]; NaN more than 80 degrees from the centre."""
        ra, dec = (
            np.atleast_1d(np.asarray(ra_deg, np.float64)),
            np.atleast_1d(np.asarray(dec_deg, np.float64)),
        )
        x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
        near = unit_vectors(ra, dec) @ unit_vectors(*self.centre_deg()) > np.cos(np.deg2rad(80))
        if near.any():
            x[near], y[near] = self.wcs.wcs_world2pix(ra[near], dec[near], 0)
        return x, y

    def to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return ICRS (RA 0..360, Dec) [deg] of 0-based pixel coordinates."""
        ra, dec = self.wcs.wcs_pix2world(np.asarray(x, np.float64), np.asarray(y, np.float64), 0)
        return np.asarray(ra) % 360.0, np.asarray(dec)

    def centre_deg(self) -> tuple[float, float]:
        """Return the direction (RA, Dec) [deg] of the projection's reference point."""
        ra, dec = self.wcs.wcs.crval
        return float(ra), float(dec)

    def pixels_per_rad(self, ra_deg: ArrayLike, dec_deg: ArrayLike) -> FloatArray:
        """Return local Jacobians d(x, y)/d(east, north) [pixel/rad], shape (n, 2, 2)."""
        ra, dec = (
            np.atleast_1d(np.asarray(ra_deg, np.float64)),
            np.atleast_1d(np.asarray(dec_deg, np.float64)),
        )
        step = np.rad2deg(_STEP_RAD)
        east = step / np.maximum(np.cos(np.deg2rad(dec)), 1e-6)
        jacobian = np.empty((ra.size, 2, 2))
        for column, (dra, ddec) in enumerate(((east, 0.0), (0.0, step))):
            up, down = self.to_pixels(ra + dra, dec + ddec), self.to_pixels(ra - dra, dec - ddec)
            jacobian[:, 0, column] = (up[0] - down[0]) / (2 * _STEP_RAD)
            jacobian[:, 1, column] = (up[1] - down[1]) / (2 * _STEP_RAD)
        return jacobian

    def beam_forms(self, jacobians: FloatArray) -> FloatArray:
        """Return the beam's forms (n, 3) = (a, b, c) in pixels: K = exp(-(a dx^2 + 2 b dx dy + c dy^2)/2)."""
        pa = np.deg2rad(self.bpa_deg)
        axes = np.array([[np.sin(pa), np.cos(pa)], [np.cos(pa), -np.sin(pa)]])
        sigma = np.deg2rad([self.bmaj_deg, self.bmin_deg]) / FWHM_PER_SIGMA
        sky = axes.T @ np.diag(sigma**2) @ axes
        form = np.linalg.inv(jacobians @ sky @ jacobians.transpose(0, 2, 1))
        return np.ascontiguousarray(form[:, [0, 0, 1], [0, 1, 1]])

    def central_form(self) -> FloatArray:
        """Return the beam's quadratic form (3,) at the middle of the image."""
        ra, dec = self.to_sky(np.array([(self.shape[1] - 1) / 2]), np.array([(self.shape[0] - 1) / 2]))
        if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
            ra, dec = (np.array([value]) for value in self.centre_deg())
        return np.asarray(self.beam_forms(self.pixels_per_rad(ra, dec))[0])


def form_axes_sky(forms: FloatArray, jacobians: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return FWHM major and minor [rad] and position angle [deg, 0..180, north through east] of quadratic forms (n, 3).

    Forms that are not positive definite give NaN.
    """
    matrix = forms[:, [[0, 1], [1, 2]]]
    good = (matrix[:, 0, 0] > 0) & (np.linalg.det(matrix) > 0)
    major, minor, pa = (np.full(len(forms), np.nan) for _ in range(3))
    if good.any():
        inverse = np.linalg.inv(jacobians[good])
        sky = inverse @ np.linalg.inv(matrix[good]) @ inverse.transpose(0, 2, 1)
        values, vectors = np.linalg.eigh(sky)
        minor[good], major[good] = (np.sqrt(np.maximum(values, 0)) * FWHM_PER_SIGMA).T
        pa[good] = np.rad2deg(np.arctan2(vectors[:, 0, 1], vectors[:, 1, 1])) % 180.0
    return major, minor, pa


def form_reach(form: FloatArray, beams: float) -> tuple[float, float]:
    """Return the half sizes (x, y) [pixel] of the box around the ellipse of `beams` FWHM radii of one quadratic form."""
    a, b, c = form
    scale = beams * FWHM_PER_SIGMA / np.sqrt(a * c - b * b)
    return float(scale * np.sqrt(c)), float(scale * np.sqrt(a))
