"""Resolved sources as Gaussians of their own place and shape: adaptive scale pixels (Bhatnagar & Cornwell 2004).

CLEAN makes up a Gaussian of one beam by points to some per cent of its peak, one of two beams to a third: it piles up what
short baselines see and leaves ripples, though the residual looks like noise. So what CLEAN found about a peak is put back and
explained by as few components as leave nothing: by points, and where these fail by Gaussians, which then are taken out of the
visibilities before CLEAN. They are looked for after it, when the sidelobes of all else are gone: crossing ones look like sources.
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
"""Times the rms from which a peak is asked: of a fainter one, CLEAN's ripples are no more than the noise."""
_WIDER, _WIDER_NOISE = 1.1, 2.0
"""Flux within a beam over the peak, and what noise may add to it: a point has 1, half a beam 1.2."""
_MOST = 12
"""Peaks that are asked, the brightest first."""
_REACH = 1.5
"""Full widths at half maximum about its middle in which a source is looked at: a Gaussian has 0.2 % beyond."""
_WIDEST = 8.0
"""Beams that a source may reach out."""
_NOISE = 5.0
"""Times the rms, what components may leave of a source that they explain."""
_AS_POINTS = 0.005
"""Of its height, what points may leave: as well as the dirty beam is known."""
_AS_GAUSSIANS = 0.05
"""Of its height, what Gaussians may leave: CLEAN's ripples are a third of that at most, without them a third of the height."""
_NEEDED = 0.6
"""Of what fewer components leave: what one more must leave, and Gaussians of what few points leave."""
_MOST_COMPONENTS, _AS_FEW = 3, 2
"""Of a source; and points that come before a Gaussian, which has as many parameters, where both explain it."""
_NARROW = 0.1
"""Of the beam's minor axis: what is narrower is a point."""


def find(image: Image, residual: Image, model: Image, points: Points, wide_psf: Image, beam: Float, enough: float) -> Points:
    """Resolved sources in `image` (n, n): the `residual` and what the restoring beam, covariance `beam` (2, 2) [pixels^2] of
    (row, column), makes of `model` [Jy/pixel] and `points`; with the dirty beam (2n, 2n).

    Gaussians, and points next to them that belong to the same source. Components are added until they leave less than the share
    `enough` of a source's height; `points` that are Gaussians stay if with a new fit they do.
    """
    rms = robust_rms(residual)
    width = FWHM_PER_SIGMA * math.sqrt(float(np.linalg.eigvalsh(beam)[1]))
    candidates, lone = _candidates(image, points.onto(model), beam, rms)
    found, taken = NO_POINTS, np.zeros(image.shape, np.bool_)
    for row, column, ratio in candidates[:_MOST]:
        radius, known = math.ceil(_REACH * width * math.sqrt(ratio)), points
        while radius <= _WIDEST * width:
            window = _Window.about(row, column, radius, residual, model, points, wide_psf, lone)
            if window is None or taken[window.part][window.disk].any():
                break
            sources = window.explained(known.select(window.holds(known)), beam, rms, enough)
            if sources is None:
                break
            needed = _needed(sources, row, column, beam)
            if needed <= 1.1 * radius:
                found = found.and_also(sources)
                taken[window.part] |= window.disk
                break
            radius, known = math.ceil(needed), sources
    return found


def _candidates(image: Image, components: Image, beam: Float, rms: float) -> tuple[list[tuple[int, int, float]], Mask]:
    """(row, column, flux in a beam's width about it over its height) of peaks with more flux than a point has, the brightest
    first; and the pixels (n, n) that belong to the others."""
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
    """How far about a pixel these sources are to be looked at."""
    widths = FWHM_PER_SIGMA * np.sqrt(np.linalg.eigvalsh(sources.spread + beam)[:, 1])
    return float(np.max(_REACH * widths + np.hypot(sources.rows - row, sources.columns - column)))


def _valid_convolution(wide: Float, narrow: Float) -> Float:
    """Where `narrow` lies wholly in `wide`; scipy.signal's is the same, and its import takes a third of a second."""
    product = scipy.fft.rfft2(wide) * scipy.fft.rfft2(narrow, wide.shape)
    return np.asarray(scipy.fft.irfft2(product, wide.shape)[narrow.shape[0] - 1 :, narrow.shape[1] - 1 :])


