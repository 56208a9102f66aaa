"""Bright points at positions between pixels, taken out of the visibilities before CLEAN.

Components on pixels represent a point between them by a pattern of both signs. CLEAN finds that pattern slowly and, down to the
noise, with errors of a per cent or two of the flux. A point costs one sum per sample and is exact. Its position and flux are
corrected in every round by a fit to the residual image, and the spectral index of the brightest points by a fit to the residual
visibilities: an index wrong by 0.16 over 13 % of bandwidth leaves a thousandth of the flux in the highest sidelobes, which
CLEAN then takes for sources.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.imaging.statistics import robust_rms

Image = NDArray[np.float32]
_SIGMA = 30.0
"""Times the rms: the peaks that are taken for points. Pixels change fainter ones by less than half their noise."""
_DYNAMIC_RANGE = 40.0
"""Within one round: peaks fainter than the highest by more than this may be sidelobes that the interpolated dirty beam does not
remove exactly."""
_MOST_ROUNDS = 5
"""CLEAN takes the rest: with 6 rounds and twice as many corrections, an image's fluxes and rms were the same."""
_MOST_CORRECTIONS = 3
"""Corrections of one point: a pair closer than a beam would be moved for ever."""
_MOST_POINTS = 80
_STEEPNESS_SIGMA = 100.0
"""Times the rms: the points whose spectral index is fitted. For fainter points another index changes the residual by less than a
third of the rms."""
_INDEX_SCATTER = 0.4
"""The scatter of spectral indices of sources about the typical one. Fitted indices are drawn towards the typical one according to
their noise."""
_SETTLED = 0.6
"""In units of the rms: a point is not changed if its image would change by less."""
_SEPARATION = 6
"""Pixels from a known point within which a peak is left to that point, or to CLEAN."""
_MISFIT = 0.1
"""Of its height: the largest residual around a peak that is a point."""
_REACH = 2
"""Pixels on each side of the peak that are fitted."""
_TAPS = 6


