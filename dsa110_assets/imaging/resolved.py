"""Resolved sources as Gaussians with fitted positions and shapes: adaptive scale pixels (Bhatnagar & Cornwell 2004).

CLEAN represents a Gaussian one beam wide by points to some per cent of its peak, and one two beams wide to a third. It piles up
what short baselines see and leaves ripples, although the residual looks like noise. The components that CLEAN found around a
peak are therefore put back, and the fewest components that leave no residual are fitted instead: points, or, where points fail,
Gaussians, which are then taken out of the visibilities before CLEAN. The search comes after a first CLEAN, when the sidelobes
of everything else are gone, because crossing sidelobes look like sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.optimize import least_squares

from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.imaging.points import NO_POINTS, Points
from dsa110_assets.imaging.restoring import FWHM_PER_SIGMA
from dsa110_assets.imaging.statistics import robust_rms

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Float = NDArray[np.float64]
_SIGMA = 20.0
"""Times the rms: the peaks to examine. For a fainter source, CLEAN's ripples are no higher than the noise."""
_WIDER, _WIDER_NOISE = 1.1, 2.0
"""The ratio of flux within a beam to peak above which a source is examined, and the allowance for noise in it: a point has 1, a
source of half a beam 1.2."""
_MOST = 12
"""The number of peaks examined, brightest first."""
_REACH = 1.5
"""The radius in which a source is examined, in full widths at half maximum: a Gaussian has 0.2 % beyond it."""
_WIDEST = 8.0
"""The largest radius of a source, in beams."""
_NOISE = 5.0
"""Times the rms: the residual that is allowed when components explain a source."""
_LEFT_BY_POINTS = 0.005
"""The residual that points may leave, relative to the source's height: the accuracy to which the dirty beam is known."""
_LEFT_BY_GAUSSIANS = 0.05
"""The residual that Gaussians may leave, relative to the source's height. CLEAN's ripples are at most a third of it; without
Gaussians they are a third of the height."""
_IMPROVEMENT = 0.6
"""The factor by which one more component must reduce the residual, and by which Gaussians must reduce the residual of a few points."""
_MOST_COMPONENTS, _FEW_POINTS = 3, 2
"""The largest number of components of a source; and the number of points preferred to one Gaussian, which has as many parameters,
where both explain the source."""
_NARROW = 0.1
"""Of the beam's minor axis: a narrower component is a point."""


def find(image: Image, residual: Image, model: Image, points: Points, wide_psf: Image, beam: Float, enough: float) -> Points:
    """Return the resolved sources in `image` (n, n): Gaussians, and the points next to them that belong to the same source.

    `image` is the `residual` plus the convolution of `model` [Jy/pixel] and `points` with the restoring beam, whose covariance is
    `beam` (2, 2) [pixels^2] of (row, column); `wide_psf` is the dirty beam (2n, 2n). Components are added until they leave less than the
    share `enough` of a source's height. `points` that are Gaussians are kept if they still fit after being refitted.
    """
    rms = robust_rms(residual)
    width = FWHM_PER_SIGMA * math.sqrt(float(np.linalg.eigvalsh(beam)[1]))
    candidates, point_pixels = _candidates(image, points.onto(model), beam, rms)
    found, taken = NO_POINTS, np.zeros(image.shape, np.bool_)
    for row, column, ratio in candidates[:_MOST]:
        radius, known = math.ceil(_REACH * width * math.sqrt(ratio)), points
        while radius <= _WIDEST * width:
            window = _Window.about(row, column, radius, residual, model, points, wide_psf, point_pixels)
            if window is None or taken[window.part][window.disk].any():
                break
            sources = window.explained(known.select(window.holds(known)), beam, rms, enough)
            if sources is None:
                break
            needed = _needed(sources, row, column, beam)
            if needed <= 1.1 * radius:
                found = found.joined_with(sources)
                taken[window.part] |= window.disk
                break
            radius, known = math.ceil(needed), sources
    return found


