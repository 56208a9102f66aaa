"""The inner loops of forced photometry (numba): weighted sums over apertures, and the small systems of blends."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ImageArray = NDArray[np.float32]
MIN_APERTURE = 0.6
"""Fraction of the beam-weighted aperture that must hold data."""

_BATCH = 256
"""Groups that one thread solves before it takes the next."""


@njit(cache=True)
def _start(form: FloatArray, dx: float, dy: float) -> tuple[float, float, float]:
    """Return exp(-q/2) of a form at (dx, dy), its ratio to the next pixel in x, and the ratio between successive ratios."""
    a, b, c = form
    first = np.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
    return first, np.exp(-(a * (dx + 0.5) + b * dy)), np.exp(-a)


@njit(cache=True)
def _rows(
    image: ImageArray,
    noise: ImageArray,
    p: int,
    members: IntArray,
    near: IntArray,
    x: FloatArray,
    y: FloatArray,
    form: FloatArray,
    background: FloatArray,
    half: FloatArray,
    cut: float,
    line: FloatArray,
    row: FloatArray,
) -> tuple[float, float]:
    """Fill sum(K_p K_q w) for the q in `near`; return sum(K_p d w) and the fraction of sum(K_p^2) with data.

    A Gaussian's ratio between neighbouring pixels changes by a constant factor, so a row costs two
    exponentials.
    """
    k = members[p]
    a, b, c = form[k]
    right, whole, with_data = 0.0, 0.0, 0.0
    for j in range(int(np.ceil(y[k] - half[1])), int(np.floor(y[k] + half[1])) + 1):
        dy = j - y[k]
        root = b * b * dy * dy - a * (c * dy * dy - cut)
        if root < 0:
            continue
        low = int(np.ceil(x[k] + (-b * dy - np.sqrt(root)) / a))
        high = int(np.floor(x[k] + (-b * dy + np.sqrt(root)) / a))
        beam_value, ratio, change = _start(form[k], low - x[k], dy)
        width = min(high - low + 1, line.size)
        for n in range(width):
            whole += beam_value * beam_value
            i = low + n
            line[n] = 0.0
            if 0 <= j < image.shape[0] and 0 <= i < image.shape[1]:
                sigma, value = np.float64(noise[j, i]), np.float64(image[j, i])
                if sigma > 0 and np.isfinite(sigma) and np.isfinite(value):
                    with_data += beam_value * beam_value
                    line[n] = beam_value / (sigma * sigma)
                    right += line[n] * (value - background[k])
                    row[p] += line[n] * beam_value
            beam_value *= ratio
            ratio *= change
        for q in near:
            m = members[q]
            neighbour_value, ratio, change = _start(form[m], low - x[m], j - y[m])
            for n in range(width):
                row[q] += line[n] * neighbour_value
                neighbour_value *= ratio
                ratio *= change
    return right, with_data / whole if whole > 0 else 0.0


@njit(cache=True)
def _neighbours(p: int, members: IntArray, points: FloatArray, radius: float) -> IntArray:
    """Return the members of a group within `radius` beams of member p, except p itself."""
    out, count = np.empty(members.size, np.int64), 0
    for q in range(members.size):
        dx, dy = points[members[q], 0] - points[members[p], 0], points[members[q], 1] - points[members[p], 1]
        if q != p and dx * dx + dy * dy < radius * radius:
            out[count] = q
            count += 1
    return out[:count]


@njit(cache=True)
def _table(table: FloatArray, dx: float, dy: float) -> float:
    """Return the bilinear value of a lag table (centre = zero lag); zero beyond it."""
    u, v = dx + table.shape[1] // 2, dy + table.shape[0] // 2
    if u < 0 or v < 0 or u > table.shape[1] - 1 or v > table.shape[0] - 1:
        return 0.0
    i, j = min(int(u), table.shape[1] - 2), min(int(v), table.shape[0] - 2)
    fx, fy = u - i, v - j
    low = table[j, i] * (1 - fx) + table[j, i + 1] * fx
    high = table[j + 1, i] * (1 - fx) + table[j + 1, i + 1] * fx
    return float(low * (1 - fy) + high * fy)


@njit(cache=True, parallel=True)
def solve_groups(
    image: ImageArray,
    noise: ImageArray,
    x: FloatArray,
    y: FloatArray,
    points: FloatArray,
    reach: float,
    form: FloatArray,
    background: FloatArray,
    rms: FloatArray,
    order: IntArray,
    starts: IntArray,
    half: FloatArray,
    cut: float,
    table: FloatArray,
    full: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return flux, error and aperture fraction of each position; groups are order[starts[g]:starts[g + 1]]."""
    flux, error, filled = np.full(x.size, np.nan), np.full(x.size, np.nan), np.zeros(x.size)
    for block in prange(-(-(starts.size - 1) // _BATCH)):
        line = np.empty(int(2 * half[0]) + 3)
        for g in range(block * _BATCH, min((block + 1) * _BATCH, starts.size - 1)):
            members = order[starts[g] : starts[g + 1]]
            matrix, right, keep = np.zeros((members.size, members.size)), np.zeros(members.size), np.zeros(members.size, np.bool_)
            for p in range(members.size):
                near = _neighbours(p, members, points, reach)
                right[p], fraction = _rows(image, noise, p, members, near, x, y, form, background, half, cut, line, matrix[p])
                filled[members[p]] = fraction
                keep[p] = fraction >= MIN_APERTURE and rms[members[p]] > 0
            _solve(members, np.flatnonzero(keep), matrix, right, x, y, rms, filled, table, full, flux, error)
    return flux, error, filled


@njit(cache=True)
def _solve(
    members: IntArray,
    kept: IntArray,
    matrix: FloatArray,
    right: FloatArray,
    x: FloatArray,
    y: FloatArray,
    rms: FloatArray,
    filled: FloatArray,
    table: FloatArray,
    full: float,
    flux: FloatArray,
    error: FloatArray,
) -> None:
    """Set flux and error of the `kept` members of a group from their system of equations."""
    if kept.size == 0:
        return
    system, right_side, noise_covariance = (
        np.empty((kept.size, kept.size)),
        np.empty(kept.size),
        np.empty((kept.size, kept.size)),
    )
    for p in range(kept.size):
        m = members[kept[p]]
        unit = matrix[kept[p], kept[p]]
        right_side[p] = right[kept[p]] / unit
        for q in range(kept.size):
            o = members[kept[q]]
            system[p, q] = matrix[kept[p], kept[q]] / unit
            lag = _table(table, x[m] - x[o], y[m] - y[o]) / (full * full)
            noise_covariance[p, q] = rms[m] * rms[o] * lag / np.sqrt(filled[m] * filled[o])
    if kept.size == 1:
        flux[members[kept[0]]], error[members[kept[0]]] = right_side[0], np.sqrt(noise_covariance[0, 0])
        return
    inverse = np.linalg.inv(system)
    solution, covariance = inverse @ right_side, inverse @ noise_covariance @ np.ascontiguousarray(inverse.T)
    for p in range(kept.size):
        flux[members[kept[p]]], error[members[kept[p]]] = solution[p], np.sqrt(covariance[p, p])


@njit(cache=True)
def _missing(image: ImageArray, noise: ImageArray, x: float, y: float, offsets: FloatArray) -> bool:
    for n in range(offsets.shape[0]):
        u, v = np.rint(x + offsets[n, 0]), np.rint(y + offsets[n, 1])
        if not (0 <= u < image.shape[1] and 0 <= v < image.shape[0]):
            return True
        value, sigma = image[int(v), int(u)], noise[int(v), int(u)]
        if not (np.isfinite(value) and sigma > 0 and np.isfinite(sigma)):
            return True
    return False


@njit(cache=True, parallel=True)
def _missing_of_many(image: ImageArray, noise: ImageArray, x: FloatArray, y: FloatArray, offsets: FloatArray) -> NDArray[np.bool_]:
    missing = np.zeros(x.size, np.bool_)
    for k in prange(x.size):
        missing[k] = _missing(image, noise, x[k], y[k], offsets)
    return missing


@njit(cache=True)
def _missing_of_few(image: ImageArray, noise: ImageArray, x: FloatArray, y: FloatArray, offsets: FloatArray) -> NDArray[np.bool_]:
    missing = np.zeros(x.size, np.bool_)
    for k in range(x.size):
        missing[k] = _missing(image, noise, x[k], y[k], offsets)
    return missing


def any_missing(image: ImageArray, noise: ImageArray, x: FloatArray, y: FloatArray, offsets: FloatArray) -> NDArray[np.bool_]:
    """Return whether, at any of the offsets (n, 2) from each position [pixels], there is no pixel or a pixel without data.

    Few positions are tested by a single thread: waking the others takes longer, on a busy machine a thousand times.
    """
    return np.asarray((_missing_of_many if x.size > _BATCH else _missing_of_few)(image, noise, x, y, offsets))
