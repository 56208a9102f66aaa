"""The restoring beam: its fit to the dirty beam's main lobe, and convolution with it, uniform over the sky."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from dsa110_assets.imaging.points import Points

FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))
HALF_MAXIMUM = 0.5
"""The level down to which the restoring beam is fitted. CASA's 0.35 includes the plateau that a dense core forms below the peak of
its outriggers. The fitted beam is then wider than the peak, and flux that CLEAN spreads over pixels adds up to 1 to 3 % too
much."""


@dataclass(frozen=True)
class Beam:
    """An elliptical Gaussian: full widths at half maximum [deg] and position angle [deg], north through east."""

    bmaj_deg: float
    bmin_deg: float
    bpa_deg: float

    @property
    def area_sr(self) -> float:
        """The solid angle [sr] of one beam, as in 'per beam'."""
        return math.pi / (4 * math.log(2)) * math.radians(self.bmaj_deg) * math.radians(self.bmin_deg)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The covariance (2, 2) [deg^2] of (east, north)."""
        angle = math.radians(self.bpa_deg)
        major = np.array([math.sin(angle), math.cos(angle)])
        minor = np.array([math.cos(angle), -math.sin(angle)])
        widths = np.array([self.bmaj_deg, self.bmin_deg]) / FWHM_PER_SIGMA
        return np.asarray(widths[0] ** 2 * np.outer(major, major) + widths[1] ** 2 * np.outer(minor, minor))

    @staticmethod
    def from_covariance(covariance: NDArray[np.float64]) -> Beam:
        """Return the beam of a (2, 2) covariance [deg^2] of (east, north). Raises ValueError unless it is positive definite."""
        values, vectors = np.linalg.eigh(covariance)
        if not values[0] > 0:
            raise ValueError("a beam's covariance must be positive definite")
        angle = math.degrees(math.atan2(vectors[0, 1], vectors[1, 1]))
        widths = FWHM_PER_SIGMA * np.sqrt(values)
        return Beam(float(widths[1]), float(widths[0]), (angle + 90) % 180 - 90)


@dataclass(frozen=True)
class Slope:
    """The change with position of a beam's covariance [deg^2] of (east, north) in the image plane: the increment per pixel of row
    and of column from the middle, (2, 2) each; zero by default."""

    by_row: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))
    by_column: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))


FLAT = Slope()


def slope_on_sky(beam: Beam, header: Header, n_pixels: int) -> Slope:
    """Return the slope, in a square image, of a beam that is uniform on the sky relative to the local north.

    A slanted projection stretches the sky on one side of the middle and shrinks it on the other, by tan(zenith angle) times the
    distance: 1 % at 1.5 degrees and a zenith angle of 21. The slope is linear from one edge to the other.
    """
    from astropy.wcs import WCS

    wcs, last, middle = WCS(header).celestial, n_pixels - 1.0, n_pixels / 2
    ra, dec = wcs.wcs_pix2world([middle, middle, 0.0, last], [0.0, last, middle, middle], 0)
    step = 1e-3
    east = step / np.cos(np.deg2rad(dec))
    moved = [
        np.subtract(wcs.wcs_world2pix(ra + dra, dec + ddec, 0), wcs.wcs_world2pix(ra - dra, dec - ddec, 0)) * [[-1], [1]]
        for dra, ddec in ((east, 0.0), (0.0, step))
    ]
    stretch = np.stack(moved, axis=-1).transpose(1, 0, 2) * float(header["CDELT2"]) / (2 * step)
    bottom, top, left, right = stretch @ beam.covariance @ stretch.transpose(0, 2, 1)
    return Slope((top - bottom) / last, (right - left) / last)