@dataclass(frozen=True)
class Points:
    """0-based pixel coordinates `rows`, `columns` (point,) float64; apparent `flux_jy` (point,) float64; and `index` (point,)
    float64, the spectral index minus the typical one, 0 where not fitted.

    `spread` (point, 2, 2) float64 is the covariance [pixels^2] of (row, column) of a resolved source's Gaussian; 0 for a point.
    """

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    flux_jy: NDArray[np.float64]
    index: NDArray[np.float64]
    spread: NDArray[np.float64]

    @staticmethod
    def unresolved(rows: NDArray[np.float64], columns: NDArray[np.float64], flux_jy: NDArray[np.float64]) -> Points:
        """Return points of the typical spectral index."""
        return Points(rows, columns, flux_jy, np.zeros(rows.size), np.zeros((rows.size, 2, 2)))

    @property
    def resolved(self) -> NDArray[np.bool_]:
        """Which points (point,) are Gaussians."""
        return np.asarray(self.spread.any(axis=(1, 2)))

    def select(self, which: NDArray[Any]) -> Points:
        """Return the points of a mask or of indices."""
        return Points(self.rows[which], self.columns[which], self.flux_jy[which], self.index[which], self.spread[which])

    def negative(self) -> Points:
        """Return the same points with negative fluxes, which cancel these."""
        return replace(self, flux_jy=-self.flux_jy)

    def joined_with(self, others: Points) -> Points:
        """Return these points followed by the others."""
        return Points(
            np.concatenate([self.rows, others.rows]),
            np.concatenate([self.columns, others.columns]),
            np.concatenate([self.flux_jy, others.flux_jy]),
            np.concatenate([self.index, others.index]),
            np.concatenate([self.spread, others.spread]),
        )

    def nearest(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and columns of the pixels they lie in."""
        return np.rint(self.rows).astype(np.intp), np.rint(self.columns).astype(np.intp)

    def onto(self, image: Image) -> Image:
        """Return a copy of `image` with each point's flux added to its pixel, and each resolved source's flux to the pixels it covers."""
        out = image.copy()
        unresolved = self.select(~self.resolved)
        np.add.at(out, unresolved.nearest(), unresolved.flux_jy.astype(np.float32))
        for row, column, flux, spread in zip(self.rows, self.columns, self.flux_jy, self.spread, strict=True):
            if spread.any():
                form = spread + np.eye(2) / 12  # the width of a pixel, or a narrow Gaussian could fall between pixels
                (a, b), (_, c) = np.linalg.inv(form)
                reach = int(np.ceil(5 * np.sqrt(np.trace(form))))
                top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
                stamp = out[top : int(row) + reach + 1, left : int(column) + reach + 1]
                north, west = top + np.arange(stamp.shape[0])[:, None] - row, left + np.arange(stamp.shape[1]) - column
                shape = np.exp(-(a * north**2 + 2 * b * north * west + c * west**2) / 2)
                stamp += (flux * shape / shape.sum()).astype(np.float32)
        return out


NO_POINTS = Points.unresolved(np.empty(0), np.empty(0), np.empty(0))


class Data(Protocol):
    """The visibilities from which points are taken out."""

    slope_rms: float
    """The root of the weighted mean square of ln(nu / nu_0)."""

    def samples(self) -> NDArray[np.complex64]:
        """Return a copy of the residual samples (sample,), which `anew` can start from."""

    def anew(self, samples: NDArray[np.complex64], points: Points) -> Image:
        """Take `points` out of `samples`; return the residual image."""

    def exchange(self, before: Points, after: Points) -> Image:
        """Take out `after` instead of `before`; return the residual image."""

    def steeper(self, points: Points) -> NDArray[np.float64]:
        """Return the changes of the points' indices that best fit the residual samples; NaN where the samples do not constrain them."""


def take_out(
    residual: Image,
    wide_psf: Image,
    data: Data,
    floor_jy: float,
    within: NDArray[np.bool_] | None = None,
    most_rounds: int = _MOST_ROUNDS,
) -> tuple[Points, Image, int]:
    """Return the points found in `residual` (n, n) with its dirty beam (2n, 2n), the exact residual without them, and the number
    of rounds.

    A peak is a point if it is above 30 times the rms and `floor_jy`, and the dirty beam fits it; CLEAN takes the rest. If
    `within` (n, n) is given, no point is searched for outside it.
    """
    known, corrections = NO_POINTS, np.empty(0, dtype=np.intp)
    rounds, untouched = 0, data.samples()
    while rounds < most_rounds:
        rms = robust_rms(residual)
        free = corrections < _MOST_CORRECTIONS
        moved, changed = _corrected(known, free, residual, wide_psf, _SETTLED * rms)
        with_indices = _with_fitted_indices(moved, free, data, rms)
        steps_jy = np.abs(with_indices.index - moved.index) * moved.flux_jy * data.slope_rms
        moved, changed = with_indices, changed | (steps_jy > 0)
        # this residual still contains the effect of wrong indices: at most steps_jy anywhere, by Cauchy and Schwarz
        level = max(_SIGMA * rms, floor_jy, float(residual.max()) / _DYNAMIC_RANGE, steps_jy.max(initial=0))
        new = _new_points(residual, wide_psf, moved, level, within) if len(moved.rows) < _MOST_POINTS else []
        if not new and not changed.any():
            break
        rows, columns, flux = np.array(new).reshape(-1, 3).T
        added = Points.unresolved(rows, columns, flux)
        if np.count_nonzero(changed) > np.count_nonzero(~changed):  # starting again then predicts fewer points
            residual = data.anew(untouched, moved.joined_with(added))
        else:
            residual = data.exchange(known.select(changed), moved.select(changed).joined_with(added))
        known = moved.joined_with(added)
        corrections = np.concatenate([corrections + changed, np.zeros(len(new), dtype=np.intp)])
        rounds += 1
    return known, residual, rounds


def _bright(points: Points, data: Data, rms: float) -> NDArray[np.intp]:
    """Return the indices of points bright enough for a spectral index; none without bandwidth."""
    return np.flatnonzero((points.flux_jy > _STEEPNESS_SIGMA * rms) & (data.slope_rms > 0) & ~points.resolved)


def _with_fitted_indices(known: Points, which: NDArray[np.bool_], data: Data, rms: float) -> Points:
    """Return `known` with the spectral indices of bright points fitted to the residual samples, where the change is significant.

    Each index is the mean of the data's index and the typical one, weighted by their inverse variances: the data's variance is
    (rms / (S slope_rms))^2.
    """
    bright = _bright(known, data, rms)
    bright = bright[which[bright]]
    if not bright.size:
        return known
    selected = known.select(bright)
    error = rms / (selected.flux_jy * data.slope_rms)
    index = (selected.index + data.steeper(selected)) / (1 + (error / _INDEX_SCATTER) ** 2)
    step = np.where(np.isfinite(index), index - selected.index, 0.0)
    indices = known.index.copy()
    indices[bright] += np.where(np.abs(step) > _SETTLED * error, step, 0.0)
    return replace(known, index=indices)


def spectral_indices(points: Points, data: Data, rms: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two arrays (point,): spectral indices minus the typical one, from the data alone, and their errors.

    NaN for points fainter than 100 times the rms [Jy/beam] of the residual of `data`. To be called when everything else is
    taken out.
    """
    index, error = np.full((2, points.flux_jy.size), np.nan)
    bright = _bright(points, data, rms)
    if bright.size:
        selected = points.select(bright)
        index[bright] = selected.index + data.steeper(selected)
        error[bright] = np.where(np.isfinite(index[bright]), rms / (selected.flux_jy * data.slope_rms), np.nan)
    return index, error


def _corrected(known: Points, which: NDArray[np.bool_], residual: Image, psf: Image, least_jy: float) -> tuple[Points, NDArray[np.bool_]]:
    """Return `known` with the points of `which` corrected to fit the residual, and a mask of those that changed by `least_jy` or more."""
    rows, columns, flux = known.rows.copy(), known.columns.copy(), known.flux_jy.copy()
    changed = np.zeros(rows.size, dtype=np.bool_)
    for k in np.flatnonzero(which):
        row, column = int(np.rint(rows[k])), int(np.rint(columns[k]))
        patch = residual[row - _REACH : row + _REACH + 1, column - _REACH : column + _REACH + 1].astype(np.float64)
        lobe = _lobe(psf, rows[k] - row, columns[k] - column)
        step, *_ = np.linalg.lstsq(lobe, patch.reshape(-1), rcond=None)
        if np.abs(lobe @ step).max() < least_jy:
            continue
        changed[k] = True
        flux[k] += step[0]
        shift = np.clip(step[1:] / known.flux_jy[k], -0.5, 0.5)
        rows[k], columns[k] = rows[k] + shift[0], columns[k] + shift[1]
    return replace(known, rows=rows, columns=columns, flux_jy=flux), changed


def _new_points(
    residual: Image, psf: Image, known: Points, level: float, within: NDArray[np.bool_] | None
) -> list[tuple[float, float, float]]:
    """Return (row, column, flux) of the peaks above `level`, brightest first; each is taken out before the next is searched for."""
    remaining = residual.copy()
    edge = _REACH + _TAPS
    free = np.zeros(remaining.shape, dtype=np.bool_)
    free[edge:-edge, edge:-edge] = True if within is None else within[edge:-edge, edge:-edge]
    for row, column in zip(*known.nearest(), strict=True):
        _block(free, row, column)
    new: list[tuple[float, float, float]] = []
    while len(new) + known.rows.size < _MOST_POINTS:
        row, column = _brightest(remaining, free)
        if not free[row, column] or remaining[row, column] < level:
            break
        _block(free, row, column)
        point = _fitted(remaining, psf, row, column)
        if point is not None:
            new.append(point)
            _subtract(remaining, psf, *point)
    return new


def _block(free: NDArray[np.bool_], row: int, column: int) -> None:
    free[max(row - _SEPARATION, 0) : row + _SEPARATION + 1, max(column - _SEPARATION, 0) : column + _SEPARATION + 1] = False


def _fitted(image: Image, psf: Image, row: int, column: int) -> tuple[float, float, float] | None:
    """Return the point that fits a peak (Gauss-Newton); None if the peak is not a single point."""
    patch = image[row - _REACH : row + _REACH + 1, column - _REACH : column + _REACH + 1].astype(np.float64).reshape(-1)
    north, east, flux = 0.0, 0.0, float(image[row, column])
    for _ in range(4):
        lobe = _lobe(psf, north, east)
        step, *_ = np.linalg.lstsq(lobe, patch - flux * lobe[:, 0], rcond=None)
        north, east = np.clip([north + step[1] / flux, east + step[2] / flux], -1, 1)
        flux += float(step[0])
        if flux <= 0:
            return None
    misfit = np.abs(patch - flux * _lobe(psf, north, east)[:, 0]).max()
    return (row + float(north), column + float(east), flux) if misfit <= _MISFIT * flux else None


def _lobe(psf: Image, north: float, east: float) -> NDArray[np.float64]:
    """Return (25, 3): the dirty beam of a point `north`, `east` pixels off the middle of 5 x 5, and its derivatives along rows and
    columns."""
    middle = psf.shape[0] // 2
    width = _REACH + _TAPS
    core = psf[middle - width : middle + width + 1, middle - width : middle + width + 1].astype(np.float64)
    small = 0.02

    def at(rows: float, columns: float) -> NDArray[np.float64]:
        return (_shifts(rows) @ core @ _shifts(columns).T).reshape(-1)

    by_row = (at(north + small, east) - at(north - small, east)) / (2 * small)
    by_column = (at(north, east + small) - at(north, east - small)) / (2 * small)
    return np.stack([at(north, east), by_row, by_column], axis=-1)


def _shifts(offset: float) -> NDArray[np.float64]:
    """Return the matrix (5, 17) that gives a lobe shifted by `offset` at the five middle pixels of seventeen."""
    whole = int(np.floor(-offset))
    taps = _taps(-offset - whole)
    matrix = np.zeros((2 * _REACH + 1, 2 * (_REACH + _TAPS) + 1))
    for k in range(2 * _REACH + 1):
        first = _TAPS + k + whole - (_TAPS // 2 - 1)
        matrix[k, first : first + _TAPS] = taps
    return matrix


def _taps(fraction: float) -> NDArray[np.float64]:
    """Return the Lagrange weights of six samples for a position `fraction` (0 to 1) of a pixel past the third."""
    places = np.arange(_TAPS) - (_TAPS // 2 - 1)
    return np.array([np.prod([(fraction - other) / (own - other) for other in places if other != own]) for own in places])


def _subtract(image: Image, psf: Image, row: float, column: float, flux: float) -> None:
    """Subtract the dirty beam of a point from the whole image."""
    first_row, first_column = int(np.floor(-row)), int(np.floor(-column))
    middle = psf.shape[0] // 2 - (_TAPS // 2 - 1)
    weights = [_taps(-place - first).astype(np.float32) for place, first in ((row, first_row), (column, first_column))]
    _shifted_away(image, psf, middle + first_row, middle + first_column, *weights, np.float32(flux))


@njit(cache=True, parallel=True)
def _shifted_away(image, psf, first_row, first_column, by_row, by_column, flux):  # type: ignore[no-untyped-def]
    n_rows, n_columns = image.shape
    for row in prange(n_rows):
        line = np.zeros(n_columns + by_column.size - 1, np.float32)
        for tap in range(by_row.size):
            weight, source = by_row[tap], psf[first_row + row + tap]
            for k in range(line.size):
                line[k] += weight * source[first_column + k]
        b0, b1, b2, b3, b4, b5 = by_column
        for k in range(n_columns):
            image[row, k] -= flux * (
                b0 * line[k] + b1 * line[k + 1] + b2 * line[k + 2] + b3 * line[k + 3] + b4 * line[k + 4] + b5 * line[k + 5]
            )


@njit(cache=True)
def _brightest(image, free):  # type: ignore[no-untyped-def]
    """Return (row, column) of the highest free pixel; (0, 0), which is never free, if there is none."""
    best, place = -np.inf, (0, 0)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if free[row, column] and image[row, column] > best:
                best, place = image[row, column], (row, column)
    return place
