"""CLEAN: minor cycles between major cycles that go back to the visibilities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.imaging import resolved
from dsa110_assets.imaging.clark import Cleaned, Depth, clean, kept_to
from dsa110_assets.imaging.measurement import ROUGH, Measurement
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.points import NO_POINTS, Points, spectral_indices, take_out
from dsa110_assets.imaging.restoring import Beam, add_points, flipped, restore
from dsa110_assets.imaging.statistics import robust_rms

Image = NDArray[np.float32]
_ROUNDING = 1e-6
"""Relative accuracy of sums of many products in single precision."""
_ENOUGH = (0.15, 0.03, 0.03)
"""Of a resolved source's height what is not looked into, time after time: at first other sources' faults are in it."""
_SETTLED, _ALIKE = 1.0, 0.004
"""Change of resolved sources below which CLEAN is not made again: in rms of the image, and beside it in what they are there. A fit
scatters by less than the latter where other sources' components lie under the source; CLEAN finds such a rest."""
_QUICK_ROUNDS = 2
"""In which a quick look takes points out: the brightest, whose drift through the beam would be noise everywhere, then those next to it
and what the first were wrong by."""
_NOISIER = 1.01
"""More than chance changes a residual's rms by."""
_NOISIER_KEPT = 1.05
"""The same where fewer components are left, which fitted noise."""


@dataclass(frozen=True)
class Deconvolved:
    """`model` [Jy/pixel] and `points`, the exact `residual` [Jy/beam] of both, and the counts of both loops.

    `points` have resolved sources among them; `resolved_dropped` is how many were tried and dropped, so that there are none.
    `index` and `index_err` (point,) are those of `points.spectral_indices`.
    """

    model: Image
    points: Points
    residual: Image
    major_cycles: int
    minor_iterations: int
    index: NDArray[np.float64]
    index_err: NDArray[np.float64]
    resolved_dropped: int = 0

    @property
    def resolved_ones(self) -> Points:
        """Those of `points` that are Gaussians."""
        return self.points.select(self.points.resolved)


def deconvolve(
    measurement: Measurement,
    wide_psf: Image,
    options: ImagingOptions,
    *,
    pixel_rad: float,
    beam: Beam,
    threads: int,
    within: NDArray[np.bool_] | None = None,
    resolved_ones: Points = NO_POINTS,
) -> Deconvolved:
    """Take bright points out of what was measured and CLEAN the rest, with the dirty beam (2n, 2n), unit peak at its centre.

    The `resolved_ones` that nearly the same data had are taken out to begin with. Sources are looked for `within` (n, n). The quick cycles
    stay in the image once the brightest points are out, as if every other source had the dirty beam of a steady one: no residual is
    exact then. Else the returned residual is exact for the returned model and points, and those before it to a tenth of the noise. Never
    deeper than accuracy allows: that of sums in single precision, as each cycle grids only what it found and sums the brightest of that
    directly, so that the gridder's error is a share of what was left before it.
    """
    dirty = measurement.image(ROUGH if options.clean_iterations else 0.0)
    if options.clean_iterations == 0:
        return Deconvolved(np.zeros_like(dirty), NO_POINTS, dirty, 0, 0, np.empty(0), np.empty(0))
    depth = Depth(
        iterations=options.clean_iterations,
        gain=options.clean_gain,
        major_gain=options.major_gain,
        max_major_cycles=options.max_major_cycles,
        auto_mask_sigma=options.auto_mask_sigma,
        auto_threshold_sigma=options.auto_threshold_sigma,
        floor_jy=max(options.threshold_jy, _ROUNDING * float(np.abs(dirty).max())),
    )
    if options.deconvolver == "quick":
        return _in_the_image(dirty, wide_psf, measurement, depth, threads, within)
    if resolved_ones.flux_jy.size:
        measurement.without(resolved_ones)
        dirty = measurement.image(ROUGH)
    made, dropped = _without_ripples(resolved_ones, dirty, wide_psf, measurement, depth, beam, math.degrees(pixel_rad), threads, within)
    points, cleaned, rounds = made.points, made.cleaned, made.rounds
    residual = measurement.image()
    cycles, iterations = rounds + cleaned.major_cycles, points.flux_jy.size + cleaned.minor_iterations
    index, index_err = spectral_indices(points, measurement, robust_rms(residual))
    return Deconvolved(cleaned.model, points, residual, cycles, iterations, index, index_err, dropped)