def flipped(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert a (2, 2) covariance of (east, north) to one of (row, column), with rows north and columns west, or back."""
    return np.asarray(covariance[::-1, ::-1] * np.array([[1, -1], [-1, 1]]))


def set_beam(header: Header, beam: Beam) -> None:
    """Write a restoring beam into a header."""
    header["BMAJ"] = (beam.bmaj_deg, "[deg] restoring beam, major axis FWHM")
    header["BMIN"] = (beam.bmin_deg, "[deg] minor axis FWHM")
    header["BPA"] = (beam.bpa_deg, "[deg] north through east")


def fit_beam(psf: NDArray[np.floating], pixel_deg: float, floor: float = HALF_MAXIMUM) -> Beam:
    """Fit a Gaussian of unit peak to the main lobe of a dirty beam (ny, nx), rows north and columns west, by least squares to its
    pixels above `floor` times the peak.

    Raises BadDataError if the peak is not at the centre pixel or the lobe has too few pixels to fit.
    """
    from scipy.ndimage import label  # both imports take a third of a second, which is saved where a beam is only read
    from scipy.optimize import least_squares

    centre = (psf.shape[0] // 2, psf.shape[1] // 2)
    peak = float(psf[centre])
    if not peak > 0 or peak < 0.999 * float(np.max(psf)):
        raise BadDataError(f"the dirty beam's centre, {peak:.3g}, is not its peak, {float(np.max(psf)):.3g}")
    regions, _ = label(psf > floor * peak, structure=np.ones((3, 3)))
    rows, columns = np.nonzero(regions == regions[centre])
    if rows.size < 6:
        raise BadDataError(f"the dirty beam's main lobe has {rows.size} pixels; use pixels finer than {pixel_deg} deg")
    north, east = (rows - centre[0]).astype(float), (centre[1] - columns).astype(float)
    values = psf[rows, columns].astype(np.float64) / peak
    terms = np.stack([east**2, 2 * east * north, north**2], axis=-1)
    start = np.linalg.lstsq(terms, -2 * np.log(values), rcond=None)[0]
    fit = least_squares(lambda inverse: np.exp(-terms @ inverse / 2) - values, start)
    a, b, c = fit.x
    inverse = np.array([[a, b], [b, c]])
    if np.linalg.eigvalsh(inverse)[0] <= 0:
        raise BadDataError("the dirty beam's main lobe has no elliptical core: the uv coverage is too poor to image")
    return Beam.from_covariance(np.linalg.inv(inverse) * pixel_deg**2)


def convolve(
    image: NDArray[np.floating], covariance_deg2: NDArray[np.float64], pixel_deg: float, threads: int = 1, slope: Slope = FLAT
) -> NDArray[np.float32]:
    """Return the convolution of (ny, nx) with a Gaussian of unit integral and covariance [deg^2] of (east, north), float32.

    The image is zero beyond the edges. The Gaussian is applied in the Fourier domain, where it is exact. With a slope it
    changes from pixel to pixel of `image`, to first order, and keeps its peak: for a change of 4 % in width this is accurate to
    0.2 %.
    """
    import scipy.fft  # the import takes a tenth of a second, which a mosaic of one beam saves

    margin = math.ceil(5 * math.sqrt(float(np.trace(covariance_deg2))) / pixel_deg)
    shape = tuple(scipy.fft.next_fast_len(side + margin, real=True) for side in image.shape)
    spectrum = scipy.fft.rfft2(image.astype(np.float32, copy=False), s=shape, workers=threads)
    north = (scipy.fft.fftfreq(shape[0]) / pixel_deg).astype(np.float32)[:, None]
    east = (-scipy.fft.rfftfreq(shape[1]) / pixel_deg).astype(np.float32)[None, :]

    def squared(form: NDArray[np.float64]) -> NDArray[np.float32]:
        (a, b), (_, c) = form.astype(np.float32)
        return np.asarray(a * east**2 + 2 * b * east * north + c * north**2)

    for axis, change in enumerate((slope.by_row, slope.by_column)):
        if change.any():
            offset = np.expand_dims(np.arange(image.shape[axis], dtype=np.float32) - image.shape[axis] // 2, 1 - axis)
            growth = np.float32(np.trace(np.linalg.solve(covariance_deg2, change)) / 2)
            weighted = scipy.fft.rfft2(image.astype(np.float32, copy=False) * offset, s=shape, workers=threads)
            spectrum += (growth - np.float32(2 * np.pi**2) * squared(change)) * weighted
    spectrum *= np.exp(np.float32(-2 * np.pi**2) * squared(covariance_deg2))
    smooth = scipy.fft.irfft2(spectrum, s=shape, workers=threads)
    return np.asarray(smooth[: image.shape[0], : image.shape[1]], dtype=np.float32)


def restore(
    model: NDArray[np.floating], residual: NDArray[np.float32], beam: Beam, pixel_deg: float, threads: int = 1, slope: Slope = FLAT
) -> NDArray[np.float32]:
    """Return the model [Jy/pixel] convolved with `beam` and its slope, plus the residual, (ny, nx) float32 [Jy/beam]."""
    per_beam = beam.area_sr / math.radians(pixel_deg) ** 2
    if not np.any(model):
        return residual.astype(np.float32, copy=True)
    return residual + np.float32(per_beam) * convolve(model, beam.covariance, pixel_deg, threads, slope)


def add_points(image: NDArray[np.float32], points: Points, beam: Beam, pixel_deg: float, slope: Slope = FLAT) -> None:
    """Add points convolved with `beam` and its slope to an image [Jy/beam], in place. They are Gaussians, wider than the beam for
    resolved sources, drawn out to 1e-9 of their peak."""
    middle = image.shape[0] // 2
    for row, column, flux, spread in zip(points.rows, points.columns, points.flux_jy, points.spread, strict=True):
        covariance = beam.covariance + (row - middle) * slope.by_row + (column - middle) * slope.by_column
        convolved_beam = Beam.from_covariance(covariance + flipped(spread) * pixel_deg**2)
        inverse = np.linalg.inv(convolved_beam.covariance) * pixel_deg**2
        reach = math.ceil(6.5 * convolved_beam.bmaj_deg / FWHM_PER_SIGMA / pixel_deg)
        flux *= Beam.from_covariance(covariance).area_sr / convolved_beam.area_sr
        top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
        stamp = image[top : int(row) + reach + 1, left : int(column) + reach + 1]
        north = (top + np.arange(stamp.shape[0]) - row)[:, None]
        east = (column - left - np.arange(stamp.shape[1]))[None, :]
        squared = inverse[0, 0] * east**2 + 2 * inverse[0, 1] * east * north + inverse[1, 1] * north**2
        stamp += (flux * np.exp(-squared / 2)).astype(np.float32)