def _candidates(image: Image, components: Image, beam: Float, rms: float) -> tuple[list[tuple[int, int, float]], Mask]:
    """Return the candidate peaks, brightest first, and the pixels (n, n) that belong to the other peaks.

    A candidate is (row, column, flux within a beam's width over height) of a peak with more flux than a point has.
    """
    inverse = np.linalg.inv(beam) / FWHM_PER_SIGMA**2
    reach = math.ceil(FWHM_PER_SIGMA * math.sqrt(float(np.linalg.eigvalsh(beam)[1])))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    near = inverse[0, 0] * rows**2 + 2 * inverse[0, 1] * rows * columns + inverse[1, 1] * columns**2 <= 1
    peaks = find_peaks(image, _SIGMA * rms, max(1, reach // 2))
    wider, of_wider, of_others = [], np.zeros(image.shape, np.bool_), np.zeros(image.shape, np.bool_)
    for x, y, height in zip(peaks.x, peaks.y, peaks.value, strict=True):
        row, column = round(float(y)), round(float(x))
        if min(row, column) < reach or max(row, column) >= image.shape[0] - reach:
            continue
        stamp = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
        ratio = float(components[stamp][near].sum()) / height
        is_wider = ratio > _WIDER + _WIDER_NOISE * rms / height
        (of_wider if is_wider else of_others)[stamp] |= near
        if is_wider:
            wider.append((row, column, ratio))
    return wider, of_others & ~of_wider


def _needed(sources: Points, row: int, column: int, beam: Float) -> float:
    """Return the radius around a pixel within which these sources must be examined."""
    widths = FWHM_PER_SIGMA * np.sqrt(np.linalg.eigvalsh(sources.spread + beam)[:, 1])
    return float(np.max(_REACH * widths + np.hypot(sources.rows - row, sources.columns - column)))


def _valid_convolution(wide: Float, narrow: Float) -> Float:
    """Return the convolution where `narrow` lies wholly within `wide`; scipy.signal's is the same, but takes a third of a second
    to import."""
    product = scipy.fft.rfft2(wide) * scipy.fft.rfft2(narrow, wide.shape)
    return np.asarray(scipy.fft.irfft2(product, wide.shape)[narrow.shape[0] - 1 :, narrow.shape[1] - 1 :])


@dataclass(frozen=True)
class _Window:
    """The surroundings of a pixel, with all other sources taken out.

    `dirty` (side, side) is their dirty image, of which only `disk` counts; `part` is their place in the image. `lobe` is the
    transform of the dirty beam, cut to twice the side.
    """

    part: tuple[slice, slice]
    disk: Mask
    dirty: Float
    lobe: NDArray[np.complex128]

    @staticmethod
    def about(
        row: int, column: int, radius: int, residual: Image, model: Image, points: Points, wide_psf: Image, point_pixels: Mask
    ) -> _Window | None:
        """Return the window around a pixel; None where it extends beyond the image. Components in `point_pixels` stay taken out."""
        while scipy.fft.next_fast_len(4 * radius + 1, real=True) > 4 * radius + 1:
            radius += 1
        top, left, side, middle = row - radius, column - radius, 2 * radius + 1, wide_psf.shape[0] // 2
        if min(top, left) < 0 or max(top, left) + side > residual.shape[0] or side > middle:
            return None
        part = slice(top, top + side), slice(left, left + side)
        offset, wide_offset = np.arange(-radius, radius + 1), np.arange(-2 * radius, 2 * radius + 1)
        disk = (np.hypot(offset[:, None], offset) <= radius) & ~point_pixels[part]
        around = slice(middle - 2 * radius, middle + 2 * radius + 1)
        psf = wide_psf[around, around].astype(np.float64)
        # a dirty beam that ends abruptly would ring when it is shifted by a fraction of a pixel
        taper = np.sin(np.pi / 2 * np.clip((2 * radius + 0.5 - np.abs(wide_offset)) / (0.5 * radius), 0, 1)) ** 2
        lobe = scipy.fft.rfft2(np.fft.ifftshift(psf * taper[:, None] * taper))
        window = _Window(part, disk, residual[part].astype(np.float64), lobe)
        window.dirty[...] += _valid_convolution(psf, np.where(disk, model[part], 0))
        window.dirty[...] += window.image(points.select(window.holds(points)))
        return window

    @property
    def middle(self) -> tuple[int, int]:
        """The (row, column) of its centre in the image."""
        return self.part[0].start + self.disk.shape[0] // 2, self.part[1].start + self.disk.shape[0] // 2

    def holds(self, points: Points) -> Mask:
        """Return which points (point,) lie within the window."""
        row, column = (place - part.start for place, part in zip(points.nearest(), self.part, strict=True))
        inside = (np.minimum(row, column) >= 0) & (np.maximum(row, column) < self.disk.shape[0])
        inside[inside] = self.disk[row[inside], column[inside]]
        return np.asarray(inside)

    def image(self, sources: Points) -> Float:
        """Return the dirty image of sources."""
        radius = self.disk.shape[0] // 2
        side = 4 * radius + 1
        rows, columns = scipy.fft.fftfreq(side)[:, None], scipy.fft.rfftfreq(side)[None, :]
        total = np.zeros(self.lobe.shape, np.complex128)
        for row, column, flux, ((a, b), (_, c)) in zip(sources.rows, sources.columns, sources.flux_jy, sources.spread, strict=True):
            width = -2 * np.pi**2 * (a * rows**2 + 2 * b * rows * columns + c * columns**2)
            down, along = (np.exp(-2j * np.pi * f * k) for f, k in ((rows, row - self.middle[0]), (columns, column - self.middle[1])))
            total += np.exp(width) * (flux * down) * along
        whole = scipy.fft.irfft2(total * self.lobe, s=(side, side))
        return np.asarray(np.roll(whole, radius, axis=(0, 1))[: 2 * radius + 1, : 2 * radius + 1])

    def explained(self, known: Points, beam: Float, rms: float, enough: float) -> Points | None:
        """Return the fewest Gaussians that explain the window, or those in `known` if they do; None if points explain it, or
        nothing does.

        The fits start from the previous Gaussians with one more where most is left, and from Gaussians at the positions of as
        many points, because two Gaussians at one place would not separate in a fit.
        """
        height, noise = float(self.dirty[self.disk].max()), _NOISE * rms
        if known.resolved.any():
            refitted = self.fitted(known)
            if self.worst(refitted) <= max(enough * height, noise):
                return refitted
        limit = max(_LEFT_BY_POINTS * height, noise)
        points, sources, remaining, by_few, by_points = NO_POINTS, NO_POINTS, np.inf, np.inf, np.inf
        for number in range(1, _MOST_COMPONENTS + 1):
            points = self.fitted(self.with_another(points, np.zeros((2, 2))))
            by_points = min(by_points, self.worst(points))
            by_few = by_points if number <= _FEW_POINTS else by_few
            if by_few <= limit:
                return None
            as_gaussians = replace(points, spread=np.broadcast_to(beam / 4, (number, 2, 2)))
            if remaining > max(enough * height, noise):
                starts = (self.with_another(sources, beam / 4), as_gaussians)[:number]
                best = min((self.with_narrow_as_points(self.fitted(start), beam) for start in starts), key=self.worst)
                if self.worst(best) <= _IMPROVEMENT * remaining:
                    sources, remaining = best, self.worst(best)
        usable = remaining <= max(_LEFT_BY_GAUSSIANS * height, enough * height, noise) and (
            remaining <= limit or remaining < min(_IMPROVEMENT * by_few, by_points)
        )
        return sources if usable and (sources.flux_jy > 0).all() and sources.resolved.any() else None

    def worst(self, sources: Points) -> float:
        """Return the largest absolute residual of sources."""
        return float(np.abs(self.dirty - self.image(sources))[self.disk].max())

    def with_another(self, sources: Points, spread: Float) -> Points:
        """Return the sources with one more, where most is left."""
        remaining = np.where(self.disk, self.dirty - self.image(sources), 0)
        row, column = np.unravel_index(int(np.argmax(remaining)), remaining.shape)
        place = np.array([row + self.part[0].start], float), np.array([column + self.part[1].start], float)
        return sources.joined_with(replace(Points.unresolved(*place, np.array([remaining[row, column]])), spread=spread[None]))

    def fitted(self, initial: Points) -> Points:
        """Return the least-squares fit that starts from `initial`, within the window.

        Points stay points. The fitted parameters of a Gaussian are the Cholesky factors of its spread, which keep the spread
        positive.
        """
        n, wide = initial.flux_jy.size, initial.resolved
        roots = np.linalg.cholesky(initial.spread[wide] + 1e-6 * np.eye(2))
        start = np.concatenate([initial.rows, initial.columns, initial.flux_jy, roots[:, 0, 0], roots[:, 1, 0], roots[:, 1, 1]])
        scale = np.ones(start.size)
        scale[2 * n : 3 * n] = float(self.dirty[self.disk].max())

        def sources(values: Float) -> Points:
            root = np.zeros((n, 2, 2))
            root[wide, 0, 0], root[wide, 1, 0], root[wide, 1, 1] = values[3 * n :].reshape(3, -1)
            rows, columns, flux = values[: 3 * n].reshape(3, n)
            return Points(rows, columns, flux, initial.index, root @ root.transpose(0, 2, 1))

        def misfit(values: Float) -> Float:
            return np.asarray((self.image(sources(values)) - self.dirty)[self.disk])

        (top, left), side = (part.start for part in self.part), self.disk.shape[0]
        lowest = np.repeat([top, left, -np.inf, -side / 4], [n, n, n, 3 * roots.shape[0]])
        highest = np.repeat([top + side, left + side, np.inf, side / 4], [n, n, n, 3 * roots.shape[0]])
        start = np.clip(start, lowest + 1e-3, highest - 1e-3)
        return sources(least_squares(misfit, start, bounds=(lowest, highest), x_scale=scale, max_nfev=30, ftol=1e-6, xtol=1e-6).x)

    def with_narrow_as_points(self, sources: Points, beam: Float) -> Points:
        """Return the sources fitted again with the narrow ones as points."""
        narrow = np.linalg.eigvalsh(sources.spread)[:, 1] < _NARROW**2 * float(np.linalg.eigvalsh(beam)[0])
        if not (narrow & sources.resolved).any():
            return sources
        return self.fitted(replace(sources, spread=np.where(narrow[:, None, None], 0.0, sources.spread)))