def _in_the_image(
    dirty: Image, wide_psf: Image, measurement: Measurement, depth: Depth, threads: int, within: NDArray[np.bool_] | None
) -> Deconvolved:
    """The brightest points taken out of the visibilities; of the rest our own minor cycles, whose residuals come from image and dirty
    beam."""
    points, left, rounds = take_out(dirty, wide_psf, measurement, depth.floor_jy, within, _QUICK_ROUNDS)
    cleaned = clean(left, wide_psf, None, depth, threads, points.nearest(), within)
    unknown = np.full(points.flux_jy.size, np.nan)
    cycles, iterations = rounds + cleaned.major_cycles, points.flux_jy.size + cleaned.minor_iterations
    return Deconvolved(cleaned.model, points, cleaned.residual, cycles, iterations, unknown, unknown)


@dataclass(frozen=True)
class _Sources:
    """`points`, what CLEAN made of the rest, and how many `rounds` the points took."""

    points: Points
    cleaned: Cleaned
    rounds: int


def _without_ripples(
    taken: Points, residual: Image, wide_psf: Image, measurement: Measurement, depth: Depth, beam: Beam, pixel_deg: float, threads: int,
    within: NDArray[np.bool_] | None,
) -> tuple[_Sources, int]:  # fmt: skip
    """Points and what CLEAN makes of the rest, made again without what turns out to be resolved (`resolved`), which is with the
    points then; and how many Gaussians were tried and dropped, as they explain nothing or made the residual noisier. Those `taken`
    are out of the `residual` already.

    Of what CLEAN made of resolved sources, and of points found in them, nothing is kept: it may lie far away.
    """

    def without(resolved_ones: Points, left: Image) -> _Sources:
        points, left, rounds = take_out(left, wide_psf, measurement, depth.floor_jy, within)
        points = points.and_also(resolved_ones)
        return _Sources(points, clean(left, wide_psf, measurement.residual_of, depth, threads, points.nearest(), within), rounds)

    def kept(made: _Sources) -> _Sources:
        cleaned = _without_sidelobes(made.cleaned, wide_psf, measurement, depth, beam, pixel_deg, threads, within)
        return replace(made, cleaned=cleaned)

    first = without(taken, residual)
    rms, rounds, form = robust_rms(first.cleaned.residual), first.rounds, flipped(beam.covariance) / pixel_deg**2
    first = now = kept(first)
    before, tried = measurement.state(), 0
    for enough in _ENOUGH[-1:] if taken.flux_jy.size else _ENOUGH:
        model, residual = now.cleaned.model, now.cleaned.residual
        image = restore(model, residual, beam, pixel_deg, threads)
        add_points(image, now.points, beam, pixel_deg)
        found = resolved.find(image, residual, model, now.points, wide_psf, form, enough)
        found = found if within is None else found.select(within[found.nearest()])
        if not (found.flux_jy.size or taken.flux_jy.size):
            break
        shown, change = np.zeros_like(model), np.zeros_like(model)
        add_points(shown, found, beam, pixel_deg)
        add_points(change, found.and_also(taken.negative()), beam, pixel_deg)
        if (np.abs(change) < _SETTLED * robust_rms(residual) + _ALIKE * np.abs(shown)).all():
            if enough == _ENOUGH[-1]:
                break
            continue
        measurement.without(now.points.negative().and_also(found))
        taken, now = found, without(found, measurement.residual_of(np.zeros_like(model)))
        rounds += now.rounds
        tried = max(tried, int(np.count_nonzero(taken.resolved)))
    if now is first:
        return first, 0
    if taken.flux_jy.size and robust_rms(now.cleaned.residual) <= _NOISIER * rms:
        return replace(kept(now), rounds=rounds), 0
    measurement.back_to(before)
    return first, tried


def _without_sidelobes(
    first: Cleaned, wide_psf: Image, measurement: Measurement, depth: Depth, beam: Beam, pixel_deg: float, threads: int,
    within: NDArray[np.bool_] | None,
) -> Cleaned:  # fmt: skip
    """`first` kept to its sources, where it settled and what then is left is no noisier."""
    if not (first.settled and depth.auto_mask_sigma):
        return first
    seen = restore(first.model, first.residual, beam, pixel_deg, threads)
    rms = robust_rms(first.residual)
    sources = (first.model > 0) & (seen > depth.auto_mask_sigma * rms)
    before = measurement.state()
    kept = kept_to(sources, first, wide_psf, measurement.residual_of, depth, threads, within)
    if robust_rms(kept.residual) <= _NOISIER_KEPT * rms:
        return kept
    measurement.back_to(before)
    return first
