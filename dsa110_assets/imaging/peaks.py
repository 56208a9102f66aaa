"""Peaks of images: their positions to a fraction of a pixel, and their heights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True)
class Peaks:
    """Peaks of an image: 0-based pixel coordinates `x`, `y` (n,) float64 and heights `value` (n,) float64."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    value: NDArray[np.float64]


def find_peaks(image: NDArray[np.floating], threshold: float, distance: int = 3) -> Peaks:
    """Return local maxima above `threshold`, the highest within `distance` pixels, refined; brightest first.

    A peak is refined by a paraboloid through the log of the 3 x 3 pixels around it, exact for a sampled Gaussian. Peaks that
    touch the edge or a NaN are omitted.
    """
    rows, columns = np.nonzero(_highest(image, threshold, distance))
    inside = (rows > 0) & (columns > 0) & (rows < image.shape[0] - 1) & (columns < image.shape[1] - 1)
    refined = [refine_peak(image, int(r), int(c)) for r, c in zip(rows[inside], columns[inside], strict=True)]
    found = sorted((peak for peak in refined if peak is not None), key=lambda peak: -peak[2])
    return Peaks(*(np.array([peak[i] for peak in found], dtype=np.float64) for i in range(3)))


@njit(cache=True)
def _highest(image, threshold, distance):  # type: ignore[no-untyped-def]
    """Return which pixels are above `threshold`, finite, and not below a finite one within `distance`. Few pixels are above it,
    and only their neighbours are compared."""
    n_rows, n_columns = image.shape
    out = np.zeros(image.shape, np.bool_)
    for row in range(n_rows):
        for column in range(n_columns):
            value = image[row, column]
            if not (value > threshold and value < np.inf):
                continue
            is_peak = True
            for r in range(max(row - distance, 0), min(row + distance + 1, n_rows)):
                for c in range(max(column - distance, 0), min(column + distance + 1, n_columns)):
                    if image[r, c] > value and image[r, c] < np.inf:
                        is_peak = False
            out[row, column] = is_peak
    return out


def refine_peak(image: NDArray[np.floating], row: int, column: int) -> tuple[float, float, float] | None:
    """Return (x, y, value) of the maximum near a pixel that is one; None if its neighbours do not form a positive, closed peak."""
    patch = image[row - 1 : row + 2, column - 1 : column + 2].astype(np.float64)
    if patch.shape != (3, 3) or not np.all(patch > 0):
        return None
    log = np.log(patch)
    gradient = np.array([(log[1, 2] - log[1, 0]) / 2, (log[2, 1] - log[0, 1]) / 2])
    xx, yy = log[1, 2] - 2 * log[1, 1] + log[1, 0], log[2, 1] - 2 * log[1, 1] + log[0, 1]
    xy = (log[2, 2] - log[2, 0] - log[0, 2] + log[0, 0]) / 4
    hessian = np.array([[xx, xy], [xy, yy]])
    if xx >= 0 or xx * yy - xy * xy <= 0:
        return None
    shift = -np.linalg.solve(hessian, gradient)
    if np.any(np.abs(shift) > 1):
        return None
    return column + float(shift[0]), row + float(shift[1]), float(np.exp(log[1, 1] + gradient @ shift / 2))
