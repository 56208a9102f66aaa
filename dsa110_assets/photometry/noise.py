"""The local background and noise of a mosaic, and the correlation of that noise between pixels.

A mosaic's noise map shows how the noise varies, but not always how large it is (sidelobes, calibration). It is therefore scaled
by the robust scatter of image/noise in boxes. Restored noise is correlated over a beam, so the error of a fit needs the
correlation function, which is measured on the image itself.

Beside bright sources the residual sidelobes stand out of that scatter: few, high peaks of both signs. No source is negative, so
the deepest trough of a box and its neighbours shows how high spurious peaks there can be. The noise is therefore at least a
fifth of that depth. Gaussian noise goes below 5 sigma once in 3 million beams, so where no sidelobes are left this changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import distance_transform_edt, maximum_filter

from dsa110_assets.photometry.geometry import form_reach

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.float32]
_CLIP = 3.0
_DEEP = 5.0
"""Sigmas below the background that noise does not reach."""
_MIN_SAMPLES = 40
_BRIGHT, _FAINT, _DEEPEST = 4.0, 0.2, 1e3
_STRIP = 64
_MIN_BEAMS = 60
"""With fewer independent beams than this the correlation cannot be measured, and the beam's own shape is used (natural weights)."""
_BLOCK = 384
_MAX_BLOCKS = 12
_FIRST_LOOK = 1000
"""Samples of a box that are enough to find sources: they give the noise to 3 %."""
_SAMPLES_PER_BEAM = 1.6
"""Samples per narrow FWHM in the boxes: closer samples have the same noise."""