@dataclass(frozen=True)
class _Window:
    """The dirty image of what is about a pixel, all else taken out: `seen` (side, side), of which the `disk` counts; `part` of the
    image. `lobe` is the transform of the dirty beam within twice the side."""

    part: tuple[slice, slice]
    disk: Mask
    seen: Float
    lobe: NDArray[np.complex128]

    @staticmethod
    def about(
        row: int, column: int, radius: int, residual: Image, model: Image, points: Points, wide_psf: Image, lone: Mask
    ) -> _Window | None:
        """None where that reaches beyond the image. What is `lone` stays taken out."""
        while scipy.fft.next_fast_len(4 * radius + 1, real=True) > 4 * radius + 1:
            radius += 1
        top, left, side, middle = row - radius, column - radius, 2 * radius + 1, wide_psf.shape[0] // 2
        if min(top, left) < 0 or max(top, left) + side > residual.shape[0] or side > middle:
            return None
        part = slice(top, top + side), slice(left, left + side)
        offset, wide_offset = np.arange(-radius, radius + 1), np.arange(-2 * radius, 2 * radius + 1)
        disk = (np.hypot(offset[:, None], offset) <= radius) & ~lone[part]
        around = slice(middle - 2 * radius, middle + 2 * radius + 1)
        psf = wide_psf[around, around].astype(np.float64)
        # a dirty beam that ends abruptly would ring when it is moved by part of a pixel
        taper = np.sin(np.pi / 2 * np.clip((2 * radius + 0.5 - np.abs(wide_offset)) / (0.5 * radius), 0, 1)) ** 2
        lobe = scipy.fft.rfft2(np.fft.ifftshift(psf * taper[:, None] * taper))
        window = _Window(part, disk, residual[part].astype(np.float64), lobe)
        window.seen[...] += _valid_convolution(psf, np.where(disk, model[part], 0))
        window.seen[...] += window.image(points.select(window.holds(points)))
        return window

    @property
    def middle(self) -> tuple[int, int]:
        """Its (row, column) in the image."""
        return self.part[0].start + self.disk.shape[0] // 2, self.part[1].start + self.disk.shape[0] // 2

    def holds(self, points: Points) -> Mask:
        """(point,) which lie in it."""
        row, column = (place - part.start for place, part in zip(points.nearest(), self.part, strict=True))
        inside = (np.minimum(row, column) >= 0) & (np.maximum(row, column) < self.disk.shape[0])
        inside[inside] = self.disk[row[inside], column[inside]]
        return np.asarray(inside)

    def image(self, sources: Points) -> Float:
        """What the dirty beam makes of sources."""
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
        """The fewest Gaussians that explain it, those already `known` if they do; None if points do, or nothing does.

        Gaussians are fitted from one more where most is left, and from as many points: two of them would not part of themselves.
        """
        height, noise = float(self.seen[self.disk].max()), _NOISE * rms
        if known.resolved.any():
            again = self.fitted(known)
            if self.worst(again) <= max(enough * height, noise):
                return again
        limit = max(_AS_POINTS * height, noise)
        points, sources, left, by_few, by_points = NO_POINTS, NO_POINTS, np.inf, np.inf, np.inf
        for number in range(1, _MOST_COMPONENTS + 1):
            points = self.fitted(self.with_another(points, np.zeros((2, 2))))
            by_points = min(by_points, self.worst(points))
            by_few = by_points if number <= _AS_FEW else by_few
            if by_few <= limit:
                return None
            parted = replace(points, spread=np.broadcast_to(beam / 4, (number, 2, 2)))
            if left > max(enough * height, noise):
                first = (self.with_another(sources, beam / 4), parted)[:number]
                best = min((self.sharpened(self.fitted(one), beam) for one in first), key=self.worst)
                if self.worst(best) <= _NEEDED * left:
                    sources, left = best, self.worst(best)
        usable = left <= max(_AS_GAUSSIANS * height, enough * height, noise) and (left <= limit or left < min(_NEEDED * by_few, by_points))
        return sources if usable and (sources.flux_jy > 0).all() and sources.resolved.any() else None

    def worst(self, sources: Points) -> float:
        """The most that sources leave."""
        return float(np.abs(self.seen - self.image(sources))[self.disk].max())

    def with_another(self, sources: Points, spread: Float) -> Points:
        """One more where most is left."""
        left = np.where(self.disk, self.seen - self.image(sources), 0)
        row, column = np.unravel_index(int(np.argmax(left)), left.shape)
        place = np.array([row + self.part[0].start], float), np.array([column + self.part[1].start], float)
        return sources.and_also(replace(Points.unresolved(*place, np.array([left[row, column]])), spread=spread[None]))

    def fitted(self, first: Points) -> Points:
        """Least squares from `first`, in the window; points stay points. Gaussians have the roots of their spreads fitted, so that
        these stay positive."""
        n, wide = first.flux_jy.size, first.resolved
        roots = np.linalg.cholesky(first.spread[wide] + 1e-6 * np.eye(2))
        start = np.concatenate([first.rows, first.columns, first.flux_jy, roots[:, 0, 0], roots[:, 1, 0], roots[:, 1, 1]])
        scale = np.ones(start.size)
        scale[2 * n : 3 * n] = float(self.seen[self.disk].max())

        def sources(values: Float) -> Points:
            root = np.zeros((n, 2, 2))
            root[wide, 0, 0], root[wide, 1, 0], root[wide, 1, 1] = values[3 * n :].reshape(3, -1)
            rows, columns, flux = values[: 3 * n].reshape(3, n)
            return Points(rows, columns, flux, first.index, root @ root.transpose(0, 2, 1))

        def misfit(values: Float) -> Float:
            return np.asarray((self.image(sources(values)) - self.seen)[self.disk])

        (top, left), side = (part.start for part in self.part), self.disk.shape[0]
        lowest = np.repeat([top, left, -np.inf, -side / 4], [n, n, n, 3 * roots.shape[0]])
        highest = np.repeat([top + side, left + side, np.inf, side / 4], [n, n, n, 3 * roots.shape[0]])
        start = np.clip(start, lowest + 1e-3, highest - 1e-3)
        return sources(least_squares(misfit, start, bounds=(lowest, highest), x_scale=scale, max_nfev=30, ftol=1e-6, xtol=1e-6).x)

    def sharpened(self, sources: Points, beam: Float) -> Points:
        """With those that are narrow as points."""
        narrow = np.linalg.eigvalsh(sources.spread)[:, 1] < _NARROW**2 * float(np.linalg.eigvalsh(beam)[0])
        if not (narrow & sources.resolved).any():
            return sources
        return self.fitted(replace(sources, spread=np.where(narrow[:, None, None], 0.0, sources.spread)))
