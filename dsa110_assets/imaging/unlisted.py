"""Bright sources beyond the image that no catalogue lists: found in the residual of a tile, and taken out of its data.

Their sidelobes, which are high and positive on the straight arms of the array, are taken for sources by CLEAN. The search needs
a dirty image of twice the side, so only a tile that is noisier than the radiometer's noise is searched. The response to such a
source depends on the beam's far sidelobes, which are known only roughly, so a cubic in time is fitted, and another for its
slope with frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from dsa110_assets.imaging import components
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.peaks import refine_peak
from dsa110_assets.imaging.restoring import Beam, restore
from dsa110_assets.imaging.slant import Slant
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.imaging.stokes import StokesI

EXCESS = 1.13
"""Times the radiometer's rms: noisier tiles are searched. A tile whose sky is known has 0.98 to 1.11."""
_CERTAIN_SIGMA = 12.0
"""Times the image's rms: CLEAN components above this belong to a source. A sidelobe as high comes from a source beyond the image
that will be found."""
MOST = 20
_ROUNDS = 6
_DYNAMIC_RANGE = 0.6
"""Within one round: fainter peaks may be sidelobes of the highest one, which reach a third of it on the arms."""
_SEPARATION_DEG = 0.1
_SIGMA = 8.0
"""Times the rms of the wide residual: the peaks that count. Sidelobes of residuals inside the image are lower."""
_ORDER = 3
_EPSILON = 1e-2
_CHUNK = 65536


@dataclass(frozen=True)
class Unlisted:
    """`data` (sample,) complex64 [Jy], without the sources; `flux_jy` (source,), their mean apparent fluxes."""

    data: NDArray[np.complex64]
    flux_jy: NDArray[np.float64]


def take_out(
    stokes: StokesI,
    left: NDArray[np.complex64],
    weights: NDArray[np.float32],
    log_frequency: NDArray[np.float32],
    gridder: Gridder,
    slant: Slant,
) -> Unlisted:
    """Return the samples of `stokes` without up to twenty sources beyond the image of `gridder`, within twice its side.

    `left` (sample,) is the residual without the image's bright points and `certain` sources; `weights` (sample,) are the
    imaging weights. Sources are the highest peaks of the wide residual beyond the image, if they are above 8 times its rms and
    cannot be sidelobes of residuals inside. The response to each over time and frequency is fitted to `left` by weighted least
    squares and taken out, and after a few of them the residual image is made again.
    """
    left, data = left.copy(), stokes.data.copy()
    found: list[float] = []
    side, inner = 2 * gridder.n_pixels, slice(gridder.n_pixels // 2, -(gridder.n_pixels // 2))
    wide = Gridder(stokes.uvw, side, gridder.pixel_rad, _EPSILON, gridder.threads)
    total = float(np.sum(weights, dtype=np.float64))
    basis = _basis(stokes, log_frequency)
    for _ in range(_ROUNDS):
        image = np.asarray(wide.to_image(left, weights) / total, dtype=np.float32)
        inside = float(image[inner, inner].max())
        image[inner, inner] = 0.0
        level = max(_SIGMA * robust_rms(image[image != 0]), _DYNAMIC_RANGE * inside)
        peaks = _peaks(image, level, gridder.pixel_rad)[: MOST - len(found)]
        for row, column in peaks:
            fringe = _fringe(stokes.uvw, row, column, side, gridder.pixel_rad, slant)
            course = _course(left, fringe, basis, weights)
            model = (fringe * (course.astype(np.float32) @ basis)).astype(np.complex64)
            left -= model
            data -= model
            found.append(float(np.average(course @ basis, weights=weights)))
        if not peaks:
            break
    return Unlisted(data, np.array(found))


def certain(model: NDArray[np.float32], residual: NDArray[np.float32], beam: Beam, pixel_deg: float) -> NDArray[np.float32]:
    """Return `model` (n, n) [Jy/pixel] within a beam of where its image plus `residual` is above 12 times the rms; elsewhere 0."""
    above = restore(model, residual, beam, pixel_deg) > _CERTAIN_SIGMA * robust_rms(residual)
    reach = 2 * round(beam.bmaj_deg / pixel_deg) + 1
    return np.where(maximum_filter(above, reach), model, np.float32(0))


def _peaks(image: NDArray[np.float32], level: float, pixel_rad: float) -> list[tuple[float, float]]:
    """Return (row, column), between pixels, of the highest pixel and of others nearly as high, separated from one another; `image`
    is overwritten."""
    reach = max(1, int(np.deg2rad(_SEPARATION_DEG) / pixel_rad))
    found: list[tuple[float, float]] = []
    level = max(level, _DYNAMIC_RANGE * float(image.max()))
    while True:
        row, column = (int(k) for k in np.unravel_index(int(np.argmax(image)), image.shape))
        if not image[row, column] > level:
            return found
        refined = refine_peak(image, row, column)
        found.append((row, column) if refined is None else (refined[1], refined[0]))
        image[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] = 0.0


def _basis(stokes: StokesI, log_frequency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (8, sample): Legendre polynomials of a sample's time, up to the cubic, and their products with its log frequency."""
    time = (stokes.bounds[:, 0].astype(np.float32) + stokes.bounds[:, 1]) / max(float(stokes.bounds[:, 1].max()), 1.0) - 1
    powers = np.polynomial.legendre.legvander(time, _ORDER).T.astype(np.float32)
    scaled = log_frequency / max(float(np.abs(log_frequency).max()), 1e-9)
    return np.concatenate([powers, powers * scaled])


def _fringe(uvw: NDArray[np.float64], row: float, column: float, side: int, pixel_rad: float, slant: Slant) -> NDArray[np.complex64]:
    """Return the fringe (sample,) of a point at a position in the slanted projection. This far out, n must be that of the true
    direction: see `slant`."""
    lmn = components.lmn_of_pixels(np.array([row]), np.array([column]), side, pixel_rad)
    for _ in range(4):
        l, m = lmn[0] - slant.a * lmn[2], lmn[1] - slant.b * lmn[2]
        squared = l * l + m * m
        lmn[2] = -squared / (1 + np.sqrt(1 - squared))
    patterns = np.empty((0, uvw.shape[0]), np.float32)
    return components.predict(uvw, lmn, np.ones(1), patterns, np.empty((0, 1), np.float32))


def _course(
    left: NDArray[np.complex64], fringe: NDArray[np.complex64], basis: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the coefficients (8,) that fit the source's response over time and frequency best."""
    normal, right = np.zeros((basis.shape[0],) * 2), np.zeros(basis.shape[0])
    for first in range(0, weights.size, _CHUNK):
        chunk = slice(first, first + _CHUNK)
        weighted = basis[:, chunk] * weights[chunk]
        normal += weighted @ basis[:, chunk].T
        right += weighted @ (left[chunk] * fringe[chunk].conj()).real
    return np.asarray(np.linalg.pinv(normal, hermitian=True) @ right)
