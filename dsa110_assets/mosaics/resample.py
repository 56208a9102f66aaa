"""One image onto another grid: cubic B-splines at coordinates interpolated from a coarse grid of exact ones.

Evaluating a WCS for every pixel costs a hundred times the resampling itself (measured: 13.9 s of
reproject_interp for 4096 x 4096). Between points h pixels of s radians apart the mapping errs by h^2 s / 8 times its
second derivative, which for a tile's edge 2 degrees out in SIN, or 10 degrees out in ZEA, is 0.04 per radian: 1e-4 of
a pixel of 4 arcsec for h = 32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.imaging.fitsbytes import swapped
from dsa110_assets.mosaics.window import Window

_STEP = 32
_RESPONSE_STEP = 8
"""Every this-many-th pixel of a primary beam is enough: the cubic through four of them misses a beam of FWHM 2.7 degrees
by h^4 f''''/43, 1e-8 of it for pixels of 10 arcsec, and by h^4 f'''' = 4e-7 a step beyond the last."""
_MARGIN = (1, 2)
"""Mirrored coefficients before and after the image, so that a spline at its edge reads on without asking."""


def source_coordinates(source: WCS, target: WCS, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Source pixel coordinates (x, y) of every 32nd pixel of a window of the target; NaN where not on the
    source's sky."""
    columns, rows = np.meshgrid(
        np.arange(window.x0, window.x1 + _STEP, _STEP, dtype=np.float64),
        np.arange(window.y0, window.y1 + _STEP, _STEP, dtype=np.float64),
    )
    ra, dec = target.wcs_pix2world(columns, rows, 0)
    x, y = source.wcs_world2pix(ra, dec, 0)
    back_ra, back_dec = source.wcs_pix2world(x, y, 0)
    # SIN folds the far hemisphere onto the near one: only what maps back is there
    away = np.abs((back_ra - ra + 180) % 360 - 180) * np.cos(np.deg2rad(dec)) + np.abs(back_dec - dec)
    there = away < 1e-6
    return np.where(there, x, np.nan), np.where(there, y, np.nan)


class Spline(NamedTuple):
    """Cubic B-spline coefficients of an image (ny, nx), (ny + 3, nx + 3) float32 with a mirrored margin of 1 before and 2
    after; and where the image is blank, (ny, nx), or (0, 0) if nowhere."""

    coefficients: NDArray[np.float32]
    blank: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the image."""
        return self.coefficients.shape[0] - sum(_MARGIN), self.coefficients.shape[1] - sum(_MARGIN)


def spline(image: NDArray[np.float32], work: NDArray[np.float32] | None = None) -> Spline:
    """The spline through an image (ny, nx) float32, in the machine's byte order or a file's; through the nearest pixel's
    value where that is blank.

    The recursive filter of Unser (1999), IEEE Signal Processing Magazine 16(6), 22, with mirrored edges. `work` is
    used for the coefficients if it fits.
    """
    shape = image.shape[0] + sum(_MARGIN), image.shape[1] + sum(_MARGIN)
    padded = work if work is not None and work.shape == shape else np.empty(shape, np.float32)
    blank = np.empty((0, 0), np.bool_)
    if _load(image.view(np.uint32), not image.dtype.isnative, padded.view(np.uint32)):
        image, blank = without_blanks(image)
        _load(image.view(np.uint32), False, padded.view(np.uint32))
    inner = padded[_MARGIN[0] : -_MARGIN[1], _MARGIN[0] : -_MARGIN[1]]
    _filter_rows(inner)
    _filter_columns(inner)
    _mirror_margin(padded)
    return Spline(padded, blank)


def has_blanks(image: NDArray[np.float32]) -> bool:
    """Whether any pixel (float32, in either byte order) is not finite."""
    return bool(_blanks(image.view(np.uint32), not image.dtype.isnative))


def without_blanks(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """An image with each blank (not finite) pixel given its nearest neighbour's value, and where those are.

    Blank pixels count for nothing, but the spline reaches into them: from the nearest pixel's value it gets a flux
    beside them about right, from 0 it would swing by an eighth of it.
    """
    from scipy.ndimage import distance_transform_edt  # a fifth of a second that most mosaics need not wait for

    blank = ~np.isfinite(image)
    nearest = distance_transform_edt(blank, return_distances=False, return_indices=True)
    return image[tuple(nearest)].astype(np.float32), blank


_POLE = np.float32(np.sqrt(3.0) - 2)
_GAIN = np.float32(6)
_LAST = np.float32(_POLE / (_POLE * _POLE - 1))
_HORIZON = 20
"""Terms of the mirrored start: the pole's power falls below 4e-12."""
_SIDE_BY_SIDE = 8
"""Rows filtered together: each step of one waits for the last, those of eight do not wait for one another."""
_COLUMNS = 64
_RAMP = np.arange(_STEP, dtype=np.float32)
_EXPONENT = np.uint32(0x7F800000)


@njit(cache=True, parallel=True)
def _blanks(bits, swap):  # type: ignore[no-untyped-def]
    blanks = 0
    mask = swapped(_EXPONENT) if swap else _EXPONENT
    for row in prange(bits.shape[0]):
        for column in range(bits.shape[1]):
            blanks += 1 if (bits[row, column] & mask) == mask else 0
    return blanks


@njit(cache=True, parallel=True)
def _load(bits, swap, padded):  # type: ignore[no-untyped-def]
    """Words of an image into the middle of a padded one; how many of them are not finite numbers."""
    blanks = 0
    for row in prange(bits.shape[0]):
        line = padded[row + _MARGIN[0]]
        for column in range(bits.shape[1]):
            word = bits[row, column]
            if swap:
                word = swapped(word)
            line[column + _MARGIN[0]] = word
            blanks += 1 if (word & _EXPONENT) == _EXPONENT else 0
    return blanks


@njit(cache=True, parallel=True)
def _filter_rows(image):  # type: ignore[no-untyped-def]
    """Filter along rows, in place."""
    height, width = image.shape
    if width < 2:
        return
    for block in prange(-(-height // _SIDE_BY_SIDE)):
        first = block * _SIDE_BY_SIDE
        number = min(height - first, _SIDE_BY_SIDE)
        last = np.zeros(_SIDE_BY_SIDE, np.float32)
        for row in range(number):
            weight = _GAIN
            for k in range(_HORIZON):
                last[row] += weight * image[first + row, _mirrored(k, width)]
                weight *= _POLE
            image[first + row, 0] = last[row]
        if number == _SIDE_BY_SIDE:
            _filter_together(image[first : first + _SIDE_BY_SIDE])
            continue
        for row in range(first, first + number):
            for k in range(1, width):
                image[row, k] = _GAIN * image[row, k] + _POLE * image[row, k - 1]
            image[row, width - 1] = _LAST * (image[row, width - 1] + _POLE * image[row, width - 2])
            for k in range(width - 2, -1, -1):
                image[row, k] = _POLE * (image[row, k + 1] - image[row, k])


@njit(cache=True)
def _filter_together(rows):  # type: ignore[no-untyped-def]
    """Both passes over eight rows whose first pixels are already filtered."""
    width = rows.shape[1]
    a, b, c, d, e, f, g, h = rows[0, 0], rows[1, 0], rows[2, 0], rows[3, 0], rows[4, 0], rows[5, 0], rows[6, 0], rows[7, 0]
    for k in range(1, width):
        a, b = _GAIN * rows[0, k] + _POLE * a, _GAIN * rows[1, k] + _POLE * b
        c, d = _GAIN * rows[2, k] + _POLE * c, _GAIN * rows[3, k] + _POLE * d
        e, f = _GAIN * rows[4, k] + _POLE * e, _GAIN * rows[5, k] + _POLE * f
        g, h = _GAIN * rows[6, k] + _POLE * g, _GAIN * rows[7, k] + _POLE * h
        rows[0, k], rows[1, k], rows[2, k], rows[3, k], rows[4, k], rows[5, k], rows[6, k], rows[7, k] = a, b, c, d, e, f, g, h
    a, b = _LAST * (a + _POLE * rows[0, width - 2]), _LAST * (b + _POLE * rows[1, width - 2])
    c, d = _LAST * (c + _POLE * rows[2, width - 2]), _LAST * (d + _POLE * rows[3, width - 2])
    e, f = _LAST * (e + _POLE * rows[4, width - 2]), _LAST * (f + _POLE * rows[5, width - 2])
    g, h = _LAST * (g + _POLE * rows[6, width - 2]), _LAST * (h + _POLE * rows[7, width - 2])
    k = width - 1
    rows[0, k], rows[1, k], rows[2, k], rows[3, k], rows[4, k], rows[5, k], rows[6, k], rows[7, k] = a, b, c, d, e, f, g, h
    for k in range(width - 2, -1, -1):
        a, b, c, d = _POLE * (a - rows[0, k]), _POLE * (b - rows[1, k]), _POLE * (c - rows[2, k]), _POLE * (d - rows[3, k])
        e, f, g, h = _POLE * (e - rows[4, k]), _POLE * (f - rows[5, k]), _POLE * (g - rows[6, k]), _POLE * (h - rows[7, k])
        rows[0, k], rows[1, k], rows[2, k], rows[3, k], rows[4, k], rows[5, k], rows[6, k], rows[7, k] = a, b, c, d, e, f, g, h


@njit(cache=True, parallel=True)
def _filter_columns(image):  # type: ignore[no-untyped-def]
    """The same along columns, in place, in blocks of columns side by side."""
    height, width = image.shape
    if height < 2:
        return
    for block in prange(-(-width // _COLUMNS)):
        part = image[:, block * _COLUMNS : min((block + 1) * _COLUMNS, width)]
        first = np.zeros(part.shape[1], np.float32)
        weight = _GAIN
        for k in range(_HORIZON):
            first += weight * part[_mirrored(k, height)]
            weight *= _POLE
        part[0] = first
        for k in range(1, height):
            for c in range(part.shape[1]):
                part[k, c] = _GAIN * part[k, c] + _POLE * part[k - 1, c]
        part[height - 1] = _LAST * (part[height - 1] + _POLE * part[height - 2])
        for k in range(height - 2, -1, -1):
            for c in range(part.shape[1]):
                part[k, c] = _POLE * (part[k + 1, c] - part[k, c])


@njit(cache=True)
def _mirrored(index, size):  # type: ignore[no-untyped-def]
    """Index of a line of two or more that is mirrored about its end points without end."""
    index %= 2 * size - 2
    return index if index < size else 2 * size - 2 - index


@njit(cache=True)
def _mirror_margin(padded):  # type: ignore[no-untyped-def]
    before, after = _MARGIN
    height, width = padded.shape[0] - before - after, padded.shape[1] - before - after
    for row in range(height):
        line = padded[row + before]
        for k in (-1, width, width + 1):
            line[k + before] = line[_mirrored(k, width) + before] if width > 1 else line[before]
    for k in (-1, height, height + 1):
        padded[k + before] = padded[_mirrored(k, height) + before] if height > 1 else padded[before]


def resample(image: Spline, x: NDArray[np.float64], y: NDArray[np.float64], window: Window) -> NDArray[np.float32]:
    """Values (window height, width) float32 of a spline at coarse coordinates; NaN outside its pixel centres and where
    the image is blank."""
    top, bottom = (np.zeros((window.y1 - window.y0, window.x1 - window.x0), np.float32) for _ in range(2))
    accumulate(image, np.ones(image.shape, np.float32), x, y, 1.0, 0.5, top, bottom)
    return np.where(bottom > 0, top, np.float32(np.nan))


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
    where the image has data and its response is at least `cutoff`; whether that is anywhere.

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
    """A coordinate in a row between rows i and i + 1 of coarse points, at column j of them."""
    return (1 - fi) * coarse[i, j] + fi * coarse[i + 1, j]


@njit(inline="always")
def _lagrange(t):  # type: ignore[no-untyped-def]
    """Weights of values at -1, 0, 1 and 2 in the cubic through them."""
    return -t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2, -(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6


@njit(cache=True)
def _smooth(response, x, y):  # type: ignore[no-untyped-def]
    """A smooth image between its samples, and a little beyond the last."""
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
    """The spline at a place inside the image; `coefficients` are flat, their rows `width` long."""
    flat, width = coefficients
    left, lower = int(x), int(y)
    a, b, c, d = _taps(np.float32(x - left))
    p, q, r, s = _taps(np.float32(y - lower))
    # unsigned: no index from the end, which would cost a question a tap
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
    """Whether any of the pixels about a place has no data."""
    left, lower = int(x), int(y)
    right, upper = min(left + 1, blank.shape[1] - 1), min(lower + 1, blank.shape[0] - 1)
    beside, above = x - left > 1e-6, y - lower > 1e-6
    found = blank[lower, left] or (beside and blank[lower, right])
    return found or (above and (blank[upper, left] or (beside and blank[upper, right])))


@njit(inline="always")
def _run(start, step, begin, end):  # type: ignore[no-untyped-def]
    """Whole part and fraction of start + begin step, and up to which k below `end` start + k step has that whole part."""
    here = start + begin * step
    whole = math.floor(here)
    if step > 0:
        end = min(end, begin + math.ceil((whole + 1 - here) / step))
    elif step < 0:
        end = min(end, begin + math.floor((here - whole) / -step) + 1)
    return int(whole), np.float32(here - whole), max(end, begin + 1)


@njit(cache=True, fastmath={"contract", "nsz"})
def _along(coefficients, first, across, along, beam, weight, top, bottom):  # type: ignore[no-untyped-def]
    """Add places one beside the other, whose taps are: coefficients from `first` on. A loop without a question, for vectors.

    `across` and `along` are the first place's fractions of a pixel and their growth from one to the next, `beam` the parabola
    of the response.
    """
    flat, width = coefficients
    (fraction_x, drift_x), (fraction_y, drift_y), (constant, slope, bend) = across, along, beam
    one = np.uint64(first)
    two, three, four = one + np.uint64(width), one + np.uint64(2 * width), one + np.uint64(3 * width)
    k1, k2, k3 = np.uint64(1), np.uint64(2), np.uint64(3)
    for n in range(top.size):
        k, here = np.uint64(n), _RAMP[n]
        a, b, c, d = _taps(fraction_x + here * drift_x)
        p, q, r, s = _taps(fraction_y + here * drift_y)
        first_ = p * flat[one + k] + q * flat[two + k] + r * flat[three + k] + s * flat[four + k]
        second = p * flat[one + k + k1] + q * flat[two + k + k1] + r * flat[three + k + k1] + s * flat[four + k + k1]
        third = p * flat[one + k + k2] + q * flat[two + k + k2] + r * flat[three + k + k2] + s * flat[four + k + k2]
        fourth = p * flat[one + k + k3] + q * flat[two + k + k3] + r * flat[three + k + k3] + s * flat[four + k + k3]
        response = constant + here * (slope + here * bend)
        top[k] += weight * response * (a * first_ + b * second + c * third + d * fourth)
        bottom[k] += weight * response * response


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
            many = min(_STEP, top.shape[1] - j * _STEP)
            # most segments lie wholly inside the tile, and step through it by about a pixel along its rows
            far_x, far_y = x + (many - 1) * dx, y + (many - 1) * dy
            inside = min(x, far_x) >= 0 and max(x, far_x) < width - 1 and min(y, far_y) >= 0 and max(y, far_y) < height - 1
            if inside and blank.size == 0 and min(r0, r1, r2) >= np.float32(1.001) * cutoff:
                begin = 0
                while begin < many:
                    left, u, end = _run(x, dx - 1, begin, many)
                    lower, v, end = _run(y, dy, begin, end)
                    across, along, here = (u, np.float32(dx - 1)), (v, np.float32(dy)), np.float32(begin)
                    beam = (r0 + here * (slope + here * bend), slope + 2 * here * bend, bend)
                    strip = slice(j * _STEP + begin, j * _STEP + end)
                    _along(flat, lower * (width + 3) + left + begin, across, along, beam, weight, top[row, strip], bottom[row, strip])
                    begin = end
                used += many
                continue
            for k in range(many):
                u, v, here = x + k * dx, y + k * dy, np.float32(k)
                beam = r0 + here * (slope + here * bend)
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