@dataclass(frozen=True)
class LocalNoise:
    """Meshes of background [Jy/beam] and noise scale (dimensionless), bilinear between box centres.

    `correlation` (2L+1, 2L+1) is the noise's correlation at pixel lags, 1 in the middle.
    """

    background_jy: FloatArray
    scale: FloatArray
    box: int
    correlation: FloatArray

    def at(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Background [Jy/beam] and noise scale at 0-based pixel positions (n,)."""
        return _sample(self.background_jy, x, y, self.box), _sample(self.scale, x, y, self.box)

    def kernel_covariance(self, kernel: FloatArray) -> FloatArray:
        """Return the covariance, per unit rms^2, of two kernel-weighted pixel sums, by their lag in pixels."""
        whole = convolved(self.correlation, convolved(kernel, kernel[::-1, ::-1]))
        rows, columns = self.correlation.shape
        top, left = (whole.shape[0] - rows) // 2, (whole.shape[1] - columns) // 2
        return whole[top : top + rows, left : left + columns]


def convolved(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return the full convolution; scipy.signal's is the same, but its import takes as long as all of a mosaic's photometry."""
    shape = one.shape[0] + other.shape[0] - 1, one.shape[1] + other.shape[1] - 1
    return np.asarray(irfft2(rfft2(one, shape) * rfft2(other, shape), shape))


@njit(cache=True)
def _clipped(ordered: FloatArray) -> tuple[float, float, int, int]:
    """Return the median and 1.4826 MAD of ascending values within 3 sigma of the median, iterated, and the range [low, high) of
    these values."""
    low, high = 0, ordered.size
    median, sigma = 0.0, 0.0
    for _ in range(10):
        median = _middle(ordered, low, high)
        sigma = 1.482602 * _median_distance(ordered, low, high, median)
        first, last = low, high
        while first < last and median - ordered[first] > _CLIP * sigma:
            first += 1
        while last > first and ordered[last - 1] - median > _CLIP * sigma:
            last -= 1
        if last - first == high - low or last - first < 3:
            break
        low, high = first, last
    return median, sigma, low, high


@njit(cache=True, inline="always")
def _middle(ordered: FloatArray, low: int, high: int) -> float:
    """Median of ascending values [low, high)."""
    half = (low + high) // 2
    return float(ordered[half]) if (high - low) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


@njit(cache=True)
def _median_distance(ordered: FloatArray, low: int, high: int, centre: float) -> float:
    """Return the median distance of ascending values [low, high) from their median, by going through the nearest half of them outwards."""
    n = high - low
    above = low + np.searchsorted(ordered[low:high], centre)
    below, last, before = above - 1, 0.0, 0.0
    for _ in range(n // 2 + 1):
        before = last
        if above >= high or (below >= low and centre - ordered[below] <= ordered[above] - centre):
            last = centre - ordered[below]
            below -= 1
        else:
            last = ordered[above] - centre
            above += 1
    return last if n % 2 else 0.5 * (before + last)


@njit(cache=True, parallel=True)
def _meshes(image: ImageArray, noise: ImageArray, masked: NDArray[np.bool_], box: int, stride: int) -> tuple[FloatArray, FloatArray]:
    """Return background and noise scale of each box, from every `stride`-th pixel; NaN where there are too few."""
    rows, columns = (image.shape[0] + box - 1) // box, (image.shape[1] + box - 1) // box
    background, scale = np.full((rows, columns), np.nan), np.full((rows, columns), np.nan)
    for row in prange(rows):
        buffer, ratios = np.empty(((box // stride) + 1) ** 2), np.empty(((box // stride) + 1) ** 2)
        for column in range(columns):
            count = 0
            for j in range(row * box, min((row + 1) * box, image.shape[0]), stride):
                for i in range(column * box, min((column + 1) * box, image.shape[1]), stride):
                    if not masked[j, i] and np.isfinite(image[j, i]) and noise[j, i] > 0 and np.isfinite(noise[j, i]):
                        buffer[count] = image[j, i]
                        ratios[count] = buffer[count] / noise[j, i]
                        count += 1
            if count < _MIN_SAMPLES:
                continue
            median, sigma, _, _ = _clipped(np.sort(ratios[:count]))
            kept = buffer[:count][np.abs(ratios[:count] - median) <= _CLIP * sigma]
            if sigma > 0 and kept.size > 0:
                background[row, column], scale[row, column] = float(np.median(kept)), sigma
    return background, scale


@njit(cache=True, parallel=True)
def _depths(image: ImageArray, noise: ImageArray, background: FloatArray, box: int) -> FloatArray:
    """Return the depth of the lowest pixel of each box below the background, in units of the noise map; 0 without data."""
    out = np.zeros(background.shape)
    for row in prange(background.shape[0]):
        for j in range(row * box, min((row + 1) * box, image.shape[0])):
            for i in range(image.shape[1]):
                if noise[j, i] > 0:
                    depth = (background[row, i // box] - image[j, i]) / noise[j, i]
                    if depth > out[row, i // box]:  # false for NaN
                        out[row, i // box] = depth
    return out


@njit(cache=True)
def _sample(mesh: FloatArray, x: FloatArray, y: FloatArray, box: int) -> FloatArray:
    """Bilinear values of a mesh of boxes at pixel positions, constant beyond the outermost centres."""
    out = np.empty(x.size)
    for k in range(x.size):
        v = min(max((y[k] + 0.5) / box - 0.5, 0.0), mesh.shape[0] - 1.0)
        u = min(max((x[k] + 0.5) / box - 0.5, 0.0), mesh.shape[1] - 1.0)
        if not (np.isfinite(u) and np.isfinite(v)):
            out[k] = np.nan
            continue
        j, i = int(v), int(u)
        j1, i1 = min(j + 1, mesh.shape[0] - 1), min(i + 1, mesh.shape[1] - 1)
        fy, fx = v - j, u - i
        low = mesh[j, i] * (1 - fx) + mesh[j, i1] * fx
        high = mesh[j1, i] * (1 - fx) + mesh[j1, i1] * fx
        out[k] = low * (1 - fy) + high * fy
    return out


@njit(cache=True)
def _row(mesh: FloatArray, y: float, box: int, first: int, out: FloatArray) -> None:
    """Bilinear values of a mesh along pixels first, first + 1, ... of row `y`."""
    v = min(max((y + 0.5) / box - 0.5, 0.0), mesh.shape[0] - 1.0)
    j = int(v)
    across = mesh[j] + (v - j) * (mesh[min(j + 1, mesh.shape[0] - 1)] - mesh[j])
    for n in range(out.size):
        u = min(max((first + n + 0.5) / box - 0.5, 0.0), mesh.shape[1] - 1.0)
        i = int(u)
        out[n] = across[i] + (u - i) * (across[min(i + 1, mesh.shape[1] - 1)] - across[i])


@njit(cache=True, parallel=True)
def _normalised(
    image: ImageArray,
    noise: ImageArray,
    background: FloatArray,
    scale: FloatArray,
    box: int,
    row0: int,
    row1: int,
    column0: int,
    column1: int,
) -> ImageArray:
    out = np.empty((row1 - row0, column1 - column0), np.float32)
    for n_row in prange(row1 - row0):
        j = row0 + n_row
        level, factor = np.empty(column1 - column0), np.empty(column1 - column0)
        _row(background, float(j), box, column0, level)
        _row(scale, float(j), box, column0, factor)
        for n in range(column1 - column0):
            sigma = noise[j, column0 + n] * factor[n]
            out[n_row, n] = (image[j, column0 + n] - level[n]) / sigma if sigma > 0 else np.nan
    return out


def normalised_image(image: ImageArray, noise: ImageArray, local: LocalNoise, rows: slice, columns: slice) -> ImageArray:
    """(image - background) / (noise * scale) of a window (two full slices), float32; NaN without data."""
    return np.asarray(
        _normalised(
            image,
            noise,
            local.background_jy,
            local.scale,
            local.box,
            rows.start,
            rows.stop,
            columns.start,
            columns.stop,
        )
    )


@njit(inline="always")
def _above(image, noise, level, factor, j, i, n):  # type: ignore[no-untyped-def]
    """Return the height of pixel (j, i) above the background in units of its noise if that is above _BRIGHT, else 0."""
    sigma, height = noise[j, i] * factor[n], image[j, i] - level[n]
    return height / sigma if height > _BRIGHT * sigma and sigma > 0 else 0.0


@njit(cache=True, parallel=True)
def _bright_strips(image: ImageArray, noise: ImageArray, background: FloatArray, scale: FloatArray, box: int) -> NDArray[np.bool_]:
    """Return which strips of _STRIP pixels of each row contain a pixel above _BRIGHT sigma."""
    height, width = image.shape
    found = np.zeros((height, -(-width // _STRIP)), np.bool_)
    for j in prange(height):
        level, factor = np.empty(width), np.empty(width)
        _row(background, float(j), box, 0, level)
        _row(scale, float(j), box, 0, factor)
        for i in range(width):
            if _above(image, noise, level, factor, j, i, i) > 0:
                found[j, i // _STRIP] = True
    return found


@njit(cache=True)
def _mask_strips(
    strips: NDArray[np.bool_],
    image: ImageArray,
    noise: ImageArray,
    background: FloatArray,
    scale: FloatArray,
    box: int,
    form: FloatArray,
) -> NDArray[np.bool_]:
    masked = np.zeros(image.shape, np.bool_)
    determinant = form[0] * form[2] - form[1] ** 2
    level, factor = np.empty(_STRIP), np.empty(_STRIP)
    for j in range(image.shape[0]):
        for strip in np.flatnonzero(strips[j]):
            first = strip * _STRIP
            _row(background, float(j), box, first, level)
            _row(scale, float(j), box, first, factor)
            for i in range(first, min(first + _STRIP, image.shape[1])):
                z = _above(image, noise, level, factor, j, i, i - first)
                if z == 0 or (masked[j, i] and not _is_peak(image, j, i)):
                    continue
                cut = 2 * np.log(min(z, _DEEPEST) / _FAINT)
                reach_y, reach_x = (
                    int(np.sqrt(cut * form[0] / determinant)),
                    int(np.sqrt(cut * form[2] / determinant)),
                )
                for v in range(max(j - reach_y, 0), min(j + reach_y + 1, image.shape[0])):
                    for u in range(max(i - reach_x, 0), min(i + reach_x + 1, image.shape[1])):
                        dx, dy = u - i, v - j
                        if form[0] * dx * dx + 2 * form[1] * dx * dy + form[2] * dy * dy <= cut:
                            masked[v, u] = True
    return masked


def _source_mask(
    image: ImageArray, noise: ImageArray, background: FloatArray, scale: FloatArray, box: int, form: FloatArray
) -> NDArray[np.bool_]:
    """Return the pixels where a peak above _BRIGHT sigma contributes more than _FAINT sigma, which would bias the background.

    All threads search for bright pixels. A single thread masks around them, in the order of the pixels, so that the mask does
    not depend on the number of threads.
    """
    strips = _bright_strips(image, noise, background, scale, box)
    return np.asarray(_mask_strips(strips, image, noise, background, scale, box, form))


@njit(cache=True)
def _is_peak(image: ImageArray, j: int, i: int) -> bool:
    for v in range(max(j - 1, 0), min(j + 2, image.shape[0])):
        for u in range(max(i - 1, 0), min(i + 2, image.shape[1])):
            if image[v, u] > image[j, i]:
                return False
    return True


def _filled(mesh: FloatArray, default: float) -> FloatArray:
    """Give boxes without enough pixels the nearest measured box's value."""
    missing = ~np.isfinite(mesh)
    if missing.all():
        return np.full(mesh.shape, default)
    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(mesh[tuple(nearest)])


def gaussian_kernel(form: FloatArray, half: tuple[int, int]) -> FloatArray:
    """Return a unit-peak elliptical Gaussian of a quadratic form on a (2*half_y+1, 2*half_x+1) grid; half = (x, y)."""
    y, x = np.mgrid[-half[1] : half[1] + 1, -half[0] : half[0] + 1]
    return np.asarray(np.exp(-0.5 * (form[0] * x * x + 2 * form[1] * x * y + form[2] * y * y)))


def _blocks(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return at most _MAX_BLOCKS blocks spread evenly over the image."""
    blocks = [
        (slice(j, min(j + _BLOCK, shape[0])), slice(i, min(i + _BLOCK, shape[1])))
        for j in range(0, shape[0], _BLOCK)
        for i in range(0, shape[1], _BLOCK)
    ]
    chosen = np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), _MAX_BLOCKS)).round().astype(int))
    return [blocks[k] for k in chosen]


def _correlation(
    image: ImageArray,
    noise: ImageArray,
    masked: NDArray[np.bool_],
    local: LocalNoise,
    form: FloatArray,
    lag: int,
) -> FloatArray:
    """Return the correlation of the source-free noise at lags up to `lag` pixels, or the beam's shape where too few beams are left."""
    sums, pairs = np.zeros((2 * lag + 1,) * 2), np.zeros((2 * lag + 1,) * 2)
    beam_area = 2 * np.pi / np.sqrt(form[0] * form[2] - form[1] ** 2)
    for rows, columns in _blocks(image.shape):
        z = normalised_image(image, noise, local, rows, columns)
        mask = np.isfinite(z) & ~masked[rows, columns]
        size = tuple(next_fast_len(n + lag, real=True) for n in z.shape)
        for field, into in ((np.where(mask, z, np.float32(0)), sums), (mask.astype(np.float32), pairs)):
            power = irfft2(np.abs(rfft2(field, s=size)) ** 2, s=size)
            into += _lags(np.asarray(power), lag)
    if pairs[lag, lag] < _MIN_BEAMS * beam_area or sums[lag, lag] <= 0:
        return gaussian_kernel(form, (lag, lag))
    ratio = sums / np.maximum(pairs, 1.0)
    return np.asarray(ratio / ratio[lag, lag])


def _lags(power: FloatArray, lag: int) -> FloatArray:
    """Return the lags -lag..lag of a cyclic autocorrelation; lags beyond the block's own size are zero."""
    out = np.zeros((2 * lag + 1, 2 * lag + 1))
    reach_y, reach_x = min(lag, (power.shape[0] - 1) // 2), min(lag, (power.shape[1] - 1) // 2)
    rows, columns = np.arange(-reach_y, reach_y + 1), np.arange(-reach_x, reach_x + 1)
    out[np.ix_(rows + lag, columns + lag)] = power[np.ix_(rows, columns)]
    return out


def measure_noise(
    image: ImageArray,
    noise: ImageArray,
    form: FloatArray,
    box_beams: float,
    lag_beams: float,
    subtract_background: bool,
) -> LocalNoise:
    """Return background, noise scale and noise correlation of an image (ny, nx) [Jy/beam] with its noise map.

    The scale is that of the scatter, or a fifth of the depth of the deepest trough nearby if that is larger (see the module).
    `form` is the beam's quadratic form in pixels. Boxes are `box_beams` major axes wide; correlation reaches `lag_beams`. NaN
    pixels are ignored; boxes without data take their nearest neighbour's values; an image without any data has background 0 and
    scale 1.
    """
    reach_x, reach_y = form_reach(form, 1.0)
    narrow = 2 * np.sqrt(np.log(4) / np.linalg.eigvalsh([[form[0], form[1]], [form[1], form[2]]])[1])
    box = max(int(np.ceil(box_beams * max(reach_x, reach_y))), 32)
    stride = max(1, int(narrow / _SAMPLES_PER_BEAM))
    masked = np.zeros(image.shape, np.bool_)
    first = max(stride, int(box / np.sqrt(_FIRST_LOOK)))
    background, scale = _meshes(image, noise, masked, box, first)
    masked = _source_mask(image, noise, _filled(background, 0.0), _filled(scale, 1.0), box, form)
    background, scale = _meshes(image, noise, masked, box, stride)
    background = _filled(background, 0.0) if subtract_background else np.zeros_like(background)
    depths = maximum_filter(_depths(image, noise, background, box), 3)
    scale = np.maximum(_filled(scale, 1.0), depths / _DEEP)
    lag = int(np.ceil(lag_beams * max(reach_x, reach_y)))
    local = LocalNoise(background, scale, box, np.ones((1, 1)))
    return LocalNoise(local.background_jy, local.scale, box, _correlation(image, noise, masked, local, form, lag))
