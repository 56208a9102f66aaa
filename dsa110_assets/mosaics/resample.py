"""Resample an image onto another grid: cubic B-splines at coordinates interpolated from a coarse grid of exact ones.

Evaluating a WCS for every pixel costs a hundred times the resampling itself (measured: 13.9 s of
reproject_interp for 4096 x 4096). Between points h pixels of s radians apart the mapping errs by h^2 s / 8 times its
second derivative, which for a tile's edge 2 degrees out in SIN, or 10 degrees out in ZEA, is 0.04 per radian: 1e-4 of
a pixel of 4 arcsec for h = 32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS
from numba import njit, prange
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, spline_filter

from dsa110_assets.mosaics.window import Window

_STEP = 32
_RESPONSE_STEP = 8
"""Step at which a primary beam's pixels are sampled: the cubic through four samples misses a beam of FWHM 2.7 degrees
by h^4 f''''/43, 1e-8 of it for pixels of 10 arcsec, and by h^4 f'''' = 4e-7 one step beyond the last sample."""
_MARGIN = (1, 2)
"""Mirrored coefficients before and after the image, so that a spline is evaluated at the edges without bounds checks."""


def source_coordinates(source: WCS, target: WCS, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return source pixel coordinates (x, y) of every 32nd pixel of a window of the target; NaN where the direction is not on the
    source's projection."""
    columns, rows = np.meshgrid(
        np.arange(window.x0, window.x1 + _STEP, _STEP, dtype=np.float64),
        np.arange(window.y0, window.y1 + _STEP, _STEP, dtype=np.float64),
    )
    ra, dec = target.wcs_pix2world(columns, rows, 0)
    x, y = source.wcs_world2pix(ra, dec, 0)
    back_ra, back_dec = source.wcs_pix2world(x, y, 0)
    # SIN folds the far hemisphere onto the near one: only directions that map back to themselves are valid
    discrepancy = np.abs((back_ra - ra + 180) % 360 - 180) * np.cos(np.deg2rad(dec)) + np.abs(back_dec - dec)
    valid = discrepancy < 1e-6
    return np.where(valid, x, np.nan), np.where(valid, y, np.nan)


class Spline(NamedTuple):
    """Cubic B-spline coefficients of an image (ny, nx), (ny + 3, nx + 3) float32 with a mirrored margin of 1 before and 2
    after; and the mask of the image's blanks, (ny, nx), or (0, 0) without any."""

    coefficients: NDArray[np.float32]
    blank: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the image."""
        return self.coefficients.shape[0] - sum(_MARGIN), self.coefficients.shape[1] - sum(_MARGIN)


def spline(image: NDArray[np.float32]) -> Spline:
    """Return the spline through an image (ny, nx), mirrored at its edges; blank pixels have the nearest pixel's value."""
    image, blank = without_blanks(image)
    return Spline(np.pad(spline_filter(image, order=3, output=np.float32, mode="mirror"), _MARGIN, mode="reflect"), blank)


def without_blanks(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image, in the machine's byte order, with each blank (not finite) pixel set to its nearest neighbour's value, and the mask
    of the blanks, (ny, nx), or (0, 0) without any.

    Blank pixels do not count, but the spline reaches into them. With the nearest pixel's value, it gives about the right flux
    beside them; with 0, it would overshoot by an eighth of that.
    """
    image = image.astype(np.float32, copy=False)
    blank = ~np.isfinite(image)
    if not blank.any():
        return image, np.empty((0, 0), np.bool_)
    nearest = distance_transform_edt(blank, return_distances=False, return_indices=True)
    return image[tuple(nearest)], blank


def accumulate(
    image: Spline,
    response: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sigma: float,
    cutoff: float,
    top: NDArray[np.float32],
    bottom: NDArray[np.float32],
) -> bool:
    """Add response * image / sigma^2 to `top` and response^2 / sigma^2 to `bottom`, which are a window of the target,
    where the image has data and its response is at least `cutoff`. Return whether there is any such pixel.

    `x` and `y` are coarse source coordinates. `response` (ny, nx), at least 4 x 4 pixels, is finite and smooth: only every
    8th pixel along both axes is read.
    """
    step = min(_RESPONSE_STEP, (min(response.shape) - 1) // 3)
    samples = np.ascontiguousarray(response[::step, ::step], np.float32)
    return bool(_accumulate(*image, (samples, step), x, y, np.float32(sigma**-2), np.float32(cutoff), top, bottom))


@njit(inline="always")
def _taps(fraction):  # type: ignore[no-untyped-def]
    one, four, six, sixth = np.float32(1), np.float32(4), np.float32(6), np.float32(1 / 6)
    three, other = np.float32(3), one - fraction
    return (
        other * other * other * sixth,
        (four - (six - three * fraction) * fraction * fraction) * sixth,
        (four - (six - three * other) * other * other) * sixth,
        fraction * fraction * fraction * sixth,
    )


@njit(inline="always")
def _between(coarse, i, fi, j):  # type: ignore[no-untyped-def]
    """Interpolate a coordinate between rows i and i + 1 of the coarse points, at their column j."""
    return (1 - fi) * coarse[i, j] + fi * coarse[i + 1, j]


@njit(inline="always")
def _lagrange(t):  # type: ignore[no-untyped-def]
    """Return the weights at t of values at -1, 0, 1 and 2, for the cubic through them."""
    return -t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2, -(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6


@njit(cache=True)
def _smooth(response, x, y):  # type: ignore[no-untyped-def]
    """Interpolate a smooth image between its samples, and a little beyond the last."""
    samples, step = response
    u, v = x / step, y / step
    j, i = min(max(int(u), 1), samples.shape[1] - 3), min(max(int(v), 1), samples.shape[0] - 3)
    across, along = _lagrange(u - j), _lagrange(v - i)
    total = 0.0
    for b in range(4):
        for a in range(4):
            total += along[b] * across[a] * samples[i + b - 1, j + a - 1]
    return np.float32(total)


@njit(inline="always")
def _cubic(coefficients, x, y):  # type: ignore[no-untyped-def]
    """Evaluate the spline at a position inside the image; `coefficients` are flat, their rows `width` long."""
    flat, width = coefficients
    left, lower = int(x), int(y)
    a, b, c, d = _taps(np.float32(x - left))
    p, q, r, s = _taps(np.float32(y - lower))
    # unsigned indices cannot count from the end; a check for that would cost a comparison per tap
    one = np.uint64(lower * width + left)
    two, three, four = one + np.uint64(width), one + np.uint64(2 * width), one + np.uint64(3 * width)
    k1, k2, k3 = np.uint64(1), np.uint64(2), np.uint64(3)
    first = p * flat[one] + q * flat[two] + r * flat[three] + s * flat[four]
    second = p * flat[one + k1] + q * flat[two + k1] + r * flat[three + k1] + s * flat[four + k1]
    third = p * flat[one + k2] + q * flat[two + k2] + r * flat[three + k2] + s * flat[four + k2]
    fourth = p * flat[one + k3] + q * flat[two + k3] + r * flat[three + k3] + s * flat[four + k3]
    return a * first + b * second + c * third + d * fourth


@njit(inline="always")
def _is_blank(blank, x, y):  # type: ignore[no-untyped-def]
    """Return whether any of the pixels around a position has no data."""
    left, lower = int(x), int(y)
    right, upper = min(left + 1, blank.shape[1] - 1), min(lower + 1, blank.shape[0] - 1)
    beside, above = x - left > 1e-6, y - lower > 1e-6
    found = blank[lower, left] or (beside and blank[lower, right])
    return found or (above and (blank[upper, left] or (beside and blank[upper, right])))


@njit(cache=True, parallel=True, fastmath={"contract", "nsz"})
def _accumulate(coefficients, blank, response, coarse_x, coarse_y, weight, cutoff, top, bottom):  # type: ignore[no-untyped-def]
    height, width = coefficients.shape[0] - 3, coefficients.shape[1] - 3
    flat = (coefficients.reshape(-1), width + 3)
    # coordinates carry rounding of 1e-9 pixel; an edge pixel must not be lost to it
    right, upper = width - 1 + 1e-6, height - 1 + 1e-6
    used = 0
    for row in prange(top.shape[0]):
        i, fi = row // _STEP, (row % _STEP) / _STEP
        for j in range(coarse_x.shape[1] - 1):
            x, y = _between(coarse_x, i, fi, j), _between(coarse_y, i, fi, j)
            dx, dy = (_between(coarse_x, i, fi, j + 1) - x) / _STEP, (_between(coarse_y, i, fi, j + 1) - y) / _STEP
            half = _STEP / 2
            # a parabola through three values of the response; comparisons are False for NaN
            r0, r1 = _smooth(response, x, y), _smooth(response, x + half * dx, y + half * dy)
            r2 = _smooth(response, x + _STEP * dx, y + _STEP * dy)
            if not max(r0, r1, r2) >= np.float32(0.9) * cutoff:
                continue
            bend, slope = (r0 - 2 * r1 + r2) / np.float32(2 * half * half), (4 * r1 - 3 * r0 - r2) / np.float32(2 * half)
            n_columns = min(_STEP, top.shape[1] - j * _STEP)
            for k in range(n_columns):
                u, v, offset = x + k * dx, y + k * dy, np.float32(k)
                beam = r0 + offset * (slope + offset * bend)
                if not (beam >= cutoff and -1e-6 <= u <= right and -1e-6 <= v <= upper):
                    continue
                u, v = max(u, 0.0), max(v, 0.0)
                if blank.size and _is_blank(blank, u, v):
                    continue
                column = j * _STEP + k
                top[row, column] += weight * beam * _cubic(flat, u, v)
                bottom[row, column] += weight * beam * beam
                used += 1
    return used
